"""The few array operations that pruning needs, on NumPy and on torch devices, with the same bits as the result.

A weight is looked at as a signed integer of its own width. Its magnitude is that integer with the sign cleared: the
order of magnitudes is the order of these integers, for every float format, with no cast. A *keep* array has all bits
set where a weight survives and none where it is pruned, so that `weights & keep` is the pruned tensor and a pruned
weight is +0.0. Nothing here knows about strategies, names or files.
"""

from __future__ import annotations

import importlib
import mmap
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from prunecli.dtypes import Float

Array: TypeAlias = Any
"""A flat array of integers: NumPy's, or a torch tensor on some device."""

INTS: dict[int, np.dtype[Any]] = {1: np.dtype("i1"), 2: np.dtype("<i2"), 4: np.dtype("<i4"), 8: np.dtype("<i8")}
UINTS: dict[int, np.dtype[Any]] = {1: np.dtype("u1"), 2: np.dtype("<u2"), 4: np.dtype("<u4"), 8: np.dtype("<u8")}

EXTRACT_LIMIT = 8
"""Up to this many patterns in a bracket are counted one by one; more are taken out and sorted."""

PERIOD_LIMIT = 1 << 20
"""Elements after which the places in groups repeat, up to which they are made once and kept."""

KEPT_STEP = 1 << 20
"""Kept places come in multiples of this many elements, so that tiles of nearly one size share them."""


class Ops(Protocol):
    """Integer kernels over flat arrays; `y` is what `magnitudes` returned, and is never changed."""

    device: str

    def load(self, raw: NDArray[Any]) -> Array:
        """Bring the host integers `raw` to the device."""

    def magnitudes(self, x: Array, dtype: Float) -> Array:
        """Return the sign-cleared patterns; fnuz's NaN comes out above all others."""

    def at_least(self, y: Array, cut: int) -> Array:
        """Return the keep array of `y >= cut`, for 0 <= cut <= 1 + the largest magnitude."""

    def count_equal(self, y: Array, value: int) -> int:
        """Count the entries equal to `value`."""

    def drop_first_equal(self, keep: Array, y: Array, value: int, count: int) -> None:
        """Clear `keep` at the first `count` entries equal to `value`."""

    def keep_largest(self, y: Array, start: int, length: int, inner: int, group: int, keep: int) -> Array:
        """Return the keep array of the `keep` largest of each group; among equals the lower index stays.

        `y` is a run, from element `start`, of an (outer, length, inner) array; groups are `group` consecutive
        entries of the middle dimension. The run starts and ends between groups, and `group` is less than 128.
        """

    def drop_from(self, keep: Array, start: int, length: int, inner: int, first: int) -> None:
        """Clear `keep` where the index in the middle dimension, as in `keep_largest`, is `first` or more."""

    def keep_largest_of_rows(self, rows: Array, keep: int, *, last: bool = False) -> Array:
        """Return the keep array of the `keep` largest of each row of a matrix.

        Among equals the lower index stays, or with `last` the higher one.
        """

    def left_of_rows(self, rows: Array) -> NDArray[np.int64]:
        """Count in each row of a matrix the entries that are not -1, which says that a weight is gone already."""

    def drop_gone(self, keep: Array, y: Array) -> None:
        """Clear `keep` where `y` is -1."""

    def keep_slices(self, y: Array, start: int, inner: int, alive: bytes) -> Array:
        """Return the keep array of a run, from element `start`, of an (outer, len(alive), inner) array."""

    def keep_tiles(self, y: Array, start: int, row: int, tile: tuple[int, int], alive: bytes) -> Array:
        """Return the keep array of a run, from element `start`, of a matrix cut into tiles with a byte each."""

    def smallest(self, y: Array, rank: int) -> int:
        """Return the `rank`-th smallest entry (1-based)."""

    def below_and_inside(self, y: Array, low: int, width: int) -> tuple[int, NDArray[Any], NDArray[np.int64] | None]:
        """Count the entries below `low`, and tell the patterns in [low, low + width) with their counts.

        Patterns may come more than once; counts of None mean one each.
        """

    def kept(self, keep: Array) -> NDArray[np.uint8]:
        """Return a keep array as ones (stays) and zeros on the host."""

    def masked(self, x: Array, keep: Array, out: NDArray[Any]) -> None:
        """Write `x & keep` to the host integers `out`."""


def middle_index(start: int, count: int, length: int, inner: int) -> NDArray[np.int64]:
    """Return the middle index of `count` elements from `start` of an (outer, length, inner) array."""
    at = np.arange(start, start + count)
    return (at // inner if inner > 1 else at) % length


def before_in_group(start: int, count: int, length: int, inner: int, group: int) -> NDArray[np.int8]:
    """Return how many members of its group come before each of `count` elements from `start`, as in `keep_largest`."""
    # It repeats: with every group, or with every slab where the last group of a slab is short.
    span = group if length % group == 0 else length
    period = span * inner
    if period > PERIOD_LIMIT:
        return (middle_index(start, count, length, inner) % group).astype(np.int8)
    found = _repeated(-(-count // KEPT_STEP) * KEPT_STEP + period, span, inner, group)
    return found[start % period : start % period + count]


@lru_cache(maxsize=8)
def _repeated(count: int, span: int, inner: int, group: int) -> NDArray[np.int8]:
    once = np.repeat((np.arange(span) % group).astype(np.int8), inner)
    return _again(once, count)


def _again(once: NDArray[np.int8], count: int) -> NDArray[np.int8]:
    """Repeat `once` over `count` elements; `np.resize` makes a list of all repetitions first."""
    return np.tile(once, -(-count // once.size))[:count]


def in_slices(start: int, count: int, inner: int, alive: bytes) -> NDArray[np.int8]:
    """Return -1 (stays) or 0 for `count` elements, from `start`, of an (outer, len(alive), inner) array."""
    first, skipped = divmod(start, inner)
    answers = -(np.frombuffer(alive, np.int8) != 0).astype(np.int8)
    runs = _again(np.roll(answers, -(first % len(alive))), _runs(start, count, inner))
    if inner == 1:
        return runs
    lengths = np.full(len(runs), inner)
    lengths[0] -= skipped
    lengths[-1] -= lengths.sum() - count
    return np.repeat(runs, lengths)


def _runs(start: int, count: int, inner: int) -> int:
    """Return how many runs of `inner` elements the `count` elements from `start` touch."""
    return (start + count - 1) // inner - start // inner + 1


def in_tiles(start: int, count: int, row: int, tile: tuple[int, int], alive: bytes) -> NDArray[np.int8]:
    """Return -1 (stays) or 0 for `count` elements, from `start`, of a matrix cut into tiles with a byte each."""
    high, wide = tile
    first, skipped = divmod(start, row)
    bands = np.arange(first, first + _runs(start, count, row)) // high
    answers = -(np.frombuffer(alive, np.int8) != 0).astype(np.int8).reshape(-1, -(-row // wide))
    return np.repeat(answers[bands], wide, axis=1)[:, :row].reshape(-1)[skipped : skipped + count]


class NumpyOps:
    """The kernels on the CPU. One instance per thread: its scratch memory is used again by every call.

    Masks are applied by arithmetic: assignment through a boolean mask mispredicts a branch per weight and costs ten
    times as much.
    """

    device = "cpu"

    def __init__(self) -> None:
        """Start without scratch memory; it grows to the largest tile seen."""
        self._scratch: dict[str, mmap.mmap] = {}

    def scratch(self, slot: str, count: int, dtype: Any) -> NDArray[Any]:  # noqa: ANN401 - any NumPy dtype
        """Return `count` elements of scratch memory, page-aligned, holding whatever was left in it."""
        size = count * np.dtype(dtype).itemsize
        held = self._scratch.get(slot)
        if held is None or len(held) < size:
            held = self._scratch[slot] = mmap.mmap(-1, max(size, 1 << 16))
        return np.frombuffer(held, dtype, count)

    def load(self, raw: NDArray[Any]) -> Array:
        """Return `raw` itself."""
        return raw

    def magnitudes(self, x: Array, dtype: Float, slot: str = "y") -> Array:
        """Return the sign-cleared patterns, in the scratch memory `slot`, which the next call reuses."""
        if dtype.itemsize > 1:
            return np.bitwise_and(x, x.dtype.type(dtype.mask), out=self.scratch(slot, x.size, x.dtype))
        y = self.scratch(slot, x.size, np.int16)
        np.bitwise_and(x, np.int8(dtype.mask), out=y)
        if dtype.negative_zero_is_nan:
            y[x == np.int8(-128)] = dtype.top
        return y

    def at_least(self, y: Array, cut: int) -> Array:
        """Subtract and spread the sign bit: two passes, no branch."""
        kind = y.dtype.type
        keep = np.subtract(kind(cut - 1), y, out=self.scratch("keep", y.size, y.dtype))
        return np.right_shift(keep, kind(8 * y.itemsize - 1), out=keep)

    def count_equal(self, y: Array, value: int) -> int:
        """Count the entries equal to `value`."""
        return int(np.count_nonzero(np.equal(y, y.dtype.type(value), out=self.scratch("bool", y.size, bool))))

    def drop_first_equal(self, keep: Array, y: Array, value: int, count: int) -> None:
        """Clear `keep` at the first `count` entries equal to `value`."""
        if count:
            keep[np.flatnonzero(y == y.dtype.type(value))[:count]] = 0

    def keep_largest(self, y: Array, start: int, length: int, inner: int, group: int, keep: int) -> Array:
        """Compare each entry with each later one of its group; an entry survives if fewer than `keep` beat it."""
        before = before_in_group(start, y.size, length, inner, group)
        beaten = np.subtract(before, np.int8(keep), out=self.scratch("beaten", y.size, np.int8))
        flags, members = self.scratch("bool", y.size, bool), self.scratch("members", y.size, bool)
        for distance in range(1, group):
            d = distance * inner
            if d >= y.size:
                break
            # The earlier of two equals wins. An entry starts as beaten by all before it in its group; each of
            # those that it beats is a loss less for it and a loss more for the other.
            wins = np.less(y[:-d], y[d:], out=flags[d:])
            together = np.greater_equal(before[d:], np.int8(distance), out=members[d:])
            np.logical_and(wins, together, out=wins)
            np.subtract(beaten[d:], wins.view(np.int8), out=beaten[d:])
            np.add(beaten[:-d], wins.view(np.int8), out=beaten[:-d])
        np.right_shift(beaten, np.int8(7), out=beaten)
        kept: NDArray[Any] = self.scratch("keep", y.size, y.dtype)
        np.copyto(kept, beaten)
        return kept

    def drop_from(self, keep: Array, start: int, length: int, inner: int, first: int) -> None:
        """Clear `keep` from index `first` of the middle dimension on."""
        keep[middle_index(start, keep.size, length, inner) >= first] = 0

    def left_of_rows(self, rows: Array) -> NDArray[np.int64]:
        """Count the entries of each row that are not negative."""
        return np.asarray(np.count_nonzero(rows >= 0, axis=1))

    def drop_gone(self, keep: Array, y: Array) -> None:
        """Spread the sign bit and clear what it covers."""
        np.bitwise_and(keep, ~(y >> y.dtype.type(8 * y.itemsize - 1)), out=keep)

    def keep_slices(self, y: Array, start: int, inner: int, alive: bytes) -> Array:
        """Repeat each slice's answer over its elements."""
        return self._spread(y, in_slices(start, y.size, inner, alive))

    def keep_tiles(self, y: Array, start: int, row: int, tile: tuple[int, int], alive: bytes) -> Array:
        """Repeat each tile's answer over its columns, and each row of tiles over its rows."""
        return self._spread(y, in_tiles(start, y.size, row, tile, alive))

    def _spread(self, y: Array, answers: NDArray[np.int8]) -> Array:
        kept: NDArray[Any] = self.scratch("keep", y.size, y.dtype)
        np.copyto(kept, answers)
        return kept

    def keep_largest_of_rows(self, rows: Array, keep: int, *, last: bool = False) -> Array:
        """Find each row's `keep`-th largest, keep what is larger, then equals from one end until `keep` stay."""
        if last:
            kept_last: NDArray[Any] = self.keep_largest_of_rows(rows[:, ::-1], keep)[:, ::-1]
            return kept_last
        width = rows.shape[1]
        at = np.partition(rows, width - keep, axis=1)[:, width - keep, None]
        larger, equal = rows > at, rows == at
        room = keep - np.count_nonzero(larger, axis=1)[:, None]
        kept = larger | (equal & (np.cumsum(equal, axis=1) <= room))
        return -kept.astype(rows.dtype)

    def smallest(self, y: Array, rank: int) -> int:
        """Return the `rank`-th smallest entry (1-based)."""
        return int(np.partition(y, rank - 1)[rank - 1])

    def below_and_inside(self, y: Array, low: int, width: int) -> tuple[int, NDArray[Any], NDArray[np.int64] | None]:
        """Count with one comparison per pattern where the bracket is narrow; take the inside out where it is not."""
        kind, flags = y.dtype.type, self.scratch("bool", y.size, bool)
        below = int(np.count_nonzero(np.less(y, kind(low), out=flags)))
        if width <= EXTRACT_LIMIT:
            narrow = np.array(range(low, low + width), y.dtype)
            numbers = [int(np.count_nonzero(np.equal(y, p, out=flags))) for p in narrow]
            return below, narrow, np.array(numbers, np.int64)
        shifted = np.subtract(y, kind(low), out=self.scratch("keep", y.size, y.dtype)).view(UINTS[y.itemsize])
        np.less(shifted, shifted.dtype.type(width), out=flags)
        return below, y[flags], None

    def kept(self, keep: Array) -> NDArray[np.uint8]:
        """Compare with zero."""
        flags: NDArray[np.uint8] = (keep != 0).view(np.uint8)
        return flags

    def masked(self, x: Array, keep: Array, out: NDArray[Any]) -> None:
        """Write `x & keep` to `out`; a keep array wider than the weights is cut to their width."""
        if keep.dtype != x.dtype:
            keep = keep.astype(x.dtype)
        np.bitwise_and(x, keep, out=out)


class TorchOps:
    """The kernels on a torch device: integer compares and integer sums only, so the bits are NumPy's."""

    def __init__(self, device: str) -> None:
        """Name the torch `device`: "cuda:0", "mps", "xpu", or "cpu" to run torch's kernels on the host."""
        self.torch = importlib.import_module("torch")
        self.device = device

    def load(self, raw: NDArray[Any]) -> Array:
        """Copy the host integers `raw` to the device."""
        return self.torch.from_numpy(np.ascontiguousarray(raw)).to(self.device, copy=True)

    def magnitudes(self, x: Array, dtype: Float) -> Array:
        """Return the sign-cleared patterns; fnuz's NaN comes out above all others."""
        if dtype.itemsize > 1:
            return x & dtype.mask
        y = x.to(self.torch.int16) & dtype.mask
        return y.masked_fill_(x == -128, dtype.top) if dtype.negative_zero_is_nan else y

    def at_least(self, y: Array, cut: int) -> Array:
        """Subtract and spread the sign bit."""
        return (cut - 1 - y) >> (8 * y.element_size() - 1)

    def count_equal(self, y: Array, value: int) -> int:
        """Count the entries equal to `value`."""
        return int((y == value).sum())

    def drop_first_equal(self, keep: Array, y: Array, value: int, count: int) -> None:
        """Clear `keep` at the first `count` entries equal to `value`."""
        if count:
            keep[(y == value).nonzero().flatten()[:count]] = 0

    def keep_largest(self, y: Array, start: int, length: int, inner: int, group: int, keep: int) -> Array:
        """Compare each entry with each later one of its group; an entry survives if fewer than `keep` beat it."""
        before = before_in_group(start, len(y), length, inner, group)
        at = self.torch.from_numpy(before.copy()).to(self.device)
        beaten = at - keep
        for distance in range(1, group):
            d = distance * inner
            if d >= len(y):
                break
            wins = ((y[:-d] < y[d:]) & (at[d:] >= distance)).to(beaten.dtype)
            beaten[d:] -= wins
            beaten[:-d] += wins
        return (beaten >> 7).to(y.dtype)

    def drop_from(self, keep: Array, start: int, length: int, inner: int, first: int) -> None:
        """Clear `keep` from index `first` of the middle dimension on."""
        tail = self.torch.from_numpy(middle_index(start, len(keep), length, inner) >= first)
        keep.masked_fill_(tail.to(self.device), 0)

    def left_of_rows(self, rows: Array) -> NDArray[np.int64]:
        """Count the entries of each row that are not negative."""
        found: NDArray[np.int64] = (rows >= 0).sum(1).cpu().numpy()
        return found

    def drop_gone(self, keep: Array, y: Array) -> None:
        """Spread the sign bit and clear what it covers."""
        keep &= ~(y >> (8 * y.element_size() - 1))

    def keep_slices(self, y: Array, start: int, inner: int, alive: bytes) -> Array:
        """Repeat each slice's answer over its elements."""
        return self.torch.from_numpy(in_slices(start, len(y), inner, alive)).to(self.device).to(y.dtype)

    def keep_tiles(self, y: Array, start: int, row: int, tile: tuple[int, int], alive: bytes) -> Array:
        """Repeat each tile's answer over its columns, and each row of tiles over its rows."""
        answers = in_tiles(start, len(y), row, tile, alive)
        return self.torch.from_numpy(answers).to(self.device).to(y.dtype)

    def keep_largest_of_rows(self, rows: Array, keep: int, *, last: bool = False) -> Array:
        """Sort each row stably from the largest down and keep the first `keep`."""
        if last:
            return self.keep_largest_of_rows(rows.flip(1), keep).flip(1)
        order = self.torch.argsort(rows, dim=1, descending=True, stable=True)[:, :keep]
        return self.torch.zeros_like(rows).scatter_(1, order, -1)

    def smallest(self, y: Array, rank: int) -> int:
        """Return the `rank`-th smallest entry (1-based)."""
        return int(self.torch.sort(y).values[rank - 1])

    def below_and_inside(self, y: Array, low: int, width: int) -> tuple[int, NDArray[Any], NDArray[np.int64] | None]:
        """Count the entries below `low`, and tell the patterns in [low, low + width) with their counts."""
        below = int((y < low).sum())
        inside = y[(y >= low) & (y <= low + (width - 1))]
        patterns, counts = self.torch.unique(inside, return_counts=True)
        return below, patterns.cpu().numpy(), counts.cpu().numpy().astype(np.int64, copy=False)

    def kept(self, keep: Array) -> NDArray[np.uint8]:
        """Compare with zero and copy back."""
        flags: NDArray[np.uint8] = (keep != 0).to(self.torch.uint8).cpu().numpy()
        return flags

    def masked(self, x: Array, keep: Array, out: NDArray[Any]) -> None:
        """Copy `x & keep` back to the host integers `out`."""
        out[...] = (x & keep.to(x.dtype)).cpu().numpy()
