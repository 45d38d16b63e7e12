"""The text of `inspect`: lines for tensors, totals and remarks, on a pipe and on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from support.reports import written
from support.small import write

from prunecli.inspection.inspect import inspect
from prunecli.inspection.inspect_text import FOLDED_FROM, write_inspection
from prunecli.text.tables import LARGEST, View

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

EVIL = "evil\x1b[31m\n\u202e[bold]\x7f"


def text_of(path: Path, view: View | None = None, *, width: int | None = None, **options: Any) -> str:  # noqa: ANN401
    """Return the text of an inspection, for a pipe or for a terminal of `width` columns."""
    return written(write_inspection, inspect(path, **options), view or View(), width=width)


def test_the_total_counts_what_was_read(tmp_path: Path) -> None:
    """If some weights cannot be read, the total says how many were; without reading there is no total of zeros."""
    torch.save({"expanded": torch.ones(3, 1).expand(3, 10**9), "w": torch.ones(2, 2)}, tmp_path / "odd.pth")

    assert "0 of 4 that were read are zero" in text_of(tmp_path / "odd.pth")
    assert "zero (" not in text_of(write(tmp_path, {"a.weight": torch.ones(5, 5)}), read=False)


# --- the number of lines


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """Write 50 layers of two tensors, and one with another shape."""
    layers = {f"layers.{i}.{part}.weight": torch.ones(4, 5) for i in range(50) for part in ("up", "down")}
    return write(tmp_path, layers | {"layers.0.other.weight": torch.zeros(7, 7)})


def test_many_tensors_are_grouped(large: Path) -> None:
    """If there are many tensors, numbered ones with equal shapes share a line, unless all are wanted."""
    text, every = text_of(large), text_of(large, View(every=True))

    assert len(inspect(large).entries) > FOLDED_FROM
    assert "layers.{0..49}.up.weight         50  F32    4x5         1,000     4.0 kB    0.0%" in text
    assert "layers.0.other.weight             1  F32    7x7            49  196 bytes  100.0%" in text
    assert all(f"layers.{i}.up.weight" in every for i in range(50))
    assert "{0..49}" not in every


def test_top_lists_the_largest(large: Path) -> None:
    """With a limit of 2, the two largest tensors have a line each, and a line counts the others."""
    lines = text_of(large, View(2)).splitlines()

    assert [line.split()[0] for line in lines[1:3]] == ["layers.0.other.weight", "layers.0.down.weight"]
    assert lines[3] == "99 smaller tensors not shown"


@pytest.mark.parametrize("width", [30, 80, 200])
def test_a_terminal_gets_a_table_that_fits(tmp_path: Path, width: int) -> None:
    """A terminal shows the largest tensors, no line of the table is wider than it, and names are escaped."""
    weights = {f"{chr(97 + i % 26)}{i}x.weight": torch.ones(2, i + 2) for i in range(100)}

    text = text_of(write(tmp_path, weights | {EVIL: torch.ones(60, 60)}), width=width)

    table = text.split("\nfile ")[0].splitlines()
    assert max(map(len, table[:-1])) <= width
    assert sum(".weight" in line for line in table) == LARGEST - 1 or width < 80
    assert f"{101 - LARGEST} smaller tensors not shown" in text
    assert "\x1b" not in text


def test_control_characters_in_names_are_escaped(tmp_path: Path) -> None:
    """No control character of a name reaches the output."""
    path = write(tmp_path, {EVIL: torch.ones(2, 2)})

    text = text_of(path, hist="*", thresholds=True, include=["*"])

    assert "evil\\x1b[31m\\n\\u202e[bold]\\x7f" in text
    assert all(character.isprintable() or character == "\n" for character in text)


# --- the histogram


def test_a_histogram_names_thresholds(tmp_path: Path) -> None:
    """The lines below the bars name a threshold for 50, 80 and 90 %, and the number of weights that it zeroes."""
    path = write(tmp_path, {"a.weight": torch.arange(1, 101, dtype=torch.float32).reshape(10, 10)})

    text = text_of(path, hist="a.weight")

    for percent in (50, 80, 90):
        assert f"threshold {percent} zeroes {percent}.0% of them, {percent} weights" in text
    assert text.isascii()


def test_a_histogram_repeats_no_threshold(tmp_path: Path) -> None:
    """A tensor of equal weights has one line for its threshold, and one weight is in the singular."""
    path = write(tmp_path, {"a.weight": torch.full((4, 4), 0.5), "b": torch.ones(1)})

    assert text_of(path, hist="a.weight").count("\nthreshold ") == 1
    assert "Magnitudes of b: 1 weight, 0 zero" in text_of(path, hist="b")
