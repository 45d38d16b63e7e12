"""Zero weights in checkpoint files: the right ones, and nothing else.

    import prunecli

    report = prunecli.prune("ckpt.pth", prunecli.Threshold(0.1))

The names here are looked up when they are first used: importing the package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prunecli.api import prune
    from prunecli.checkpoint import Checkpoint, TensorInfo
    from prunecli.engine.recipe_run import Recipe, Rule
    from prunecli.errors import (
        CheckpointError,
        DeviceError,
        GateError,
        OutputError,
        PruneError,
        SelectionError,
        UsageError,
    )
    from prunecli.formats.open import open_checkpoint
    from prunecli.live import prune_state_dict
    from prunecli.report.gates import Gates
    from prunecli.report.model import Report, Row
    from prunecli.selection.select import Rules
    from prunecli.strategies.unstructured import (
        L1,
        Block,
        Global,
        Mask,
        Percentile,
        Random,
        RandomStructured,
        Spread,
        Structured,
        Threshold,
        TopK,
    )
    from prunecli.training.keep_sparse import keep_sparse, load_mask, mask_of

__version__ = "0.1.0"

_ROOMS = {
    "api": ("prune",),
    "formats.open": ("open_checkpoint",),
    "errors": (
        "CheckpointError",
        "DeviceError",
        "GateError",
        "OutputError",
        "PruneError",
        "SelectionError",
        "UsageError",
    ),
    "training.keep_sparse": ("keep_sparse", "load_mask", "mask_of"),
    "report.gates": ("Gates",),
    "live": ("prune_state_dict",),
    "engine.recipe_run": ("Recipe", "Rule"),
    "report.model": ("Report", "Row"),
    "selection.select": ("Rules",),
    "strategies.unstructured": (
        "L1",
        "Block",
        "Global",
        "Mask",
        "Percentile",
        "Random",
        "RandomStructured",
        "Spread",
        "Structured",
        "Threshold",
        "TopK",
    ),
    "checkpoint": ("Checkpoint", "TensorInfo"),
}

__all__ = [
    "L1",
    "Block",
    "Checkpoint",
    "CheckpointError",
    "DeviceError",
    "GateError",
    "Gates",
    "Global",
    "Mask",
    "OutputError",
    "Percentile",
    "PruneError",
    "Random",
    "RandomStructured",
    "Recipe",
    "Report",
    "Row",
    "Rule",
    "Rules",
    "SelectionError",
    "Spread",
    "Structured",
    "TensorInfo",
    "Threshold",
    "TopK",
    "UsageError",
    "keep_sparse",
    "load_mask",
    "mask_of",
    "open_checkpoint",
    "prune",
    "prune_state_dict",
]


def __getattr__(name: str) -> object:
    """Import a public name from the room it lives in."""
    for room, names in _ROOMS.items():
        if name in names:
            return getattr(importlib.import_module(f"prunecli.{room}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """List the public names, for completion."""
    return sorted([*globals(), *__all__])
