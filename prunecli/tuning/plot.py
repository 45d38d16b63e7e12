"""A curve as one SVG file: axes, dashed lines at levels to compare with, and points with notes.

The file has no script and needs no other file. It is legible on a light and on a dark background.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element, SubElement, tostring

from prunecli.report.figures import Axis, ticks_between
from prunecli.report.svg import add_line, add_point, add_text, picture

if TYPE_CHECKING:
    from collections.abc import Sequence

WIDTH, HEIGHT = 720, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 78, 24, 56, 56  # margins around the plot
_STYLE = """
svg { font-family: system-ui, sans-serif; font-size: 13px; }
.ground { fill: #ffffff; }
text { fill: #60646c; }
.title { fill: #1c2024; font-size: 16px; font-weight: 600; }
.grid { stroke: #d9dbe0; }
.level { stroke: #60646c; stroke-dasharray: 5 4; }
.name { stroke: #ffffff; stroke-width: 4; stroke-linejoin: round; paint-order: stroke; }
.metric { fill: none; stroke: #0b62c4; stroke-width: 2; stroke-linejoin: round; }
.point { fill: #0b62c4; stroke: #ffffff; stroke-width: 1.5; }
@media (prefers-color-scheme: dark) {
  .ground { fill: #111113; }
  text { fill: #b0b4ba; }
  .title { fill: #edeef0; }
  .grid { stroke: #363a3f; }
  .level { stroke: #b0b4ba; }
  .name { stroke: #111113; }
  .metric { stroke: #70b8ff; }
  .point { fill: #70b8ff; stroke: #111113; }
}
"""
"""Plain colours first: only browsers know variables and media queries, and other programs would draw black."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A point of the curve: `x` is a fraction (0-1), `note` a text about it. A `y` that is not finite is a gap."""

    x: float
    y: float
    note: str


def plot(title: str, marks: Sequence[Mark], *, x_label: str, y_label: str, levels: Sequence[tuple[float, str]]) -> str:
    """Return the SVG file: `marks` joined in their order, and a dashed line with its text at each level that is finite.

    Texts may hold anything: control characters and markup are escaped.
    """
    ys = [value for value in (*(level for level, _ in levels), *(mark.y for mark in marks)) if isfinite(value)] or [0.0]
    values = ticks_between(min(ys), max(ys))
    x, y = Axis(0, 1, _LEFT, WIDTH - _RIGHT), Axis(values[0], values[-1], HEIGHT - _BOTTOM, _TOP)
    root = picture((WIDTH, HEIGHT), title, _STYLE)
    SubElement(root, "rect", {"class": "ground", "width": "100%", "height": "100%"})
    add_text(root, (_LEFT, 28), title, style="title")
    for tick in y.ticks(values, "{:.6g}".format):
        add_line(root, (x.start, tick.at), (x.end, tick.at), style="grid")
        add_text(root, (_LEFT - 10, tick.at + 4), tick.text, anchor="end")
    for tick in x.ticks((0, 0.2, 0.4, 0.6, 0.8, 1), "{:.0%}".format):
        add_line(root, (tick.at, y.start), (tick.at, y.end), style="grid")
        add_text(root, (tick.at, HEIGHT - _BOTTOM + 20), tick.text, anchor="middle")
    add_text(root, (x(0.5), HEIGHT - 12), x_label, anchor="middle")
    add_text(root, (_LEFT, 46), y_label)
    for index, (level, text) in enumerate(sorted((one for one in levels if isfinite(one[0])), reverse=True)):
        add_line(root, (x.start, y(level)), (x.end, y(level)), style="level")
        # The text of the highest level is above its line, that of another one below: levels may be close together.
        add_text(root, (x.end, y(level) + (16 if index else -6)), text, style="name", anchor="end")
    _draw_curve(root, [(x(mark.x), y(mark.y), mark.note) for mark in marks])
    return tostring(root, encoding="unicode") + "\n"


def _draw_curve(root: Element, points: Sequence[tuple[float, float, str]]) -> None:
    """Draw the line with its gaps, then the points over it."""
    part: list[str] = []
    for x, y, _ in (*points, (0.0, float("nan"), "")):
        if isfinite(y):
            part.append(f"{x:.1f},{y:.1f}")
            continue
        if len(part) > 1:
            SubElement(root, "polyline", {"class": "metric", "points": " ".join(part)})
        part = []
    for x, y, note in points:
        if isfinite(y):
            add_point(root, (x, y), "4.5", style="point", note=note)
