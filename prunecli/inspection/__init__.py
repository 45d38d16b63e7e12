"""Commands that read checkpoints and write none: inspect, scan, check and diff."""

from __future__ import annotations
