"""Tables and lines of text: aligned by spaces in a file or a pipe, fitted to the width of a terminal.

Cells and lines must be printable already (`escape.printable`). The plain form is complete and imports nothing; Rich is
imported only for a terminal.
"""

from __future__ import annotations

import os
import re
import textwrap
from typing import TYPE_CHECKING, Literal, TextIO, TypeVar

from prunecli.text.colour import uses_colour
from prunecli.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from rich.bar import Bar
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

T = TypeVar("T")

MOST_ROWS = 60
"""Rows that a terminal shows before a table is cut."""

LARGEST = 30
"""Rows of a cut table that is ordered by size."""

BAR = 10
"""Characters of a bar in a table."""

_PART = re.compile(r"(?:\{[^}\s]*\}|[^\s./])*(?:[./]+|\s+|$)")
_SMALL_PART = re.compile(r"(?:\{[^}\s]*\}|[^\s_-])*(?:[_-]+|\s+|$)")
_LABEL = re.compile(r"\S+( \S+)* {2,}")
_GAP = 2  # spaces between columns
_WIDEST = 120  # characters: a longer cell does not widen the other lines of plain text
_READABLE = 40  # columns are left out before a folded column gets narrower than this


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    `right` aligns its cells on the right. `styles` are the colours of cells by their text. The cells of a `bar` are
    numbers between 0 and 1, which a terminal shows as bars, and text not at all.

    On a narrow terminal, columns with `optional` above 0 are left out, the highest number first. Then the cells of
    columns with `fold` are broken into lines of `fold` or more characters. Cells of other columns are never broken.
    """

    title: str
    right: bool = False
    optional: int = 0
    fold: int | None = None
    bar: bool = False
    styles: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Block:
    """A part of a text: a title, a table and the lines below it. Each of them may be empty.

    `style` is the colour of the title.
    """

    title: str = ""
    columns: tuple[Column, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    lines: tuple[str, ...] = ()
    style: str = "bold"

    def without(self, *titles: str) -> Block:
        """Return the block without the columns of these titles."""
        kept = [index for index, column in enumerate(self.columns) if column.title not in titles]
        columns = tuple(self.columns[index] for index in kept)
        rows = tuple(tuple(row[index] for index in kept) for row in self.rows)
        return Block(self.title, columns, rows, self.lines, self.style)


@dataclass(frozen=True, slots=True)
class View:
    """The rows of a long table to show: the `top` largest, `every` row, or a number that fits the output (neither).

    `hint` is added to the line that counts the other rows; it says how to see them.
    """

    top: int | None = None
    every: bool = False
    hint: str = ""


def largest(rows: Sequence[T], size: Callable[[T], float], view: View, *, terminal: bool) -> list[T]:
    """Return the rows to show: under `top` by size, else in their order; a terminal gets LARGEST of many."""
    if view.top is not None:
        return sorted(rows, key=size, reverse=True)[: view.top]
    if view.every or not terminal or len(rows) <= MOST_ROWS:
        return list(rows)
    return largest_in_order(rows, size, LARGEST)


def largest_in_order(rows: Sequence[T], size: Callable[[T], float], count: int) -> list[T]:
    """Return the `count` largest of `rows`, in their order; of equal rows, the first ones."""
    order = sorted(range(len(rows)), key=lambda index: size(rows[index]), reverse=True)
    return [rows[index] for index in sorted(order[:count])]


def write_blocks(blocks: Iterable[Block], stream: TextIO) -> None:
    """Write the blocks to `stream` with an empty line between them; OSError if the stream takes no more."""
    blocks = [block for block in blocks if block.title or block.rows or block.lines]
    if stream.isatty() or uses_colour(stream):
        _draw_blocks(blocks, stream)
    else:
        stream.write("\n\n".join("\n".join(_plain_lines(block)) for block in blocks) + "\n")


# --- plain text


def _plain_lines(block: Block) -> Iterator[str]:
    if block.title:
        yield block.title
    if block.rows:
        shown = [index for index, column in enumerate(block.columns) if not column.bar]
        rows = [[row[index] for index in shown] for row in block.rows]
        yield from aligned([block.columns[index] for index in shown], rows)
    yield from block.lines


def aligned(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the titles and `rows` as lines, cells aligned by spaces."""
    lines = [[column.title for column in columns], *rows]
    widths = [min(max(map(len, cells)), _WIDEST) for cells in zip(*lines, strict=True)]
    return [aligned_line(columns, widths, cells) for cells in lines]


def aligned_line(columns: Sequence[Column], widths: Sequence[int], cells: Sequence[str]) -> str:
    """Return one line: each cell padded to its width in characters, two spaces between cells."""
    return (
        (" " * _GAP)
        .join(
            cell.rjust(width) if column.right else cell.ljust(width)
            for cell, width, column in zip(cells, widths, columns, strict=True)
        )
        .rstrip()
    )


# --- a terminal


def _draw_blocks(blocks: Sequence[Block], stream: TextIO) -> None:
    from rich.console import Console  # noqa: PLC0415  -- Rich takes longer to import than a small file to inspect
    from rich.text import Text  # noqa: PLC0415

    width, height = _dumb_size(stream)
    console = Console(
        file=stream, highlight=False, color_system="auto" if uses_colour(stream) else None, width=width, height=height
    )
    for index, block in enumerate(blocks):
        if index:
            console.print()
        for part in folded(block.title, console.width) if block.title else ():
            console.print(Text(part, style=block.style), soft_wrap=True)
        if block.rows:
            console.print(_rich_table(block, console), crop=False)
        for line in block.lines:
            label = _LABEL.match(line)
            for number, part in enumerate(folded(line, console.width)):
                text = Text(part)
                text.stylize("dim", 0, label.end() if label and not number else 0)
                console.print(text, soft_wrap=True)


def _dumb_size(stream: TextIO) -> tuple[int | None, int | None]:
    """Return the width and height of a dumb terminal, for which Rich assumes 80 columns; None for other streams."""
    if not stream.isatty() or os.environ.get("TERM") not in {"dumb", "unknown"} or "COLUMNS" in os.environ:
        return None, None
    size = os.get_terminal_size(stream.fileno())
    return size.columns or None, size.lines or None


def _rich_table(block: Block, console: Console) -> Table:
    from rich.box import SIMPLE_HEAD  # noqa: PLC0415
    from rich.cells import cell_len  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    cells = [
        BAR if column.bar else max(map(cell_len, texts))
        for column, texts in zip(block.columns, zip(*block.rows, strict=True), strict=True)
    ]
    widths = fitted(block.columns, cells, console.width)
    table = Table(box=SIMPLE_HEAD, header_style="bold", padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for index, width in widths.items():
        column = block.columns[index]
        side: Literal["left", "right"] = "right" if column.right else "left"
        table.add_column(column.title, justify=side, overflow="fold", min_width=width, max_width=width)
    for row in block.rows:
        table.add_row(*(_rich_cell(row[index], block.columns[index], width) for index, width in widths.items()))
    return table


def _rich_cell(cell: str, column: Column, width: int) -> Bar | Text:
    from rich.bar import Bar  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    if column.bar:
        part = float(cell or 0)
        return Bar(1, 0, part, width=width, color="red" if part == 1 else "cyan")
    text = cell if column.fold is None else broken(cell, width)
    return Text(text, style=dict(column.styles).get(cell, ""))


def broken(text: str, width: int) -> str:
    """Return `text` with line breaks where it is wider than `width`: behind dots and slashes, never inside `{0..9}`.

    A part that is wider than `width` by itself is broken behind underscores and dashes.
    """
    if len(text) <= width:
        return text
    lines = [""]
    parts = (
        small
        for part in _PART.findall(text)
        for small in ([part] if len(part.rstrip()) <= width else _SMALL_PART.findall(part))
    )
    for part in parts:
        if len(lines[-1]) + len(part.rstrip()) > width and lines[-1]:
            lines.append("")
        lines[-1] += part
    return "\n".join(line.rstrip() for line in lines)


def fitted(columns: Sequence[Column], cells: Sequence[int], width: int) -> dict[int, int]:
    """Return the columns to show on a terminal of `width` characters: their indices and widths.

    `cells` are the widths of each column's widest cell. The result is wider than the terminal if there is nothing
    left to leave out or to fold: a folded number could be read as another number. Only titles of numbers fold.
    """
    full = [max(len(column.title), cell) for column, cell in zip(columns, cells, strict=True)]
    least = [
        max(cell, *map(len, column.title.split()), 0) if column.fold is None else min(whole, column.fold)
        for column, cell, whole in zip(columns, cells, full, strict=True)
    ]
    wanted = [whole if c.fold is None else min(whole, _READABLE) for c, whole in zip(columns, full, strict=True)]
    shown = list(range(len(columns)))
    while sum(wanted[i] + _GAP for i in shown) - _GAP > width:
        last = max(shown, key=lambda i: columns[i].optional)
        if not columns[last].optional:
            break
        shown.remove(last)
    for limit in range(width, -1, -1):  # the widest columns are folded first
        widths = {i: min(full[i], max(least[i], limit)) for i in shown}
        if sum(one + _GAP for one in widths.values()) - _GAP <= width:
            break
    return widths


def folded(line: str, width: int) -> list[str]:
    """Return `line` in lines of `width` characters, broken only between words and indented below its label.

    A label ends at two spaces: "output    x.pth".
    """
    label = _LABEL.match(line)
    indent = label.end() if label and label.end() < width // 2 else 0
    parts = textwrap.wrap(line[indent:], max(width - indent, 1), break_long_words=False, break_on_hyphens=False)
    return [(" " * indent if index else line[:indent]) + part for index, part in enumerate(parts)] or [line]
