"""The part of a tensor that a process has, as index arithmetic.

Along each dimension the part has some indices of the whole tensor, in ascending order, and it has the elements at all
combinations of them. So its own row-major order is that of the whole tensor.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from prunecli.checkpoint import row_major

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from prunecli.checkpoint import TensorInfo
    from prunecli.layout import SliceView

    Index = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class ViewPart:
    """The indices of a part along the four axes of a `SliceView`, and the view of the part itself."""

    whole: SliceView
    stacks: Index
    before: Index
    slices: Index
    after: Index

    @property
    def view(self) -> SliceView:
        """The same view of the part."""
        return type(self.whole)(len(self.stacks), len(self.before), len(self.slices), len(self.after))

    @property
    def numbers(self) -> Index:
        """The numbers of the part's slices among those of the whole tensor."""
        return (self.stacks[:, None] * self.whole.slices + self.slices).reshape(-1)

    @property
    def positions(self) -> Index:
        """The positions of the part's elements of a slice in the whole slice, ascending."""
        return (self.before[:, None] * self.whole.after + self.after).reshape(-1)

    @property
    def has_whole_slices(self) -> bool:
        """Whether the part has all elements of each of its slices."""
        return len(self.before) * len(self.after) == self.whole.size


@dataclass(frozen=True)
class Part:
    """The part of `tensor` that a process has.

    Attributes:
        tensor: The whole tensor.
        local: The part, in the memory of this process.
        indices: The indices of its elements along each dimension.
        counted: Whether this process counts it; another one does where both have the same part.
        placements: How the tensor is placed, in words.
    """

    tensor: TensorInfo
    local: TensorInfo
    indices: tuple[Index, ...]
    counted: bool
    placements: str = ""

    @cached_property
    def runs(self) -> tuple[Index, Index, Index]:
        """The runs of elements that follow each other in the whole tensor.

        They are ascending: the first element of each in the whole tensor, its length, and its first element in the
        part.
        """
        shape, strides = self.tensor.shape, row_major(self.tensor.shape)
        dim, inner = len(shape), 1
        while dim and len(self.indices[dim - 1]) == shape[dim - 1]:
            dim -= 1
            inner *= shape[dim]
        if not dim:
            starts, lengths = np.zeros(1, np.int64), np.array([inner])
        else:
            low, high = runs_of(self.indices[dim - 1])
            outer = np.zeros(1, np.int64)
            for index, stride in zip(self.indices[: dim - 1], strides[: dim - 1], strict=True):
                outer = np.add.outer(outer, index * stride).reshape(-1)
            starts = np.add.outer(outer, low * inner).reshape(-1)
            lengths = np.tile((high - low) * inner, len(outer))
        return starts, lengths, np.cumsum(lengths) - lengths

    @property
    def number_of_runs(self) -> int:
        """The number of `runs`, computed without them."""
        shape = self.tensor.shape
        cut = [dim for dim in range(len(shape)) if len(self.indices[dim]) < shape[dim]]
        if not cut:
            return 1
        return prod(len(index) for index in self.indices[: cut[-1]]) * len(runs_of(self.indices[cut[-1]])[0])

    def elements(self, places: Index) -> Index:
        """Return the row-major elements of the whole tensor at places of the part."""
        found = np.zeros(len(places), np.int64)
        coordinates = np.unravel_index(places, self.local.shape) if self.local.shape else ()
        for index, at, stride in zip(self.indices, coordinates, row_major(self.tensor.shape), strict=True):
            found += index[at] * stride
        return found

    def of_view(self, view: SliceView) -> ViewPart | None:
        """Return the indices along the axes of a view of the whole tensor; None if an axis cuts a sharded dimension."""
        shape, indices = list(self.tensor.shape), list(self.indices)
        axes = []
        for size in (view.stacks, view.before, view.slices, view.after):
            taken, index = 1, np.zeros(1, np.int64)
            while taken < size and shape:
                if taken * shape[0] > size and not _split(shape, indices, size // taken):
                    return None
                index = np.add.outer(index * shape[0], indices[0]).reshape(-1)
                taken *= shape[0]
                del shape[0], indices[0]
            if taken != size:
                return None
            axes.append(index)
        return ViewPart(view, *axes)


def _split(shape: list[int], indices: list[Index], first: int) -> bool:
    """Split the first dimension, of which nothing is missing, in two: of `first` indices, and the rest of them."""
    size = shape[0]
    if len(indices[0]) < size or not first or size % first:
        return False
    shape[:1], indices[:1] = [first, size // first], [np.arange(first), np.arange(size // first)]
    return True


def runs_of(index: Index) -> tuple[Index, Index]:
    """Return the runs [low, high) of numbers that follow each other in `index`, which is ascending."""
    ends = np.flatnonzero(np.diff(index) != 1)
    firsts = np.concatenate([np.zeros(min(len(index), 1), np.int64), ends + 1])
    lasts = np.concatenate([ends, np.full(min(len(index), 1), len(index) - 1, np.int64)])
    return index[firsts], index[lasts] + 1


def has_whole_groups(index: Index, size: int, group: int, parts: int = 1) -> bool:
    """Return whether `index` has all or none of each `group` neighbours of the numbers below `size`.

    Each of equal `parts` of the numbers has groups of its own.
    """
    length = size // parts
    part, place = np.divmod(index, length)
    per_part = -(-length // group)
    numbers, counts = np.unique(part * per_part + place // group, return_counts=True)
    return bool((counts == np.minimum(group, length - numbers % per_part * group)).all())
