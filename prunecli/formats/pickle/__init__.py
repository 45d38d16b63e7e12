"""pickle."""

from __future__ import annotations
