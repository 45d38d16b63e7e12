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
    from prunecli.api_convert import convert, strip
    from prunecli.baking.bake import bake
    from prunecli.checkpoint import Checkpoint, TensorInfo
    from prunecli.errors import CheckpointError, DeviceError, OutputError, PruneError, SelectionError, UsageError
    from prunecli.formats.open import open_checkpoint
    from prunecli.inspection.check import check
    from prunecli.inspection.conditions import (
        Finite,
        GroupPattern,
        MaxSparsity,
        MinSparsity,
        NoAllZero,
        OnlyZerosAdded,
        SameStructure,
    )
    from prunecli.inspection.converters import Convertible
    from prunecli.inspection.diff import diff
    from prunecli.inspection.doctor import doctor
    from prunecli.inspection.inspect import inspect
    from prunecli.inspection.scan import scan
    from prunecli.packing.pack import pack, unpack
    from prunecli.report.gates import GateError, Gates
    from prunecli.report.model import Report, Row
    from prunecli.selection.select import Selector
    from prunecli.strategies.mask import Mask
    from prunecli.strategies.recipe import Recipe, Rule
    from prunecli.strategies.semi_structured import TopK
    from prunecli.strategies.strip import Strip
    from prunecli.strategies.structured import Block, RandomStructured, Structured
    from prunecli.strategies.thresholds import StdThreshold, Threshold
    from prunecli.strategies.unstructured import L1, Global, Percentile, Random
    from prunecli.training.keep_sparse import keep_sparse
    from prunecli.training.masks import load_mask, mask_from_checkpoint
    from prunecli.tuning.search import search
    from prunecli.tuning.sweep import sweep


_PUBLIC = {
    "api": ("prune", "prune_state_dict"),
    "api_convert": ("convert", "strip"),
    "baking.bake": ("bake",),
    "checkpoint": ("Checkpoint", "TensorInfo"),
    "errors": ("CheckpointError", "DeviceError", "OutputError", "PruneError", "SelectionError", "UsageError"),
    "formats.open": ("open_checkpoint",),
    "inspection.check": ("check",),
    "inspection.conditions": (
        "Finite",
        "GroupPattern",
        "MaxSparsity",
        "MinSparsity",
        "NoAllZero",
        "OnlyZerosAdded",
        "SameStructure",
    ),
    "inspection.converters": ("Convertible",),
    "inspection.diff": ("diff",),
    "inspection.doctor": ("doctor",),
    "inspection.inspect": ("inspect",),
    "inspection.scan": ("scan",),
    "packing.pack": ("pack", "unpack"),
    "report.gates": ("GateError", "Gates"),
    "report.model": ("Report", "Row"),
    "selection.select": ("Selector",),
    "strategies.mask": ("Mask",),
    "strategies.recipe": ("Recipe", "Rule"),
    "strategies.semi_structured": ("TopK",),
    "strategies.strip": ("Strip",),
    "strategies.structured": ("Block", "RandomStructured", "Structured"),
    "strategies.thresholds": ("StdThreshold", "Threshold"),
    "strategies.unstructured": ("L1", "Global", "Percentile", "Random"),
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
    "Convertible",
    "DeviceError",
    "Finite",
    "GateError",
    "Gates",
    "Global",
    "GroupPattern",
    "Mask",
    "MaxSparsity",
    "MinSparsity",
    "NoAllZero",
    "OnlyZerosAdded",
    "OutputError",
    "Percentile",
    "PruneError",
    "Random",
    "RandomStructured",
    "Recipe",
    "Report",
    "Row",
    "Rule",
    "SameStructure",
    "SelectionError",
    "Selector",
    "StdThreshold",
    "Strip",
    "Structured",
    "TensorInfo",
    "Threshold",
    "TopK",
    "UsageError",
    "__version__",
    "bake",
    "check",
    "convert",
    "diff",
    "doctor",
    "inspect",
    "keep_sparse",
    "load_mask",
    "mask_from_checkpoint",
    "open_checkpoint",
    "pack",
    "prune",
    "prune_state_dict",
    "scan",
    "search",
    "strip",
    "sweep",
    "unpack",
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
