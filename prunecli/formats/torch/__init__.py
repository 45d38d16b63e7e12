"""The formats of torch.save, torch.jit.save and torch.export.save."""
