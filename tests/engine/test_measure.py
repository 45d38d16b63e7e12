"""The measurements of a tensor equal their definitions, whatever the chunks in which they are collected."""

from __future__ import annotations

import itertools
from math import inf, isclose, prod
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import examples
from support.layouts import described, layouts_of, most_of_four, pieces, zero_inputs, zero_outputs

from prunecli.dtypes import FLOATS, Float
from prunecli.engine.measure import TensorStats, statistics_of, stats_from
from prunecli.kernels.arrays import INTS
from prunecli.kernels.numpy_ops import NumpyOps
from prunecli.kernels.tally import Shared, Statistics
from prunecli.report.histogram import HIGHEST, LOWEST, BeforeAfter, bins_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from prunecli.checkpoint import TensorInfo


def magnitudes(x: NDArray[Any], dtype: Float) -> NDArray[Any]:
    """Return a copy of the sign-cleared patterns."""
    patterns: NDArray[Any] = NumpyOps().magnitudes(x, dtype).copy()
    return patterns


def measured(
    x: NDArray[Any],
    keep: NDArray[np.bool_],
    tensor: TensorInfo,
    parts: Sequence[tuple[int, int, int]],
    *,
    histogram: bool = False,
) -> TensorStats:
    """Measure a tensor in `parts` of (start, stop, number of the collector), and merge the collectors."""
    dtype, shared, ops = FLOATS[tensor.dtype], Shared(), NumpyOps()
    statistics = statistics_of(tensor, histogram=histogram)
    tallies = {number: ops.tally(statistics, shared) for *_, number in parts}
    kept = -keep.astype(magnitudes(x[:0], dtype).dtype)
    for start, stop, number in parts:
        tallies[number].prune(x[start:stop].copy(), kept[start:stop], start, write=True)
    first, *others = tallies.values()
    for other in others:
        first.merge(other)
    assert all(kind == "group" for kind, _ in shared._parts)
    return stats_from(first.counts(), dtype, histogram=histogram)


def at_once(x: NDArray[Any], keep: NDArray[np.bool_], tensor: TensorInfo) -> TensorStats:
    """Measure a tensor in one piece."""
    return measured(x, keep, tensor, [(0, x.size, 0)])


def decoded(x: NDArray[Any], dtype: Float) -> NDArray[np.float64]:
    """Return the magnitudes as numbers."""
    return np.array([dtype.decode(bits) for bits in magnitudes(x, dtype).tolist()])


def plain(x: NDArray[Any], keep: NDArray[np.bool_], tensor: TensorInfo) -> TensorStats:
    """Return the measurements by their definitions."""
    before = decoded(x, FLOATS[tensor.dtype])
    after = np.where(keep, before, 0.0)
    finite = np.isfinite(before)
    pruned, kept = before[(before != 0) & (after == 0)], after[after != 0]
    with np.errstate(over="ignore"):
        total, rest = float((before[finite] ** 2).sum()), float((after[finite] ** 2).sum())
    # NaN is the largest magnitude, so it affects the maximum and not the minimum.
    largest, smallest = np.maximum.reduce(pruned, initial=0.0), np.fmin.reduce(kept, initial=inf)
    array, most = after.reshape(tensor.shape), most_of_four(after.reshape(tensor.shape), tensor.layout)
    return TensorStats(
        zeros_before=int((before == 0).sum()),
        zeros_after=int((after == 0).sum()),
        nonfinite=int((~finite).sum()),
        l2_kept=rest / total if 0 < total < inf else None,
        largest_pruned=float(largest) if np.isfinite(largest) and largest else None,
        smallest_kept=float(smallest) if np.isfinite(smallest) else None,
        zero_rows=zero_outputs(array, tensor.layout),
        zero_cols=zero_inputs(array, tensor.layout),
        two_four=None if most is None else most <= 2,
    )


def check(expected: TensorStats, got: TensorStats) -> None:
    """Compare counts exactly and the fraction of squares approximately."""
    assert expected._replace(l2_kept=None) == got._replace(l2_kept=None)
    assert (expected.l2_kept is None) == (got.l2_kept is None)
    assert isclose(expected.l2_kept or 0, got.l2_kept or 0, rel_tol=1e-5, abs_tol=1e-12)


def from_values(numbers: NDArray[Any], dtype: Float) -> NDArray[Any]:
    """Return `numbers` as the integers of `dtype`."""
    sign = np.where(np.signbit(numbers), -dtype.mask - 1, 0)
    bits = [dtype.encode(number) for number in np.abs(numbers).tolist()]
    return (np.array(bits, np.int64) + sign).astype(INTS[dtype.itemsize])


@st.composite
def tensors(draw: st.DrawFn) -> tuple[NDArray[Any], NDArray[np.bool_], TensorInfo]:
    """Draw weights with zeros, zero rows and columns, layouts and masks of several kinds."""
    dtype = FLOATS[draw(st.sampled_from(list(FLOATS)))]
    shape = tuple(draw(st.lists(st.integers(1, 9), min_size=0, max_size=5).filter(lambda s: prod(s) <= 2000)))
    random = np.random.default_rng(draw(st.integers(0, 1000)))
    numbers = random.standard_normal(shape) * random.integers(0, 2, shape)
    keep = random.random(shape) < draw(st.sampled_from([0.0, 0.2, 0.5, 0.9, 1.0]))
    if len(shape) >= 2 and draw(st.booleans()):
        keep[draw(st.integers(0, shape[0] - 1))] = False
        keep[:, draw(st.integers(0, shape[1] - 1))] = False
    if len(shape) >= 2 and draw(st.booleans()):
        keep[:, 0::4], keep[:, 3::4] = False, False
    x = from_values(numbers.reshape(-1), dtype)
    if draw(st.booleans()):
        index = random.integers(0, x.size)
        x[index] = random.choice([dtype.top if dtype.itemsize > 1 else -1, dtype.finite_max])
    layout = draw(st.sampled_from(layouts_of(shape)))
    return x, keep.reshape(-1), described(shape, layout, dtype.name)


@settings(max_examples=examples(250))
@given(case=tensors(), data=st.data())
def test_pieces_in_any_order_give_the_same_measurements(case: Any, data: Any) -> None:  # noqa: ANN401
    """The measurements do not depend on the pieces, their order and the number of collectors."""
    x, keep, tensor = case
    ranges = data.draw(st.composite(pieces)(x.size))
    parts = [(start, stop, data.draw(st.integers(0, 2))) for start, stop in ranges]

    check(plain(x, keep, tensor), measured(x, keep, tensor, parts))


def test_a_scalar_has_no_rows() -> None:
    """A scalar and a vector have no numbers of rows, columns and groups."""
    x = np.array([1.5], np.float32).view(np.int32)
    for shape in ((), (1,)):
        stats = at_once(x, np.array([True]), described(shape))
        assert (stats.zero_rows, stats.zero_cols, stats.two_four) == (None, None, None)


@pytest.mark.parametrize("scale", [1e30, 1e19, 1e-19, 1e-22, 1e-30, 1e-40])
@pytest.mark.parametrize("name", ["F64", "F32", "BF16"])
def test_squares_beyond_float32_are_counted(name: str, scale: float) -> None:
    """If squares overflow or underflow float32, the kept fraction is still right."""
    dtype = FLOATS[name]
    x = from_values(np.arange(1, 65) * scale, dtype)
    keep = np.arange(64) >= 32

    tensor = described((8, 8), dtype=name)
    check(plain(x, keep, tensor), at_once(x, keep, tensor))


@pytest.mark.parametrize("scale", [1e200, 1.3e154, 1e-200])
def test_squares_beyond_float64_give_no_wrong_fraction(scale: float) -> None:
    """If squares overflow or underflow float64, the kept fraction is None or right."""
    x = (np.arange(1, 65) * scale).view(np.int64)
    keep = np.arange(64) >= 32

    fraction = measured(x, keep, described((8, 8), dtype="F64"), [(0, 30, 0), (30, 64, 0)]).l2_kept

    assert fraction is None or isclose(fraction, float((np.arange(33, 65) ** 2).sum() / (np.arange(1, 65) ** 2).sum()))


@pytest.mark.parametrize("name", FLOATS)
def test_nan_and_infinity_are_counted_and_left_out_of_sums(name: str) -> None:
    """NaN and infinity are counted as not finite, and change neither the kept fraction nor the extremes."""
    dtype = FLOATS[name]
    x = from_values(np.array([1.0, 2.0, 0.5, 0.0, 1.0, 1.0, 1.0, 1.0]), dtype)
    x[4] = -128 if dtype.negative_zero_is_nan else dtype.top
    x[5] = x[4] if dtype.infinity is None else dtype.infinity
    keep = np.array([True, True, False, True, True, False, True, True])

    tensor = described((2, 4), dtype=name)
    stats = at_once(x, keep, tensor)

    check(plain(x, keep, tensor), stats)
    assert stats.nonfinite == 2
    assert stats.largest_pruned is None
    assert stats.smallest_kept == 1.0


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("size", [1, 2, 3, 1000, 1024, 70_001])
def test_sums_of_squares_are_close_to_float64(name: str, size: int) -> None:
    """The sum is within 1e-6 of float64's, also for odd lengths."""
    dtype = FLOATS[name]
    finite = np.random.default_rng(size).integers(1, dtype.encode(2.0), 4096, np.int64)
    x = np.resize(finite, size).astype(INTS[dtype.itemsize])
    table = {bits: dtype.decode(bits) ** 2 for bits in finite.tolist()}

    expected = sum(table[bits] for bits in x.tolist())

    assert isclose(expected, tallied(x, dtype, [(0, size)]), rel_tol=1e-6)


def tallied(x: NDArray[Any], dtype: Float, parts: Sequence[tuple[int, int]]) -> float:
    """Return the sum of squares of a vector that is counted in `parts`."""
    ops = NumpyOps()
    tally = ops.tally(Statistics(dtype, x.size), Shared())
    for start, stop in parts:
        tally.prune(x[start:stop].copy(), ops.at_least(ops.magnitudes(x[start:stop], dtype), 0), start, write=False)
    return tally.counts().squares_before


@settings(max_examples=examples(60))
@given(
    name=st.sampled_from(list(FLOATS)),
    size=st.integers(1, 5000),
    scale=st.sampled_from([1.0, 1e-30, 1e30]),
    data=st.data(),
)
def test_sums_of_squares_do_not_depend_on_the_pieces(name: str, size: int, scale: float, data: st.DataObject) -> None:
    """The sum has the same bits however a tensor is cut."""
    dtype = FLOATS[name]
    x = from_values(np.random.default_rng(size).standard_normal(size) * scale, dtype)

    assert tallied(x, dtype, [(0, size)]) == tallied(x, dtype, data.draw(st.composite(pieces)(size)))


# --- magnitudes


def counted(
    x: NDArray[Any], keep: NDArray[np.bool_], dtype: Float, parts: Sequence[tuple[int, int, int]]
) -> BeforeAfter:
    """Count the magnitudes of a vector in `parts`, as `measured` does."""
    histogram = measured(x, keep, described((x.size,), dtype=dtype.name), parts, histogram=True).histogram
    assert histogram is not None
    return histogram


@settings(max_examples=examples(150))
@given(case=tensors(), data=st.data())
def test_bins_count_the_weights_between_their_edges(case: Any, data: Any) -> None:  # noqa: ANN401
    """Every finite non-zero weight is in the bin where NumPy puts it, whatever the pieces."""
    x, keep, tensor = case
    dtype = FLOATS[tensor.dtype]
    parts = [(start, stop, data.draw(st.integers(0, 2))) for start, stop in data.draw(st.composite(pieces)(x.size))]

    histogram = counted(x, keep, dtype, parts)

    numbers = decoded(x, dtype)
    for counts, had in ((histogram.before, numbers), (histogram.after, np.where(keep, numbers, 0.0))):
        lowest = 2.0**LOWEST if dtype.bias > -LOWEST else 0.0  # otherwise the smallest number has a bin
        inside = had[np.isfinite(had) & (had > 0)].clip(lowest, np.nextafter(2.0**HIGHEST, 0))
        bins = np.searchsorted(histogram.edges, inside, side="right") - 1
        assert np.bincount(bins, minlength=len(counts)).tolist() == list(counts)


@pytest.mark.parametrize("name", FLOATS)
def test_bins_are_eight_to_an_octave(name: str) -> None:
    """Edges ascend, are exact numbers of the format, and cover 1e-12 to 2e7 as far as the format does."""
    dtype = FLOATS[name]
    bins = bins_of(dtype)
    edges = [bins.edge(index) for index in range(bins.first, bins.last + 2)]

    assert all(a < b for a, b in itertools.pairwise(edges))
    assert len(edges) <= 513
    assert edges[0] <= max(2.0**LOWEST, dtype.decode(1))
    assert edges[-1] >= min(2.0**HIGHEST, dtype.decode(dtype.finite_max))
    assert all(edge == dtype.decode(index << bins.shift) for index, edge in enumerate(edges[:-1], bins.first))
    per_octave = [edge for edge in edges if 0.5 <= edge < 1]
    assert len(per_octave) == 2 ** min(dtype.mantissa, 3)


def test_magnitudes_beyond_the_range_are_in_the_end_bins() -> None:
    """The smallest and largest finite numbers are in the end bins; infinity, NaN and zero are in none."""
    numbers = np.array([0.0, -0.0, 1e-45, 1.0, 3e38, np.inf, np.nan, -np.inf], np.float32)

    histogram = counted(numbers.view(np.int32), numbers == 1.0, FLOATS["F32"], [(0, 8, 0)])

    assert (sum(histogram.before), histogram.before[0], histogram.before[-1]) == (3, 1, 1)
    assert (sum(histogram.after), histogram.after[0], histogram.after[-1]) == (1, 0, 0)
    assert (histogram.edges[0], histogram.edges[-1]) == (2.0**LOWEST, 2.0**HIGHEST)


def test_without_histogram_magnitudes_are_not_counted() -> None:
    """Without `histogram` there is none, and with it the other measurements are the same."""
    x, keep = np.arange(1, 65, dtype=np.float32).view(np.int32), np.arange(64) >= 32
    plainly, counting = (
        measured(x, keep, described((8, 8)), [(0, 64, 0)], histogram=histogram) for histogram in (False, True)
    )

    assert plainly.histogram is None
    assert counting.histogram is not None
    assert plainly == counting._replace(histogram=None)


def test_a_tensor_of_zeros_has_an_empty_histogram() -> None:
    """A histogram without counts has no bins and is no error."""
    histogram = counted(np.zeros(8, np.int32), np.ones(8, bool), FLOATS["F32"], [(0, 8, 0)])

    assert (list(histogram.before), list(histogram.after), len(histogram.edges)) == ([], [], 1)
