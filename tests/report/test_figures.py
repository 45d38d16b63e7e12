"""The geometry of figures: areas are counts of weights, and ticks and cuts are at their values."""

from __future__ import annotations

import re
from itertools import pairwise
from math import log2

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.reports import row

from prunecli.dtypes import FLOATS
from prunecli.report.figures import BASE, COLUMNS, LEFT, RIGHT, TOP, Axis, _resampled, histogram, overview, separating
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
    """Draw the bins of a few octaves of some dtype; a part of the weights remains."""
    name = draw(st.sampled_from(list(FLOATS)))
    bins = bins_of(FLOATS[name])
    before = draw(st.lists(st.integers(0, 1000), min_size=1, max_size=24).filter(lambda n: n[0] and n[-1]))
    first = draw(st.integers(bins.first + 8, bins.last - len(before)))
    return BeforeAfter(name, first, before, [draw(st.integers(0, n)) for n in before])


@given(bins=counts())
def test_the_kept_area_is_the_kept_fraction(bins: BeforeAfter) -> None:
    """The areas have the ratio of the weights after and before, except for rounding and the tail left of the plot."""
    figure = histogram([bins])

    assert figure is not None
    assert abs(area(figure.kept) / area(figure.before) - sum(bins.after) / sum(bins.before)) < 0.03


@given(bins=counts())
def test_every_weight_is_in_the_figure(bins: BeforeAfter) -> None:
    """Splitting bins into steps of the axis keeps the numbers of weights before and after."""
    before, after = _resampled([bins])

    assert sum(before.values()) == pytest.approx(sum(bins.before))
    assert sum(after.values()) == pytest.approx(sum(bins.after))


@given(bins=counts())
def test_a_figure_stays_inside_its_box(bins: BeforeAfter) -> None:
    """The highest step touches the top, and no step leaves the plot."""
    figure = histogram([bins])

    assert figure is not None
    heights = [float(y) for y in re.findall(r"V(-?[\d.]+)", figure.before)]
    edges = [float(x) for x in re.findall(r"H(-?[\d.]+)", figure.before)]
    assert min(heights) == TOP
    assert max(heights) == BASE
    assert (min(edges), max(edges)) == (LEFT, RIGHT)
    assert edges == sorted(edges)


@pytest.mark.parametrize("cut", [1e-9, 2.0**-6, 3.0, 1e30])
def test_the_cut_is_between_its_ticks(cut: float) -> None:
    """The axis includes the cut, and the cut is right of the smaller ticks and left of the larger ones."""
    figure = histogram([BeforeAfter("F32", 960, [5] * 32, [5] * 32)], cut)

    assert figure is not None
    assert figure.cut is not None
    assert LEFT <= figure.cut.at <= RIGHT
    for tick in figure.ticks:
        assert (float(tick.text) <= cut) == (tick.at <= figure.cut.at + 0.1)


def test_ticks_are_powers_of_ten_in_their_places() -> None:
    """Equal factors have equal distances, on an axis that covers the weights."""
    figure = histogram([BeforeAfter("F32", 8 * 107, [5] * 160, [5] * 160)])  # 2^-20 to 2^0

    assert figure is not None
    assert [tick.text for tick in figure.ticks] == ["1e-06", "1e-05", "0.0001", "0.001", "0.01", "0.1", "1"]
    scale = (RIGHT - LEFT) / 20
    for tick in figure.ticks:
        assert abs(tick.at - (LEFT + (log2(float(tick.text)) + 20) * scale)) < 0.1


@pytest.mark.parametrize("bins", [[], [BeforeAfter("F32", 0, [], [])]])
def test_zeros_have_no_figure(bins: list[BeforeAfter]) -> None:
    """Tensors without non-zero weights have no figure."""
    assert histogram(bins) is None


def test_one_magnitude_has_a_figure() -> None:
    """Weights of one magnitude have a figure that is one bin wide."""
    figure = histogram([BeforeAfter("BF16", 1000, [7], [0])])

    assert figure is not None
    assert area(figure.before) > 0
    assert area(figure.kept) == 0
    assert len(figure.ticks) >= 2


def test_bins_of_one_dtype_are_added() -> None:
    """The histograms of one dtype are added; another dtype has its own."""
    one, two = BeforeAfter("F32", 10, [1, 2], [1, 0]), BeforeAfter("F32", 13, [4], [3])
    other, empty = BeforeAfter("F16", 5, [9], [9]), BeforeAfter("F32", 0, [], [])

    assert together([one, other, empty, two]) == [
        BeforeAfter("F32", 10, [1, 2, 0, 4], [1, 0, 0, 3]),
        BeforeAfter("F16", 5, [9], [9]),
    ]


@pytest.mark.parametrize(
    ("cut", "pruned", "kept", "expected"),
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
def test_only_a_cut_that_separates_the_weights_is_drawn(
    cut: float | None, pruned: float | None, kept: float | None, expected: float | None
) -> None:
    """A cut in the units of the weights is drawn, a norm of many weights is not."""
    assert separating(row(cut=cut, largest_pruned=pruned, smallest_kept=kept)) == expected


@given(sizes=st.lists(st.integers(1, 10**6), min_size=1, max_size=1500))
def test_the_overview_covers_every_tensor_once(sizes: list[int]) -> None:
    """The columns are in order, do not overlap, and contain every tensor with its zeros."""
    rows = [row(f"w{index}", size, size // 2) for index, size in enumerate(sizes)]
    columns = overview(rows)

    assert len(columns) == min(len(rows), COLUMNS)
    assert sum(column.count for column in columns) == len(rows)
    assert columns[0].first == "w0"
    assert columns[-1].last == rows[-1].name
    assert all(a.x + a.width <= b.x + 0.002 for a, b in pairwise(columns))
    assert all(0 <= column.was <= column.now <= 50 for column in columns)


def test_an_axis_maps_values_to_positions() -> None:
    """The ends of an axis are at its ends, and ticks have the position and the text of their values."""
    axis = Axis(0, 4, 100, 20)

    assert [axis(value) for value in (0, 1, 4)] == [100, 80, 20]
    assert [(tick.at, tick.text) for tick in axis.ticks((1, 2), "{}%".format)] == [(80, "1%"), (60, "2%")]
