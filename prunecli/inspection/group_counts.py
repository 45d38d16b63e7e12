"""Counts of one tensor in constant memory: zeros, values that are not finite, and groups with too many non-zeros.

The functions take a reader of ranges of a tensor. They know nothing about files and names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from prunecli.dtypes import FLOATS
from prunecli.io.scan import chunks
from prunecli.kernels.below import count_below
from prunecli.kernels.overfull import count_overfull

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from prunecli.checkpoint import TensorInfo
    from prunecli.io.threads import Worker
    from prunecli.kernels.numpy_ops import NumpyOps
    from prunecli.kernels.ops import Read

RUN = 1 << 18
"""Elements that are read at once, so that their flags stay in the cache of a core."""


@dataclass(frozen=True, slots=True)
class TensorCounts:
    """Counts of a tensor; `first_nonfinite` is the row-major index of the first value that is NaN or infinite."""

    zeros: int
    nonfinite: int
    first_nonfinite: int | None


def count_weights(worker: Worker, tensor: TensorInfo, read: Read) -> TensorCounts:
    """Count the zeros (of either sign) and the values that are NaN or infinite of a floating-point tensor."""
    dtype = FLOATS[tensor.dtype]
    cuts = np.array([1, dtype.finite_max + 1], np.uint64)
    start = zeros = nonfinite = 0
    first: int | None = None
    for x in chunks(read, tensor):
        below, finite = count_below([x], cuts, dtype).tolist()
        if finite < x.size and first is None:
            first = start + int((worker.host.magnitudes(x, dtype) > dtype.finite_max).argmax())
        zeros += below
        nonfinite += x.size - finite
        start += x.size
    return TensorCounts(zeros, nonfinite, first)


# --- groups


@dataclass(frozen=True, slots=True)
class OverfullGroups:
    """The number of groups, and how many of them have too many non-zeros.

    `first` is the row-major index of the first entry of the first such group, and `nonzeros` is the group's number of
    non-zeros. Both are None if there is no such group.
    """

    groups: int
    overfull: int
    first: int | None = None
    nonzeros: int | None = None


@dataclass(frozen=True, slots=True)
class _Block:
    """Whole groups to count together: `rows` rows of `width` entries in each of `slabs` slabs.

    The first entry has the row-major index `start`, and rows are `stride` entries apart. Several slabs are contiguous
    and have all their rows in full width.
    """

    start: int
    slabs: int
    rows: int
    width: int
    stride: int


def count_overfull_groups(
    ops: NumpyOps, tensor: TensorInfo, read: Read, pattern: tuple[int, int], run: tuple[int, int]
) -> OverfullGroups:
    """Count the groups with too many non-zeros. The pattern (2, 4) allows 2 in every 4 entries of a run.

    A run is the length of a dimension, or of a part of it, and the elements between its entries. Its last group of
    r < 4 entries may have min(2, r) non-zeros, as after pruning with `TopK`.
    """
    length, inner = run
    groups = tensor.numel // (length * inner) * -(-length // pattern[1]) * inner
    overfull, first = 0, None
    for block in _blocks(tensor.numel, length, inner, pattern[1]):
        found, own = _in_block(ops, tensor, read, block, pattern)
        overfull, first = overfull + found, first or own
    return OverfullGroups(groups, overfull, *first) if first else OverfullGroups(groups, 0)


def _in_block(
    ops: NumpyOps, tensor: TensorInfo, read: Read, block: _Block, pattern: tuple[int, int]
) -> tuple[int, tuple[int, int] | None]:
    """Return the number of overfull groups of a block, and the first entry and the non-zeros of the first one."""
    keep, group = pattern
    dtype, size = FLOATS[tensor.dtype], block.slabs * block.rows * block.width
    if size > RUN or block.width < block.stride:
        sums = _sums(ops, tensor, read, block)
        full = np.flatnonzero(sums > keep)
        return full.size, (block.start + int(full[0]), int(sums[full[0]])) if full.size else None
    x = read(block.start, block.start + size)
    found, place = count_overfull(x, (block.slabs, block.rows, block.width), pattern, dtype)
    if place is None:
        return 0, None
    members = min(group, block.rows - place // block.width % block.rows)
    entries = x[place : place + members * block.width : block.width]
    return found, (block.start + place, int(np.count_nonzero(ops.magnitudes(entries, dtype))))


def _blocks(numel: int, length: int, inner: int, group: int) -> Iterator[_Block]:
    """Cut an (outer, length, inner) array into blocks of at most RUN entries, or of one group if that is larger."""
    slab = length * inner
    if slab <= RUN:
        step = max(RUN // slab, 1)
        for first in range(0, numel // slab, step):
            yield _Block(first * slab, min(step, numel // slab - first), length, inner, inner)
        return
    rows = max(RUN // (group * inner), 1) * group
    for start in range(0, numel, slab):
        for row in range(0, length, rows):
            for low in range(0, inner, RUN):
                first = start + row * inner + low
                yield _Block(first, 1, min(rows, length - row), min(RUN, inner - low), inner)


def _sums(ops: NumpyOps, tensor: TensorInfo, read: Read, block: _Block) -> NDArray[np.int32]:
    """Return the non-zeros of each group of a block, which is too long or too wide to be read at once.

    The block is one group in each column. Its rows are added up, a few at a time.
    """
    total = np.zeros(block.width, np.int32)
    step = max(RUN // block.width, 1) if block.width == block.stride else 1
    for row in range(0, block.rows, step):
        start, count = block.start + row * block.stride, min(step, block.rows - row) * block.width
        nonzero = ops.magnitudes(read(start, start + count), FLOATS[tensor.dtype]) != 0
        total += nonzero.reshape(-1, block.width).sum(axis=0)
    return total
