"""A page of cards, figures and tables, for results that are lists: the values, and the page itself.

Tables can be sorted and searched. A column whose cells are all the same is not shown; its value stands below the table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from prunecli.report.page import made_at, render_page

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prunecli.report.heat_map import HeatMap

ROWS = 5_000
"""Rows of a table: more take a browser seconds. The JSON form of each command lists all."""


@dataclass(frozen=True, slots=True)
class Cell:
    """The text of a cell; `bar` (0-100) is drawn before it.

    `value` sorts a text that is no number; numbers with commas and percentages sort by themselves. `own` says that the
    text comes from a file, so that it may be written from right to left.
    """

    text: str
    value: float | None = None
    bar: float | None = None
    own: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """A table: its headings, of which `numeric` ones are aligned to the right, and rows that begin with a name."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    numeric: frozenset[str] = frozenset()
    note: str = ""


@dataclass(frozen=True, slots=True)
class Card:
    """A number with its unit and a sentence; `bar` is the part (0-100) of a bar."""

    heading: str
    figure: str
    unit: str
    text: str
    bar: float | None = None


@dataclass(frozen=True, slots=True)
class Listing:
    """The values of a page. `kind` is what it is, `title` what it is about, `facts` where it comes from.

    `svg` is a drawing of this package, with its texts escaped, or "". `maps` show a sparsity; `maps_note` says which.
    """

    kind: str
    title: str
    lead: str
    tables: Sequence[Table]
    cards: Sequence[Card] = ()
    warnings: Sequence[str] = ()
    facts: Sequence[tuple[str, str]] = ()
    svg: str = ""
    maps: Sequence[HeatMap] = ()
    maps_note: str = ""


def render_listing(listing: Listing) -> str:
    """Return the page."""
    from markupsafe import Markup  # noqa: PLC0415 - costs more than a small run

    tables = [_shown(table) for table in listing.tables if table.rows]
    drawing = Markup(listing.svg)  # noqa: S704 - made by this package
    made = (*listing.facts, ("made", made_at()))
    page = render_page(
        "report/listing.html", script="report/table.js", page=listing, tables=tables, drawing=drawing, facts=made
    )
    return page + "\n"


def _shown(table: Table) -> dict[str, object]:
    """Return a table without the columns that are the same in all rows, which become sentences."""
    columns = list(zip(*table.rows, strict=True))
    same = [
        len(table.rows) > 1 and index > 0 and len({cell.text for cell in cells}) == 1
        for index, cells in enumerate(columns)
    ]
    kept = [index for index, constant in enumerate(same) if not constant]
    constants = [(table.headings[index], columns[index][0].text) for index, constant in enumerate(same) if constant]
    return {
        "title": table.title,
        "note": table.note,
        "headings": [(table.headings[index], table.headings[index] in table.numeric) for index in kept],
        "rows": [[row[index] for index in kept] for row in table.rows[:ROWS]],
        "unlisted": max(len(table.rows) - ROWS, 0),
        "constants": [(name, text) for name, text in constants if text not in {"", "-"}],
    }
