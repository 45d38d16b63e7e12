"""Reports and rows for the tests of renderers."""

from __future__ import annotations

import json
from typing import Any

import pytest

from prunecli.report.json import to_json
from prunecli.report.model import Report, Row

EVIL = "a\x1b[31m\n\u202e[red]w.weight"


def row(name: str = "fc.weight", numel: int = 100, zeros: int = 50, **more: object) -> Row:
    """Return the row of a pruned matrix."""
    values: dict[str, object] = {
        "dtype": "F32",
        "shape": (numel,),
        "zeros_before": 0,
        "zeros_after": zeros,
        "pruned": zeros,
        "cut": 0.25,
        "ties": 3,
        "ties_pruned": 1,
        "nonfinite": 0,
        **more,
    }
    return Row(name=name, numel=numel, **values)  # type: ignore[arg-type]


def skipped(name: str, reason: str = "fewer than 2 dimensions", *, dtype: str = "F32", numel: int = 10) -> Row:
    """Return the row of a skipped tensor."""
    return Row(name, dtype, (numel,), numel, selected=False, reason=reason)


def report(*rows: Row, **more: object) -> Report:
    """Return a report with `rows`."""
    values: dict[str, object] = {
        "strategy": {"name": "l1", "amount": 0.5},
        "input_path": "in.pth",
        "format": "torch zip",
        "input_bytes": 1000,
        "output_path": "out.pth",
        "output_bytes": 1000,
        "version": "0.1.0",
        **more,
    }
    return Report(rows=rows, **values)  # type: ignore[arg-type]


def parsed(value: Report) -> dict[str, Any]:
    """Return a report's JSON, parsed; NaN and infinities, which JSON does not have, fail the test."""

    def refuse(token: str) -> None:
        pytest.fail(f"{token} is not JSON")

    document = json.loads(to_json(value), parse_constant=refuse)
    assert isinstance(document, dict)
    return document
