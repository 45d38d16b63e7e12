"""A report as one HTML page for a browser, a mail or a printer."""

from __future__ import annotations

import shlex
from operator import attrgetter
from pathlib import PurePath
from typing import TYPE_CHECKING

from prunecli.report import figures
from prunecli.report.heat_map import heat_maps
from prunecli.report.model import NOT_READ, on_disk_note
from prunecli.report.page import NAME, made_at, render_page
from prunecli.report.sentences import skipped_names
from prunecli.report.text import at_cut, examined, request
from prunecli.text.escape import shortened
from prunecli.text.natural_order import natural_order
from prunecli.text.numbers import format_shape
from prunecli.text.tables import largest_in_order

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prunecli.report.model import Report, Row

HISTOGRAMS = 23
"""Tensors whose magnitudes are drawn: the largest. More would make the page heavy."""

ROWS = 5_000
"""Rows of the table: more take a browser seconds. The JSON and CSV forms list all tensors."""

LABELLED = 24
"""Tensors whose sparsity gets a bar with a name. More tensors are drawn as columns side by side."""

OPTIONAL = ("cut", "ties", "zero_rows", "zero_cols", "two_four", "nonfinite", "aliases", "file")
"""Columns that the table has only if a tensor has such a value."""

NAMES = 200
"""Names listed of tensors skipped for one reason, before the rest are counted."""


def to_html(report: Report) -> str:
    """Return `report` as a page: totals, warnings, sparsity, magnitudes, every selected tensor, and provenance.

    The page draws magnitudes if they were counted (`Report.histograms`).
    """
    return render_page("report/report.html", script="report/table.js", **_values(report)) + "\n"


def _values(report: Report) -> dict[str, object]:
    rows = [row for row in report.rows if row.selected]
    selected = [rows[index] for index in natural_order([row.name for row in rows])]
    listed = largest_in_order(selected, attrgetter("numel"), ROWS)
    return {
        "report": report,
        "version": report.version,
        "title": PurePath(report.input_path if report.output_path in {None, "-"} else report.output_path).name,
        "selected": report.selected,
        "every": report.all,
        "disk": report.on_disk,
        "examined": examined(report),
        "sizes": _sizes(report),
        "on_disk": on_disk_note(report),
        "request": request(report),
        "command": shlex.join(report.command),
        "whole": _bar(report.selected.zeros_before, report.selected.zeros_after, report.selected.numel),
        "columns": figures.overview(selected) if len(selected) > LABELLED else [],
        "drawings": _drawings(report, selected),
        "box": figures,
        "lines": [_line(row) for row in listed],
        "unlisted": len(selected) - len(listed),
        "skipped": [(why, names[:NAMES], len(names[NAMES:])) for why, names in skipped_names(report.rows)],
        "not_read": NOT_READ,
        "shows": {
            **{key: any(getattr(row, key) for row in listed) for key in OPTIONAL},
            "dtype": len({row.dtype for row in listed}) > 1,
        },
        "heat_maps": heat_maps((row.name, row.zeros_after or 0, row.numel) for row in selected),
        "made": made_at(),
    }


def _bar(was: int | None, now: int | None, numel: int) -> dict[str, float]:
    """Return the parts of a bar in percent: zeros before the run, and weights that the run pruned."""
    before, after = ((count or 0) / (numel or 1) * 100 for count in (was, now))
    return {"was": round(min(before, after), 1), "both": round(after, 1)}


def _line(row: Row) -> dict[str, object]:
    """Return a row of the table, and those of its texts that are not plain numbers."""
    return {
        "row": row,
        "bar": _bar(row.zeros_before, row.zeros_after, row.numel),
        "shape": shortened(format_shape(row.shape), NAME),
        "at_cut": at_cut(row),
    }


def _sizes(report: Report) -> list[tuple[str, int, float]]:
    """Return the encodings of the selected tensors: label, bytes, percentage of the largest."""
    disk = report.on_disk
    sizes = [("dense, as written", disk.dense_bytes)]
    if disk.compressed is not None:
        sizes.append(("with zstd -3, before", disk.compressed.bytes_before))
        sizes.append(("with zstd -3, after", disk.compressed.bytes_after))
    most = max(size for _, size in sizes) or 1
    return [(label, size, round(100 * size / most, 2)) for label, size in sizes]


def _drawings(report: Report, rows: Sequence[Row]) -> list[dict[str, object]]:
    """Return the histogram of all selected tensors together, and those of the largest."""
    counted = [row for row in rows if row.name in report.histograms]
    drawings = []
    if len(counted) > 1:
        cuts = {figures.separating(row) for row in counted}
        cut = cuts.pop() if len(cuts) == 1 else None
        drawings.append(_drawing(None, counted, report, cut))
    drawn = largest_in_order(counted, attrgetter("numel"), HISTOGRAMS)
    drawings += [_drawing(row.name, [row], report, figures.separating(row)) for row in drawn]
    return [drawing for drawing in drawings if drawing is not None]


def _drawing(name: str | None, rows: Sequence[Row], report: Report, cut: float | None) -> dict[str, object] | None:
    """Return a histogram and its caption; `name` is None for all selected tensors together."""
    figure = figures.histogram([report.histograms[row.name] for row in rows], cut)
    if figure is None:
        return None
    was, now = (sum(getattr(row, key) or 0 for row in rows) for key in ("zeros_before", "zeros_after"))
    weights = sum(row.numel for row in rows)
    return {"name": name, "weights": weights, "zeros": f"{was:,} \u2192 {now:,}", "figure": figure}
