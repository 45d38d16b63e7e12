"""json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from math import isfinite
from numbers import Integral, Real
from typing import TYPE_CHECKING

from prunecli.report.model import NOT_READ, ON_DISK, AllTotals, OnDisk, Report, Row, SelectedTotals

if TYPE_CHECKING:
    from prunecli.report.model import Compressed


SCHEMA = 1
"""The version of the JSON form; it rises when a key goes away or changes its meaning."""


def to_json(report: Report) -> str:
    """Return `report` as JSON (ASCII, finite, stable key order), ending in a line break.

    Names are verbatim. Numbers that are not finite, which JSON has no word for, are the strings "Infinity",
    "-Infinity" and "NaN"; unknown ones are null. Each tensor has a line of its own.
    """
    head = json.dumps(_plain(_document(report)), indent=1, allow_nan=False)
    # One row at a time: a checkpoint of many small tensors is described by more bytes of dicts than of weights.
    encode = json.JSONEncoder(allow_nan=False).encode
    rows = ",\n  ".join(encode(_plain(_row(row))) for row in report.rows)
    text = f'{head[:-2]},\n "tensors": [\n  {rows}\n ]\n}}\n' if rows else f'{head[:-2]},\n "tensors": []\n}}\n'
    return text.replace("\x7f", "\\u007f")  # the one control character that JSON lets stand, and only in names


def _document(report: Report) -> dict[str, object]:
    output = {
        "path": report.output_path,
        "bytes": report.output_bytes,
        "sha256": report.output_sha256,
    }
    return {
        "schema": SCHEMA,
        "tool": {"name": "prunecli", "version": report.version},
        "command": report.command,
        "dry_run": report.dry_run,
        "strategy": report.strategy,
        "device": report.device,
        "seconds": report.seconds,
        "input": {
            "path": report.input_path,
            "format": report.format,
            "key": report.key,
            "bytes": report.input_bytes,
            "sha256": report.input_sha256,
        },
        "output": None if report.output_path is None else output,
        "totals": {"selected": _values(report.selected), "all": {**_values(report.all), "note": NOT_READ}},
        "on_disk": _on_disk(report.on_disk),
        "warnings": report.warnings,
        "facts": report.facts,
    }


def _on_disk(disk: OnDisk) -> dict[str, object]:
    """Leave `compressed` out where nobody asked for it."""
    values = {**_values(disk), "note": ON_DISK}
    if disk.compressed is None:
        del values["compressed"]
        return values
    return {**values, "compressed": _values(disk.compressed)}


def _values(value: SelectedTotals | AllTotals | OnDisk | Compressed) -> dict[str, object]:
    return {f.name: getattr(value, f.name) for f in fields(value)}


_COLUMNS = tuple(f.name for f in fields(Row))


def _row(row: Row) -> dict[str, object]:
    values = {name: getattr(row, name) for name in _COLUMNS}
    return {**values, "sparsity_before": row.sparsity_before, "sparsity_after": row.sparsity_after}


_AS_THEY_ARE = frozenset({str, bool, int, type(None)})  # most of what ten thousand rows consist of


def _plain(value: object) -> object:
    """Turn `value` into what JSON has: dicts, lists, strings, finite numbers, booleans and null."""
    if type(value) in _AS_THEY_ARE:
        return value
    if isinstance(value, float):
        return _number(float(value))
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Real):
        return int(value) if isinstance(value, Integral) else _number(float(value))
    return str(value)


def _number(value: float) -> float | str:
    if isfinite(value):
        return value
    return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"  # noqa: PLR0124  -- NaN's own test
