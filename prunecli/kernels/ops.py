"""The few array operations that pruning needs, on NumPy and on torch devices, with the same bits as the result.

A weight is looked at as a signed integer of its own width. Its magnitude is that integer with the sign cleared: the
order of magnitudes is the order of these integers, for every float format, with no cast. A *keep* array has all bits
set where a weight survives and none where it is pruned, so that `weights & keep` is the pruned tensor and a pruned
weight is +0.0. Nothing here knows about strategies, names or files.
"""

from __future__ import annotations

from collections.abc import Callable
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

    def remaining_of_rows(self, rows: Array) -> NDArray[np.int64]:
        """Count in each row of a matrix the entries that are not -1, which says that a weight is gone already."""

    def drop_pruned(self, keep: Array, y: Array) -> None:
        """Clear `keep` where `y` is -1."""

    def keep_slices(self, y: Array, start: int, inner: int, alive: bytes) -> Array:
        """Return the keep array of a run, from element `start`, of an (outer, len(alive), inner) array."""

    def keep_blocks(self, y: Array, start: int, row: int, tile: tuple[int, int], alive: bytes) -> Array:
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


def slice_flags(start: int, count: int, inner: int, alive: bytes) -> NDArray[np.int8]:
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


def block_flags(start: int, count: int, row: int, tile: tuple[int, int], alive: bytes) -> NDArray[np.int8]:
    """Return -1 (stays) or 0 for `count` elements, from `start`, of a matrix cut into tiles with a byte each."""
    high, wide = tile
    first, skipped = divmod(start, row)
    bands = np.arange(first, first + _runs(start, count, row)) // high
    answers = -(np.frombuffer(alive, np.int8) != 0).astype(np.int8).reshape(-1, -(-row // wide))
    return np.repeat(answers[bands], wide, axis=1)[:, :row].reshape(-1)[skipped : skipped + count]


Read: TypeAlias = Callable[[int, int], "NDArray[Any]"]
"""Give the elements [first, stop) of a tensor, in row-major order, as integers; good until the next call."""


Values: TypeAlias = Callable[[int, int], "NDArray[np.float64]"]
"""Give the numbers [first, stop) of a tensor in row-major order: good until the next call, and free to be overwritten.

Weights with their signs, or what replaces them; NaN is not a number of any size.
"""
