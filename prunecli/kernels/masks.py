"""Masks in memory: a byte per weight, 1 for a kept one. The compiled kernels compute, or NumPy where there are none."""

from __future__ import annotations

from ctypes import c_int32, c_int64, c_uint64, c_void_p
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from prunecli.kernels.arrays import as_array
from prunecli.kernels.backend import has_native
from prunecli.kernels.native.library import Function, address, function

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from prunecli.dtypes import Float
    from prunecli.kernels.numpy_ops import NumpyOps
    from prunecli.kernels.ops import Array

KEPT_SLOT = "kept"
"""The scratch memory of a mask."""


def read_mask(ops: NumpyOps, entries: Array, dtype: Float | None) -> tuple[NDArray[np.uint8], int]:
    """Return the mask of entries, and the place of the first one that is neither 0 nor 1, or -1.

    `entries` are flat integers, of the float format `dtype` or, where it is None, of an integer type. The mask is in
    scratch memory of `ops`.
    """
    x = as_array(entries)
    mask = ops.scratch(KEPT_SLOT, x.size, np.uint8)
    # Compared with their signs: -1.0 is not one, while -0.0 is zero.
    one = 1 if dtype is None else dtype.encode(1.0)
    if has_native():
        kernel = _kernel("read_mask", x, (c_uint64, c_uint64, c_void_p), c_int64)
        return mask, kernel(one, _ignored(dtype), address(mask))
    ones = x == x.dtype.type(one)
    valid = ones | ((x if dtype is None else ops.magnitudes(x, dtype)) == 0)
    np.copyto(mask, ones)
    return mask, -1 if valid.all() else int(np.argmin(valid))


def nonzero(ops: NumpyOps, weights: Array, dtype: Float) -> NDArray[np.uint8]:
    """Return the mask of the weights that are not zero, in scratch memory of `ops`."""
    x = as_array(weights)
    mask = ops.scratch(KEPT_SLOT, x.size, np.uint8)
    if has_native():
        _kernel("nonzero", x, (c_int32, c_void_p))(dtype.negative_zero_is_nan, address(mask))
    else:
        np.not_equal(ops.magnitudes(x, dtype, "pruned"), 0, out=mask.view(np.bool_))
    return mask


def marked(ops: NumpyOps, weights: Array, dtype: Float, mask: NDArray[np.uint8]) -> NDArray[Any]:
    """Return the magnitudes of weights as patterns, -1 where their mask is 0, in scratch memory of `ops`."""
    x = as_array(weights)
    if not has_native():
        y: NDArray[Any] = ops.magnitudes(x, dtype)
        mark(y, mask)
        return y
    y = ops.scratch("y", x.size, f"i{max(x.itemsize, 2)}")
    _kernel("marked", x, (c_int32, c_void_p, c_void_p))(dtype.negative_zero_is_nan, address(mask), address(y))
    return y


def mark(patterns: NDArray[Any], mask: NDArray[np.uint8]) -> None:
    """Set patterns to -1 where their mask is 0."""
    if has_native():
        _kernel("mark", patterns, (c_void_p,))(address(mask))
    else:
        np.copyto(patterns, patterns.dtype.type(-1), where=mask == 0)


def fold_mask(weights: NDArray[Any], dtype: Float | None, mask: NDArray[np.uint8]) -> tuple[int, int]:
    """Multiply weights by their mask: +0.0 where it is 0, the same bits where it is 1.

    Return the number of zeros in the mask, and of the weights that are zero afterwards. `dtype` is None for integers.
    """
    if has_native():
        zeros = (c_int64 * 2)()
        _kernel("fold_mask", weights, (c_uint64, c_void_p, c_void_p))(_ignored(dtype), address(mask), address(zeros))
        return zeros[0], zeros[1]
    np.multiply(weights, mask.view(np.bool_), out=weights)
    bits = weights
    if dtype is not None and not dtype.negative_zero_is_nan:
        bits = weights & weights.dtype.type(dtype.mask)
    return mask.size - int(np.count_nonzero(mask)), bits.size - int(np.count_nonzero(bits))


def _ignored(dtype: Float | None) -> int:
    """Return the bits that do not count in a zero."""
    return 0 if dtype is None or dtype.negative_zero_is_nan else dtype.mask + 1


def _kernel(name: str, x: NDArray[Any], arguments: Sequence[Any], result: Any = None) -> Any:  # noqa: ANN401 - ctypes
    """Return a kernel for the width of `x`, which takes the arguments behind the array and its size."""
    found = _function(f"{name}_{8 * x.itemsize}", (c_void_p, c_int64, *arguments), result)
    return lambda *rest: found(address(x), x.size, *rest)


@lru_cache(maxsize=32)
def _function(name: str, arguments: tuple[Any, ...], result: Any) -> Function:  # noqa: ANN401 - ctypes
    return function(name, arguments, result)
