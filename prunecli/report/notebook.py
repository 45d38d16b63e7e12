"""A report in an interactive session: one line of text, and a table of HTML without styles or scripts of its own."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from prunecli.text.escape import printable
from prunecli.text.numbers import counted, percent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prunecli.report.model import Report, Row

MOST_ROWS = 100
"""The most tensors of a table; a notebook stores its tables."""

_HEADINGS = ("tensor", "dtype", "shape", "weights", "zero before", "zero after", "pruned")


def headline(report: Report) -> str:
    """Return the result in a line, with names escaped: how much is zero, by which strategy, and where it is."""
    totals = report.selected
    zero = _percent(totals.sparsity_after)
    where = "not written" if report.output_path is None else printable(report.output_path)
    tensors = counted(totals.tensors, "tensor")
    return f"{zero} of {totals.numel:,} weights zero in {tensors}, by {report.strategy.get('name')}, {where}"


def to_table(report: Report) -> str:
    """Return the headline and a table with a line for each selected tensor, at most MOST_ROWS, as HTML."""
    rows = [row for row in report.rows if row.selected]
    lines = [_line("th", _HEADINGS), *(_line("td", _cells(row)) for row in rows[:MOST_ROWS])]
    more = f"<p>and {len(rows) - MOST_ROWS:,} more tensors</p>" if len(rows) > MOST_ROWS else ""
    warnings = "".join(f"<p>warning: {escape(sentence)}</p>" for sentence in report.warnings)
    return f"<p>{escape(headline(report))}</p><table>{''.join(lines)}</table>{more}{warnings}"


def _line(tag: str, cells: Sequence[str]) -> str:
    return f"<tr>{''.join(f'<{tag}>{escape(cell)}</{tag}>' for cell in cells)}</tr>"


def _cells(row: Row) -> tuple[str, ...]:
    shape = "x".join(map(str, row.shape))
    before, after = (_percent(part) for part in (row.sparsity_before, row.sparsity_after))
    pruned = "?" if row.pruned is None else f"{row.pruned:,}"
    return printable(row.name), row.dtype, shape, f"{row.numel:,}", before, after, pruned


def _percent(part: float | None) -> str:
    return "?" if part is None else percent(part)
