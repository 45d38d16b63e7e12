"""The next bits of patterns that begin with given bits, for searches that resolve some bits in each pass."""

from __future__ import annotations

from ctypes import c_int32, c_int64, c_void_p
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from prunecli.kernels.backend import has_native
from prunecli.kernels.native.library import Function, address, function

if TYPE_CHECKING:
    from numpy.typing import NDArray

LEAD = 16
"""Prefixes are found by this many leading bits of a pattern."""


class NextBits:
    """Finds the magnitudes of 4 or 8 bytes that lie in bins: those that begin with the same bits."""

    def __init__(self, itemsize: int, lows: NDArray[np.int64], span: int, shift: int) -> None:
        """Take the ascending first patterns of the bins, without duplicates.

        A bin has the patterns with `low >> span` as their bits from `span` up. The next bits are those from `shift` up.
        """
        self._itemsize, self._lead, self._span, self._shift = itemsize, 8 * itemsize - LEAD, span, shift
        self._prefixes = lows >> span
        self._found: NDArray[Any] = np.empty(0, f"i{itemsize}")
        self._searched = np.zeros(1 << LEAD, np.bool_)
        self._searched[lows >> self._lead] = True

    def of(self, y: NDArray[Any]) -> NDArray[Any]:
        """Return the bits from `shift` up of the patterns of `y` that lie in a bin, in their order."""
        if not has_native():
            return self._of(y)
        if self._found.size < y.size:
            self._found = np.empty(y.size, y.dtype)
        prefixes = (address(self._prefixes), self._prefixes.size, self._span, self._shift)
        written: int = _kernel(self._itemsize)(
            address(y), y.size, self._lead, address(self._searched), *prefixes, address(self._found)
        )
        return self._found[:written].copy()

    def _of(self, y: NDArray[Any]) -> NDArray[Any]:
        inside: NDArray[Any] = y[self._searched[y >> self._lead]]
        if self._span != self._lead:
            inside = inside[np.isin(inside >> self._span, self._prefixes)]
        following: NDArray[Any] = inside >> self._shift
        return following


@lru_cache(maxsize=2)
def _kernel(itemsize: int) -> Function:
    prefixes = (c_void_p, c_int64, c_int32, c_int32)
    return function(f"next_bits_{8 * itemsize}", (c_void_p, c_int64, c_int32, c_void_p, *prefixes, c_void_p), c_int64)
