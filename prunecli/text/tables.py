"""Tables and lines, as aligned text for a pipe or fitted to a terminal.

The plain form is never cut and imports nothing; Rich is imported only for a terminal.
"""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from rich.console import Console

    Cells = Sequence[str]

T = TypeVar("T")

LINES = 60
"""Rows that a terminal gets before only the largest are shown."""

LARGEST = 30
"""How many are shown then."""

_LABEL = re.compile(r"\S+( \S+)* {2,}")
_GAP = 2  # spaces between columns
_WIDEST = 120  # characters: a longer cell does not widen the lines of the others
_SHORTEST, _LEAST = 12, 28  # terminal columns the first cell keeps, and should have


class Heading(Protocol):
    """What a column says of itself to be aligned."""

    @property
    def title(self) -> str:
        """The heading."""

    @property
    def right(self) -> bool:
        """Whether its cells stand at the right, as numbers do."""


@dataclass(frozen=True, slots=True)
class Column:
    """A title; `right` sets its cells to the right; of `optional` above 0 the highest give way when it is narrow."""

    title: str
    right: bool = False
    optional: int = 0


@dataclass(frozen=True, slots=True)
class Block:
    """A part of a text: a title, a table, and lines under it, each of them if there are any."""

    title: str = ""
    columns: tuple[Column, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    lines: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class View:
    """How many rows to show: the `top` largest, `every` one, or as many as suit (neither)."""

    top: int | None = None
    every: bool = False


def largest(rows: Sequence[T], size: Callable[[T], int], view: View, *, terminal: bool) -> list[T]:
    """Return the rows to show: the largest first under `top`, else in their order, a terminal's share or all."""
    order = sorted(range(len(rows)), key=lambda i: -size(rows[i]))
    if view.top is not None:
        return [rows[i] for i in order[: view.top]]
    if view.every or not terminal or len(rows) <= LINES:
        return list(rows)
    return [rows[i] for i in sorted(order[:LARGEST])]


def plural(count: int, one: str, many: str | None = None) -> str:
    """Return the word that goes with `count`."""
    return one if count == 1 else many or f"{one}s"


def plain_blocks(blocks: Iterable[Block]) -> str:
    """Return the blocks as text for a pipe, an empty line between them."""
    parts = []
    for block in blocks:
        table = aligned(block.columns, block.rows) if block.rows else []
        parts.append("\n".join([*([block.title] if block.title else []), *table, *block.lines]))
    return "\n\n".join(parts) + "\n"


def print_blocks(console: Console, blocks: Iterable[Block]) -> None:
    """Print the blocks to a terminal, an empty line between them."""
    from rich.text import Text  # noqa: PLC0415  -- Rich costs more than a small look

    def lines(text: str) -> None:
        for line in folded(text, console.width):
            console.print(Text(line), soft_wrap=True)

    for at, block in enumerate(blocks):
        if at:
            console.print()
        if block.title:
            console.print(Text(block.title, style="bold"), soft_wrap=True)
        if block.rows:
            print_rows(console, block.columns, block.rows)
        for line in block.lines:
            lines(line)


def folded(line: str, width: int) -> list[str]:
    """Return `line` in lines of `width` characters, broken between words alone and hanging under what follows a label.

    A label ends where two spaces are: "output    x.pth".
    """
    label = _LABEL.match(line)
    indent = label.end() if label and label.end() < width // 2 else 0
    parts = textwrap.wrap(line[indent:], max(width - indent, 1), break_long_words=False, break_on_hyphens=False)
    return [(line[:indent] if not at else " " * indent) + part for at, part in enumerate(parts)] or [line]


def aligned(columns: Sequence[Heading], rows: Sequence[Cells]) -> list[str]:
    """Return the titles and `rows` as lines, cells aligned by spaces."""
    lines = [[column.title for column in columns], *rows]
    widths = [min(max(map(len, cells)), _WIDEST) for cells in zip(*lines, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if column.right else cell.ljust(width)
            for cell, width, column in zip(cells, widths, columns, strict=True)
        ).rstrip()
        for cells in lines
    ]


def print_rows(console: Console, columns: Sequence[Column], rows: Sequence[Cells]) -> None:
    """Print the table to a terminal: the first column is folded where it is long, the others never."""
    from rich.box import SIMPLE_HEAD  # noqa: PLC0415  -- Rich costs more than a small look
    from rich.cells import cell_len  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    lines = [[column.title for column in columns], *rows]
    widths = [max(map(cell_len, cells)) for cells in zip(*lines, strict=True)]
    kept = _fitting(columns, widths, console.width)
    room = max(console.width - sum(widths[i] + _GAP for i in kept[1:]), _SHORTEST)
    table = Table(box=SIMPLE_HEAD, header_style="bold", padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    sides: list[Literal["left", "right"]] = ["right" if column.right else "left" for column in columns]
    first = min(widths[0], room)
    table.add_column(columns[0].title, justify=sides[0], overflow="fold", min_width=first, max_width=room)
    for i in kept[1:]:
        table.add_column(columns[i].title, justify=sides[i], no_wrap=True, min_width=widths[i])
    for row in rows:
        table.add_row(*(Text(row[i]) for i in kept))
    console.print(table, crop=False)


def _fitting(columns: Sequence[Column], widths: Sequence[int], width: int) -> list[int]:
    kept = list(range(len(columns)))
    first = min(widths[0], _LEAST)
    while first + sum(widths[i] + _GAP for i in kept[1:]) > width:
        last = max(kept, key=lambda i: columns[i].optional)
        if not columns[last].optional:
            break
        kept.remove(last)
    return kept
