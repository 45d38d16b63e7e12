"""Chunks that tile a tensor are accepted, and those with a gap or an overlap are refused."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import examples
from test_assembly import shapes, tilings

from prunecli.assembly import Box
from prunecli.formats.dcp import tiles
from prunecli.formats.dcp.tiles import check_tiles

Parts = list[tuple[tuple[int, ...], tuple[int, ...]]]


def boxes(parts: Parts) -> list[Box]:
    """Return the chunks as boxes."""
    return [Box(number, *part) for number, part in enumerate(parts)]


@settings(max_examples=examples(100))
@given(shapes.flatmap(lambda shape: st.tuples(st.just(shape), tilings(shape))), st.data())
def test_a_tiling_is_accepted_and_nothing_less_or_more(cut: tuple[tuple[int, ...], Parts], data: st.DataObject) -> None:
    """Parts of a tensor that was cut tile it; without one of them there is a gap, and with one twice an overlap."""
    shape, parts = cut
    number = data.draw(st.integers(0, len(parts) - 1))

    check_tiles(shape, boxes(parts))

    with pytest.raises(ValueError, match="gap"):
        check_tiles(shape, boxes(parts[:number] + parts[number + 1 :]))
    with pytest.raises(ValueError, match="overlap"):
        check_tiles(shape, boxes([*parts, parts[number]]))


@pytest.mark.parametrize(
    ("parts", "problem"),
    [
        ([((0, 0), (2, 2)), ((0, 2), (2, 2)), ((2, 0), (2, 3))], "gap"),
        ([((0, 0), (3, 4)), ((2, 0), (2, 4))], "overlap"),
        ([((0, 0), (4, 3)), ((0, 2), (4, 2))], "overlap"),
        ([((0, 0), (4, 4)), ((1, 1), (1, 1))], "overlap"),
        ([((0, 0), (5, 4))], "larger"),
        ([], "gap"),
    ],
)
def test_other_chunks_are_refused(parts: Parts, problem: str) -> None:
    """A gap, an overlap or a chunk outside of the tensor is named."""
    with pytest.raises(ValueError, match=problem):
        check_tiles((4, 4), boxes(parts))


def test_a_check_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks that are cut in too many ways are refused, instead of being compared for hours."""
    monkeypatch.setattr(tiles, "MAX_STEPS", 50)
    squares = [((row, column), (1, 1)) for row in range(10) for column in range(10)]

    with pytest.raises(ValueError, match="too many"):
        check_tiles((10, 10), boxes(squares))
