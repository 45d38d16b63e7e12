"""The largest amount of pruning that an evaluation by the user allows (search), and its course (sweep)."""

from __future__ import annotations
