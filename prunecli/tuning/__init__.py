"""tuning."""

from __future__ import annotations
