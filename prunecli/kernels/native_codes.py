"""Codes times their scale, ranked and counted by the compiled kernels. Most of them need no product.

Import this module only where `library()` is not None.
"""

from __future__ import annotations

from array import array
from ctypes import Structure, byref, c_int64, c_uint64, c_void_p
from typing import TYPE_CHECKING, Any

import numpy as np

from prunecli.dtypes import FLOATS
from prunecli.kernels import native_ranks as ranks
from prunecli.kernels.bit_patterns import first_nan
from prunecli.kernels.key_arrays import COUNTED
from prunecli.kernels.native.library import address, function
from prunecli.kernels.native_flags import Ranked, size_of
from prunecli.kernels.scales import code_table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from prunecli.dtypes import Float
    from prunecli.kernels.native_ranks import Buffer
    from prunecli.kernels.scales import ScaledRows

TILE = 1 << 15
"""Products that are ranked together: few enough for the cache."""

PRODUCTS = -1
"""The form of codes whose products are ranked, which no kernel takes."""

_MAGNITUDE = FLOATS["F64"].mask


class _Scaled(Structure):
    """`scaled_t` of codes.h."""

    _fields_ = (
        ("codes", c_void_p),
        ("count", c_int64),
        ("cols", c_int64),
        ("offset", c_int64),
        ("wide", c_int64),
        ("blocks", c_int64),
        ("lines", c_void_p),
        ("entries", c_void_p),
        ("table", c_void_p),
        ("fnuz", c_int64),
    )


_products = function("code_products", (c_void_p, c_int64, c_int64, c_uint64, c_void_p))
_cuts = function("code_cuts", (c_void_p, c_int64, c_uint64, c_void_p))
_flags = function("code_flags", (c_void_p,) * 3)
_count = function("code_count", (c_void_p,) * 2, c_int64)
_inside = function("code_inside", (c_void_p,) * 4, c_int64)
_drop = function("code_drop", (*(c_void_p,) * 3, c_int64, c_void_p), c_int64)


class Part:
    """Codes from the position `low` of a run up to `high`, with the entries of their rows."""

    def __init__(self, codes: Buffer, dtype: Float, rows: ScaledRows) -> None:
        """Take the codes of the whole run."""
        self.low, self.high = rows.low, rows.high
        self.entries, self._lines = np.ascontiguousarray(rows.entries), np.ascontiguousarray(rows.lines)
        self._table = code_table(dtype)
        self.scaled = _Scaled(
            address(codes) + rows.low,
            rows.high - rows.low,
            rows.cols,
            rows.offset,
            rows.wide,
            self.entries.shape[1],
            address(self._lines),
            address(self.entries),
            address(self._table),
            dtype.negative_zero_is_nan,
        )

    def cuts(self, pattern: int) -> bytearray:
        """Return the smallest magnitude of each entry whose product is at least `pattern`, one byte for each."""
        cuts = bytearray(self.entries.size)
        _cuts(byref(self.scaled), len(cuts), pattern, address(cuts))
        return cuts

    def count_below(self, cuts: bytearray) -> int:
        """Return the number of codes below the cut of their entry."""
        found: int = _count(byref(self.scaled), address(cuts))
        return found


class ScaledCodes:
    """A run of codes that are ranked by the magnitudes of their products, as patterns of float64."""

    itemsize = 8
    form = PRODUCTS

    def __init__(
        self,
        codes: Buffer,
        dtype: Float,
        parts: Sequence[ScaledRows],
        shape: tuple[int, int],
        memory: Callable[[], NDArray[np.int64]],
    ) -> None:
        """Multiply nothing yet.

        `shape` has the columns of a row and those of a block. `memory` returns space for the patterns of all codes.
        """
        self.x, self.dtype, self._memory = codes, dtype, memory
        self._cols, self._wide = shape
        self.parts = [Part(codes, dtype, rows) for rows in parts]

    def products(self, out: NDArray[Any], mask: int, start: int = 0) -> NDArray[Any]:
        """Fill `out` with the bits of the products from the code `start` on, of which `mask` names those that count."""
        stop = start + out.size
        for part in self.parts:
            low, high = max(part.low, start), min(part.high, stop)
            if low < high:
                place = address(out) + 8 * (low - start)
                _products(byref(part.scaled), low - part.low, high - low, mask, place)
        return out

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[np.int64]:  # noqa: ANN401, FBT001 - NumPy's protocol
        """Return the patterns, in memory that the next call for the worker's scores reuses."""
        return self.products(self._memory(), _MAGNITUDE)

    def copy(self) -> NDArray[np.int64]:
        """Return the patterns in memory of their own."""
        return self.products(np.empty(size_of(self.x), np.int64), _MAGNITUDE)

    def at_least(self, cut: int, flags: Buffer) -> None:
        """Write the flags of the products that are at least `cut`."""
        for part in self.parts:
            cuts = part.cuts(cut)
            _flags(byref(part.scaled), address(cuts), address(flags) + part.low)

    def count(self, value: int) -> int:
        """Return how many products equal `value`."""
        return sum(part.count_below(part.cuts(value + 1)) - part.count_below(part.cuts(value)) for part in self.parts)

    def drop_first(self, value: int, limit: int, flags: Buffer) -> None:
        """Clear the flags of the first `limit` products equal to `value`."""
        for part in self.parts:
            lows, highs = part.cuts(value), part.cuts(value + 1)
            limit = _drop(byref(part.scaled), address(lows), address(highs), limit, address(flags) + part.low)

    def part(self, own: slice) -> Ranked:
        """Return the patterns of a part of the run."""
        return Ranked(self.copy()[own], ranks.PATTERNS)

    def whole(self) -> Ranked:
        """Return the patterns."""
        return Ranked(np.asarray(self), ranks.PATTERNS)

    def tiles(self, start: int, unit: int) -> Iterator[tuple[int, Ranked]]:
        """Yield the patterns in pieces with their first positions; the run begins at element `start`.

        Pieces end at multiples of `unit` elements.
        """
        memory, step = self._memory(), max(TILE // unit, 1) * unit
        low = 0
        while low < memory.size:
            high = min(low + step - (start + low) % unit, memory.size)
            yield low, Ranked(self.products(memory[: high - low], _MAGNITUDE, low), ranks.PATTERNS)
            low = high

    def pieces(self, start: int, length: int, inner: int, group: int) -> Iterator[tuple[int, Ranked]]:
        """Yield what ranks groups as the products do, as `tiles` does.

        The run begins at element `start` of an (outer, length, inner) array, between groups of its middle dimension.
        """
        if self._ranks_as_codes(length, inner, group):
            yield 0, Ranked(self.x, ranks.form_of(self.dtype))
        else:
            yield from self.tiles(start, length * inner)

    def _ranks_as_codes(self, length: int, inner: int, group: int) -> bool:
        """Return whether each group has one entry, so that its products have the order of its codes."""
        # NaNs of several codes have one product.
        if inner > 1 or first_nan(self.dtype) < self.dtype.top:
            return False
        cols, wide = self._cols, min(self._wide, self._cols)
        if cols % length:
            return False
        return wide % length == 0 or (wide % group == 0 and (cols == length or length % wide == 0))

    def below_and_inside(self, low: int, width: int) -> tuple[int, Buffer, list[int] | None]:
        """Return what `Ops.below_and_inside` does."""
        below, found = 0, []
        for part in self.parts:
            lows, highs = part.cuts(low), part.cuts(low + width)
            less = part.count_below(lows)
            below += less
            space = bytearray(8 * (part.count_below(highs) - less + 1))
            inside = _inside(byref(part.scaled), address(lows), address(highs), address(space))
            found.append(memoryview(space)[: 8 * inside])
        patterns = memoryview(found[0] if len(found) == 1 else b"".join(found)).cast("q")
        if width > COUNTED:
            return below, patterns, None
        counts = array("q", bytes(8 * width))
        ranks.count_bins(patterns, ranks.PATTERNS, low, width, 0, counts)
        return below, None, counts.tolist()
