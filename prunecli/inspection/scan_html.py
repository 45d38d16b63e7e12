"""What `scan` found, as one HTML page that needs no network, no script and no second file.

What comes from a checkpoint is text, escaped by the template engine. Jinja is imported when a page is made.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING

from prunecli.inspection.scan import ENOUGH, LADDER, RANKED_AT
from prunecli.text.escape import printable
from prunecli.text.numbers import percent
from prunecli.version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prunecli.inspection.scan import Scan, SensitivityCurve

ROWS = 5_000
"""Tensors the table lists, those that break first: more take a browser seconds. The JSON form lists all."""

NAMED = 5
"""Tensors whose curves have a colour and a name: those that break first."""

_WIDTH, _HEIGHT, _LEFT, _TOP = 640, 320, 58, 16  # the plot's box, in SVG units
_LINES = 1_000  # curves that are drawn
_NAME = 160  # characters of a name


@dataclass(frozen=True, slots=True)
class _Line:
    name: str
    points: str
    rank: int  # 1 breaks first; 0 has no colour


@dataclass(frozen=True, slots=True)
class _Cell:
    text: str
    heat: int  # 0 (all is left) to 10 (nothing is)


def to_html(found: Scan) -> str:
    """Return `found` as a page: a curve per tensor, and a table with those that break first on top."""
    from jinja2 import Environment, StrictUndefined  # noqa: PLC0415  -- costs more than a small scan

    template = files("prunecli.inspection").joinpath("templates").joinpath("scan.html").read_text("utf-8")
    engine = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    engine.filters.update(percent=percent, name=_name)
    known = [curve for curve in found.curves if curve.kept is not None]
    return engine.from_string(template).render(
        scan=found,
        version=__version__,
        ladder=LADDER,
        ranked_at=RANKED_AT,
        enough=f"{ENOUGH:.0%}",
        lines=_lines(known),
        rows=[(curve, _cells(curve)) for curve in found.curves[:ROWS]],
        left=max(len(found.curves) - ROWS, 0),
        undrawn=max(len(known) - _LINES, 0),
        nonfinite=sum(curve.nonfinite for curve in found.curves),
        box={"left": _LEFT, "top": _TOP, "width": _WIDTH, "height": _HEIGHT},
        across=[(p, round(_x(p), 1)) for p in range(0, 101, 10)],
        up=[(p, round(_y(p / 100), 1)) for p in range(0, 101, 20)],
    )


def _name(name: str) -> str:
    safe = printable(name)
    return safe if len(safe) <= _NAME else f"{safe[: _NAME // 2]}...{safe[-_NAME // 2 :]}"


def _lines(curves: Sequence[SensitivityCurve]) -> list[_Line]:
    """Return the curves to draw, the named ones last and so on top of the others."""
    lines = [_Line(curve.name, _points(curve), at + 1 if at < NAMED else 0) for at, curve in enumerate(curves[:_LINES])]
    return lines[::-1]


def _points(curve: SensitivityCurve) -> str:
    kept = (1.0, *(curve.kept or ()), 0.0)
    return " ".join(f"{_x(p):.1f},{_y(y):.1f}" for p, y in zip((0, *LADDER, 100), kept, strict=True))


def _x(sparsity: float) -> float:
    return _LEFT + sparsity / 100 * _WIDTH


def _y(kept: float) -> float:
    return _TOP + (1 - kept) * _HEIGHT


def _cells(curve: SensitivityCurve) -> list[_Cell]:
    if curve.kept is None:
        return [_Cell("-", 0) for _ in LADDER]
    return [_Cell(percent(kept), round(10 * (1 - kept))) for kept in curve.kept]
