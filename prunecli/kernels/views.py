"""The slices and blocks of a tensor's elements: index arithmetic on a `SliceView`.

Elements are numbered in row-major order: element ((stack * before + b) * slices + slice) * after + a.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from prunecli.layout import SliceView


def of_elements(numbers: NDArray[Any], start: int, count: int, view: SliceView) -> NDArray[Any]:
    """Return the number of the slice of each of `count` elements from `start`; `numbers` has one per slice."""
    return repeat_runs(_of_runs(numbers, start, count, view), start, count, view.after)


def slice_flags(start: int, count: int, view: SliceView, alive: bytes) -> NDArray[np.int8]:
    """Return -1 (survives) or 0 for `count` elements from `start`; `alive` has a byte per slice, 0 for a pruned one."""
    return repeat_runs(_flags(_of_runs(np.frombuffer(alive, np.int8), start, count, view)), start, count, view.after)


def positions(elements: NDArray[np.int64], view: SliceView) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the number of the slice of each element, and its position in that slice."""
    runs, a = np.divmod(elements, view.after)
    rows, number = np.divmod(runs, view.slices)
    stack, b = np.divmod(rows, view.before)
    return stack * view.slices + number, b * view.after + a


def block_grid(view: SliceView, block: tuple[int, int]) -> tuple[int, int, int]:
    """Return the number of stacks, of bands of `block[0]` slices, and of blocks of `block[1]` columns in a band."""
    return view.stacks, -(-view.slices // block[0]), -(-view.size // block[1])


def block_numbers(start: int, count: int, view: SliceView, block: tuple[int, int]) -> NDArray[np.int64]:
    """Return the number of the block of each of `count` elements from `start`, as `block_grid` orders them."""
    _, bands, wide = block_grid(view, block)
    number, column = positions(np.arange(start, start + count), view)
    stack, row = np.divmod(number, view.slices)
    numbers: NDArray[np.int64] = (stack * bands + row // block[0]) * wide + column // block[1]
    return numbers


def block_flags(start: int, count: int, view: SliceView, block: tuple[int, int], alive: bytes) -> NDArray[np.int8]:
    """Return -1 (survives) or 0 for `count` elements from `start`.

    Each stack is a matrix of its slices, with a column for each position in a slice. It is cut into blocks of `block`
    (slices, columns); `alive` has a byte per block, in the order of `block_grid`.
    """
    grid = np.frombuffer(alive, np.int8).reshape(block_grid(view, block))
    row = view.after if view.before == 1 else view.slices
    if (view.before > 1 and view.after > 1) or row > count:
        return _flags(grid.reshape(-1)[block_numbers(start, count, view, block)])
    # The rows of the file are the rows or the columns of the matrix.
    first, skipped = divmod(start, row)
    rows = np.arange(first, first + runs_of(start, count, row))
    if view.before == 1:
        picked, wide = grid[rows // view.slices, rows % view.slices // block[0]], block[1]
    else:
        picked, wide = grid[rows // view.before, :, rows % view.before // block[1]], block[0]
    return np.repeat(_flags(picked), wide, axis=1)[:, :row].reshape(-1)[skipped : skipped + count]


def _of_runs(numbers: NDArray[Any], start: int, count: int, view: SliceView) -> NDArray[Any]:
    """Return the number of each run of `after` elements that the elements touch."""
    first, length = start // view.after, runs_of(start, count, view.after)
    if view.before == 1:
        found: NDArray[Any] = numbers[first : first + length]
    elif view.stacks > 1:
        runs = np.arange(first, first + length)
        found = numbers[runs // (view.before * view.slices) * view.slices + runs % view.slices]
    else:
        found = _cycle(numbers, first % view.slices, length)
    return found


def _cycle(numbers: NDArray[Any], at: int, length: int) -> NDArray[Any]:
    """Return `length` entries from place `at` of `numbers`, repeated."""
    once = numbers[at : at + length]
    if len(once) == length:
        return once
    once = np.concatenate([once, numbers[: min(at, length - len(once))]])
    # `np.resize` would make a list of all repetitions first.
    repeated: NDArray[Any] = np.tile(once, -(-length // len(once)))[:length]
    return repeated


def repeat_runs(runs: NDArray[Any], start: int, count: int, inner: int) -> NDArray[Any]:
    """Return an entry for each of `count` elements from `start`; `runs` has one for each run of `inner` elements."""
    if inner == 1:
        return runs
    lengths = np.full(len(runs), inner)
    lengths[0] -= start % inner
    lengths[-1] -= lengths.sum() - count
    return np.repeat(runs, lengths)


def _flags(alive: NDArray[np.int8]) -> NDArray[np.int8]:
    flags: NDArray[np.int8] = -(alive != 0).astype(np.int8)
    return flags


def runs_of(start: int, count: int, inner: int) -> int:
    """Return the number of runs of `inner` elements that the `count` elements from `start` touch."""
    return (start + count - 1) // inner - start // inner + 1
