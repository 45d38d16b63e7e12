"""The array operations that pruning needs: the protocol `Ops`, without NumPy, which not every backend needs.

A weight is seen as a signed integer of its own width. Its magnitude is that integer with the sign bit cleared: in
every float format these integers have the order of the absolute values. A *keep* array has all bits set where a weight
survives and none where it is pruned, so `weights & keep` is the pruned tensor, except that
-0.0 stays as it is. All backends give the same bits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from prunecli.dtypes import Float
    from prunecli.kernels.tally import Shared, Statistics, Tally
    from prunecli.layout import SliceView

Array: TypeAlias = Any
"""A flat array of integers: NumPy's or a memoryview in the memory of the host, or a torch tensor on some device."""

Keep: TypeAlias = Any
"""Which weights of a run survive, in a form of the backend's own."""

Read: TypeAlias = Callable[[int, int], Array]
"""Returns the elements [first, stop) of a tensor in row-major order, as integers, valid until the next call."""


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

    def count_equal(self, y: Array, value: int) -> int | Array:
        """Return the number of entries equal to `value`, where `y` lies."""

    def drop_first_equal(self, keep: Keep, y: Array, value: int, count: int | Array) -> None:
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

    def keep_blocks(self, y: Array, start: int, view: SliceView, block: tuple[int, int], alive: Any) -> Keep:  # noqa: ANN401
        """Return the keep array of a run from element `start`, as `prunecli.kernels.views.block_flags` does."""

    def keep_above(self, y: Array, start: int, view: SliceView, cuts: NDArray[Any], limits: NDArray[np.int64]) -> Keep:
        """Return the keep array of a run from element `start`: the entries above the cut of their slice.

        Of those equal to the cut, the ones behind the position `limits` in their slice survive as well. `cuts` (of the
        type of `y`) and `limits` have one number per slice of `view`.
        """

    def smallest(self, y: Array, rank: int) -> tuple[int, int, int]:
        """Return the `rank`-th smallest entry (1-based), and the numbers of smaller and of equal entries."""

    def below_and_inside(self, y: Array, low: int, width: int) -> tuple[int, Any, list[int] | None]:
        """Return the number of entries below `low`, and those in [low, low + width).

        Of a bracket of at most `key_arrays.COUNTED` patterns these are None and the number of each pattern; otherwise
        a host array of the patterns, one for each entry, and None.
        """

    def as_flags(self, keep: Keep) -> Array:
        """Return a keep array as bytes on the host: 1 for a weight that survives, else 0."""

    def store_masked(self, x: Array, keep: Keep, out: Array, dtype: Float) -> None:
        """Write `x & keep` to the integers `out`, on the host or the same as `x`.

        A zero of either sign keeps its bits.
        """


def is_tensor(array: Array) -> bool:
    """Return whether an array is torch's; others lie in the memory of the host."""
    return hasattr(array, "data_ptr")
