"""Zero weights in checkpoint files: the right ones, and nothing else.

    import prunecli

    report = prunecli.prune("ckpt.pth", prunecli.Threshold(0.1))

The names here are looked up when they are first used: importing the package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from prunecli.version import __version__

if TYPE_CHECKING:
    from prunecli.api import prune, prune_state_dict
    from prunecli.checkpoint import Checkpoint, TensorInfo
    from prunecli.errors import CheckpointError, DeviceError, OutputError, PruneError, SelectionError, UsageError
    from prunecli.formats.open import open_checkpoint
    from prunecli.report.gates import GateError, Gates
    from prunecli.report.model import Report, Row
    from prunecli.selection.select import Selector
    from prunecli.strategies.mask import Mask
    from prunecli.strategies.recipe import Recipe, Rule
    from prunecli.strategies.semi_structured import TopK
    from prunecli.strategies.unstructured import (
        L1,
        Block,
        Global,
        Percentile,
        Random,
        RandomStructured,
        StdThreshold,
        Structured,
        Threshold,
    )
    from prunecli.training.keep_sparse import keep_sparse
    from prunecli.training.masks import load_mask, mask_from_checkpoint
    from prunecli.tuning.search import search
    from prunecli.tuning.sweep import sweep


_PUBLIC = {
    "api": ("prune", "prune_state_dict"),
    "checkpoint": ("Checkpoint", "TensorInfo"),
    "errors": ("CheckpointError", "DeviceError", "OutputError", "PruneError", "SelectionError", "UsageError"),
    "formats.open": ("open_checkpoint",),
    "report.gates": ("GateError", "Gates"),
    "report.model": ("Report", "Row"),
    "selection.select": ("Selector",),
    "strategies.mask": ("Mask",),
    "strategies.recipe": ("Recipe", "Rule"),
    "strategies.semi_structured": ("TopK",),
    "strategies.structured": ("Block", "RandomStructured", "Structured"),
    "strategies.unstructured": ("L1", "Global", "Percentile", "Random", "StdThreshold", "Threshold"),
    "training.keep_sparse": ("keep_sparse",),
    "training.masks": ("load_mask", "mask_from_checkpoint"),
    "tuning.search": ("search",),
    "tuning.sweep": ("sweep",),
}
"""The modules that define the public names; each is imported when one of its names is first used."""

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
    "SelectionError",
    "Selector",
    "StdThreshold",
    "Structured",
    "TensorInfo",
    "Threshold",
    "TopK",
    "UsageError",
    "__version__",
    "keep_sparse",
    "load_mask",
    "mask_from_checkpoint",
    "open_checkpoint",
    "prune",
    "prune_state_dict",
    "search",
    "sweep",
]


def __getattr__(name: str) -> object:
    """Import a public name from the module that defines it."""
    for module, names in _PUBLIC.items():
        if name in names:
            return getattr(importlib.import_module(f"prunecli.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """List the public names, for completion."""
    return sorted([*globals(), *__all__])
