"""Tables as plain text and on a terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import termios

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.reports import written

from prunecli.text.tables import LARGEST, MOST_ROWS, Block, Column, View, fitted, folded, largest, write_blocks

COLUMNS = (Column("name", fold=12), Column("note", optional=1), Column("n", right=True))


def test_blocks_of_plain_text() -> None:
    """A block is its title, its table and its lines; an empty line separates blocks, and empty blocks are left out."""
    table = Block("title", COLUMNS, (("a", "x", "1"), ("bc", "", "1,234")), ("a line",))

    assert written(write_blocks, [table, Block(), Block(lines=("end", ""))]) == (
        "title\nname  note      n\na     x         1\nbc          1,234\na line\n\nend\n\n"
    )


def test_plain_text_cuts_nothing_and_aligns_what_fits() -> None:
    """A very long cell keeps its text and does not widen the other lines."""
    rows = (("x" * 500, "", "1"), ("y", "", "2"))
    long, short = written(write_blocks, [Block("", COLUMNS, rows)]).splitlines()[1:]

    assert long.startswith("x" * 500)
    assert len(short) < 140


@given(
    cells=st.lists(st.tuples(st.integers(1, 60), st.none() | st.integers(0, 20)), min_size=1, max_size=8),
    width=st.integers(20, 200),
)
def test_columns_fit_or_have_their_least_widths(cells: list[tuple[int, int | None]], width: int) -> None:
    """The columns fill a terminal, or have only their least widths; cells of numbers are never folded."""
    columns = [Column("a title", right=fold is None, fold=fold) for _, fold in cells]
    widest = [cell for cell, _ in cells]

    widths = list(fitted(columns, widest, width).values())

    least = [max(cell, 5) if fold is None else min(max(cell, 7), fold) for cell, fold in cells]
    total = sum(widths) + 2 * (len(widths) - 1)
    assert total <= width or widths == least
    assert all(low <= one for low, one in zip(least, widths, strict=True))
    assert total > width - len(cells) or widths == [max(cell, 7) for cell in widest]


def test_optional_columns_are_left_out_first() -> None:
    """Columns leave in the order of their numbers, before a folded column gets narrower than a readable name."""
    columns = (Column("a", fold=12), Column("b", optional=1), Column("c", optional=2), Column("d", right=True))

    shown = [list(fitted(columns, (100, 10, 10, 10), width)) for width in (200, 75, 72, 62, 20)]

    assert shown == [[0, 1, 2, 3], [0, 1, 3], [0, 1, 3], [0, 3], [0, 3]]


def test_a_folded_cell_keeps_all_its_text() -> None:
    """On a narrow terminal a name continues on the next lines, and a number stays whole."""
    text = written(write_blocks, [Block("", COLUMNS, (("n" * 40 + "end", "", "1,234,567"),))], width=30)

    assert "".join(line.split(" ")[0] for line in text.splitlines()[2:]) == "n" * 40 + "end"
    assert "1,234,567" in text
    assert max(map(len, text.splitlines())) <= 30


@given(st.lists(st.text("abc-/", min_size=1, max_size=30), min_size=1), st.sampled_from(["", "file    "]))
def test_lines_break_between_words_only(words: list[str], label: str) -> None:
    """A long line keeps its words and its label; only a word that is too long by itself exceeds the width."""
    lines = folded(label + " ".join(words), 40)

    assert lines[0].startswith(label)
    assert [word for line in lines for word in line[len(label) :].split()] == words
    assert all(len(line) <= 40 for line in lines)
    assert folded("", 40) == [""]


@pytest.mark.parametrize(
    ("view", "terminal", "expected"),
    [
        (View(), False, list(range(100))),
        (View(), True, list(range(100 - LARGEST, 100))),
        (View(every=True), True, list(range(100))),
        (View(top=3), False, [99, 98, 97]),
    ],
)
def test_a_terminal_shows_the_largest_rows(view: View, terminal: bool, expected: list[int]) -> None:  # noqa: FBT001
    """A pipe gets all rows, a terminal the largest of many in their order; `top` sorts by size."""
    assert MOST_ROWS < 100
    assert largest(range(100), lambda size: size, view, terminal=terminal) == expected


def test_a_dumb_terminal_has_its_own_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """With TERM=dumb, as in Emacs, a table fits the width of the terminal, not 80 columns."""
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.delenv("COLUMNS", raising=False)
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 50, 0, 0))
    with os.fdopen(slave, "w", encoding="utf-8") as stream:
        write_blocks([Block("", (Column("tensor", fold=12),), (("layers.0." * 8,),))], stream)
    shown = os.read(master, 10_000).decode()
    os.close(master)

    assert max(map(len, shown.splitlines())) <= 50
