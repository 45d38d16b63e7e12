"""Histograms of magnitudes equal the counts and sums of NumPy for every dtype and bin width."""

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
from prunecli.kernels.histograms import MOST, RUN, Histogram, HistogramBuilder, leading_shift
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
    builder = HistogramBuilder(dtype, **options)
    for part in (x[: x.size // 3], x[x.size // 3 :]):
        builder.add(part)
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


@dtypes
@pytest.mark.parametrize("squares", [True, False])
def test_zeros_and_weights_that_are_not_finite_are_counted(dtype: Float, *, squares: bool) -> None:
    """Zeros of both signs count, and tiny weights in their bin do not; so do infinities and NaN."""
    x = any_bits(dtype, 3000)
    x[::3], x[1::30] = 0, 1
    x[::6] = np.iinfo(x.dtype).min  # -0.0, or the NaN of fnuz formats
    y = patterns(x, dtype)

    actual = count(x, dtype, squares=squares)

    expected = [int(np.count_nonzero(flags)) for flags in (y == 0, y > dtype.finite_max)]
    assert [actual.zeros, actual.nonfinite, actual.total] == [*expected, 3000]


@pytest.mark.skipif(library() is None, reason="the compiled kernels are not built")
@dtypes
def test_counters_never_overflow(dtype: Float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The counters of the kernel are emptied before any is full."""
    x = any_bits(dtype, 5000)
    expected = count(x, dtype, squares=False)
    monkeypatch.setattr("prunecli.kernels.histograms.MOST", 3000)

    actual = count(x, dtype, squares=False)

    assert MOST < 1 << 32
    assert (actual.bins.tolist(), actual.counts.tolist()) == (expected.bins.tolist(), expected.counts.tolist())
    assert actual.zeros == expected.zeros


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
    """Counts, sums of squares and zeros are the same with NumPy, for leading bits and for other bins."""
    x = any_bits(dtype, data.draw(st.sampled_from([0, 1, 9, 1023, 3000])), data.draw(st.integers(0, 9)))
    x[data.draw(st.integers(0, 5)) :: 7] = data.draw(st.sampled_from([0, 1, np.iinfo(x.dtype).min]))
    finite = dtype.mantissa if dtype.infinity is not None else 0
    squares = data.draw(st.booleans())
    shift = data.draw(st.integers(max(8 * dtype.itemsize - 20, 0), finite)) if squares else leading_shift(dtype)
    found = []
    for native in (True, False):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("prunecli.kernels.histograms.has_native", lambda native=native: native)
            builder = HistogramBuilder(dtype, shift, squares=squares)
            for part in (x[: x.size // 2], x[x.size // 2 :]):
                builder.add(part)
            found.append(builder.histogram())

    assert found[0].counts.tolist() == found[1].counts.tolist()
    assert found[0].bins.tolist() == found[1].bins.tolist()
    assert found[0].squares.tobytes() == found[1].squares.tobytes()
    assert (found[0].zeros, found[0].nonfinite) == (found[1].zeros, found[1].nonfinite)
