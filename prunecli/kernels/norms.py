"""Standard deviations of tensors and norms of their slices and blocks.

Sums are in float64, because a sum in the weights' own type stops growing (in bfloat16 at 256 ones). Weights are read
in runs whose edges depend on the tensor's shape alone, and NumPy adds them up: unlike BLAS, its order of additions does
not depend on the CPU. So the norms have the same bits everywhere. NaN makes a norm infinite.
"""

from __future__ import annotations

import mmap
from math import fsum, sqrt
from typing import TYPE_CHECKING, Any

import numpy as np

from prunecli.kernels.bit_patterns import values
from prunecli.kernels.ops import Values
from prunecli.kernels.views import block_grid, block_numbers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from prunecli.dtypes import Float
    from prunecli.layout import SliceView


_SMALLER = 2.0**-600
"""A factor that brings any weight's square into the range of float64; a power of two, so it rounds nothing."""

RUN = 1 << 18
"""Elements read at once: enough that threads seldom wait for each other, few enough to stay near the cache."""

NARROW = 32
"""Blocks narrower than this are summed column by column: a reduction over few entries costs more than its additions."""

BINS_SHIFT, RANKED_AT_ONCE = 48, 1 << 20
"""More than RANKED_AT_ONCE norms are ranked by their leading 16 bits (>> BINS_SHIFT) first."""


def standard_deviation(read: Values, numel: int, *, scale: float = 1.0) -> float:
    """Return the standard deviation (n - 1 in the denominator) of the finite numbers times `scale`."""
    sums, squares, count = [], [], 0
    for first, stop in _runs(numel, RUN):
        weights = read(first, stop)
        with np.errstate(over="ignore", invalid="ignore"):
            if not np.isfinite(weights.sum()):
                weights = weights[np.isfinite(weights)]
            weights *= scale
            count += weights.size
            sums.append(float(weights.sum()))
            squares.append(float(np.square(weights, out=weights).sum()))
    if count < 2:
        return 0.0
    if numel * max(squares) > 1e290:  # the squares of weights beyond 1e145 overflow float64
        return standard_deviation(read, numel, scale=_SMALLER) / _SMALLER
    return sqrt(max(fsum(squares) - fsum(sums) ** 2 / count, 0.0) / (count - 1))


def slice_norms(read: Values, view: SliceView, n: float) -> NDArray[np.float64]:
    """Return the Ln norm (n: 1, 2, inf or -inf) of each slice of `view`, shape (view.total,)."""
    with np.errstate(over="ignore"):
        if view.before == 1:  # the slices of all stacks follow each other
            norms = _matrix_norms(read, 1, view.total, view.after, n)
        elif view.stacks == 1 or view.size * view.slices > RUN:
            size = view.size * view.slices
            parts = (
                _matrix_norms(_from(read, stack * size), view.before, view.slices, view.after, n)
                for stack in range(view.stacks)
            )
            norms = np.concatenate(list(parts))
        else:
            norms = _norms_of_small_stacks(read, view, n)
    norms[np.isnan(norms)] = np.inf  # NaN has no order: as infinity the slice is pruned last
    return np.sqrt(norms, out=norms) if n == 2 else norms


def _from(read: Values, origin: int) -> Values:
    return lambda first, stop: read(origin + first, origin + stop)


def _matrix_norms(read: Values, before: int, length: int, inner: int, n: float) -> NDArray[np.float64]:
    """Return what the norms of the `length` slices of one stack are computed from."""
    reduce, start = _reduction(n)
    if length * inner <= RUN:
        # Rows of whole slabs are added up first: a sum over a short inner axis costs more than its additions.
        slab = np.full(length * inner, start)
        for first, stop in _runs(before * slab.size, RUN // slab.size * slab.size):
            parts = _powers(read(first, stop), n).reshape(-1, slab.size)
            reduce(slab, reduce.reduce(parts, axis=0), out=slab)
        norms: NDArray[np.float64] = reduce.reduce(slab.reshape(length, inner), axis=1)
        return norms
    norms = np.full(length, start)
    for low, high, first, stop in _slice_runs(before * length * inner, length, inner):
        parts = _powers(read(first, stop), n).reshape(high - low, -1)
        reduce(norms[low:high], reduce.reduce(parts, axis=1), out=norms[low:high])
    return norms


def _norms_of_small_stacks(read: Values, view: SliceView, n: float) -> NDArray[np.float64]:
    """Return the same for several stacks, of which each is shorter than a run."""
    reduce, _ = _reduction(n)
    size, norms = view.size * view.slices, np.empty((view.stacks, view.slices))
    for first, stop in _runs(view.stacks, RUN // size):
        parts = _powers(read(first * size, stop * size), n).reshape(-1, view.before, view.slices * view.after)
        slabs = reduce.reduce(parts, axis=1).reshape(stop - first, view.slices, view.after)
        reduce.reduce(slabs, axis=2, out=norms[first:stop])
    return norms.reshape(-1)


def _reduction(n: float) -> tuple[np.ufunc, float]:
    """Return the operation that joins numbers of an Ln norm, and its neutral element."""
    return {np.inf: np.maximum, -np.inf: np.minimum}.get(n, np.add), np.inf if n == -np.inf else 0.0


def _slice_runs(numel: int, length: int, inner: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield (low, high, first, stop): runs of elements [first, stop) of the slices [low, high) of one slab.

    A run holds whole slices, or a part of one. Slabs are longer than a run.
    """
    for start in range(0, numel, length * inner):
        for low, high in _runs(length, max(1, RUN // inner)):
            origin = start + low * inner
            for first, stop in _runs((high - low) * inner, RUN):
                yield low, high, origin + first, origin + stop


def block_norms(read: Values, view: SliceView, block: tuple[int, int]) -> NDArray[np.float64]:
    """Return the root mean square of each block of `view`, shape (stacks, bands, blocks of a band).

    Blocks are those of `prunecli.kernels.views.block_flags`. A block at an edge counts by the weights that it has.
    """
    grid, (high, wide) = block_grid(view, block), block
    if view.before == 1 and (view.stacks == 1 or view.slices % high == 0):
        means = _matrix_blocks(read, view.total, view.after, high, wide).reshape(grid)
    elif view.after == 1 and (view.stacks == 1 or view.before % wide == 0):
        # The matrix lies transposed in the file.
        transposed = _matrix_blocks(read, view.stacks * view.before, view.slices, wide, high)
        means = transposed.reshape(view.stacks, -1, grid[1]).transpose(0, 2, 1)
    else:
        means = _any_blocks(read, view, block).reshape(grid)
    means[np.isnan(means)] = np.inf
    return means


def _matrix_blocks(read: Values, rows: int, cols: int, high: int, wide: int) -> NDArray[np.float64]:
    """Return the root mean squares of the blocks of a matrix, shape (bands, blocks of a band)."""
    counts = _lengths(cols, wide)
    means = _large(-(-rows // high) * len(counts)).reshape(-1, len(counts))
    with np.errstate(over="ignore"):
        for first, stop in _runs(len(means), max(1, RUN // (high * cols))):
            heights = np.minimum(rows - np.arange(first, stop) * high, high)
            sums = _column_groups(_band_sums(read, first * high, min(stop * high, rows), cols, high), wide)
            np.sqrt(np.divide(sums, counts * heights[:, None], out=sums), out=means[first:stop])
    return means


def _any_blocks(read: Values, view: SliceView, block: tuple[int, int]) -> NDArray[np.float64]:
    """Return the root mean squares of blocks that do not lie in rows of the file, element by element."""
    grid = block_grid(view, block)
    sums = _large(grid[0] * grid[1] * grid[2])
    with np.errstate(over="ignore"):
        for first, stop in _runs(view.total * view.size, RUN):
            np.add.at(sums, block_numbers(first, stop - first, view, block), _powers(read(first, stop), 2))
        for matrix in sums.reshape(grid):
            heights = _lengths(view.slices, block[0])[:, None]
            np.sqrt(np.divide(matrix, heights * _lengths(view.size, block[1]), out=matrix), out=matrix)
    return sums


def _lengths(total: int, step: int) -> NDArray[np.int64]:
    """Return the lengths of the parts of `total` entries: `step`, and the rest at the end."""
    lengths: NDArray[np.int64] = np.diff(np.r_[np.arange(0, total, step), total])
    return lengths


def _band_sums(read: Values, first: int, stop: int, cols: int, high: int) -> NDArray[np.float64]:
    """Return the column sums of squares of each band of `high` rows of [first, stop), shape (bands, cols)."""
    bands = -(-(stop - first) // high)
    if bands > 1 and (stop - first) % high == 0:
        parts = _powers(read(first * cols, stop * cols), 2)
        together: NDArray[np.float64] = np.add.reduce(parts.reshape(-1, high, cols), axis=1)
        return together
    sums = np.zeros((bands, cols))
    for band, (low, end) in enumerate(_runs(stop - first, high)):
        origin = (first + low) * cols
        for start, past in _runs((end - low) * cols, max(1, RUN // cols) * cols):
            parts = _powers(read(origin + start, origin + past), 2)
            sums[band] += np.add.reduce(parts.reshape(-1, cols), axis=0)
    return sums


def _column_groups(sums: NDArray[np.float64], wide: int) -> NDArray[np.float64]:
    """Return the sums of each `wide` columns of (bands, cols); the last group may be narrower."""
    bands, cols = sums.shape
    whole = cols // wide * wide
    if wide >= NARROW or not whole:
        return np.asarray(np.add.reduceat(sums, np.arange(0, cols, wide), axis=1))
    grouped = np.zeros((bands, -(-cols // wide)))
    for column in range(wide):
        grouped[:, : whole // wide] += sums[:, column:whole:wide]
    if whole < cols:
        grouped[:, -1] = sums[:, whole:].sum(axis=1)
    return grouped


def smallest_norms(
    norms: NDArray[np.float64], k: int, alive: NDArray[np.bool_] | None = None
) -> tuple[bytes, float | None]:
    """Return a byte per norm, 0 for the `k` smallest and 1 for the others, and the largest of the `k` (None if k = 0).

    Among equals the first are pruned. Norms that are not `alive` are pruned already: their byte is 0, and they do not
    count in `k`.
    """
    keep = np.ones(norms.size, np.uint8)
    if alive is not None:
        keep[~alive] = 0
        norms = np.where(alive, norms, -1.0)
    already_pruned = norms.size - int(np.count_nonzero(keep))
    if not k:
        return keep.tobytes(), None
    largest = _smallest(norms, already_pruned + k)
    keep[norms < largest] = 0
    ties = already_pruned + k - int(norms.size - np.count_nonzero(keep))
    keep[np.flatnonzero(norms == largest)[:ties]] = 0
    return keep.tobytes(), largest


def _smallest(norms: NDArray[np.float64], rank: int) -> float:
    """Return the `rank`-th smallest (1-based) of `norms`, in little more memory; -1 is the only negative value."""
    if norms.size <= RANKED_AT_ONCE:
        return float(np.partition(norms, rank - 1)[rank - 1])
    # A partition copies its input, so only the norms with the leading bits of the wanted one are partitioned.
    runs = [norms[first:stop] for first, stop in _runs(norms.size, RANKED_AT_ONCE)]
    counts = np.zeros(1 << 16, np.int64)
    for run in runs:
        counts += np.bincount(_leading(run), minlength=counts.size)
    ends = np.cumsum(counts)
    index = int(np.searchsorted(ends, rank))
    inside = np.concatenate([run[_leading(run) == index] for run in runs])
    rank_inside = rank - 1 - int(ends[index] - counts[index])
    return float(np.partition(inside, rank_inside)[rank_inside])


def _leading(norms: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the leading bits of norms, which order as the norms do; -1 (already pruned) becomes 0."""
    return np.asarray(np.maximum(norms.view(np.int64) >> BINS_SHIFT, -1) + 1)


def _large(count: int) -> NDArray[np.float64]:
    """Return an array whose memory goes back to the system when it is freed; an allocator could keep it."""
    return np.frombuffer(mmap.mmap(-1, max(8 * count, 1)), np.float64, count)


def _runs(total: int, step: int) -> Iterator[tuple[int, int]]:
    for first in range(0, total, step):
        yield first, min(first + step, total)


def magnitude_values(y: NDArray[Any], dtype: Float) -> NDArray[np.float64]:
    """Return the values of magnitude patterns; -1 (already pruned) counts as zero."""
    pruned = y < 0
    return values(np.where(pruned, y.dtype.type(0), y), dtype) if pruned.any() else values(y, dtype)


def _powers(weights: NDArray[np.float64], n: float) -> NDArray[np.float64]:
    """Overwrite `weights` with the numbers that an Ln norm adds up or compares."""
    if n == 2:
        return np.square(weights, out=weights)
    np.abs(weights, out=weights)
    if n == -np.inf:
        weights[np.isnan(weights)] = np.inf
    return weights
