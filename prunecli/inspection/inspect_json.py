"""What `inspect` found, as JSON for programs; its keys are stable."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from prunecli.dtypes import FLOATS
from prunecli.inspection.inspect import totals
from prunecli.version import __version__

if TYPE_CHECKING:
    from prunecli.inspection.inspect import Drawing, Entry, Inspection, Totals
    from prunecli.inspection.thresholds import ThresholdTable

SCHEMA = 1
"""The version of the JSON form; it rises when a key goes away or changes its meaning."""


def to_json(found: Inspection) -> str:
    """Return `found` as JSON (ASCII, finite, stable key order), ending in a line break.

    Names are verbatim; what is not known is null. Each tensor has a line of its own.
    """
    head = json.dumps(_document(found), indent=1, allow_nan=False)
    rows = ",\n  ".join(json.dumps(_entry(entry), allow_nan=False) for entry in found.entries)
    text = f'{head[:-2]},\n "tensors": [\n  {rows}\n ]\n}}\n' if rows else f'{head[:-2]},\n "tensors": []\n}}\n'
    return text.replace("\x7f", "\\u007f")  # the one control character that JSON lets stand, and only in names


def _document(found: Inspection) -> dict[str, object]:
    return {
        "schema": SCHEMA,
        "tool": {"name": "prunecli", "version": __version__},
        "input": {
            "path": found.path,
            "format": found.format,
            "key": found.key,
            "files": [{"name": name, "bytes": size} for name, size in found.files],
        },
        "totals": {
            "floating": _totals(totals(e for e in found.inside if e.dtype in FLOATS)),
            "all": _totals(totals(found.inside)),
            "prunable": _totals(totals(found.prunable)),
            "outside": _totals(totals(found.outside)),
        },
        "not_prunable_because": found.nothing,
        "facts": found.facts,
        "others": [{"name": name, "what": what} for name, what in found.others],
        "beside": [{"name": name, "text": text} for name, text in found.things],
        "leftovers": [asdict(leftover) for leftover in found.leftovers],
        "thresholds": None if found.thresholds is None else _thresholds(*found.thresholds),
        "histogram": None if found.drawing is None else _drawing(found.drawing),
    }


def _totals(part: Totals) -> dict[str, object]:
    return {
        "tensors": part.tensors,
        "numel": part.numel,
        "bytes": part.nbytes,
        "numel_read": part.numel_read,
        "zeros": part.zeros,
        "sparsity": part.sparsity,
        "nonfinite": part.nonfinite,
    }


def _entry(entry: Entry) -> dict[str, object]:
    return {
        "name": entry.name,
        "dtype": entry.dtype,
        "shape": entry.shape,
        "numel": entry.numel,
        "bytes": entry.nbytes,
        "file": entry.file,
        "zeros": entry.zeros,
        "sparsity": entry.sparsity,
        "nonfinite": entry.nonfinite,
        "aliases": entry.aliases,
        "prunable": entry.reason is None,
        "reason": entry.reason,
    }


def _thresholds(together: ThresholdTable, each: tuple[ThresholdTable, ...]) -> dict[str, object]:
    return {"together": _ladder(together), "tensors": [{"name": ladder.name, **_ladder(ladder)} for ladder in each]}


def _ladder(ladder: ThresholdTable) -> dict[str, object]:
    return {"numel": ladder.numel, "steps": [asdict(step) for step in ladder.steps]}


def _drawing(drawing: Drawing) -> dict[str, object]:
    return {
        "pattern": drawing.pattern,
        "tensors": drawing.tensors,
        "edges": drawing.edges,
        "counts": drawing.counts,
        "zeros": drawing.zeros,
        "nonfinite": drawing.nonfinite,
        "percentiles": _ladder(drawing.ladder),
    }
