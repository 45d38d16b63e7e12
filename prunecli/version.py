"""The version of the package, which reports and `prune --version` give."""

from __future__ import annotations

__version__ = "0.1.0"
