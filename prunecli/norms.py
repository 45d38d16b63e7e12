"""Numbers about whole tensors and their slices and tiles, in float64, from weights read run by run.

The runs are cut by the tensor's shape alone, never by how much is read at once elsewhere, so that sums are taken in
one order and come out with the same bits everywhere. Weights that are not finite make a norm infinite.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable
from math import fsum, prod, sqrt
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from prunecli.ranking import values

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from prunecli.dtypes import Float

Read: TypeAlias = Callable[[int, int], "NDArray[Any]"]
"""Give the elements [first, stop) of a tensor, in row-major order, as integers; good until the next call."""

Values: TypeAlias = Callable[[int, int], "NDArray[np.float64]"]
"""Give the magnitudes [first, stop) of a tensor, or what replaces them, in row-major order: NaN as infinity."""

_SMALLER = 2.0**-600

RUN = 1 << 15
"""Elements looked at together: few enough that their float64 copies stay in the cache, and in the allocator's pool."""


def deviation(signed: Values, numel: int, *, scale: float = 1.0) -> float:
    """Return the standard deviation (n - 1 in the denominator) of the finite numbers of `signed` times `scale`."""
    sums, squares, count = [], [], 0
    for first, stop in _runs(numel, RUN):
        weights = signed(first, stop)
        weights = weights[np.isfinite(weights)] * scale
        count += weights.size
        with np.errstate(over="ignore", invalid="ignore"):
            sums.append(float(weights.sum()))
            squares.append(float(np.square(weights).sum()))
    if count < 2:
        return 0.0
    if numel * max(squares) > 1e290:  # the squares of weights beyond 1e145 are no float64 any more
        return deviation(signed, numel, scale=_SMALLER) / _SMALLER
    return sqrt(max(fsum(squares) - fsum(sums) ** 2 / count, 0.0) / (count - 1))


def slice_norms(read: Values, shape: tuple[int, ...], dim: int, n: float) -> NDArray[np.float64]:
    """Return the Ln norm (n: 1, 2, inf or -inf) of each slice along `dim`, shape (shape[dim],)."""
    length, inner = shape[dim], prod(shape[dim + 1 :])
    slab, reduce = length * inner, _reduction(n)
    norms = np.full(length, np.inf if n == -np.inf else 0.0)
    for start, low, high, first, stop in _slice_runs(prod(shape), length, inner):
        parts = _powers(read(start + first, start + stop), n)
        if slab <= RUN:
            parts = parts.reshape(-1, length, inner)
            with np.errstate(over="ignore"):
                norms = reduce(norms, reduce.reduce(reduce.reduce(parts, axis=2), axis=0))
        else:
            with np.errstate(over="ignore"):
                norms[low:high] = reduce(norms[low:high], reduce.reduce(parts.reshape(high - low, -1), axis=1))
    return np.sqrt(norms) if n == 2 else norms


def _slice_runs(numel: int, length: int, inner: int) -> Iterator[tuple[int, int, int, int, int]]:
    """Yield (start, low, high, first, stop): runs of elements [start + first, start + stop) of slices [low, high).

    A run holds whole slabs of all slices; where a slab is too long, some slices of one slab; or a part of one slice.
    """
    slab = length * inner
    if slab <= RUN:
        yield from ((first, 0, length, 0, stop - first) for first, stop in _runs(numel, RUN // slab * slab))
        return
    for start in range(0, numel, slab):
        for low, high in _runs(length, max(1, RUN // inner)):
            at = start + low * inner
            yield from ((at, low, high, first, stop) for first, stop in _runs((high - low) * inner, RUN))


def tile_norms(read: Values, shape: tuple[int, ...], tile: tuple[int, int]) -> NDArray[np.float64]:
    """Return the root mean square of each tile of the matrix (shape[0], the rest), edge tiles by what they have."""
    rows, cols, (high, wide) = shape[0], prod(shape[1:]), tile
    starts = np.arange(0, cols, wide)
    counts = np.diff(np.r_[starts, cols])
    means = _large(-(-rows // high) * len(starts)).reshape(-1, len(starts))
    together = max(1, RUN // (high * cols))
    for first, stop in _runs(len(means), together):
        heights = np.minimum(rows - np.arange(first, stop) * high, high)
        sums = _band_sums(read, first * high, min(stop * high, rows), cols, high)
        with np.errstate(over="ignore"):
            means[first:stop] = np.sqrt(np.add.reduceat(sums, starts, axis=1) / (counts * heights[:, None]))
    return means


def _band_sums(read: Values, first: int, stop: int, cols: int, high: int) -> NDArray[np.float64]:
    """Return the column sums of squares of each band of `high` rows of [first, stop), shape (bands, cols)."""
    sums = np.zeros((-(-(stop - first) // high), cols))
    with np.errstate(over="ignore"):
        if len(sums) > 1 and (stop - first) % high == 0:
            parts = _powers(read(first * cols, stop * cols), 2)
            together: NDArray[np.float64] = np.add.reduce(parts.reshape(-1, high, cols), axis=1)
            return together
        for band, (low, end) in enumerate(_runs(stop - first, high)):
            for start, past in _runs((end - low) * cols, max(1, RUN // cols) * cols):
                at = (first + low) * cols
                sums[band] += np.add.reduce(_powers(read(at + start, at + past), 2).reshape(-1, cols), axis=0)
    return sums


def weakest(norms: NDArray[np.float64], k: int, alive: NDArray[np.bool_] | None = None) -> tuple[bytes, float | None]:
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
    ranked = _large(norms.size)
    ranked[:] = norms
    ranked.partition(gone + k - 1)
    largest = ranked[gone + k - 1]
    stays[norms < largest] = 0
    ties = gone + k - int(norms.size - np.count_nonzero(stays))
    stays[np.flatnonzero(norms == largest)[:ties]] = 0
    return stays.tobytes(), float(largest)


def _large(count: int) -> NDArray[np.float64]:
    """Return an array whose memory goes back to the system with it; an allocator would keep it for later."""
    return np.frombuffer(mmap.mmap(-1, max(8 * count, 1)), np.float64, count)


def _runs(total: int, step: int) -> Iterator[tuple[int, int]]:
    for first in range(0, total, step):
        yield first, min(first + step, total)


def of_patterns(y: NDArray[Any], dtype: Float) -> NDArray[np.float64]:
    """Return the values of magnitude patterns, for norms: NaN counts as infinity, and what is gone (-1) as zero."""
    gone = y < 0
    found = values(np.where(gone, y.dtype.type(0), y), dtype) if gone.any() else values(y, dtype)
    found[np.isnan(found)] = np.inf
    return found


def _powers(found: NDArray[np.float64], n: float) -> NDArray[np.float64]:
    """Return what is summed, or compared, for an Ln norm."""
    with np.errstate(over="ignore"):
        return np.square(found) if n == 2 else found


def _reduction(n: float) -> np.ufunc:
    return {np.inf: np.maximum, -np.inf: np.minimum}.get(n, np.add)
