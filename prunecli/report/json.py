"""A report as JSON. docs/report.schema.json describes the keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from itertools import islice
from math import isfinite, isnan
from numbers import Integral, Real
from operator import attrgetter
from typing import TYPE_CHECKING

from prunecli.report.model import COLUMNS, NOT_READ, on_disk_note
from prunecli.text.json import dump_with_lines, encode, encode_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from prunecli.report.model import Report, Row

SCHEMA = 2
"""The version of the document. It rises when a key is removed or changes its meaning."""

_MEASURED = (
    *("zeros_before", "zeros_after", "pruned", "cut", "ties", "ties_pruned", "l2_kept", "largest_pruned"),
    *("smallest_kept", "zero_rows", "zero_cols", "two_four", "nonfinite", "sparsity_before", "sparsity_after"),
)
"""The columns of numbers that are measured of each tensor, in the order of the columns."""

_cells, _numbers = attrgetter(*COLUMNS), attrgetter(*_MEASURED)

_common = attrgetter(
    *("dtype", "shape", "file", "selected", "reason", "rule", "aliases", "scaled_by", "packed", "tied_to", "meaning")
)
"""Returns what the other columns depend on."""

_TOGETHER = 64
"""Rows whose numbers are encoded together, which takes half of the time."""

_UNCHANGED = frozenset({str, bool, int, type(None)})  # most values of a large report


def to_json(report: Report) -> str:
    """Return `report` as JSON (ASCII, finite, stable key order), ending in a line break.

    Names are verbatim. Numbers that are not finite are the strings "Infinity", "-Infinity" and "NaN", because JSON has
    no such numbers. Unknown numbers are null. Each tensor has a line of its own.
    """
    head = {key: _plain(value) for key, value in _document(report).items()}
    return dump_with_lines(head, _lines(report.rows))


def to_dict(report: Report) -> dict[str, object]:
    """Return what `to_json` writes as a dict; its values are dicts, lists, texts, finite numbers, booleans and None."""
    document = {key: _plain(value) for key, value in _document(report).items()}
    return {**document, "tensors": [_plain(_values(row)) for row in report.rows]}


def _lines(rows: Iterable[Row]) -> Iterator[str]:
    """Yield a line per row: most tensors of a large model share all of it but the name and the measured numbers."""
    shared: dict[object, str] = {}
    iterator = iter(rows)
    while some := list(islice(iterator, _TOGETHER)):
        for row, numbers in zip(some, _encoded([_numbers(row) for row in some]), strict=True):
            key = _common(row)
            text = shared.get(key) or shared.setdefault(key, _shared(row))
            yield text % (encode_text(row.name), *numbers.split(", "))


def _shared(row: Row) -> str:
    """Return the line of a row with `%s` in the places of its name and its measured numbers."""
    texts = {key: encode(_plain(value)).replace("%", "%%") for key, value in _values(row).items()}
    texts |= dict.fromkeys(("name", *_MEASURED), "%s")
    return "{" + ", ".join(f"{encode(key)}: {text}" for key, text in texts.items()) + "}"


def _encoded(some: Sequence[Sequence[object]]) -> list[str]:
    """Return the numbers of each row, separated by `, `."""
    try:
        text = encode(some)
    except (TypeError, ValueError):  # a number that is not finite, or not of Python: most of 10,000 rows have none
        text = encode(_plain(some))
    return text[2:-2].split("], [")


def _values(row: Row) -> dict[str, object]:
    return dict(zip(COLUMNS, _cells(row), strict=True))


def _document(report: Report) -> dict[str, object]:
    output = {"path": report.output_path, "bytes": report.output_bytes, "sha256": report.output_sha256}
    return {
        "schema": SCHEMA,
        "tool": {"name": "prunecli", "version": report.version},
        "command": report.command,
        "dry_run": report.dry_run,
        "strategy": report.strategy,
        "device": report.device,
        "kernels": report.kernels,
        "seconds": report.seconds,
        "input": {
            "path": report.input_path,
            "format": report.format,
            "key": report.key,
            "keys": report.keys,
            "left_alone": [asdict(one) for one in report.left_alone],
            "bytes": report.input_bytes,
            "sha256": report.input_sha256,
        },
        "output": None if report.output_path is None else output,
        "totals": {"selected": asdict(report.selected), "all": {**asdict(report.all), "note": NOT_READ}},
        "on_disk": _on_disk(report),
        "warnings": report.warnings,
        "facts": report.facts,
    }


def _on_disk(report: Report) -> dict[str, object]:
    """Return the sizes; the key `compressed` is absent without an estimate."""
    values = asdict(report.on_disk)
    if report.compressed is None:
        del values["compressed"]
    return {**values, "note": on_disk_note(report)}


def _plain(value: object) -> object:
    """Return `value` as JSON has it: dicts, lists, strings, finite numbers, booleans and null."""
    if type(value) in _UNCHANGED:
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
    return "NaN" if isnan(value) else "Infinity" if value > 0 else "-Infinity"
