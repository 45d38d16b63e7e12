"""The numbers of weights below some magnitudes."""

from __future__ import annotations

from ctypes import c_int32, c_int64, c_void_p
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from prunecli.kernels.backend import has_native
from prunecli.kernels.native.library import Function, address, function
from prunecli.kernels.numpy_ops import NumpyOps

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from prunecli.dtypes import Float


def count_below(chunks: Iterable[NDArray[Any]], cuts: NDArray[np.uint64], dtype: Float) -> NDArray[np.int64]:
    """Return how many of the flat weights in `chunks` have a pattern below each of `cuts`, which `dtype` can hold.

    A cut may be one above the largest pattern.
    """
    below, ops = np.zeros(cuts.size, np.int64), NumpyOps()
    for x in chunks:
        if has_native():
            places = (dtype.negative_zero_is_nan, address(cuts), cuts.size, address(below))
            _kernel(x.itemsize)(address(x), x.size, *places)
        else:
            y = ops.magnitudes(x, dtype)
            below += np.array([np.count_nonzero(y < cut) for cut in cuts.tolist()], np.int64)
    return below


@lru_cache(maxsize=4)
def _kernel(itemsize: int) -> Function:
    cuts = (c_void_p, c_int64, c_void_p)
    return function(f"count_below_{8 * itemsize}", (c_void_p, c_int64, c_int32, *cuts))
