"""The folds of `prunecli.kernels.folds`, compiled. Import this module only where `library()` is not None."""

from __future__ import annotations

from ctypes import byref, c_double, c_int32, c_int64, c_void_p
from typing import TYPE_CHECKING, Any

import numpy as np

from prunecli.dtypes import FLOATS
from prunecli.kernels import native_ranks
from prunecli.kernels.native.library import address, format_of, function
from prunecli.kernels.native_flags import Ranked, at_least, drop_first

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from prunecli.kernels.folds import Numbers, Shape

_JOIN = {np.inf: 1, -np.inf: 2}
"""LARGER and SMALLER of folds.c; any other norm adds."""

_F64 = format_of(FLOATS["F64"])

_SIZES = (c_int64,) * 4
_FOLD = (c_void_p, *_SIZES, c_void_p, c_int32, c_int32, c_int32, c_void_p)
_BLOCKS = (c_void_p, *_SIZES, c_void_p, c_int32, c_void_p)
_MOMENTS = (c_void_p, c_int64, c_void_p, c_int32, c_double, c_void_p)

_fold = {width // 8: function(f"fold_{width}", _FOLD) for width in (8, 16, 32, 64)}
_fold_blocks = {width // 8: function(f"fold_blocks_{width}", _BLOCKS) for width in (8, 16, 32, 64)}
_moments = {width // 8: function(f"moments_{width}", _MOMENTS, c_int64) for width in (8, 16, 32, 64)}


def fold(x: NDArray[Any], numbers: Numbers, n: float, shape: Shape, part: int) -> NDArray[np.float64]:
    """Return the folds of parts, as `folds.fold` does."""
    outer, length, inner = shape
    part = min(part, length)
    out = np.empty((outer, -(-length // part), inner))
    layout, join = byref(format_of(numbers.dtype)), _JOIN.get(n, 0)
    kernel = _fold[x.itemsize]
    kernel(address(x), outer, length, inner, part, layout, numbers.ranked, n == 2, join, address(out))
    return out


def fold_again(powers: NDArray[np.float64], n: float, shape: Shape, part: int) -> NDArray[np.float64]:
    """Return the folds of folds, as `folds.fold_again` does."""
    outer, length, inner = shape
    part = min(part, length)
    out = np.empty((outer, -(-length // part), inner))
    # Folds are not negative, so their signs are not in the way.
    _fold[8](address(powers), outer, length, inner, part, byref(_F64), 0, 0, _JOIN.get(n, 0), address(out))
    return out


def fold_blocks(x: NDArray[Any], numbers: Numbers, shape: Shape, wide: int) -> NDArray[np.float64]:
    """Return the sums of squares of blocks, as `folds.fold_blocks` does."""
    outer, high, width = shape
    out = np.empty((outer, -(-width // wide)))
    layout = byref(format_of(numbers.dtype))
    _fold_blocks[x.itemsize](address(x), outer, high, width, min(wide, width), layout, numbers.ranked, address(out))
    return out


def smallest_norms(norms: NDArray[np.float64], rank: int) -> tuple[bytes, float]:
    """Return a byte per norm, 0 for the `rank` smallest (1 or more) and else 1, and the largest of these.

    Of equals the first are the smallest. -1 is smaller than all norms, and the largest is none.
    """
    patterns, flags = norms.view(np.int64), np.empty(norms.size, np.int8)
    key, less, _ = native_ranks.smallest(patterns, native_ranks.PATTERNS, rank)
    ranked = Ranked(patterns, native_ranks.PATTERNS)
    at_least[8](*ranked.array, key, address(flags))
    drop_first[8](*ranked.array, key, rank - less, address(flags))
    np.negative(flags, out=flags)
    return flags.tobytes(), float(np.int64(key).view(np.float64))


def moments(x: NDArray[Any], numbers: Numbers, scale: float) -> tuple[float, float, int]:
    """Return the folded sums of the finite numbers and of their squares, and their count, as `folds.moments` does."""
    sums = (c_double * 2)()
    layout = byref(format_of(numbers.dtype))
    count: int = _moments[x.itemsize](address(x), x.size, layout, numbers.ranked, scale, sums)
    return sums[0], sums[1], count
