"""Changes of a run of weights, counted by a compiled kernel."""

from __future__ import annotations

from ctypes import Structure, byref, c_double, c_int64, c_void_p
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from prunecli.kernels.native.library import Function, address, format_of, function

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from prunecli.dtypes import Float


class Changes(Structure):
    """The changes from one run of weights to another: `changes_t` of changes.c.

    `first` and `first_other` are -1 if there is no such change. If no changed weight has a finite difference, `largest`
    has no meaning.
    """

    _fields_ = (
        ("changed", c_int64),
        ("to_zero", c_int64),
        ("zero_signs", c_int64),
        ("nonfinite", c_int64),
        ("first", c_int64),
        ("first_other", c_int64),
        ("largest", c_double),
    )


def changes(x: NDArray[Any], y: NDArray[Any], dtype: Float) -> Changes:
    """Return the changes from `x` to `y`, flat arrays of weights as integers. Call it where there is the library."""
    found = Changes(first=-1, first_other=-1)
    _kernel(x.itemsize)(address(x), address(y), x.size, byref(format_of(dtype)), byref(found))
    return found


@lru_cache(maxsize=4)
def _kernel(itemsize: int) -> Function:
    return function(f"changes_{8 * itemsize}", (c_void_p, c_void_p, c_int64, c_void_p, c_void_p))
