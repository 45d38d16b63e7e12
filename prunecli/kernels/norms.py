"""Numbers about whole tensors and their slices and tiles, in float64, from weights read run by run.

The runs are cut by the tensor's shape alone, never by how much is read at once elsewhere, and summed by NumPy: its
order does not depend on the CPU, as that of BLAS does. So norms come out with the same bits. NaN makes one infinite.
"""

from __future__ import annotations

import mmap
from math import fsum, prod, sqrt
from typing import TYPE_CHECKING, Any

import numpy as np

from prunecli.kernels.bit_patterns import values
from prunecli.kernels.ops import Values

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from prunecli.dtypes import Float


_SMALLER = 2.0**-600

RUN = 1 << 18
"""Elements looked at together: enough that threads seldom wait for each other, few enough to stay near the cache."""

NARROW = 32
"""Tiles narrower than this are summed column by column: a sum over few entries costs more than its work."""

BINS_SHIFT, RANKED_AT_ONCE = 48, 1 << 20
"""Norms in memory are ranked by their leading 16 bits first, where there are more than so many."""


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
    if numel * max(squares) > 1e290:  # the squares of weights beyond 1e145 are no float64 any more
        return standard_deviation(read, numel, scale=_SMALLER) / _SMALLER
    return sqrt(max(fsum(squares) - fsum(sums) ** 2 / count, 0.0) / (count - 1))


def slice_norms(read: Values, shape: tuple[int, ...], dim: int, n: float) -> NDArray[np.float64]:
    """Return the Ln norm (n: 1, 2, inf or -inf) of each slice along `dim`, shape (shape[dim],)."""
    length, inner = shape[dim], prod(shape[dim + 1 :])
    reduce, start = _reduction(n), np.inf if n == -np.inf else 0.0
    with np.errstate(over="ignore"):
        if length * inner <= RUN:
            # Rows of whole slabs are added up first: a sum over a short inner axis costs more than its work.
            slab = np.full(length * inner, start)
            for first, stop in _runs(prod(shape), RUN // slab.size * slab.size):
                parts = _powers(read(first, stop), n).reshape(-1, slab.size)
                reduce(slab, reduce.reduce(parts, axis=0), out=slab)
            norms: NDArray[np.float64] = reduce.reduce(slab.reshape(length, inner), axis=1)
        else:
            norms = np.full(length, start)
            for low, high, first, stop in _slice_runs(prod(shape), length, inner):
                parts = _powers(read(first, stop), n).reshape(high - low, -1)
                reduce(norms[low:high], reduce.reduce(parts, axis=1), out=norms[low:high])
    norms[np.isnan(norms)] = np.inf
    return np.sqrt(norms, out=norms) if n == 2 else norms


def _slice_runs(numel: int, length: int, inner: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield (low, high, first, stop): runs of elements [first, stop) of the slices [low, high) of one slab.

    A run holds whole slices, or a part of one. Slabs are longer than a run.
    """
    for start in range(0, numel, length * inner):
        for low, high in _runs(length, max(1, RUN // inner)):
            at = start + low * inner
            yield from ((low, high, at + first, at + stop) for first, stop in _runs((high - low) * inner, RUN))


def block_norms(read: Values, shape: tuple[int, ...], tile: tuple[int, int]) -> NDArray[np.float64]:
    """Return the root mean square of each tile of the matrix (shape[0], the rest), edge tiles by what they have."""
    rows, cols, (high, wide) = shape[0], prod(shape[1:]), tile
    counts = np.diff(np.r_[np.arange(0, cols, wide), cols])
    means = _large(-(-rows // high) * len(counts)).reshape(-1, len(counts))
    with np.errstate(over="ignore"):
        for first, stop in _runs(len(means), max(1, RUN // (high * cols))):
            heights = np.minimum(rows - np.arange(first, stop) * high, high)
            sums = _across(_band_sums(read, first * high, min(stop * high, rows), cols, high), wide)
            np.sqrt(np.divide(sums, counts * heights[:, None], out=sums), out=means[first:stop])
    means[np.isnan(means)] = np.inf
    return means


def _band_sums(read: Values, first: int, stop: int, cols: int, high: int) -> NDArray[np.float64]:
    """Return the column sums of squares of each band of `high` rows of [first, stop), shape (bands, cols)."""
    bands = -(-(stop - first) // high)
    if bands > 1 and (stop - first) % high == 0:
        parts = _powers(read(first * cols, stop * cols), 2)
        together: NDArray[np.float64] = np.add.reduce(parts.reshape(-1, high, cols), axis=1)
        return together
    sums = np.zeros((bands, cols))
    for band, (low, end) in enumerate(_runs(stop - first, high)):
        for start, past in _runs((end - low) * cols, max(1, RUN // cols) * cols):
            at = (first + low) * cols
            sums[band] += np.add.reduce(_powers(read(at + start, at + past), 2).reshape(-1, cols), axis=0)
    return sums


def _across(sums: NDArray[np.float64], wide: int) -> NDArray[np.float64]:
    """Return the sums of each `wide` columns of (bands, cols), the last of what is left."""
    bands, cols = sums.shape
    whole = cols // wide * wide
    if wide >= NARROW or not whole:
        return np.asarray(np.add.reduceat(sums, np.arange(0, cols, wide), axis=1))
    found = np.zeros((bands, -(-cols // wide)))
    for column in range(wide):
        found[:, : whole // wide] += sums[:, column:whole:wide]
    if whole < cols:
        found[:, -1] = sums[:, whole:].sum(axis=1)
    return found


def smallest_norms(
    norms: NDArray[np.float64], k: int, alive: NDArray[np.bool_] | None = None
) -> tuple[bytes, float | None]:
    """Return a byte per norm, 0 for the `k` smallest (of equals the first), and the largest of those.

    What is not `alive` is 0 as well, and not counted in `k`.
    """
    stays = np.ones(norms.size, np.uint8)
    if alive is not None:
        stays[~alive] = 0
        norms = np.where(alive, norms, -1.0)
    gone = norms.size - int(np.count_nonzero(stays))
    if not k:
        return stays.tobytes(), None
    largest = _smallest(norms, gone + k)
    stays[norms < largest] = 0
    ties = gone + k - int(norms.size - np.count_nonzero(stays))
    stays[np.flatnonzero(norms == largest)[:ties]] = 0
    return stays.tobytes(), largest


def _smallest(norms: NDArray[np.float64], rank: int) -> float:
    """Return the `rank`-th smallest (1-based) of norms, of which only -1 may be negative, in little more memory."""
    if norms.size <= RANKED_AT_ONCE:
        return float(np.partition(norms, rank - 1)[rank - 1])
    runs = [norms[first:stop] for first, stop in _runs(norms.size, RANKED_AT_ONCE)]
    counts = np.zeros(1 << 16, np.int64)
    for run in runs:
        counts += np.bincount(_leading(run), minlength=counts.size)
    ends = np.cumsum(counts)
    at = int(np.searchsorted(ends, rank))
    inside = np.concatenate([run[_leading(run) == at] for run in runs])
    left = rank - 1 - int(ends[at] - counts[at])
    return float(np.partition(inside, left)[left])


def _leading(norms: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the leading bits of norms, in their order: patterns of floats are, and what is gone (-1) is 0."""
    return np.asarray(np.maximum(norms.view(np.int64) >> BINS_SHIFT, -1) + 1)


def _large(count: int) -> NDArray[np.float64]:
    """Return an array whose memory goes back to the system with it; an allocator would keep it for later."""
    return np.frombuffer(mmap.mmap(-1, max(8 * count, 1)), np.float64, count)


def _runs(total: int, step: int) -> Iterator[tuple[int, int]]:
    for first in range(0, total, step):
        yield first, min(first + step, total)


def magnitude_values(y: NDArray[Any], dtype: Float) -> NDArray[np.float64]:
    """Return the values of magnitude patterns, for norms: what is gone (-1) counts as zero."""
    gone = y < 0
    return values(np.where(gone, y.dtype.type(0), y), dtype) if gone.any() else values(y, dtype)


def _powers(found: NDArray[np.float64], n: float) -> NDArray[np.float64]:
    """Overwrite numbers by what is summed, or compared, for an Ln norm."""
    if n == 2:
        return np.square(found, out=found)
    np.abs(found, out=found)
    if n == -np.inf:
        found[np.isnan(found)] = np.inf
    return found


def _reduction(n: float) -> np.ufunc:
    return {np.inf: np.maximum, -np.inf: np.minimum}.get(n, np.add)
