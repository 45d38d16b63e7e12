"""The folders that tests read: the checkout, its demo and scripts, and the shared real checkpoints."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "demo"
SCRIPTS = ROOT / "scripts"
SHARED = ROOT.parent / "shared"
"""Real checkpoints, oracle scripts and cases; not part of the project, so tests that need it skip without it."""
