"""Pages of tables: constant columns, sizes, and texts of files that are only text."""

from __future__ import annotations

import re

import pytest
from support.pages import Page
from support.reports import HOSTILE

from prunecli.report.listing import ROWS, Card, Cell, Listing, Table, render_listing


def listing(*names: str, text: str = "x") -> Listing:
    """Return a page about some names, with `text` in every other place."""
    rows = [(Cell(name), Cell(f"{index:,}", bar=50), Cell(text, own=True)) for index, name in enumerate(names)]
    table = Table("Names", ("name", "number", "text"), rows, frozenset({"number"}), text)
    return Listing(text, text, text, (table,), (Card(text, text, text, text, 10),), (text,), ((text, text),))


def test_a_constant_column_becomes_a_sentence() -> None:
    """A column that is the same in all rows is not shown."""
    page = Page(render_listing(listing("a.weight", "b.weight", text="F32")))

    assert page.count("th", scope="col") == 2
    assert "The same for all: text F32." in page.text


def test_one_row_keeps_all_columns() -> None:
    """With one row every column is constant."""
    assert Page(render_listing(listing("a.weight"))).count("th", scope="col") == 3


@pytest.mark.parametrize("text", [text for text in HOSTILE if text])
def test_texts_are_only_text(text: str) -> None:
    """No text adds a tag or an attribute, in any place."""
    hostile, harmless = (Page(render_listing(listing(name, "b", text=name))) for name in (text, "harmless"))

    assert [(tag, sorted(attrs)) for tag, attrs in hostile.tags] == [
        (tag, sorted(attrs)) for tag, attrs in harmless.tags
    ]


def test_a_long_table_ends() -> None:
    """A browser gets some thousand rows, and the page says how many more there are."""
    page = Page(render_listing(listing(*(f"{index}.weight" for index in range(ROWS + 3)))))

    assert len(page.names) == ROWS
    assert "lists 3 more" in page.text


def test_the_date_is_that_of_the_build(monkeypatch: pytest.MonkeyPatch) -> None:
    """SOURCE_DATE_EPOCH makes pages that can be made again; other values of it are ignored."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    assert "2023-11-14 22:13 UTC" in render_listing(listing("a"))

    monkeypatch.setenv("SOURCE_DATE_EPOCH", "9" * 40)
    assert re.search(r"20\d\d-\d\d-\d\d \d\d:\d\d UTC", render_listing(listing("a")))
