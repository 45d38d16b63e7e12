"""Fold the masks of torch.nn.utils.prune into their weights, in a checkpoint file."""
