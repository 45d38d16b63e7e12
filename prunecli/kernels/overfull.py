"""The N:M groups with too many non-zeros."""

from __future__ import annotations

from ctypes import byref, c_int32, c_int64, c_void_p
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from prunecli.kernels.backend import has_native
from prunecli.kernels.groups import nonzeros_per_group
from prunecli.kernels.native.library import Function, address, function
from prunecli.kernels.numpy_ops import NumpyOps

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from prunecli.dtypes import Float


def count_overfull(
    x: NDArray[Any], shape: tuple[int, int, int], pattern: tuple[int, int], dtype: Float
) -> tuple[int, int | None]:
    """Return the number of groups with too many non-zeros, and the place in `x` of the first entry of the first one.

    `x` are flat weights of the shape (outer, length, inner). With the pattern (keep, group), groups are as in
    `nonzeros_per_group`, of at most 32,767 entries.
    """
    keep, group = pattern
    if has_native():
        first = c_int64(-1)
        found: int = _kernel(x.itemsize)(address(x), *shape, group, keep, dtype.negative_zero_is_nan, byref(first))
        return found, first.value if found else None
    nonzero = NumpyOps().magnitudes(x, dtype) != 0
    flags = nonzeros_per_group(nonzero.reshape(shape), group) > keep
    if not (found := int(np.count_nonzero(flags))):
        return 0, None
    slab, row, column = (int(i) for i in np.unravel_index(int(flags.argmax()), flags.shape))
    return found, (slab * shape[1] + row * group) * shape[2] + column


@lru_cache(maxsize=4)
def _kernel(itemsize: int) -> Function:
    sizes = (c_int64,) * 4
    return function(f"count_overfull_{8 * itemsize}", (c_void_p, *sizes, c_int32, c_int32, c_void_p), c_int64)
