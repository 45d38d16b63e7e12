"""Plans, and the order statistics that some of them are made from.

A plan turns the magnitudes of one chunk of one tensor into a keep array. Strategies make plans, so this module imports
no NumPy.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING, Any

from prunecli.layout import SliceView
from prunecli.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from prunecli.kernels.ops import Array, Keep, Ops


@dataclass(frozen=True, slots=True)
class RankGroup:
    """Tensors that are ranked together, and the order statistics that are needed.

    `members` are indices into the list of tensors, `ranks` the 1-based ranks, ascending. `ties` says whether a cut may
    go through equal values, so that each member's number of them must be counted.
    """

    members: tuple[int, ...]
    ranks: tuple[int, ...]
    ties: bool = True


@dataclass(frozen=True, slots=True)
class OrderStatistic:
    """The `rank`-th smallest magnitude (1-based) of a group, with its neighbourhood.

    `value` is the statistic; `less` and `equal` are the numbers of smaller and equal magnitudes in the group. Per
    member: `cuts` is the smallest pattern of its dtype that is not below the statistic, `hits` whether that pattern
    equals it, `equals` how many of its weights do. Where all equal weights are pruned (rank = less + equal), `equals`
    may be None, for not counted.
    """

    rank: int
    value: float
    less: int
    equal: int
    cuts: tuple[int, ...]
    hits: tuple[bool, ...]
    equals: tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class Normalization:
    """How tensors of different scales are ranked together.

    `score` is "none", "l2", "rms" or "lamp"; `limits` are the smallest and the largest number of weights to prune in
    each tensor.
    """

    score: str
    limits: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Chunk:
    """A run of a tensor's elements in row-major order: `count` of them from element `start`.

    `take(n)` returns how many of the chunk's `n` weights equal to the cut are pruned, both numbers where the weights
    lie. Chunks are granted in order.
    """

    shape: tuple[int, ...]
    start: int
    count: int
    take: Callable[[int | Array], int | Array]


class TensorPlan:
    """The decision about one tensor, applied chunk by chunk."""

    __slots__ = ()

    @property
    def bounds(self) -> tuple[int, int] | None:
        """The largest pattern that may be pruned and the smallest that may be kept; None if they depend on more."""
        return None

    @property
    def value(self) -> float | None:
        """The computed cut in the units of the ranked values, for the report."""
        return None

    @property
    def asked(self) -> int | None:
        """The number of weights of a tensor without zeros that become zero, if the request has such a number."""
        return None

    @property
    def of_bias(self) -> TensorPlan:
        """The plan for a bias with an entry per output; plans for whole slices differ from it."""
        return self

    def reach(self, shape: tuple[int, ...], start: int, stop: int) -> tuple[int, int]:  # noqa: ARG002 - for subclasses
        """Return the range of elements that must be in one chunk to decide about [start, stop).

        By default it is [start, stop): each weight is decided alone or by its index. A plan that is computed after
        windows are laid out, from measured numbers or ranks, cannot widen it.
        """
        return start, stop

    @property
    def kind(self) -> Hashable | None:
        """What plans have in common that `stacked` can join; None if it joins none."""
        return None

    def stacked(self, plans: Sequence[TensorPlan]) -> TensorPlan:
        """Return the plan for tensors of one shape, as one tensor with a dimension more in front.

        `plans` are theirs, all of the kind of this one, which is the first of them.
        """
        raise NotImplementedError

    def keep(self, ops: Ops, y: Array, chunk: Chunk) -> Keep:
        """Return the keep array (all bits set = kept) for `y`, the chunk's magnitudes as integers."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Cut(TensorPlan):
    """Prune every magnitude below the pattern `bits`, and the first `ties` equal to it in row-major order.

    `bits` is 0 to one above the largest pattern of the dtype. For the report: `value` is the cut in the units of the
    ranked values, `equal` the number of weights equal to it, and `equal_pruned` how many of those are pruned. `last` is
    the position of the last of the `ties`, where it is known.
    """

    bits: int
    ties: int = 0
    equal: int | None = None
    equal_pruned: int | None = None
    value: float | None = None
    last: int | None = None

    @property
    def bounds(self) -> tuple[int, int]:
        """The largest pattern that may be pruned and the smallest that may be kept; with ties they are equal."""
        return (self.bits if self.ties else self.bits - 1), max(self.bits, 1)

    def keep(self, ops: Ops, y: Array, chunk: Chunk) -> Keep:
        """Return the keep array of the chunk's magnitudes `y`."""
        keep = ops.at_least(y, self.bits)
        if self.ties:  # torch.topk leaves the order of equals open; the lowest indices are pruned here
            ops.drop_first_equal(keep, y, self.bits, chunk.take(ops.count_equal(y, self.bits)))
        return keep


@dataclass(frozen=True, slots=True)
class KeepLargestOfGroup(TensorPlan):
    """Keep the `count` largest of each `group` consecutive weights along `dim`, which counts from the front.

    The tensor is seen as (outer, length, inner), with groups along the middle. Of a dimension that consists of several
    `parts`, each has groups of its own. `zero_tail` prunes a short last group.
    """

    count: int
    group: int
    dim: int
    zero_tail: bool
    parts: int = 1

    @property
    def kind(self) -> Hashable:
        """The plan itself."""
        return self

    def stacked(self, plans: Sequence[TensorPlan]) -> KeepLargestOfGroup:  # noqa: ARG002 - they are equal
        """Return the plan with the groups along the next dimension."""
        return replace(self, dim=self.dim + 1)

    def view(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Return `length` and `inner` of a tensor of this shape."""
        return shape[self.dim] // self.parts, prod(shape[self.dim + 1 :])

    def reach(self, shape: tuple[int, ...], start: int, stop: int) -> tuple[int, int]:
        """Return the range widened to whole groups."""
        # A group is `group * inner` consecutive elements, except that the last one ends with its slab.
        length, inner = self.view(shape)
        slab, unit = length * inner, self.group * inner
        first, last = start % slab, (stop - 1) % slab
        return start - first % unit, min(stop - 1 - last % unit + unit, stop - 1 - last + slab)

    def keep(self, ops: Ops, y: Array, chunk: Chunk) -> Keep:
        """Return the keep array of a chunk that starts and ends between groups."""
        length, inner = self.view(chunk.shape)
        keep = ops.keep_largest(y, chunk.start, length, inner, self.group, self.count)
        if self.zero_tail and length % self.group:
            ops.drop_from(keep, chunk.start, length, inner, length - length % self.group)
        return keep


@dataclass(frozen=True, slots=True)
class PruneSmallestOfRow(TensorPlan):
    """Prune the smallest weights of each row, which is a slice of `view`; of equals the lowest index first.

    `wanted(n)` returns how many of a row's `n` remaining weights to prune.
    """

    view: SliceView
    wanted: Callable[[int], int]

    @property
    def asked(self) -> int:
        """The number of weights that become zero in all rows together, if no weight is already pruned."""
        return self.view.total * self.wanted(self.view.size)

    @property
    def kind(self) -> Hashable:
        """The plan itself."""
        return self

    def stacked(self, plans: Sequence[TensorPlan]) -> PruneSmallestOfRow:
        """Return the plan for all rows."""
        return replace(self, view=_stacked(self.view, len(plans)))

    @property
    def rows_are_contiguous(self) -> bool:
        """Whether the weights of a row follow each other. If not, a `CutPerSlice` has to be made from this plan.

        Small tensors on a device need none.
        """
        return self.view.before == 1

    def reach(self, shape: tuple[int, ...], start: int, stop: int) -> tuple[int, int]:  # noqa: ARG002 - as the base
        """Return the range widened to whole rows."""
        unit = self.view.after if self.rows_are_contiguous else self.view.size * self.view.slices
        return start - start % unit, stop + -stop % unit

    def keep(self, ops: Ops, y: Array, chunk: Chunk) -> Keep:  # noqa: ARG002 - as the base
        """Return the keep array of whole rows."""
        if self.rows_are_contiguous:
            return ops.keep_rows(y, self.view.after, self.wanted)
        on_device: Any = ops
        return on_device.keep_slice_rows(y, self.view, self.wanted)


@dataclass(frozen=True, slots=True, eq=False)
class CutPerSlice(TensorPlan):
    """Prune the magnitudes below the cut of their slice of `view`, and the equals up to the position `limits`.

    `cuts` and `limits` are arrays with one number per slice.
    """

    view: SliceView
    cuts: Array
    limits: Array

    def keep(self, ops: Ops, y: Array, chunk: Chunk) -> Keep:
        """Return the keep array of the chunk's magnitudes `y`."""
        return ops.keep_above(y, chunk.start, self.view, self.cuts, self.limits)


@dataclass(frozen=True, slots=True)
class PruneSlices(TensorPlan):
    """Prune the slices of `view` whose byte in `alive` is 0. `value` is the largest norm of a pruned slice.

    `alive` are bytes, or lie on the device of the tensor.
    """

    view: SliceView
    alive: bytes | Array
    value: float | None = None

    @property
    def of_bias(self) -> PruneSlices:
        """The plan for a tensor with one entry per slice."""
        return replace(self, view=SliceView(1, 1, self.view.total, 1))

    @property
    def kind(self) -> Hashable | None:
        """The slices, if their flags are bytes."""
        return (PruneSlices, self.view) if isinstance(self.alive, bytes) else None

    def stacked(self, plans: Sequence[TensorPlan]) -> PruneSlices:
        """Return the plan for all slices."""
        alive = b"".join(plan.alive for plan in plans if isinstance(plan, PruneSlices))
        return replace(self, view=_stacked(self.view, len(plans)), alive=alive)

    def keep(self, ops: Ops, y: Array, chunk: Chunk) -> Keep:
        """Return the keep array of the chunk's magnitudes `y`."""
        return ops.keep_slices(y, chunk.start, self.view, self.alive)


@dataclass(frozen=True, slots=True)
class PruneBlocks(TensorPlan):
    """Prune blocks of the matrices of `view`: of its slices, and a column for each position in a slice.

    `block` is the (slices, columns) of a block; `alive` has one byte per block in row-major order, matrix by matrix, 0
    for a pruned one, as bytes or on the device of the tensor; `value` is the largest norm of a pruned block.
    """

    view: SliceView
    block: tuple[int, int]
    alive: bytes | Array
    value: float | None = None

    @property
    def kind(self) -> Hashable | None:
        """The blocks, if their flags are bytes."""
        return (PruneBlocks, self.view, self.block) if isinstance(self.alive, bytes) else None

    def stacked(self, plans: Sequence[TensorPlan]) -> PruneBlocks:
        """Return the plan for all blocks."""
        alive = b"".join(plan.alive for plan in plans if isinstance(plan, PruneBlocks))
        return replace(self, view=_stacked(self.view, len(plans)), alive=alive)

    def keep(self, ops: Ops, y: Array, chunk: Chunk) -> Keep:
        """Return the keep array of the chunk's magnitudes `y`."""
        return ops.keep_blocks(y, chunk.start, self.view, self.block, self.alive)


@dataclass(frozen=True, slots=True)
class Smallest:
    """The `count` slices of `view` of smallest Ln norm in each stack, or with `block` the blocks of such L2 norms."""

    view: SliceView
    count: int
    n: float = 2.0
    block: tuple[int, int] | None = None

    @property
    def number(self) -> int:
        """The number of norms."""
        if self.block is None:
            return self.view.total
        return self.view.stacks * -(-self.view.slices // self.block[0]) * -(-self.view.size // self.block[1])

    def plan(self, alive: bytes | Array, value: float | None) -> PruneSlices | PruneBlocks:
        """Return the plan from the flags of what survives, and the largest norm of what is pruned."""
        if self.block is None:
            return PruneSlices(self.view, alive, value)
        return PruneBlocks(self.view, self.block, alive, value)


def _stacked(view: SliceView, count: int) -> SliceView:
    """Return the view of `count` tensors that follow each other."""
    return replace(view, stacks=view.stacks * count)


def without_masks(plan: TensorPlan) -> TensorPlan:
    """Return the plan without its numbers of slices or blocks. Reports need none, and plans live as long as the run."""
    if isinstance(plan, CutPerSlice):
        return replace(plan, cuts=None, limits=None)
    return replace(plan, alive=b"") if isinstance(plan, (PruneSlices, PruneBlocks)) else plan
