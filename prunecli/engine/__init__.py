"""A run: plan how each tensor is pruned, apply the plans window by window, measure the result, publish it."""

from __future__ import annotations
