"""The fold of numbers of which each process has some: see `prunecli.kernels.folds` for the order of a fold.

A node of level k and index i is the fold of the numbers [i << k, (i + 1) << k), as far as there are so many. Each
process folds the largest nodes of which it has all numbers; the nodes of all processes are then joined level by level.
So the result has the bits of the fold of all numbers, whatever process has which of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from prunecli.engine.sharded.parts import runs_of
from prunecli.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray


def nodes_of(low: int, high: int, length: int) -> Iterator[tuple[int, int]]:
    """Yield (level, index) of the largest nodes that together have the numbers [low, high) of `length`."""
    top = max(length - 1, 0).bit_length()
    end = 1 << top if high == length else high
    while low < high:
        level = top if not low else (low & -low).bit_length() - 1
        while low + (1 << level) > end:
            level -= 1
        yield level, low >> level
        low += 1 << level


def nodes_of_index(index: NDArray[np.int64], length: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield (level, index, low, high) of the nodes of an ascending index; `low` and `high` are places in it."""
    place = 0
    for low, high in zip(*(ends.tolist() for ends in runs_of(index)), strict=True):
        for level, number in nodes_of(low, high, length):
            count = min((number + 1) << level, length) - (number << level)
            yield level, number, place, place + count
            place += count


def joined(
    levels: NDArray[np.int64],
    indices: NDArray[np.int64],
    values: NDArray[np.float64],
    length: int,
    join: Callable[[Any, Any], Any],
) -> NDArray[np.float64]:
    """Return the fold of `length` numbers from its nodes: `values` has a row for each of them."""
    top = max(length - 1, 0).bit_length()
    index, value = indices[:0], values[:0]
    for level in range(top + 1):
        here = levels == level
        index, value = np.concatenate([index, indices[here]]), np.concatenate([value, values[here]])
        if level == top:
            break
        order = np.argsort(index)
        index, value = index[order], value[order]
        even = len(index) // 2 * 2
        alone = len(index) > even and index[-1] != (length - 1) >> level
        if alone or (index[0:even:2] + 1 != index[1:even:2]).any() or (index[0:even:2] % 2).any():
            raise CheckpointError("the parts of a tensor in several processes do not add up to all of it")
        with np.errstate(over="ignore", invalid="ignore"):
            pairs = join(value[0:even:2], value[1:even:2])
        value = np.concatenate([pairs, value[even:]])  # the last of an odd number stays as it is
        index = index[::2] >> 1
    if len(index) != 1:
        raise CheckpointError("the parts of a tensor in several processes do not add up to all of it")
    result: NDArray[np.float64] = value[0]
    return result
