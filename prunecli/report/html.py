"""A report as one HTML page that needs no network, no script and no second file: for a browser, a mail or a printer.

What comes from a checkpoint is text, escaped by the template engine; the page forbids itself every script but its own.
Jinja is imported when a page is made.
"""

from __future__ import annotations

import base64
import hashlib
import shlex
from dataclasses import dataclass
from importlib.resources import files
from pathlib import PurePath
from typing import TYPE_CHECKING

from prunecli.report import figures
from prunecli.report.model import NOT_READ
from prunecli.report.text import at_cut, request
from prunecli.text.escape import printable
from prunecli.text.numbers import format_bytes, magnitude, number, percent, shape, tensors

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from prunecli.report.model import Report, Row

HISTOGRAMS = 23
"""Tensors whose magnitudes are drawn: the largest. More would make a page heavy and say little."""

ROWS = 5_000
"""Tensors the table lists: more take a browser seconds. The JSON and CSV forms list all."""

LABELLED = 24
"""Tensors whose sparsity gets a bar with a name; of more, columns are drawn side by side."""

OPTIONAL = ("cut", "ties", "zero_rows", "zero_cols", "two_four", "nonfinite", "aliases", "file")
"""What the table shows only where a tensor has it."""

NAMES = 200
"""Names listed of tensors skipped for one reason, before the rest are counted."""

_NAME = 160  # characters of a name
_TEXT = 2_000  # characters of a sentence or a command line


def to_html(report: Report) -> str:
    """Return `report` as a page: totals, warnings, sparsity, magnitudes, every selected tensor, and provenance.

    Magnitudes are there if they were counted (`Report.histograms`).
    """
    from jinja2 import Environment, StrictUndefined  # noqa: PLC0415  -- costs more than a small prune
    from markupsafe import Markup  # noqa: PLC0415  -- the same

    room = files("prunecli.report").joinpath("templates")
    page, style, script = (room.joinpath(f"report.{kind}").read_text("utf-8") for kind in ("html", "css", "js"))
    engine = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    engine.filters.update(
        name=_name, text=_text, percent=percent, number=number, magnitude=magnitude, bytes=format_bytes, count=tensors
    )
    mine = {"style": Markup(style), "script": Markup(script)}  # noqa: S704  -- from the package, not from a checkpoint
    return engine.from_string(page).render(**_context(report), **mine, script_hash=_hash(script)) + "\n"


def _hash(script: str) -> str:
    """Return what a Content-Security-Policy calls a script by."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")


def _name(name: str) -> str:
    return _cut(printable(name), _NAME) or '""'


def _text(text: str) -> str:
    return _cut(printable(text), _TEXT)


def _cut(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    return f"{text[: limit * 2 // 3]}\u2026{text[-limit // 4 :]} ({len(text):,} characters)"


# --- what the page shows


@dataclass(frozen=True, slots=True)
class Bar:
    """Parts of something whole, in percent: zero before, zeroed by this run, and left."""

    was: float
    gone: float


@dataclass(frozen=True, slots=True)
class Line:
    """One tensor of the table, and of it what is not a number as it stands."""

    row: Row
    bar: Bar
    shape: str
    at_cut: str


@dataclass(frozen=True, slots=True)
class Drawing:
    """One histogram with what stands above it; without a name it is of all selected tensors."""

    name: str | None
    weights: int
    zeros: str
    figure: figures.Histogram


def _context(report: Report) -> dict[str, object]:
    chosen = [row for row in report.rows if row.selected]
    listed = _largest(chosen, ROWS)
    return {
        "report": report,
        "title": PurePath(report.input_path if report.output_path in {None, "-"} else report.output_path).name,
        "chosen": report.selected,
        "every": report.all,
        "disk": report.on_disk,
        "sizes": _sizes(report),
        "request": request(report),
        "command": shlex.join(report.command),
        "whole": _bar(report.selected.zeros_before, report.selected.zeros_after, report.selected.numel),
        "columns": figures.overview(chosen) if len(chosen) > LABELLED else [],
        "drawings": _drawings(report, chosen),
        "box": figures,
        "lines": [_line(row) for row in listed],
        "unlisted": len(chosen) - len(listed),
        "skipped": _skipped(report.rows),
        "not_read": NOT_READ,
        "shows": {key: any(getattr(row, key) for row in listed) for key in OPTIONAL},
    }


def _largest(rows: Sequence[Row], limit: int) -> list[Row]:
    """Return the `limit` largest of `rows`, in their order."""
    order = sorted(range(len(rows)), key=lambda at: (-rows[at].numel, at))[:limit]
    return [rows[at] for at in sorted(order)]


def _bar(was: int | None, now: int | None, numel: int) -> Bar:
    before, after = ((count or 0) / (numel or 1) * 100 for count in (was, now))
    return Bar(round(min(before, after), 2), round(max(after - before, 0), 2))


def _line(row: Row) -> Line:
    return Line(
        row=row,
        bar=_bar(row.zeros_before, row.zeros_after, row.numel),
        shape=_cut(shape(row).replace("x", " \u00d7 "), _NAME),
        at_cut=at_cut(row),
    )


def _sizes(report: Report) -> list[tuple[str, int, float]]:
    """Return what the selected tensors take in each form: what it is, bytes, and the percentage of dense."""
    disk = report.on_disk
    found = [("dense, as written", disk.dense_bytes)]
    if disk.bitmask_bytes is not None:
        found.append(("bitmask and non-zeros", disk.bitmask_bytes))
    if disk.compressed is not None:
        found.append((f"{disk.compressed.method}, before", disk.compressed.bytes_before))
        found.append((f"{disk.compressed.method}, after", disk.compressed.bytes_after))
    most = max(size for _, size in found) or 1
    return [(what, size, round(100 * size / most, 2)) for what, size in found]


def _drawings(report: Report, chosen: Sequence[Row]) -> list[Drawing]:
    """Return the figure of all selected tensors together, and those of the largest."""
    counted = [row for row in chosen if row.name in report.histograms]
    found = []
    if len(counted) > 1:
        cuts = {figures.separating(row) for row in counted}
        cut = cuts.pop() if len(cuts) == 1 else None
        found.append(_drawing(None, counted, report, cut))
    found += [_drawing(row.name, [row], report, figures.separating(row)) for row in _largest(counted, HISTOGRAMS)]
    return [drawing for drawing in found if drawing is not None]


def _drawing(name: str | None, rows: Sequence[Row], report: Report, cut: float | None) -> Drawing | None:
    figure = figures.histogram([report.histograms[row.name] for row in rows], cut)
    if figure is None:
        return None
    was, now = (sum(getattr(row, key) or 0 for row in rows) for key in ("zeros_before", "zeros_after"))
    return Drawing(name, sum(row.numel for row in rows), f"{was:,} \u2192 {now:,}", figure)


def _skipped(rows: Iterable[Row]) -> list[tuple[str, list[str], int]]:
    """Return the reasons, the commonest first, with some names and how many more there are."""
    names: dict[str, list[str]] = {}
    for row in rows:
        if not row.selected:
            names.setdefault(row.reason or "not selected", []).append(row.name)
    ordered = sorted(names.items(), key=lambda item: -len(item[1]))
    return [(why, found[:NAMES], len(found[NAMES:])) for why, found in ordered]
