"""A table of text cells: aligned by spaces for a pipe, drawn by Rich on a terminal.

Knows nothing about what the cells say. Cells must be `escape.shown` already.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

from prunecli.text.tables import aligned, folded

if TYPE_CHECKING:
    from collections.abc import Sequence

    Cells = tuple[str, ...]

_GAP = 2  # spaces between columns

ALL_SHOWN = 60
"""Rows a terminal gets; a pipe gets all."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column's heading, whether its cells stand at the right, as numbers do, and what it keeps on a terminal.

    `least` is that width in characters: a narrow terminal folds longer cells down to it, and no further.
    """

    title: str
    right: bool = False
    least: int = 0


def write(stream: TextIO, columns: Sequence[Column], rows: Sequence[Cells], lines: Sequence[str]) -> None:
    """Write the table, if it has rows, and then `lines`; OSError where the stream takes no more."""
    if stream.isatty():
        _draw(stream, columns, rows, lines)
        return
    table = [*aligned(columns, rows), ""] if rows else []
    stream.write("".join(f"{line}\n" for line in (*table, *lines)))


def _draw(stream: TextIO, columns: Sequence[Column], rows: Sequence[Cells], lines: Sequence[str]) -> None:
    from rich.box import SIMPLE_HEAD  # noqa: PLC0415  -- costs more than a small run
    from rich.cells import cell_len  # noqa: PLC0415
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    console = Console(file=stream, highlight=False)
    if rows:
        table = Table(box=SIMPLE_HEAD, header_style="bold", padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
        cells = [max(map(cell_len, cells)) for cells in zip(*rows[:ALL_SHOWN], strict=True)]
        for column, width in zip(columns, fitting(columns, cells, console.width), strict=True):
            table.add_column(column.title, justify="right" if column.right else "left", overflow="fold", width=width)
        for row in rows[:ALL_SHOWN]:
            table.add_row(*map(Text, row))
        console.print(table, crop=False)
    if len(rows) > ALL_SHOWN:
        more = f"{len(rows) - ALL_SHOWN:,} rows more are not shown; --json has all of them"
        console.print(Text(more, style="dim"))
    for line in ("", *lines) if rows else lines:
        for part in folded(line, console.width):
            console.print(Text(part), soft_wrap=True)


def fitting(columns: Sequence[Column], cells: Sequence[int], room: int) -> list[int]:
    """Return the widths of columns whose widest cells are `cells`, taken from the widest until all are in `room`.

    None gets less than its `least`. Numbers keep theirs, as a folded number reads as another; their titles may fold.
    """
    kept = [max(len(column.title), width) for column, width in zip(columns, cells, strict=True)]
    least = [
        max(width, *map(len, column.title.split())) if column.right else min(full, column.least or len(column.title))
        for column, width, full in zip(columns, cells, kept, strict=True)
    ]
    over = sum(kept) + _GAP * (len(kept) - 1) - room
    for _ in range(over):
        loose = [at for at in range(len(kept)) if kept[at] > least[at]]
        if not loose:
            break
        kept[max(loose, key=kept.__getitem__)] -= 1
    return kept
