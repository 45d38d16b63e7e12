"""Reports and rows for the tests of the renderers, and what is written to a terminal or a pipe."""

from __future__ import annotations

import json
import math
import os
from io import StringIO
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pytest

from prunecli.report.json import to_json
from prunecli.report.model import Compressed, Report, Row
from prunecli.report.sentences import warnings_for

if TYPE_CHECKING:
    from collections.abc import Callable

EVIL = "a\x1b[31m\n\u202e[red]w.weight"

HOSTILE = (
    *(EVIL, "", "a\u202eb\u2066", "\udc80", "\u05e9\u05dc\u05d5\u05dd.weight", "    indented", "@everyone", "#1"),
    *("<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "' onmouseover='alert(1)", "<!-- hidden"),
    *("</title></style></svg></bdi>", "</details>", "&lt;b&gt; &amp;", "{{ 7 * 7 }}{% raw %}", "a|b", "a\\|b\\"),
    *("``` `x` ```", "*bold* _it_ ~~gone~~", "- item", "1. item", "---", "===", "www.evil.example"),
    *("[l](http://evil.example)", "![i](https://evil.example)"),
)
"""Texts that a terminal, a page, a template or Markdown would interpret."""


class Terminal(StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        """Return True."""
        return True


def written(
    write: Callable[..., None],
    value: object,
    *more: object,
    width: int | None = None,
    color: bool = False,
    **options: object,
) -> str:
    """Return the text that `write(value, stream, *more)` writes to a pipe, or to a terminal of `width` columns."""
    stream = StringIO() if width is None else Terminal()
    size = {"COLUMNS": str(width), "LINES": "50"}
    with patch.dict(os.environ, {**size, "TERM": "xterm-256color" if color else "dumb"}):
        write(value, stream, *more, **options)
    return stream.getvalue()


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


def skipped(
    name: str,
    reason: str = "fewer than 2 dimensions",
    *,
    dtype: str = "F32",
    numel: int = 10,
    tied_to: str | None = None,
) -> Row:
    """Return the row of a tensor that was not read."""
    return Row(name, dtype, (numel,), numel, selected=False, reason=reason, tied_to=tied_to)


def report(*rows: Row, **more: object) -> Report:
    """Return a report over `rows`."""
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
    """Parse the JSON form of a report; fail on numbers that JSON does not have."""

    def refuse(token: str) -> None:
        pytest.fail(f"{token} is not JSON")

    document = json.loads(to_json(value), parse_constant=refuse)
    assert isinstance(document, dict)
    return document


def sample_report() -> Report:
    """Return a report with a value in every field."""
    rows = [
        row(EVIL, shape=(10, 10), two_four=True, l2_kept=0.25, rule="smallest", aliases=("head", "=x"), nonfinite=2),
        row("b", cut=math.inf, largest_pruned=math.nan, smallest_kept=1e-300, file="model-1.safetensors"),
        row("zero", zeros=100),
        skipped("c"),
        skipped("d", dtype="I64", numel=0),
    ]
    estimate = Compressed("zstd level 3", 100, 190, 80)
    command = ("prune", "l1", EVIL)
    return report(*rows, warnings=warnings_for(rows), facts=("a fact",), compressed=estimate, command=command)


REPORTS = {"rich": sample_report(), "bare": report(), "dry": report(row(), output_path=None, dry_run=True)}
"""A report with a value in every field, one without tensors, and one of a dry run."""
