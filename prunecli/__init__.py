"""Zero weights in checkpoint files: the right ones, nothing else, as fast as copying the file."""

from __future__ import annotations

__version__ = "0.1.0"
