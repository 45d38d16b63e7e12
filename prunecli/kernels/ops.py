"""The array operations that pruning needs: the protocol `Ops`, and the index arithmetic that its backends share.

A weight is seen as a signed integer of its own width. Its magnitude is that integer with the sign bit cleared: in
every float format these integers have the order of the absolute values. A *keep* array has all bits set where a weight
survives and none where it is pruned, so `weights & keep` is the pruned tensor, except that
-0.0 stays as it is. All backends give the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np

from prunecli.kernels.views import repeat_runs, runs_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from prunecli.dtypes import Float
    from prunecli.kernels.tally import Shared, Statistics, Tally
    from prunecli.layout import SliceView

Array: TypeAlias = Any
"""A flat array of integers: NumPy's, or a torch tensor on some device."""

Keep: TypeAlias = Any
"""Which weights of a run survive, in a form of the backend's own."""

Read: TypeAlias = Callable[[int, int], "NDArray[Any]"]
"""Returns the elements [first, stop) of a tensor in row-major order, as integers, valid until the next call."""

INTS: dict[int, np.dtype[Any]] = {1: np.dtype("i1"), 2: np.dtype("<i2"), 4: np.dtype("<i4"), 8: np.dtype("<i8")}
UINTS: dict[int, np.dtype[Any]] = {1: np.dtype("u1"), 2: np.dtype("<u2"), 4: np.dtype("<u4"), 8: np.dtype("<u8")}

PERIOD_LIMIT = 1 << 20
"""The places of elements in their groups repeat after a period; up to so many elements the places are cached."""

FLAT_GROUP_LIMIT = 16
"""Groups shorter than this are ranked by comparing shifted copies, longer ones by partitioning rows."""

KEPT_STEP = 1 << 20
"""Cached places are rounded up to a multiple of this many elements, so that chunks of similar size share one array."""


class Ops(Protocol):
    """Integer kernels over flat arrays. `y` is a result of `magnitudes` and is never changed."""

    device: str

    def load(self, raw: Array) -> Array:
        """Return the integers `raw` on the device; the same memory, if they lie there."""

    def unload(self, x: Array, raw: Array) -> None:
        """Copy what `load` returned, after it was changed, back to `raw`, unless it is the same memory."""

    def tally(self, statistics: Statistics, shared: Shared) -> Tally:
        """Return the empty counts of a tensor for the calling thread; all threads have the same `shared`."""

    def part(self, keep: Keep, own: slice) -> Keep:
        """Return a part of what survives."""

    def magnitudes(self, x: Array, dtype: Float) -> Array:
        """Return the sign-cleared patterns. The NaN of fnuz formats becomes the largest."""

    def at_least(self, y: Array, cut: int) -> Keep:
        """Return the keep array of `y >= cut`, for 0 <= cut <= 1 + the largest magnitude."""

    def count_equal(self, y: Array, value: int) -> int:
        """Return the number of entries equal to `value`."""

    def drop_first_equal(self, keep: Keep, y: Array, value: int, count: int) -> None:
        """Clear `keep` at the first `count` entries equal to `value`."""

    def keep_largest(self, y: Array, start: int, length: int, inner: int, group: int, keep: int) -> Keep:
        """Return the keep array of the `keep` largest of each group; among equals the lower index survives.

        `y` is a run, from element `start`, of an (outer, length, inner) array. Groups are `group` consecutive entries
        of the middle dimension. The run starts and ends between groups.
        """

    def drop_from(self, keep: Keep, start: int, length: int, inner: int, first: int) -> None:
        """Clear `keep` where the index in the middle dimension, as in `keep_largest`, is `first` or more."""

    def keep_rows(self, y: Array, row: int, wanted: Callable[[int], int]) -> Keep:
        """Return what survives if the smallest of each row are pruned; of equals the lower index is pruned first.

        `y` has whole rows of `row` entries. `wanted(n)` is the number of weights to prune in a row with `n` entries
        that are not -1, which marks pruned weights.
        """

    def drop_pruned(self, keep: Keep, y: Array) -> None:
        """Clear `keep` where `y` is -1."""

    def keep_slices(self, y: Array, start: int, view: SliceView, alive: bytes) -> Keep:
        """Return the keep array of a run from element `start`.

        A slice of `view` survives if its byte in `alive` is not 0.
        """

    def keep_blocks(self, y: Array, start: int, view: SliceView, block: tuple[int, int], alive: bytes) -> Keep:
        """Return the keep array of a run from element `start`, as `prunecli.kernels.views.block_flags` does."""

    def keep_above(self, y: Array, start: int, view: SliceView, cuts: NDArray[Any], limits: NDArray[np.int64]) -> Keep:
        """Return the keep array of a run from element `start`: the entries above the cut of their slice.

        Of those equal to the cut, the ones behind the position `limits` in their slice survive as well. `cuts` (of the
        type of `y`) and `limits` have one number per slice of `view`.
        """

    def smallest(self, y: Array, rank: int) -> int:
        """Return the `rank`-th smallest entry (1-based)."""

    def below_and_inside(self, y: Array, low: int, width: int) -> tuple[int, Any, list[int] | None]:
        """Return the number of entries below `low`, and those in [low, low + width).

        Of a bracket of at most `key_arrays.COUNTED` patterns these are None and the number of each pattern; otherwise
        a host array of the patterns, one for each entry, and None.
        """

    def as_flags(self, keep: Keep) -> NDArray[np.uint8]:
        """Return a keep array as ones (survives) and zeros on the host."""

    def store_masked(self, x: Array, keep: Keep, out: Array, dtype: Float) -> None:
        """Write `x & keep` to the integers `out`, on the host or the same as `x`.

        A zero of either sign keeps its bits.
        """


def on_host(array: Array) -> NDArray[Any]:
    """Return an array as NumPy's, copied if it lies on a device."""
    return array if isinstance(array, np.ndarray) else array.cpu().numpy()


def is_from(start: int, count: int, length: int, inner: int, first: int) -> NDArray[np.bool_]:
    """Return whether the middle index of each of `count` elements from `start` is `first` or more."""
    flags: NDArray[np.bool_] = repeat_runs(_middle_of_runs(start, count, length, inner) >= first, start, count, inner)
    return flags


def _middle_of_runs(start: int, count: int, length: int, inner: int) -> NDArray[np.int64]:
    first = start // inner
    return np.arange(first, first + runs_of(start, count, inner)) % length


def before_in_group(start: int, count: int, length: int, inner: int, group: int) -> NDArray[np.int8]:
    """Return how many members of its group precede each of `count` elements from `start`, as in `keep_largest`."""
    # The places repeat with every group, or with every slab where the last group of a slab is short.
    span = group if length % group == 0 else length
    period = span * inner
    if period > PERIOD_LIMIT:
        # Runs of `inner` elements have the same place, so no number of eight bytes is needed for each element.
        runs = (_middle_of_runs(start, count, length, inner) % group).astype(np.int8)
        return repeat_runs(runs, start, count, inner)
    places = _cached_places(-(-count // KEPT_STEP) * KEPT_STEP + period, span, inner, group)
    return places[start % period : start % period + count]


@lru_cache(maxsize=8)
def _cached_places(count: int, span: int, inner: int, group: int) -> NDArray[np.int8]:
    once = np.repeat((np.arange(span) % group).astype(np.int8), inner)
    return _cycle(once, count)


def _cycle(once: NDArray[np.int8], count: int) -> NDArray[np.int8]:
    # `np.resize` would make a list of all repetitions first.
    return np.tile(once, -(-count // once.size))[:count]


def slabs(start: int, count: int, length: int, inner: int) -> Iterator[tuple[slice, tuple[int, int, int]]]:
    """Yield parts of a run of an (outer, length, inner) array as (slice of the run, shape (slabs, rows, inner)).

    The run starts and ends between rows of `inner` elements. Whole slabs come together, parts of slabs alone.
    """
    slab, offset = length * inner, 0
    while offset < count:
        first = (start + offset) % slab
        whole = (count - offset) // slab if first == 0 else 0
        rows = length if whole else min(slab - first, count - offset) // inner
        size = max(whole, 1) * rows * inner
        yield slice(offset, offset + size), (max(whole, 1), rows, inner)
        offset += size
