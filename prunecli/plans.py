"""What plans are made of: the statistics a strategy asks for, and the local strategies it comes down to.

A local strategy turns the magnitudes of one tile of one tensor into a keep array. Nothing here knows about files or
names, and nothing imports NumPy: strategies must be cheap to make.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from prunecli.kernels.ops import Array, Ops

FLAT_GROUP_LIMIT = 16
"""Groups smaller than this are ranked by comparing shifted copies; larger ones by partitioning rows."""


@dataclass(frozen=True, slots=True)
class RankGroup:
    """Tensors that are ranked together (positions in the list of targets) and the 1-based ranks wanted of them.

    `ties` says whether each member's number of equals matters: where a cut may go through them.
    """

    members: tuple[int, ...]
    ranks: tuple[int, ...]
    ties: bool = True


@dataclass(frozen=True, slots=True)
class OrderStatistic:
    """One order statistic of a group: the `rank`-th smallest magnitude (1-based), and what surrounds it.

    `value` is the statistic; `less` and `equal` count over the group. Per member: `cuts` is the smallest pattern of
    its dtype that is not below the statistic, `hits` whether that pattern equals it, `equals` how many weights do.
    Where the statistic does not cut through equals (rank = less + equal) `equals` may be None: not counted.
    """

    rank: int
    value: float
    less: int
    equal: int
    cuts: tuple[int, ...]
    hits: tuple[bool, ...]
    equals: tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class Chunk:
    """A run of a tensor's elements in row-major order: `count` of them from `start`.

    `take(n)` says how many of the tile's `n` weights equal to the cut may go; tiles are served in order.
    """

    shape: tuple[int, ...]
    start: int
    count: int
    take: Callable[[int], int]


class TensorPlan(Protocol):
    """What is left of a strategy once it is planned: it looks at one tile of one tensor at a time."""

    @property
    def bounds(self) -> tuple[int, int] | None:
        """The largest pattern that can be pruned and the smallest that can be kept, where that is known."""

    @property
    def value(self) -> float | None:
        """The cut that the plan found, in the units of what it ranked, for the report."""

    def reach(self, shape: tuple[int, ...], start: int, stop: int) -> tuple[int, int]:
        """Return the elements that must be seen together with [start, stop) to decide about those.

        Those elements alone, for a plan that comes from numbers about the weights: a window may be laid out before.
        """

    def keep(self, ops: Ops, y: Array, tile: Chunk) -> Array:
        """`y` (the tile's magnitudes as integers) → keep array (all bits set = survives) of the same length."""


@dataclass(frozen=True, slots=True)
class Cut:
    """Prune every magnitude below the pattern `bits`, and the first `ties` equal to it in row-major order.

    `0 <= bits <= 1 + the largest pattern of the dtype`. For the report: `value` is the cut that the plan found, in
    the weights' units, `equal` how many weights equal it, and `equal_pruned` how many of those go.
    """

    bits: int
    ties: int = 0
    equal: int | None = None
    equal_pruned: int | None = None
    value: float | None = None

    @property
    def bounds(self) -> tuple[int, int]:
        """What is below the cut goes, what is above stays; equals may do either."""
        return (self.bits if self.ties else self.bits - 1), max(self.bits, 1)

    def reach(self, shape: tuple[int, ...], start: int, stop: int) -> tuple[int, int]:  # noqa: ARG002 - protocol
        """Every weight is decided by itself."""
        return start, stop

    def keep(self, ops: Ops, y: Array, tile: Chunk) -> Array:
        """Return the keep array of the tile's magnitudes `y`."""
        kept = ops.at_least(y, self.bits)
        if self.ties:
            ops.drop_first_equal(kept, y, self.bits, tile.take(ops.count_equal(y, self.bits)))
        return kept


@dataclass(frozen=True, slots=True)
class KeepLargestOfGroup:
    """`TopK` on a tensor known to fit; `dim` counts from the front.

    The tensor is seen as (outer, length, inner) with the groups along the middle.
    """

    count: int
    group: int
    dim: int
    zero_tail: bool
    bounds: tuple[int, int] | None = None
    value: float | None = None

    def _view(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Return `length` and `inner`."""
        return shape[self.dim], prod(shape[self.dim + 1 :])

    def reach(self, shape: tuple[int, ...], start: int, stop: int) -> tuple[int, int]:
        """Widen [start, stop) to whole groups."""
        length, inner = self._view(shape)
        slab, unit = length * inner, self.group * inner
        first, last = start % slab, (stop - 1) % slab
        return start - first % unit, min(stop - 1 - last % unit + unit, stop - 1 - last + slab)

    def keep(self, ops: Ops, y: Array, tile: Chunk) -> Array:
        """Return the keep array of a tile that starts and ends between groups."""
        length, inner = self._view(tile.shape)
        if self.group < FLAT_GROUP_LIMIT:
            kept = ops.keep_largest(y, tile.start, length, inner, self.group, self.count)
        else:
            kept = self._keep_rows(ops, y, tile)
        if self.zero_tail and length % self.group:
            ops.drop_from(kept, tile.start, length, inner, length - length % self.group)
        return kept

    def _keep_rows(self, ops: Ops, y: Array, tile: Chunk) -> Array:
        """Rank large groups as the rows of a matrix: the tile's slabs, cut where a group is short."""
        length, inner = self._view(tile.shape)
        slab, kept, at = length * inner, ops.at_least(y, 0), 0
        while at < tile.count:
            offset = (tile.start + at) % slab
            slabs = (tile.count - at) // slab if offset == 0 else 0
            rows = length if slabs else min(slab - offset, tile.count - at) // inner
            size = max(slabs, 1) * rows * inner
            shape = (max(slabs, 1), rows, inner)
            self._keep_block(ops, y[at : at + size].reshape(shape), kept[at : at + size].reshape(shape))
            at += size
        return kept

    def _keep_block(self, ops: Ops, y: Array, kept: Array) -> None:
        """Fill `kept` (slabs, rows, inner): full groups first, then the short one."""
        if not self.count:
            kept[...] = 0
            return
        slabs, rows, inner = y.shape
        full = rows // self.group * self.group
        for low, high, size in ((0, full, self.group), (full, rows, rows - full)):
            if low == high:
                continue
            groups = y[:, low:high].reshape(slabs, -1, size, inner).swapaxes(2, 3)
            flat = ops.keep_largest_of_rows(groups.reshape(-1, size), min(self.count, size))
            kept[:, low:high] = flat.reshape(slabs, -1, inner, size).swapaxes(2, 3).reshape(slabs, high - low, inner)


@dataclass(frozen=True, slots=True)
class PruneSmallestOfRow:
    """Prune the smallest of each row of (shape[0], the rest), `wanted(left)` of the `left` that are not gone already.

    Among equals the lowest index goes first.
    """

    wanted: Callable[[int], int]
    bounds: tuple[int, int] | None = None
    value: float | None = None

    def reach(self, shape: tuple[int, ...], start: int, stop: int) -> tuple[int, int]:
        """Widen [start, stop) to whole rows."""
        row = prod(shape[1:])
        return start - start % row, stop + -stop % row

    def keep(self, ops: Ops, y: Array, tile: Chunk) -> Array:
        """Return the keep array of whole rows."""
        row = prod(tile.shape[1:])
        rows, kept = y.reshape(-1, row), ops.at_least(y, 0)
        left = ops.remaining_of_rows(rows)
        for size in sorted(set(left.tolist())):
            wanted = (left == size).nonzero()[0]
            keep, chosen = size - self.wanted(size), slice(None) if len(wanted) == len(rows) else wanted
            if keep == row:
                continue
            some = ops.keep_largest_of_rows(rows[chosen], keep, last=True) if keep else 0
            kept.reshape(-1, row)[chosen] = some
        return kept


@dataclass(frozen=True, slots=True)
class PruneSlices:
    """Prune whole slices along `dim`: those whose byte in `alive` is 0. `value` is the largest norm that goes."""

    dim: int
    alive: bytes
    value: float | None = None
    bounds: tuple[int, int] | None = None

    def reach(self, shape: tuple[int, ...], start: int, stop: int) -> tuple[int, int]:  # noqa: ARG002 - protocol
        """Every weight is decided by its index."""
        return start, stop

    def keep(self, ops: Ops, y: Array, tile: Chunk) -> Array:
        """Return the keep array of the tile's magnitudes `y`."""
        return ops.keep_slices(y, tile.start, prod(tile.shape[self.dim + 1 :]), self.alive)


@dataclass(frozen=True, slots=True)
class PruneBlocks:
    """Prune whole tiles of the matrix (shape[0], the rest): `alive` has a byte per tile, row by row."""

    tile: tuple[int, int]
    alive: bytes
    value: float | None = None
    bounds: tuple[int, int] | None = None

    def reach(self, shape: tuple[int, ...], start: int, stop: int) -> tuple[int, int]:  # noqa: ARG002 - protocol
        """Every weight is decided by its index."""
        return start, stop

    def keep(self, ops: Ops, y: Array, tile: Chunk) -> Array:
        """Return the keep array of the tile's magnitudes `y`."""
        return ops.keep_blocks(y, tile.start, prod(tile.shape[1:]), self.tile, self.alive)


def without_masks(plan: TensorPlan) -> TensorPlan:
    """Return what is left of a plan once it was applied: what a report says of it, without a byte for each tile."""
    return replace(plan, alive=b"") if isinstance(plan, (PruneSlices, PruneBlocks)) else plan
