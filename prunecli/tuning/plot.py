"""A curve as one SVG file: axes, a dashed level to compare with, and points that tell their numbers.

It needs nothing from outside, has no script, and is legible on light and on dark ground. Nothing here knows what is
plotted.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import floor, isfinite, log10
from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element, SubElement, tostring

from prunecli.text.escape import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

WIDTH, HEIGHT = 720, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 78, 24, 56, 56  # room around the plot
_TICKS = 6
_STYLE = """
svg { color-scheme: light dark; font: 13px system-ui, sans-serif; --ink: #1c2024; --soft: #60646c; --line: #d9dbe0;
  --curve: #0b62c4; --ground: #ffffff; }
@media (prefers-color-scheme: dark) { svg { --ink: #edeef0; --soft: #b0b4ba; --line: #363a3f; --curve: #70b8ff;
  --ground: #111113; } }
.ground { fill: var(--ground); }
text { fill: var(--soft); }
.title { fill: var(--ink); font-size: 16px; font-weight: 600; }
.grid { stroke: var(--line); }
.level { stroke: var(--soft); stroke-dasharray: 5 4; }
.curve { fill: none; stroke: var(--curve); stroke-width: 2; stroke-linejoin: round; }
.point { fill: var(--curve); stroke: var(--ground); stroke-width: 1.5; }
"""


@dataclass(frozen=True, slots=True)
class Mark:
    """A point of the curve: `x` as a fraction (0-1), `y`, and what is told about it; a `y` not finite is a gap."""

    x: float
    y: float
    note: str


@dataclass(frozen=True, slots=True)
class _Scale:
    low: float
    high: float

    def x(self, fraction: float) -> float:
        return _LEFT + fraction * (WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        return HEIGHT - _BOTTOM - (value - self.low) / (self.high - self.low) * (HEIGHT - _TOP - _BOTTOM)


def plot(title: str, marks: Sequence[Mark], *, x_label: str, y_label: str, level: float, level_label: str) -> str:
    """Return the SVG file: `marks` joined in their order, and a dashed line at `level` where that is finite.

    All text may hold anything: control characters are escaped, markup is text.
    """
    ys = [value for value in (level, *(mark.y for mark in marks)) if isfinite(value)] or [0.0]
    ticks = ticks_between(min(ys), max(ys))
    scale = _Scale(ticks[0], ticks[-1])
    root = Element("svg", xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img")
    SubElement(root, "title").text = printable(title)
    SubElement(root, "style").text = _STYLE
    SubElement(root, "rect", {"class": "ground", "width": "100%", "height": "100%"})
    _text(root, (_LEFT, 28), title, kind="title")
    _axes(root, scale, ticks, (x_label, y_label))
    if isfinite(level):
        _line(root, "level", (scale.x(0), scale.y(level)), (scale.x(1), scale.y(level)))
        _text(root, (scale.x(1), scale.y(level) - 6), level_label, anchor="end")
    _curve(root, scale, marks)
    return tostring(root, encoding="unicode") + "\n"


def ticks_between(low: float, high: float) -> list[float]:
    """Return round numbers, evenly spaced, the first not above `low` and the last not below `high`; two or more."""
    size = max(abs(low), abs(high))
    span = max(high - low, 1e-9 * size) if high > low else size or 1.0  # a float cannot tell finer ticks apart
    power = 10.0 ** floor(log10(span / _TICKS))
    step = next(power * k for k in (1, 2, 5, 10) if span / (power * k) <= _TICKS)
    first, last = floor(low / step + 1e-9), -floor(-high / step + 1e-9)
    return [round(step * i, 12 - floor(log10(step))) for i in range(first, max(last, first + 1) + 1)]


def _axes(root: Element, scale: _Scale, ticks: Sequence[float], labels: tuple[str, str]) -> None:
    for tick in ticks:
        y = scale.y(tick)
        _line(root, "grid", (scale.x(0), y), (scale.x(1), y))
        _text(root, (_LEFT - 10, y + 4), f"{tick:.6g}", anchor="end")
    for tenth in range(0, 11, 2):
        x = scale.x(tenth / 10)
        _line(root, "grid", (x, scale.y(scale.low)), (x, scale.y(scale.high)))
        _text(root, (x, HEIGHT - _BOTTOM + 20), f"{tenth * 10}%", anchor="middle")
    _text(root, (scale.x(0.5), HEIGHT - 12), labels[0], anchor="middle")
    _text(root, (_LEFT, 46), labels[1])


def _curve(root: Element, scale: _Scale, marks: Sequence[Mark]) -> None:
    """Draw the line, with gaps, and then the points over it."""
    part: list[str] = []
    for mark in (*marks, Mark(0, float("nan"), "")):
        if isfinite(mark.y):
            part.append(f"{scale.x(mark.x):.1f},{scale.y(mark.y):.1f}")
            continue
        if len(part) > 1:
            SubElement(root, "polyline", {"class": "curve", "points": " ".join(part)})
        part = []
    for mark in marks:
        if isfinite(mark.y):
            at = {"cx": f"{scale.x(mark.x):.1f}", "cy": f"{scale.y(mark.y):.1f}", "r": "4.5"}
            point = SubElement(root, "circle", {"class": "point", **at})
            SubElement(point, "title").text = printable(mark.note)


def _line(root: Element, kind: str, start: tuple[float, float], end: tuple[float, float]) -> None:
    at = {"x1": start[0], "y1": start[1], "x2": end[0], "y2": end[1]}
    SubElement(root, "line", {"class": kind, **{name: f"{value:.1f}" for name, value in at.items()}})


def _text(root: Element, at: tuple[float, float], text: str, *, kind: str = "", anchor: str = "start") -> None:
    place = {"x": f"{at[0]:.1f}", "y": f"{at[1]:.1f}", "text-anchor": anchor}
    SubElement(root, "text", {**place, **({"class": kind} if kind else {})}).text = printable(text)
