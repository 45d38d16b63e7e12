"""Scores of weights: magnitudes times a number for each slice of the tensor, as patterns of float64."""

from __future__ import annotations

from ctypes import byref, c_int64, c_uint64, c_void_p
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from prunecli.dtypes import FLOATS
from prunecli.kernels.backend import has_native
from prunecli.kernels.bit_patterns import first_nan, values
from prunecli.kernels.native.library import Function, address, format_of, function
from prunecli.kernels.views import of_elements

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from prunecli.dtypes import Float
    from prunecli.kernels.numpy_ops import NumpyOps
    from prunecli.layout import SliceView

_MASK = FLOATS["F64"].mask


def times_slices(
    ops: NumpyOps, x: NDArray[Any], dtype: Float, first: int, view: SliceView, factors: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Return the patterns of the magnitudes of `x` times the factor of their slice, in scratch memory of `ops`.

    `x` are weights as integers, from row-major element `first` on. `factors` are finite and not negative, one for each
    slice of `view`. The product of infinity and zero, and of NaN, is NaN, whose pattern is above all others.
    """
    patterns: NDArray[np.int64] = ops.scratch("products", x.size, np.int64)
    if has_native():
        _native(x, dtype, first, view, factors, patterns)
    else:
        _numpy(ops.magnitudes(x, dtype), dtype, first, view, factors, patterns)
    return patterns


def _numpy(
    y: NDArray[Any],
    dtype: Float,
    first: int,
    view: SliceView,
    factors: NDArray[np.float64],
    patterns: NDArray[np.int64],
) -> None:
    own = of_elements(factors, first, y.size, view)
    with np.errstate(over="ignore", invalid="ignore"):
        products = values(y, dtype) * own
    # The NaN of infinity times zero has either sign.
    np.bitwise_and(products.view(np.int64), np.int64(_MASK), out=patterns)


def _native(
    x: NDArray[Any],
    dtype: Float,
    first: int,
    view: SliceView,
    factors: NDArray[np.float64],
    patterns: NDArray[np.int64],
) -> None:
    sizes = (c_int64 * 3)(view.before, view.slices, view.after)
    nan, layout = first_nan(dtype), byref(format_of(dtype))
    _kernel(x.itemsize)(address(x), x.size, layout, nan, first, sizes, address(factors), address(patterns))


@lru_cache(maxsize=4)
def _kernel(itemsize: int) -> Function:
    arguments = (c_void_p, c_int64, c_void_p, c_uint64, c_int64, c_void_p, c_void_p, c_void_p)
    return function(f"times_slices_{8 * itemsize}", arguments)
