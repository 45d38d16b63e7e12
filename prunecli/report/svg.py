"""Elements of an SVG picture: lines, texts and points. Control characters and markup in texts are escaped."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element, SubElement

from prunecli.text.escape import printable

if TYPE_CHECKING:
    Point = tuple[float, float]


def picture(size: tuple[int, int], title: str, style: str) -> Element:
    """Return an empty picture of `size` (width and height in user units)."""
    root = Element("svg", xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {size[0]} {size[1]}", role="img")
    SubElement(root, "title").text = printable(title)
    SubElement(root, "style").text = style
    return root


def add_line(root: Element, start: Point, end: Point, *, style: str) -> None:
    """Add a straight line; `style` is its class."""
    ends = {"x1": start[0], "y1": start[1], "x2": end[0], "y2": end[1]}
    SubElement(root, "line", {"class": style, **{name: f"{value:.1f}" for name, value in ends.items()}})


def add_text(root: Element, at: Point, text: str, *, style: str = "", anchor: str = "start") -> None:
    """Add a text at the point `at`; `style` is its class, `anchor` SVG's text-anchor."""
    attributes = {"x": f"{at[0]:.1f}", "y": f"{at[1]:.1f}", "text-anchor": anchor}
    SubElement(root, "text", {**attributes, **({"class": style} if style else {})}).text = printable(text)


def add_point(root: Element, at: Point, radius: str, *, style: str, note: str = "") -> None:
    """Add a disc; `style` is its class, `note` the text that a browser shows for it."""
    point = SubElement(root, "circle", {"class": style, "cx": f"{at[0]:.1f}", "cy": f"{at[1]:.1f}", "r": radius})
    if note:
        SubElement(point, "title").text = printable(note)
