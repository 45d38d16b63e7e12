"""The result of `inspect` as JSON; its keys are stable."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from prunecli.dtypes import FLOATS
from prunecli.inspection.inspect import totals
from prunecli.text.json import dump_json
from prunecli.version import __version__

if TYPE_CHECKING:
    from prunecli.inspection.inspect import Entry, Inspection, Totals
    from prunecli.inspection.thresholds import ThresholdTable

SCHEMA = 1
"""The version of the document. It rises when a key is removed or changes its meaning."""


def to_json(inspection: Inspection) -> str:
    """Return the result as JSON (ASCII, finite, stable key order), ending in a line break.

    Names are verbatim; unknown values are null. Each tensor has a line of its own.
    """
    return dump_json(_document(inspection), tensors=map(_entry, inspection.entries))


def _document(inspection: Inspection) -> dict[str, object]:
    histogram = inspection.histogram
    packed = [entry.packed for entry in inspection.inside if entry.packed is not None]
    return {
        "schema": SCHEMA,
        "tool": {"name": "prunecli", "version": __version__},
        "input": {
            "path": inspection.path,
            "format": inspection.format,
            "key": inspection.key,
            "keys": inspection.keys,
            "left_alone": [asdict(one) for one in inspection.left_alone],
            "files": [{"name": name, "bytes": size} for name, size in inspection.files],
        },
        "totals": {
            "floating": _totals(totals(e for e in inspection.inside if e.dtype in FLOATS)),
            "all": _totals(totals(inspection.inside)),
            "prunable": _totals(totals(inspection.prunable)),
            "outside": _totals(totals(inspection.outside)),
            "packed": {"tensors": len(packed), "weights": sum(one.weights for one in packed)},
        },
        "not_prunable_because": inspection.refusal,
        "facts": inspection.notes,
        "others": [{"name": name, "what": what} for name, what in inspection.unprunable_entries],
        "beside": [{"name": name, "text": text} for name, text in inspection.contents],
        "leftovers": [asdict(leftover) for leftover in inspection.leftovers],
        "thresholds": None if inspection.thresholds is None else _thresholds(*inspection.thresholds),
        "histogram": histogram and {**asdict(histogram), "percentiles": _table(histogram.percentiles)},
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
        "role": entry.layout.role,
        "layout": entry.layout.words,
        "outputs": entry.layout.outputs,
        "inputs": entry.layout.inputs,
        "experts": entry.layout.experts,
        "groups": entry.layout.groups,
        "layout_evidence": entry.layout.evidence,
        "layout_proven": entry.layout.proven,
        "scaled_by": entry.scaled_by,
        "packed": entry.packed and asdict(entry.packed),
    }


def _thresholds(together: ThresholdTable, each: tuple[ThresholdTable, ...]) -> dict[str, object]:
    return {"together": _table(together), "tensors": [{"name": table.name, **_table(table)} for table in each]}


def _table(table: ThresholdTable) -> dict[str, object]:
    return {"numel": table.numel, "steps": [asdict(step) for step in table.steps]}
