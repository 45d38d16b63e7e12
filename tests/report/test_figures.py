"""The figures' numbers: areas are weights, nothing is lost or invented, and a cut stands where it is."""

from __future__ import annotations

import re
from itertools import pairwise
from math import log2

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.reports import row

from prunecli.dtypes import FLOATS
from prunecli.report.figures import BASE, COLUMNS, LEFT, RIGHT, TOP, histogram, overview, separating
from prunecli.report.histogram import BeforeAfter, bins_of, together


def area(path: str) -> float:
    """Return the area between a figure's path and its base line, in user units."""
    x, y, total = 0.0, float(BASE), 0.0
    for command, number in re.findall(r"([HV])(-?[\d.]+)", path.replace(f"M{LEFT} {BASE}", f"H{LEFT}")):
        if command == "V":
            y = float(number)
        else:
            total += (float(number) - x) * (BASE - y)
            x = float(number)
    return total


@st.composite
def counts(draw: st.DrawFn) -> BeforeAfter:
    """Draw the bins of a few octaves of some dtype, of which a part stays."""
    name = draw(st.sampled_from(list(FLOATS)))
    bins = bins_of(FLOATS[name])
    before = draw(st.lists(st.integers(0, 1000), min_size=1, max_size=24).filter(lambda n: n[0] and n[-1]))
    first = draw(st.integers(bins.first + 8, bins.last - len(before)))
    return BeforeAfter(name, first, before, [draw(st.integers(0, n)) for n in before])


@given(found=counts())
def test_the_kept_area_is_the_kept_part(found: BeforeAfter) -> None:
    """The areas are in the ratio of the weights after and before, but for rounding and what lies left of the plot."""
    figure = histogram([found])

    assert figure is not None
    assert abs(area(figure.kept) / area(figure.before) - sum(found.after) / sum(found.before)) < 0.03


@given(found=counts())
def test_a_figure_stays_inside_its_box(found: BeforeAfter) -> None:
    """The highest step touches the top, and none leaves the plot."""
    figure = histogram([found])

    assert figure is not None
    heights = [float(y) for y in re.findall(r"V(-?[\d.]+)", figure.before)]
    edges = [float(x) for x in re.findall(r"H(-?[\d.]+)", figure.before)]
    assert min(heights) == TOP
    assert max(heights) == BASE
    assert (min(edges), max(edges)) == (LEFT, RIGHT)
    assert edges == sorted(edges)


@pytest.mark.parametrize("cut", [1e-9, 2.0**-6, 3.0, 1e30])
def test_the_cut_stands_where_it_is(cut: float) -> None:
    """The axis reaches to the cut, and the cut is between the ticks it is between."""
    figure = histogram([BeforeAfter("F32", 960, [5] * 32, [5] * 32)], cut)

    assert figure is not None
    assert figure.cut is not None
    assert LEFT <= figure.cut.x <= RIGHT
    for tick in figure.ticks:
        assert (float(tick.text) <= cut) == (tick.x <= figure.cut.x + 0.1)


def test_ticks_are_powers_of_ten_in_their_places() -> None:
    """Equal factors are equally far apart, on an axis that covers the weights."""
    figure = histogram([BeforeAfter("F32", 8 * 107, [5] * 160, [5] * 160)])  # 2^-20 to 2^0

    assert figure is not None
    assert [tick.text for tick in figure.ticks] == ["1e-06", "1e-05", "0.0001", "0.001", "0.01", "0.1", "1"]
    scale = (RIGHT - LEFT) / 20
    for tick in figure.ticks:
        assert abs(tick.x - (LEFT + (log2(float(tick.text)) + 20) * scale)) < 0.1


@pytest.mark.parametrize("found", [[], [BeforeAfter("F32", 0, [], [])]])
def test_nothing_makes_no_figure(found: list[BeforeAfter]) -> None:
    """Without weights that are not zero there is nothing to draw."""
    assert histogram(found) is None


def test_one_magnitude_makes_a_figure() -> None:
    """All weights alike are one bin wide, and drawn."""
    figure = histogram([BeforeAfter("BF16", 1000, [7], [0])])

    assert figure is not None
    assert area(figure.before) > 0
    assert area(figure.kept) == 0
    assert len(figure.ticks) >= 2


def test_bins_of_one_dtype_are_added() -> None:
    """Tensors of one dtype become one histogram; another dtype has its own."""
    one, two = BeforeAfter("F32", 10, [1, 2], [1, 0]), BeforeAfter("F32", 13, [4], [3])
    other, empty = BeforeAfter("F16", 5, [9], [9]), BeforeAfter("F32", 0, [], [])

    assert together([one, other, empty, two]) == [
        BeforeAfter("F32", 10, [1, 2, 0, 4], [1, 0, 0, 3]),
        BeforeAfter("F16", 5, [9], [9]),
    ]


@pytest.mark.parametrize(
    ("cut", "gone", "kept", "expected"),
    [
        (0.5, 0.49, 0.5, 0.5),
        (0.5, None, 0.5, 0.5),
        (0.5, 0.5, None, 0.5),
        (0.5, 0.53, 0.55, 0.5),  # rounded to a format of 3 bits
        (9.0, 0.5, 0.01, None),  # the norm of a slice
        (0.5, 0.9, 1.0, None),
        (0.0, None, 0.1, None),
        (float("inf"), 1.0, None, None),
        (None, 0.1, 0.2, None),
    ],
)
def test_only_a_cut_between_what_went_and_what_stayed_is_drawn(
    cut: float | None, gone: float | None, kept: float | None, expected: float | None
) -> None:
    """A cut in the weights' own units is drawn, a norm of many weights is not."""
    assert separating(row(cut=cut, largest_pruned=gone, smallest_kept=kept)) == expected


@given(sizes=st.lists(st.integers(1, 10**6), min_size=1, max_size=1500))
def test_the_overview_covers_every_tensor_once(sizes: list[int]) -> None:
    """The columns are in order, side by side, and together stand for all tensors with their zeros."""
    rows = [row(f"w{at}", size, size // 2) for at, size in enumerate(sizes)]
    columns = overview(rows)

    assert len(columns) == min(len(rows), COLUMNS)
    assert sum(column.count for column in columns) == len(rows)
    assert columns[0].first == "w0"
    assert columns[-1].last == rows[-1].name
    assert all(a.x + a.width <= b.x + 0.002 for a, b in pairwise(columns))
    assert all(0 <= column.was <= column.now <= 50 for column in columns)
