"""Zero weights in checkpoint files."""
