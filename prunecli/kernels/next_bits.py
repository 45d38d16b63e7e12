"""The next bits of magnitudes that begin with given bits, for searches that resolve some bits in each pass."""

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
"""Prefixes are found by this many leading bits of a weight."""


class NextBits:
    """Finds the weights of 4 or 8 bytes whose magnitudes lie in bins: those that begin with the same bits."""

    def __init__(self, itemsize: int, lows: NDArray[np.int64], span: int, shift: int) -> None:
        """Take the ascending first patterns of the bins, without duplicates: at most 65,535.

        A bin has the patterns with `low >> span` as their bits from `span` up. The next bits are those from `shift` up.
        """
        self._itemsize, self._span, self._shift = itemsize, span, shift
        self._prefixes = lows >> span
        self._found: NDArray[Any] = np.empty(0, f"i{itemsize}")
        leads = lows >> (8 * itemsize - LEAD)
        first = np.searchsorted(leads, leads) + 1
        self._slots = np.zeros(1 << LEAD, np.uint16)
        self._slots[leads] = self._slots[leads | 1 << (LEAD - 1)] = first

    def of(self, x: NDArray[Any]) -> NDArray[Any]:
        """Return the bits from `shift` up of the magnitudes of `x` that lie in a bin, in their order."""
        if not has_native():
            return self._inside(x) >> self._shift
        if self._found.size < x.size:
            self._found = np.empty(x.size, x.dtype)
        prefixes = (address(self._prefixes), self._prefixes.size, self._span, self._shift)
        kernel, slots = _kernel(self._itemsize), address(self._slots)
        written: int = kernel(address(x), x.size, slots, *prefixes, address(self._found))
        return self._found[:written].copy()

    def _inside(self, x: NDArray[Any]) -> NDArray[Any]:
        y: NDArray[Any] = x & x.dtype.type((1 << (8 * self._itemsize - 1)) - 1)
        y = y[self._slots[y >> (8 * self._itemsize - LEAD)] > 0]
        inside: NDArray[Any] = y[np.isin(y >> self._span, self._prefixes)]
        return inside


@lru_cache(maxsize=2)
def _kernel(itemsize: int) -> Function:
    prefixes = (c_void_p, c_int64, c_int32, c_int32)
    return function(f"next_bits_{8 * itemsize}", (c_void_p, c_int64, c_void_p, *prefixes, c_void_p), c_int64)
