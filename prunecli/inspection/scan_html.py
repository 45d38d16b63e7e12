"""The result of `scan` as one HTML page."""

from __future__ import annotations

import shlex
from pathlib import PurePath
from typing import TYPE_CHECKING

from prunecli.inspection.scan import ENOUGH, RANKED_AT
from prunecli.inspection.scan_text import CAVEAT
from prunecli.inspection.thresholds import SPARSITIES
from prunecli.report.figures import Axis
from prunecli.report.heat_map import heat_maps
from prunecli.report.page import made_at, render_page
from prunecli.text.natural_order import natural_order
from prunecli.text.numbers import percent

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from prunecli.inspection.scan import Scan, SensitivityCurve

ROWS = 5_000
"""Rows of the table, the most sensitive tensors: more take a browser seconds. The JSON form lists all."""

NAMED = 5
"""Tensors whose curves have a colour and a name: the most sensitive."""

_RANKED = SPARSITIES.index(RANKED_AT)
_CURVES = 400  # curves that are drawn
_X, _Y = Axis(0, 100, 58, 698), Axis(0, 1, 336, 16)  # sparsity in percent, norm kept (0-1)


def to_html(scan: Scan, command: Sequence[str] = ()) -> str:
    """Return the result as a page: a curve per tensor, layers, and a table with the most sensitive tensors first."""
    known = [curve for curve in scan.curves if curve.kept is not None]
    page = render_page(
        "inspection/scan.html",
        script="report/table.js",
        made=made_at(),
        title=PurePath(scan.path).name or scan.path,
        command=shlex.join(command),
        maps=heat_maps(_kept(known)),
        scan=scan,
        caveat=CAVEAT,
        ladder=SPARSITIES,
        ranked_at=RANKED_AT,
        enough=f"{ENOUGH:.0%}",
        lines=_lines(known),
        rows=[(curve, _cells(curve)) for curve in scan.curves[:ROWS]],
        unlisted=max(len(scan.curves) - ROWS, 0),
        undrawn=max(len(known) - _CURVES, 0),
        nonfinite=sum(curve.nonfinite for curve in scan.curves),
        x=_X,
        y=_Y,
        x_ticks=_X.ticks(range(0, 101, 10), "{}%".format),
        y_ticks=_Y.ticks((0, 0.2, 0.4, 0.6, 0.8, 1), "{:.0%}".format),
    )
    return page + "\n"


def _kept(curves: Sequence[SensitivityCurve]) -> Iterator[tuple[str, float, int]]:
    """Yield the name of each tensor, the part of its norm that remains times its weights, and its weights."""
    for index in natural_order([curve.name for curve in curves]):
        curve = curves[index]
        if curve.kept is not None:
            yield curve.name, curve.kept[_RANKED] * curve.numel, curve.numel


def _lines(curves: Sequence[SensitivityCurve]) -> list[dict[str, object]]:
    """Return the curves to draw, with ranks from 1, or 0 for those without a colour. The named ones are on top."""
    lines: list[dict[str, object]] = [
        {"name": curve.name, "points": _points(curve), "rank": index if index <= NAMED else 0}
        for index, curve in enumerate(curves[:_CURVES], 1)
    ]
    return lines[::-1]  # SVG draws later elements over earlier ones


def _points(curve: SensitivityCurve) -> str:
    kept = (1.0, *(curve.kept or ()), 0.0)
    return " ".join(f"{_X(p):.1f},{_Y(y):.1f}" for p, y in zip((0, *SPARSITIES, 100), kept, strict=True))


def _cells(curve: SensitivityCurve) -> list[dict[str, object]]:
    """Return the cells of a row; their heat is 0 where all of the norm remains, to 10 where none does."""
    if curve.kept is None:
        return [{"text": "-", "heat": 0} for _ in SPARSITIES]
    return [{"text": percent(kept), "heat": round(10 * (1 - kept))} for kept in curve.kept]
