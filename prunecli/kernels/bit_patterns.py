"""Conversions between bit patterns and the numbers they encode, and between the patterns of two formats."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from prunecli.dtypes import Float
    from prunecli.kernels.key_arrays import Keys
    from prunecli.kernels.numpy_ops import NumpyOps


def values(patterns: NDArray[Any], dtype: Float) -> NDArray[np.float64]:
    """Return the magnitudes that non-negative `patterns` of `dtype` encode, as float64; NaN stays NaN."""
    if dtype.itemsize == 1:
        decoded: NDArray[np.float64] = float8_table(dtype)[patterns].astype(np.float64)
        return decoded
    # NumPy warns when it converts a signalling NaN, which is harmless here.
    with np.errstate(invalid="ignore"):
        if dtype.name == "BF16":  # the upper half of a float32; NumPy has no such type
            return (patterns.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
        return patterns.astype(f"<i{dtype.itemsize}").view(f"<f{dtype.itemsize}").astype(np.float64)


def floats(ops: NumpyOps, x: NDArray[Any], dtype: Float) -> NDArray[np.float64]:
    """Return the signed weights `x` (integers of the dtype's width) as float64, in the scratch memory `y` of `ops`."""
    decoded: NDArray[np.float64] = ops.scratch("y", x.size, np.float64)
    # NumPy warns when it converts a signalling NaN, which is harmless here.
    with np.errstate(invalid="ignore"):
        if dtype.itemsize == 1:
            decoded[:] = float8_table(dtype)[x.view(np.uint8)]
        elif dtype.name == "BF16":
            wide = ops.scratch("keep", x.size, np.uint32)
            np.copyto(wide, x.view(np.uint16))
            np.copyto(decoded, np.left_shift(wide, np.uint32(16), out=wide).view(np.float32))
        else:
            np.copyto(decoded, x.view(f"<f{dtype.itemsize}"))
    return decoded


@lru_cache(maxsize=8)
def float8_table(dtype: Float) -> NDArray[np.float32]:
    """Return the value of each of the 256 patterns of an 8-bit format."""
    positive = np.array([dtype.decode(bits) for bits in range(128)], np.float32)
    table = np.concatenate([positive, -positive])
    if dtype.negative_zero_is_nan:
        table[128] = np.nan
    return table


def widen(patterns: Keys, dtype: Float, wide: Float) -> NDArray[Any]:
    """Return magnitude patterns of `dtype` as patterns of `wide` (F32 or F64), which encodes each value exactly.

    The order is preserved. NaN, which has no order, comes above infinity, by payload: it is pruned last in any format.
    """
    integer, patterns = np.dtype(f"i{wide.itemsize}"), np.asarray(patterns)
    bits, decoded = patterns.astype(integer), values(patterns, dtype)
    with np.errstate(invalid="ignore"):
        exact = decoded.astype(f"f{wide.itemsize}", copy=False).view(integer)
    return np.where(bits < first_nan(dtype), exact, _nan_keys(bits, dtype, wide))


def _nan_keys(bits: NDArray[Any], dtype: Float, wide: Float) -> NDArray[Any]:
    """Place the NaN patterns of `dtype` above the infinity of `wide`, in their own order."""
    infinity = bits.dtype.type(wide.finite_max + 1)
    keys: NDArray[Any] = infinity + ((bits - (first_nan(dtype) - 1)) << (wide.mantissa - dtype.mantissa))
    return keys


def narrow(key: int, dtype: Float, wide: Float) -> int:
    """Return the smallest pattern of `dtype` that `widen` maps to at least `key`, or one above the largest."""
    infinity = wide.finite_max + 1
    if key > infinity:
        step = 1 << (wide.mantissa - dtype.mantissa)
        return min(first_nan(dtype) - 1 + -(-(key - infinity) // step), dtype.top + 1)
    if key == infinity:
        return dtype.finite_max + 1
    return dtype.ceil(wide.decode(key))


def first_nan(dtype: Float) -> int:
    """Return the smallest magnitude that is NaN."""
    return dtype.top if dtype.nan is None else dtype.nan
