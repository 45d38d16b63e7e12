"""What `prune check` counts in one tensor, run by run in constant memory: zeros, what is not finite, and full groups.

Takes a function that reads runs of a tensor as integers; knows nothing about files, names or conditions.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from prunecli.dtypes import FLOATS
from prunecli.kernels.groups import nonzeros_per_group
from prunecli.kernels.numpy_ops import NumpyOps

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from prunecli.checkpoint import TensorInfo
    from prunecli.kernels.ops import Read

RUN = 1 << 18
"""Elements looked at at once: their flags stay in a core's cache."""


@dataclass(frozen=True, slots=True)
class Found:
    """What was counted in a tensor; `first_odd` is the row-major place of the first entry that is not finite."""

    zeros: int
    nonfinite: int
    first_odd: int | None


def count(ops: NumpyOps, tensor: TensorInfo, read: Read) -> Found:
    """Count the zeros (of either sign) and the entries that are NaN or infinite."""
    dtype = FLOATS[tensor.dtype]
    zeros = nonfinite = 0
    first: int | None = None
    for at in range(0, tensor.numel, RUN):
        y = ops.magnitudes(read(at, min(at + RUN, tensor.numel)), dtype)
        zeros += y.size - int(np.count_nonzero(y))
        if int(y.max()) > dtype.finite_max:
            odd = y > dtype.finite_max
            nonfinite += int(np.count_nonzero(odd))
            first = at + int(odd.argmax()) if first is None else first
    return Found(zeros, nonfinite, first)


# --- groups


@dataclass(frozen=True, slots=True)
class Full:
    """Groups with too many non-zeros: how many of all `groups`, and of the first, in row-major order, where it begins.

    `place` is the row-major place of its first entry, `nonzeros` what it has; both are None where `full` is 0.
    """

    groups: int
    full: int
    place: int | None = None
    nonzeros: int | None = None


@dataclass(frozen=True, slots=True)
class _Block:
    """Whole groups to look at: `rows` of `width` entries in each of `slabs`, from the row-major place `start`.

    Rows are `stride` entries apart. Several slabs, which follow each other, have all their rows in full width.
    """

    start: int
    slabs: int
    rows: int
    width: int
    stride: int


def full_groups(ops: NumpyOps, tensor: TensorInfo, read: Read, pattern: tuple[int, int], dim: int) -> Full:
    """Find the groups with too many non-zeros; `pattern` (2, 4) allows 2 of every 4 along `dim`, from the front.

    A short last group of r entries may have min(2, r) non-zeros, as `topk` leaves them.
    """
    keep, group = pattern
    length, inner = tensor.shape[dim], prod(tensor.shape[dim + 1 :])
    groups = prod(tensor.shape[:dim]) * -(-length // group) * inner
    full, first = 0, None
    for block in _blocks(tensor.numel, length, inner, group):
        sums = _sums(ops, tensor, read, block, group)
        over = sums > keep
        if count := int(np.count_nonzero(over)):
            full += count
            slab, at, column = (int(i) for i in np.unravel_index(int(over.argmax()), over.shape))
            place = block.start + (slab * block.rows + at * group) * block.stride + column
            first = first or (place, int(sums[slab, at, column]))
    return Full(groups, full, *first) if first else Full(groups, 0)


def _blocks(numel: int, length: int, inner: int, group: int) -> Iterator[_Block]:
    """Cut an (outer, length, inner) array into blocks of at most a run, or of one group where that is longer."""
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
                here = start + row * inner + low
                yield _Block(here, 1, min(rows, length - row), min(RUN, inner - low), inner)


def _sums(ops: NumpyOps, tensor: TensorInfo, read: Read, block: _Block, group: int) -> NDArray[Any]:
    """Return the non-zeros of each group of a block, as (slabs, groups, width)."""
    size = block.slabs * block.rows * block.width
    if size <= RUN and block.width == block.stride:
        alive = _alive(ops, tensor, read, block.start, size)
        return nonzeros_per_group(alive.reshape(block.slabs, block.rows, block.width), group)
    # One group, too long or too wide to look at as a whole: its rows are added up, a few at a time.
    total = np.zeros(block.width, np.int32)
    step = max(RUN // block.width, 1) if block.width == block.stride else 1
    for row in range(0, block.rows, step):
        count = min(step, block.rows - row) * block.width
        total += _alive(ops, tensor, read, block.start + row * block.stride, count).reshape(-1, block.width).sum(axis=0)
    return total.reshape(1, 1, -1)


def _alive(ops: NumpyOps, tensor: TensorInfo, read: Read, start: int, size: int) -> NDArray[np.bool_]:
    flags: NDArray[np.bool_] = ops.magnitudes(read(start, start + size), FLOATS[tensor.dtype]) != 0
    return flags
