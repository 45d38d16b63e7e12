"""Histograms of magnitudes: NumPy's counts and sums, for every dtype, range, grouping and cutting into runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prunecli.dtypes import FLOATS
from prunecli.kernels.histograms import BINS_LIMIT, READ, RUN, Histogram, count, histogram
from prunecli.kernels.numpy_ops import NumpyOps
from prunecli.kernels.ops import INTS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from prunecli.dtypes import Float

TORCH = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
}
dtypes = pytest.mark.parametrize("dtype", FLOATS.values(), ids=FLOATS.keys())


def any_bits(dtype: Float, size: int, seed: int = 0) -> NDArray[Any]:
    """Return integers of a dtype's width with every pattern possible: infinities, NaNs, both zeros."""
    raw = np.random.default_rng(seed).integers(0, 256, size * dtype.itemsize, np.uint8)
    return raw.view(INTS[dtype.itemsize])


def torch_values(x: NDArray[Any], dtype: Float) -> NDArray[np.float64]:
    """Return what torch reads in raw integers, as float64 magnitudes."""
    with np.errstate(invalid="ignore"):
        found: NDArray[np.float64] = torch.from_numpy(x.copy()).view(TORCH[dtype.name]).double().abs().numpy()
    return found


def of(x: NDArray[Any], dtype: Float, **options: Any) -> Histogram:  # noqa: ANN401 - the options of `histogram`
    """Return the histogram of raw integers, read as a file's are."""
    return histogram(lambda first, stop: x[first:stop], x.size, dtype, **options)


def patterns(x: NDArray[Any], dtype: Float) -> NDArray[np.int64]:
    """Return the sign-cleared patterns as int64."""
    found: NDArray[np.int64] = NumpyOps().magnitudes(x, dtype).astype(np.int64)
    return found


@dtypes
@pytest.mark.parametrize("size", [0, 1, RUN, READ + RUN + 3])
def test_every_weight_is_counted_in_its_bin(dtype: Float, size: int) -> None:
    """Bins, counts and sums of squares are what np.unique and torch's float64 values give, NaN and infinity in."""
    x = any_bits(dtype, size)
    bins, at = np.unique(patterns(x, dtype) >> max(8 * dtype.itemsize - 16, 0), return_inverse=True)
    wide = torch_values(x, dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        squares = np.bincount(at, np.where(np.isfinite(wide), np.square(wide), 0), bins.size)

    found = of(x, dtype)

    assert found.bins.tolist() == bins.tolist()
    assert found.counts.tolist() == np.bincount(at, minlength=bins.size).tolist()
    assert found.total == size
    assert [part.dtype.str for part in (found.bins, found.counts, found.squares)] == ["<i8", "<i8", "<f8"]
    np.testing.assert_allclose(found.squares, squares, rtol=1e-9)


@dtypes
def test_the_defaults_keep_few_bins(dtype: Float) -> None:
    """Whatever the type, a histogram has at most 2^15 bins (one more where NaN lies above all)."""
    found = of(any_bits(dtype, 200_000), dtype)

    assert found.bins.max() <= 1 << 15
    assert np.all(np.diff(found.bins) > 0)
    assert found.counts.min() > 0


@given(data=st.data())
@dtypes
def test_a_range_counts_what_lies_in_it(dtype: Float, data: st.DataObject) -> None:
    """[low, high) keeps exactly the patterns inside, however it cuts through bins."""
    x = any_bits(dtype, 500, data.draw(st.integers(0, 9)))
    y = patterns(x, dtype)
    shift = data.draw(st.integers(max(8 * dtype.itemsize - 16, 0), 8 * dtype.itemsize - 2))
    low, high = sorted(data.draw(st.lists(st.sampled_from([0, dtype.top + 1, *y.tolist()]), min_size=2, max_size=2)))
    bins, counts = np.unique(y[(y >= low) & (y < high)] >> shift, return_counts=True)

    found = of(x, dtype, low=low, high=high, shift=shift)

    assert found.bins.tolist() == bins.tolist()
    assert found.counts.tolist() == counts.tolist()


@dtypes
def test_a_narrow_range_can_be_counted_pattern_by_pattern(dtype: Float) -> None:
    """With shift 0 and a narrow range, the wide types too are counted exactly."""
    x = np.arange(1000).astype(INTS[dtype.itemsize]) if dtype.itemsize > 1 else any_bits(dtype, 1000)
    y = patterns(x, dtype)

    found = of(x, dtype, low=40, high=90, shift=0)

    bins, counts = np.unique(y[(y >= 40) & (y < 90)], return_counts=True)
    assert (found.bins.tolist(), found.counts.tolist()) == (bins.tolist(), counts.tolist())


@dtypes
def test_pruned_weights_do_not_count(dtype: Float) -> None:
    """Patterns of -1 are in no bin and in no sum."""
    y = NumpyOps().magnitudes(any_bits(dtype, 3 * RUN), dtype).copy()
    gone = np.arange(y.size) % 3 == 0
    expected = count(y[~gone], dtype)
    y[gone] = -1

    found = count(y, dtype)

    assert found.bins.tolist() == expected.bins.tolist()
    assert found.counts.tolist() == expected.counts.tolist()
    np.testing.assert_allclose(found.squares, expected.squares)


@dtypes
def test_parts_add_up_to_the_whole(dtype: Float) -> None:
    """Merging the histograms of two parts gives that of both."""
    x = any_bits(dtype, 5000)

    found = of(x[:1234], dtype).merge(of(x[1234:], dtype))

    whole = of(x, dtype)
    assert found.bins.tolist() == whole.bins.tolist()
    assert found.counts.tolist() == whole.counts.tolist()
    np.testing.assert_allclose(found.squares, whole.squares, rtol=1e-9)


def test_an_empty_part_adds_nothing() -> None:
    """A histogram of nothing has no bins, and merging with it changes nothing."""
    x, dtype = any_bits(FLOATS["F16"], 50), FLOATS["F16"]
    nothing = of(x[:0], dtype)

    assert nothing.total == 0
    assert nothing.merge(of(x, dtype)).counts.tolist() == of(x, dtype).counts.tolist()


def test_what_does_not_fit_together_is_refused() -> None:
    """Histograms of two dtypes or groupings cannot be merged, and too many bins are not begun."""
    half, single = FLOATS["F16"], FLOATS["F32"]

    with pytest.raises(ValueError, match="F16 >> 0 and F32 >> 16 do not add up"):
        of(any_bits(half, 5), half).merge(of(any_bits(single, 5), single))
    with pytest.raises(ValueError, match="do not add up"):
        of(any_bits(half, 5), half).merge(of(any_bits(half, 5), half, shift=3))
    with pytest.raises(ValueError, match=f"more than {BINS_LIMIT}"):
        of(any_bits(single, 5), single, shift=0)


def test_huge_weights_overflow_quietly() -> None:
    """Squares beyond float64 are infinite, without a warning, and the counts stay right."""
    x = np.full(10, 1e300).view(np.int64)

    found = of(x, FLOATS["F64"])

    assert (found.total, found.squares.tolist()) == (10, [np.inf])
