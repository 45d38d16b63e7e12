"""Scores have the same bits with compiled kernels and with NumPy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import examples

from prunecli.dtypes import FLOATS
from prunecli.kernels import scores
from prunecli.kernels.arrays import INTS
from prunecli.kernels.native.library import library
from prunecli.kernels.numpy_ops import NumpyOps
from prunecli.layout import SliceView

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from prunecli.dtypes import Float

VIEWS = (SliceView(1, 1, 7, 1), SliceView(1, 40, 63, 1), SliceView(1, 1, 3, 1500), SliceView(3, 5, 4, 9))


def weights(dtype: Float, size: int, seed: int) -> NDArray[Any]:
    """Return any bit patterns, with many NaNs, infinities, zeros and denormal numbers of both signs."""
    half, random = 1 << (8 * dtype.itemsize - 1), np.random.default_rng(seed)
    edges = [0, 1, 2, dtype.finite_max, dtype.finite_max + 1, dtype.top - 1, dtype.top, half - 1]
    some = random.choice(np.array([edge % half for edge in edges]), size)
    y = np.where(random.random(size) < 0.5, random.integers(0, half, size), some)
    return (y | random.choice(np.array([0, -half]), size)).astype(INTS[dtype.itemsize])


@pytest.mark.skipif(library() is None, reason="the compiled kernels are not built")
@settings(max_examples=examples(150))
@given(st.sampled_from(sorted(FLOATS)), st.sampled_from(VIEWS), st.integers(0, 1 << 30), st.data())
def test_products_are_those_of_numpy(name: str, view: SliceView, seed: int, data: st.DataObject) -> None:
    """Every bit of the scores of a run, also of NaN, of infinity times zero, and of products that are too large."""
    dtype, numel = FLOATS[name], view.total * view.size
    first = data.draw(st.integers(0, numel - 1))
    x = weights(dtype, data.draw(st.integers(1, numel - first)), seed)
    some = [0.0, 1.0, 5e-324, 1e-300, 1e300, 0.1]
    factors = np.random.default_rng(seed).choice(some, view.total)
    native, numpy = np.empty(x.size, np.int64), np.empty(x.size, np.int64)

    scores._native(x, dtype, first, view, factors, native)
    scores._numpy(NumpyOps().magnitudes(x, dtype), dtype, first, view, factors, numpy)

    assert numpy.tolist() == native.tolist()


def test_a_score_is_the_magnitude_times_the_factor_of_its_slice() -> None:
    """Of a matrix with a factor for each column."""
    x = np.array([[1.0, -2.0, 3.0], [-4.0, 5.0, 0.0]], np.float32)
    factors = np.array([0.5, 2.0, 10.0])

    patterns = scores.times_slices(
        NumpyOps(), x.view(np.int32).reshape(-1), FLOATS["F32"], 0, SliceView(1, 2, 3, 1), factors
    )

    assert patterns.view(np.float64).tolist() == [0.5, 4.0, 30.0, 2.0, 10.0, 0.0]
