"""Histograms of magnitudes equal the counts and sums of NumPy for every dtype, range and bin width."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import examples
from support.weights import TORCH_FLOATS

from prunecli.dtypes import FLOATS
from prunecli.kernels.arrays import INTS
from prunecli.kernels.histograms import BINS_LIMIT, RUN, Histogram, HistogramBuilder
from prunecli.kernels.native.library import library
from prunecli.kernels.numpy_ops import NumpyOps

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from prunecli.dtypes import Float

dtypes = pytest.mark.parametrize("dtype", FLOATS.values(), ids=FLOATS.keys())


def any_bits(dtype: Float, size: int, seed: int = 0) -> NDArray[Any]:
    """Return integers of a dtype's width with every pattern possible: infinities, NaNs, both zeros."""
    raw = np.random.default_rng(seed).integers(0, 256, size * dtype.itemsize, np.uint8)
    return raw.view(INTS[dtype.itemsize])


def torch_values(x: NDArray[Any], dtype: Float) -> NDArray[np.float64]:
    """Return what torch reads in raw integers, as float64 magnitudes."""
    with np.errstate(invalid="ignore"):
        actual: NDArray[np.float64] = torch.from_numpy(x.copy()).view(TORCH_FLOATS[dtype.name]).double().abs().numpy()
    return actual


def count(x: NDArray[Any], dtype: Float, **options: Any) -> Histogram:  # noqa: ANN401 - those of HistogramBuilder
    """Return the histogram of raw integers, added in two parts."""
    builder, ops = HistogramBuilder(dtype, **options), NumpyOps()
    for part in (x[: x.size // 3], x[x.size // 3 :]):
        builder.add(ops.magnitudes(part, dtype))
    return builder.histogram()


def patterns(x: NDArray[Any], dtype: Float) -> NDArray[np.int64]:
    """Return the sign-cleared patterns as int64."""
    actual: NDArray[np.int64] = NumpyOps().magnitudes(x, dtype).astype(np.int64)
    return actual


@dtypes
@pytest.mark.parametrize("size", [0, 1, RUN, 17 * RUN + 3])
def test_every_weight_is_counted_in_its_bin(dtype: Float, size: int) -> None:
    """At most 2^15 bins, and one more for the NaN of fnuz formats, equal np.unique's; squares equal torch's values."""
    x = any_bits(dtype, size)
    bins, places = np.unique(patterns(x, dtype) >> max(8 * dtype.itemsize - 16, 0), return_inverse=True)
    wide = torch_values(x, dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        squares = np.bincount(places, np.where(np.isfinite(wide), np.square(wide), 0), bins.size)

    actual = count(x, dtype)

    assert actual.bins.tolist() == bins.tolist()
    assert actual.bins.max(initial=0) <= 1 << 15
    assert actual.counts.tolist() == np.bincount(places, minlength=bins.size).tolist()
    assert actual.total == size
    assert [part.dtype.str for part in (actual.bins, actual.counts, actual.squares)] == ["<i8", "<i8", "<f8"]
    np.testing.assert_allclose(actual.squares, squares, rtol=1e-9)


@given(data=st.data())
@dtypes
def test_a_range_counts_the_patterns_inside(dtype: Float, data: st.DataObject) -> None:
    """A histogram of [low, high) counts exactly the patterns inside, also where the limits cut through bins."""
    x = any_bits(dtype, 500, data.draw(st.integers(0, 9)))
    y = patterns(x, dtype)
    shift = data.draw(st.integers(max(8 * dtype.itemsize - 16, 0), 8 * dtype.itemsize - 2))
    low, high = sorted(data.draw(st.lists(st.sampled_from([0, dtype.top + 1, *y.tolist()]), min_size=2, max_size=2)))
    bins, counts = np.unique(y[(y >= low) & (y < high)] >> shift, return_counts=True)

    actual = count(x, dtype, low=low, high=high, shift=shift)

    assert actual.bins.tolist() == bins.tolist()
    assert actual.counts.tolist() == counts.tolist()


@dtypes
def test_a_narrow_range_can_be_counted_pattern_by_pattern(dtype: Float) -> None:
    """With shift 0 and a narrow range, patterns of wide types are counted one by one."""
    x = np.arange(1000).astype(INTS[dtype.itemsize]) if dtype.itemsize > 1 else any_bits(dtype, 1000)
    y = patterns(x, dtype)

    actual = count(x, dtype, low=40, high=90, shift=0)

    bins, counts = np.unique(y[(y >= 40) & (y < 90)], return_counts=True)
    assert (actual.bins.tolist(), actual.counts.tolist()) == (bins.tolist(), counts.tolist())


@dtypes
def test_pruned_weights_do_not_count(dtype: Float) -> None:
    """Patterns of -1 are in no bin and in no sum."""
    y = NumpyOps().magnitudes(any_bits(dtype, 3 * RUN), dtype).copy()
    pruned = np.arange(y.size) % 3 == 0
    expected, actual = HistogramBuilder(dtype), HistogramBuilder(dtype)

    expected.add(y[~pruned])
    y[pruned] = -1
    actual.add(y)

    assert expected.histogram().bins.tolist() == actual.histogram().bins.tolist()
    assert expected.histogram().counts.tolist() == actual.histogram().counts.tolist()
    np.testing.assert_allclose(expected.histogram().squares, actual.histogram().squares)


def test_too_many_bins_are_an_error() -> None:
    """A histogram that would span more than BINS_LIMIT bins is not started."""
    with pytest.raises(ValueError, match=f"more than {BINS_LIMIT}"):
        HistogramBuilder(FLOATS["F32"], shift=0)


def test_huge_weights_overflow_without_a_warning() -> None:
    """Squares beyond float64 are infinite, and the counts stay right."""
    x = np.full(10, 1e300).view(np.int64)

    actual = count(x, FLOATS["F64"])

    assert (actual.total, actual.squares.tolist()) == (10, [np.inf])


@pytest.mark.skipif(library() is None, reason="the compiled kernels are not built")
@settings(max_examples=examples(60))
@given(data=st.data())
@dtypes
def test_the_compiled_kernel_gives_the_bits_of_numpys(dtype: Float, data: st.DataObject) -> None:
    """Counts and sums of squares are the same with NumPy, for whole formats and ranges, with pruned weights."""
    x = any_bits(dtype, data.draw(st.sampled_from([1, 9, 1023, 3000])), data.draw(st.integers(0, 9)))
    y = NumpyOps().magnitudes(x, dtype).copy()
    y[data.draw(st.integers(0, 5)) :: 7] = -1
    shift = data.draw(st.integers(max(8 * dtype.itemsize - 20, 0), 8 * dtype.itemsize - 2))
    low = data.draw(st.one_of(st.just(0), st.integers(0, dtype.top)))
    high = data.draw(st.one_of(st.none(), st.integers(0, dtype.top + 1)))
    found = []
    for native in (True, False):
        builder = HistogramBuilder(dtype, low, high, shift)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("prunecli.kernels.histograms.has_native", lambda native=native: native)
            builder.add(y)
            found.append(builder.histogram())

    assert found[0].counts.tolist() == found[1].counts.tolist()
    assert found[0].bins.tolist() == found[1].bins.tolist()
    assert found[0].squares.tobytes() == found[1].squares.tobytes()
