"""Directories of torch.distributed.checkpoint (DCP): each tensor is cut into chunks, which lie in several files."""
