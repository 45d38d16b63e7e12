"""baking."""

from __future__ import annotations
