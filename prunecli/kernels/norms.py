"""Norms of the slices and blocks of tensors.

Sums are in float64, because a sum in the weights' own type stops growing (in bfloat16 at 256 ones). Their order is that
of a fold (`prunecli.kernels.folds`), so that norms have the same bits in all backends:

- An Ln norm of a slice of a `SliceView` is the fold over the elements that follow each other in the slice (`after`),
  and then the fold of these results over `before`. L1 adds up magnitudes, L2 squares, and takes the root of the sum.
- The root mean square of a block is that of the fold over its slices (outputs) for each of its columns, and then the
  fold of these results over the columns. Column b * after + a of a matrix has the elements [s, b, :, a] of the view.

NaN counts as infinity. Weights are read in runs, most of them of up to RUN elements. Of weights on a device nothing is
fetched: results are a `Later`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from prunecli.kernels import folds
from prunecli.kernels.backend import has_native
from prunecli.kernels.folds import Fold, FoldKernels, Numbers
from prunecli.kernels.later import later
from prunecli.kernels.ops import is_tensor
from prunecli.kernels.pages import pages
from prunecli.kernels.views import block_grid
from prunecli.layout import SliceView

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from prunecli.kernels.later import Measured
    from prunecli.kernels.ops import Array


RUN = 1 << 18
"""Elements read at once, a power of two: threads seldom wait for each other, and a cache has space for them."""

COLUMNS_LIMIT = 1 << 20
"""Column sums of blocks that are held at once, where blocks do not lie in rows of the file."""

NORMS_LIMIT = 1 << 22
"""Norms of one tensor that are held on a device; more of them are fetched run by run."""

BINS_SHIFT, RANKED_AT_ONCE = 48, 1 << 20
"""More than RANKED_AT_ONCE norms are ranked by their leading 16 bits (>> BINS_SHIFT) first."""


def backend_of(numbers: Numbers) -> FoldKernels:
    """Return the functions that compute folds."""
    if numbers.kernels is not None:
        return numbers.kernels
    if not has_native():
        return folds
    from prunecli.kernels import native_folds  # noqa: PLC0415 - where there is the library

    return native_folds


def run_of(numbers: Numbers) -> int:
    """Return how many elements are read at once."""
    return numbers.run or RUN


def _host(array: Array) -> NDArray[np.float64]:
    """Return an array that may lie on a device as NumPy's."""
    found: NDArray[np.float64] = array if isinstance(array, np.ndarray) else array.cpu().numpy()
    return found


def slice_norms(numbers: Numbers, view: SliceView, n: float) -> Measured:
    """Return the Ln norm (n: 1, 2, inf or -inf) of each slice of `view`, shape (view.total,)."""
    if numbers.in_parts is not None:
        return numbers.in_parts.slice_norms(numbers, view, n)
    return later(_slice_folds(numbers, view, n), _roots if n == 2 else np.asarray)


def _roots(squares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the roots, which not all devices round exactly."""
    roots: NDArray[np.float64] = np.sqrt(squares, out=squares)
    return roots


def slice_folds(numbers: Numbers, view: SliceView, n: float) -> NDArray[np.float64]:
    """Return what the norm of each slice is computed from: for L2 the sum of squares, else the norm itself."""
    return _host(_slice_folds(numbers, view, n))


def _slice_folds(numbers: Numbers, view: SliceView, n: float) -> Array:
    """Return the same where the numbers lie."""
    if view.before == 1:  # the slices of all stacks follow each other
        view = SliceView(1, 1, view.total, view.after)
    size = view.size * view.slices
    norms = _memory(numbers, view.total).reshape(view.stacks, view.slices)
    with np.errstate(over="ignore"):
        if size <= run_of(numbers):
            _norms_of_small_stacks(numbers, view, n, norms)
        else:
            for at, out in enumerate(norms):
                _norms_of_stack(numbers.after(at * size), view, n, out)
    return norms.reshape(-1)


def _memory(numbers: Numbers, count: int) -> Array:
    """Return memory for `count` norms: where the numbers lie, or on the host for very many."""
    return np.empty(count) if numbers.kernels is None or count > NORMS_LIMIT else _sums(numbers, count)


def fold_rows(x: Array, numbers: Numbers, n: float, row: int) -> NDArray[np.float64]:
    """Return the fold of each row of `row` integers, as `numbers.read` returns them."""
    return _host(backend_of(numbers).fold(x, numbers, n, (len(x) // row, row, 1), row)).reshape(-1)


def _norms_of_small_stacks(numbers: Numbers, view: SliceView, n: float, norms: Array) -> None:
    """Store what the norms are computed from in `norms`, for stacks of which each is not longer than a run."""
    size = view.size * view.slices
    for first, stop in runs(view.stacks, run_of(numbers) // size):
        x, stacks = numbers.read(first * size, stop * size), replace(view, stacks=stop - first)
        norms[first:stop] = _like(norms, _norms_of_stacks(x, numbers, stacks, n))


def _norms_of_stacks(x: Array, numbers: Numbers, view: SliceView, n: float) -> Array:
    """Return the same for the integers `x` of whole stacks, shape (stacks, slices)."""
    compute, rows = backend_of(numbers), view.stacks * view.before * view.slices
    if view.after == 1:
        sums = compute.fold(x, numbers, n, (view.stacks, view.before, view.slices), view.before)
    else:
        sums = compute.fold(x, numbers, n, (rows, view.after, 1), view.after)
        if view.before > 1:
            sums = compute.fold_again(sums, n, (view.stacks, view.before, view.slices), view.before)
    return sums.reshape(view.stacks, view.slices)


def _norms_of_stack(numbers: Numbers, view: SliceView, n: float, norms: Array) -> None:
    """Store the same for the first stack in `norms`."""
    slab, joined = view.slices * view.after, Fold(n, None if isinstance(norms, np.ndarray) else numbers.kernels)
    at_once = _power_of_two(run_of(numbers) // slab)
    for first, stop in runs(view.before, at_once or 1):
        here = numbers.after(first * slab)
        if at_once:
            x, part = here.read(0, (stop - first) * slab), SliceView(1, stop - first, view.slices, view.after)
            sums = _norms_of_stacks(x, here, part, n)[0]
        else:
            sums = _norms_of_slab(here, view.slices, view.after, n)
        joined.add(_like(norms, sums))
    norms[...] = joined.result()


def _norms_of_slab(numbers: Numbers, slices: int, after: int, n: float) -> Array:
    """Return the same for `slices` rows of `after` elements."""
    compute, norms = backend_of(numbers), _memory(numbers, slices)
    if after <= run_of(numbers):
        for low, high in runs(slices, run_of(numbers) // after):
            rows = (high - low, after, 1)
            sums = compute.fold(numbers.read(low * after, high * after), numbers, n, rows, after)
            norms[low:high] = _like(norms, sums).reshape(-1)
        return norms
    for row in range(slices):
        joined = Fold(n, numbers.kernels)
        for first, stop in runs(after, run_of(numbers)):
            x, size = numbers.read(row * after + first, row * after + stop), stop - first
            joined.add(compute.fold(x, numbers, n, (1, size, 1), size).reshape(1))
        norms[row : row + 1] = _like(norms, joined.result())
    return norms


def block_norms(numbers: Numbers, view: SliceView, block: tuple[int, int]) -> Array:
    """Return the root mean square of each block of `view`, shape (stacks, bands, blocks of a band).

    Blocks are those of `prunecli.kernels.views.block_flags`. A block at an edge counts by the weights that it has. Of
    numbers on a device the squares are returned, which lie there; `smallest_norms` takes the roots.
    """
    if numbers.in_parts is not None:
        return numbers.in_parts.block_norms(numbers, view, block)
    grid, (high, wide) = block_grid(view, block), block
    if numbers.kernels is not None:  # the first folds of flat blocks take more memory
        numbers = replace(numbers, run=max(numbers.run * _power_of_two(min(high, 4)) // 4, 1))
    sums = _sums(numbers, grid[0] * grid[1] * grid[2]).reshape(grid)
    with np.errstate(over="ignore"):
        if view.before == 1 and view.slices % high == 0:  # no band has slices of two stacks
            _matrix_sums(numbers, (view.total, view.after), block, sums.reshape(-1, grid[2]))
        else:
            size = view.slices * view.size
            for at, out in enumerate(sums):
                _sums_of_stack(numbers.after(at * size), view, block, out)
        heights, widths = _lengths(view.slices, high), _lengths(view.size, wide)
        if numbers.kernels is not None:
            numbers.kernels.divide(sums, heights, widths)
            return sums
        even = view.slices % high == 0 and view.size % wide == 0
        for out in sums:
            for low, stop in runs(len(heights), max(1, RUN // len(widths))):
                part = out[low:stop]
                part /= high * wide if even else heights[low:stop, None] * widths
                np.sqrt(part, out=part)
    return sums


def _sums(numbers: Numbers, count: int) -> Array:
    """Return memory for sums: where the numbers lie."""
    return _large(count) if numbers.kernels is None else numbers.kernels.empty(numbers.read(0, 1), count)


def _like(out: Array, found: Array) -> Array:
    """Return an array that can be stored in `out`."""
    return (
        _host(found)
        if isinstance(out, np.ndarray)
        else out.new_tensor(found)
        if isinstance(found, np.ndarray)
        else found
    )


def _sums_of_stack(numbers: Numbers, view: SliceView, block: tuple[int, int], out: Array) -> None:
    """Store the sums of squares of the blocks of the first stack in `out` (bands, blocks of a band)."""
    if view.before == 1:
        _matrix_sums(numbers, (view.slices, view.after), block, out)
    elif view.after == 1:  # the matrix lies transposed in the file
        _matrix_sums(numbers, (view.before, view.slices), (block[1], block[0]), out.T, transposed=True)
    else:
        _sums_between_rows(numbers, view, block, out)


def _matrix_sums(
    numbers: Numbers,
    shape: tuple[int, int],
    block: tuple[int, int],
    out: Array,
    *,
    transposed: bool = False,
) -> None:
    """Store the sums of the blocks of a matrix of the file; if it is `transposed`, rows of blocks are joined first."""
    compute, (rows, cols), (high, wide) = backend_of(numbers), shape, block
    at_once = 0 if transposed else run_of(numbers) // (high * cols)
    if at_once:
        whole = rows // high
        for first, stop in runs(whole, at_once):
            x = numbers.read(first * high * cols, stop * high * cols)
            out[first:stop] = _like(out, compute.fold_blocks(x, numbers, (stop - first, high, cols), wide))
        numbers, rows, out = numbers.after(whole * high * cols), rows % high, out[whole:]
    step = cols if cols <= run_of(numbers) else max(run_of(numbers) // wide * wide, wide)
    for left, right in runs(cols, step):
        columns = out[:, left // wide : -(-right // wide)]
        for first, stop, sums in _bands(numbers, rows, (cols, left, right), high, wide if transposed else 0):
            middle = (stop - first, right - left, 1)
            joined = sums if transposed else compute.fold_again(sums, 2.0, middle, wide)
            columns[first:stop] = _like(out, joined).reshape(stop - first, -1)


def _bands(
    numbers: Numbers, rows: int, columns: tuple[int, int, int], high: int, wide: int
) -> Iterator[tuple[int, int, Array]]:
    """Yield (first, stop, sums of columns) of the bands [first, stop) of `high` rows each; the last may be lower.

    `columns` are the length of a row, and the first and the last of the columns. If `wide` is not 0, each `wide`
    columns are joined first.
    """
    cols, left, right = columns
    width, whole = right - left, rows // high
    # Several bands are read at once where they follow each other in the file.
    at_once = run_of(numbers) // (high * width) if width == cols else 0
    for first, stop in runs(whole, at_once) if at_once else ():
        x = numbers.read(first * high * cols, stop * high * cols)
        yield first, stop, _joined_rows(x, numbers, (stop - first, high, width), wide)
    for band in range(whole if at_once else 0, -(-rows // high)):
        joined, height = Fold(2.0, numbers.kernels), min(high, rows - band * high)
        step = _power_of_two(run_of(numbers) // width) if width == cols else 1
        for first, stop in runs(height, step or 1):
            origin = (band * high + first) * cols + left
            x = numbers.read(origin, origin + (stop - first - 1) * cols + width)
            joined.add(_joined_rows(x, numbers, (1, stop - first, width), wide))
        yield band, band + 1, joined.result()


def _joined_rows(x: Array, numbers: Numbers, shape: folds.Shape, wide: int) -> Array:
    """Return the sums of squares over the middle of `shape`, of each column or of each `wide` columns."""
    compute, (outer, height, width) = backend_of(numbers), shape
    if not wide:
        return compute.fold(x, numbers, 2.0, shape, height)
    groups = compute.fold(x, numbers, 2.0, (outer * height, width, 1), wide)
    return compute.fold_again(groups, 2.0, (outer, height, -(-width // wide)), height)


def _sums_between_rows(numbers: Numbers, view: SliceView, block: tuple[int, int], out: Array) -> None:
    """Store the sums of blocks whose columns are neither rows nor columns of the file."""
    compute, (high, wide), slab = backend_of(numbers), block, view.slices * view.after
    for low, stop in runs(len(out), max(1, COLUMNS_LIMIT // view.size)):
        rows = min(stop * high, view.slices) - low * high
        columns = _memory(numbers, (stop - low) * view.size).reshape(stop - low, view.before, view.after)
        for before in range(view.before):
            here = numbers.after(before * slab + low * high * view.after)
            for first, end, sums in _bands(here, rows, (view.after, 0, view.after), high, 0):
                columns[first:end, before] = _like(columns, sums).reshape(-1, view.after)
        folded = compute.fold_again(columns, 2.0, (stop - low, view.size, 1), wide)
        out[low:stop] = _like(out, folded).reshape(stop - low, -1)


def _lengths(total: int, step: int) -> NDArray[np.int64]:
    """Return the lengths of the parts of `total` entries: `step`, and the rest at the end."""
    lengths: NDArray[np.int64] = np.diff(np.r_[np.arange(0, total, step), total])
    return lengths


def _power_of_two(number: int) -> int:
    """Return the largest power of two up to `number`, or 0."""
    return 1 << number.bit_length() - 1 if number else 0


def smallest_norms(norms: Array, k: int, alive: NDArray[np.bool_] | None = None) -> tuple[Any, float | None]:
    """Return a byte per norm, 0 for the `k` smallest and 1 for the others, and the largest of the `k` (None if k = 0).

    Among equals the first are pruned. Norms that are not `alive` are pruned already: their byte is 0, and they do not
    count in `k`. Norms on a device are squares, as `block_norms` returns them, all of which are alive; their flags lie
    there, too.
    """
    if is_tensor(norms):
        from prunecli.kernels import torch_folds  # noqa: PLC0415 - for devices only

        return torch_folds.smallest_roots(norms, k)
    already_pruned = 0
    if alive is not None:
        already_pruned = norms.size - int(np.count_nonzero(alive))
        norms = np.where(alive, norms, -1.0)
    if not k:
        return (norms >= 0).tobytes(), None
    if has_native():
        from prunecli.kernels import native_folds  # noqa: PLC0415 - where there is the library

        return native_folds.smallest_norms(np.ascontiguousarray(norms), already_pruned + k)
    return smallest_numbers(norms, already_pruned + k)


def smallest_numbers(norms: NDArray[np.float64], rank: int) -> tuple[bytes, float]:
    """Return a byte per norm, 0 for the `rank` smallest (1 or more) and else 1, and the largest of these.

    Of equals the first are the smallest. -1 is smaller than all norms, and the largest is none.
    """
    largest = _smallest(norms, rank)
    keep = (norms >= largest).astype(np.uint8)
    ties = rank - int(norms.size - np.count_nonzero(keep))
    keep[np.flatnonzero(norms == largest)[:ties]] = 0
    return keep.tobytes(), largest


def joined_flags(parts: Sequence[Any]) -> Any:  # noqa: ANN401 - as the parts
    """Return the flags of `smallest_norms` of several parts, one after the other."""
    if is_tensor(parts[0]):
        from prunecli.kernels import torch_folds  # noqa: PLC0415 - for devices only

        return torch_folds.joined_flags(parts)
    return b"".join(parts)


def _smallest(norms: NDArray[np.float64], rank: int) -> float:
    """Return the `rank`-th smallest (1-based) of `norms`, in little more memory; -1 is the only negative value."""
    if norms.size <= RANKED_AT_ONCE:
        return float(np.partition(norms, rank - 1)[rank - 1])
    # A partition copies its input, so only the norms with the leading bits of the wanted one are partitioned.
    parts = [norms[first:stop] for first, stop in runs(norms.size, RANKED_AT_ONCE)]
    counts = np.zeros(1 << 16, np.int64)
    for run in parts:
        counts += np.bincount(_leading(run), minlength=counts.size)
    ends = np.cumsum(counts)
    index = int(np.searchsorted(ends, rank))
    inside = np.concatenate([run[_leading(run) == index] for run in parts])
    rank_inside = rank - 1 - int(ends[index] - counts[index])
    return float(np.partition(inside, rank_inside)[rank_inside])


def _leading(norms: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the leading bits of norms, which order as the norms do; -1 (already pruned) becomes 0."""
    return np.asarray(np.maximum(norms.view(np.int64) >> BINS_SHIFT, -1) + 1)


def _large(count: int) -> NDArray[np.float64]:
    """Return an array in memory of its own."""
    return np.frombuffer(pages(max(8 * count, 1)), np.float64, count)


def runs(total: int, step: int) -> Iterator[tuple[int, int]]:
    """Yield the ends of runs of `step` of `total` elements; the last may be shorter."""
    for first in range(0, total, step):
        yield first, min(first + step, total)
