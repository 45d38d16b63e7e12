"""Masks and what they mark have the same bits with compiled kernels and with NumPy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import examples

from prunecli.dtypes import FLOATS, Float
from prunecli.kernels import masks
from prunecli.kernels.arrays import INTS
from prunecli.kernels.native.library import library
from prunecli.kernels.numpy_ops import NumpyOps

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

NAMES = (*sorted(FLOATS), "I8", "I32", "I64")

needs_library = pytest.mark.skipif(library() is None, reason="the compiled kernels are not built")


def weights(dtype: Float | None, itemsize: int, size: int, seed: int) -> NDArray[Any]:
    """Return any bit patterns, with many zeros and ones of both signs, denormal numbers, infinities and NaNs."""
    half, random = 1 << (8 * itemsize - 1), np.random.default_rng(seed)
    edges = [0, 1, 2] if dtype is None else [0, 1, dtype.encode(1.0), dtype.finite_max, dtype.top, half - 1]
    some = random.choice(np.array([edge % half for edge in edges]), size)
    y = np.where(random.random(size) < 0.3, random.integers(0, half, size), some)
    return (y | random.choice(np.array([0, -half]), size)).astype(INTS[itemsize])


def format_of(name: str) -> tuple[Float | None, int]:
    """Return a format, None for integers, and the bytes of an element."""
    dtype = FLOATS.get(name)
    return dtype, dtype.itemsize if dtype else int(name[1:]) // 8


def both(compute: Callable[[], Any]) -> list[Any]:
    """Return what NumPy and the compiled kernels compute."""
    found = []
    for native in (False, True):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(masks, "has_native", lambda native=native: native)
            found.append(compute())
    return found


@needs_library
@settings(max_examples=examples(150))
@given(st.sampled_from(NAMES), st.integers(0, 3000), st.integers(0, 1 << 30), st.booleans())
def test_masks_are_read_as_numpy_reads_them(name: str, size: int, seed: int, valid: bool) -> None:  # noqa: FBT001
    """The mask up to the first entry that is neither 0 nor 1, and its place."""
    dtype, itemsize = format_of(name)
    x = weights(dtype, itemsize, size, seed)
    if valid:
        one = 1 if dtype is None else dtype.encode(1.0)
        x = np.random.default_rng(seed).choice(np.array([0, one], x.dtype), size)

    def compute() -> tuple[list[int], int]:
        mask, other = masks.read_mask(NumpyOps(), x, dtype)
        return mask[: other if other >= 0 else size].tolist(), other

    numpy, native = both(compute)

    assert numpy == native
    assert not valid or numpy[1] == -1


@needs_library
@settings(max_examples=examples(150))
@given(st.sampled_from(sorted(FLOATS)), st.integers(0, 3000), st.integers(0, 1 << 30))
def test_pruned_weights_are_marked_as_numpy_marks_them(name: str, size: int, seed: int) -> None:
    """The patterns of weights, and -1 where a mask is 0, also where the mask is made of their zeros."""
    dtype = FLOATS[name]
    x = weights(dtype, dtype.itemsize, size, seed)
    mask = np.random.default_rng(seed).integers(0, 2, size, np.uint8)

    def compute() -> list[list[int]]:
        ops = NumpyOps()
        patterns = x.copy()
        masks.mark(patterns, mask)
        own = masks.nonzero(ops, x, dtype).copy()
        return [patterns.tolist(), own.tolist(), *(masks.marked(ops, x, dtype, one).tolist() for one in (mask, own))]

    numpy, native = both(compute)

    assert numpy == native


@needs_library
@settings(max_examples=examples(150))
@given(st.sampled_from(NAMES), st.integers(0, 3000), st.integers(0, 1 << 30))
def test_weights_are_folded_as_numpy_folds_them(name: str, size: int, seed: int) -> None:
    """The bits of the products with a mask, and the numbers of zeros."""
    dtype, itemsize = format_of(name)
    x = weights(dtype, itemsize, size, seed)
    mask = np.random.default_rng(seed).integers(0, 2, size, np.uint8)

    def compute() -> tuple[bytes, tuple[int, int]]:
        folded = x.copy()
        zeros = masks.fold_mask(folded, dtype, mask)
        return folded.tobytes(), zeros

    numpy, native = both(compute)

    assert numpy == native
