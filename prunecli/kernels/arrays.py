"""NumPy arrays of integers, and the index arithmetic that several backends share."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from prunecli.kernels.ops import is_tensor
from prunecli.kernels.views import repeat_runs, runs_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from prunecli.kernels.ops import Array, Read

INTS: dict[int, np.dtype[Any]] = {1: np.dtype("i1"), 2: np.dtype("<i2"), 4: np.dtype("<i4"), 8: np.dtype("<i8")}
UINTS: dict[int, np.dtype[Any]] = {1: np.dtype("u1"), 2: np.dtype("<u2"), 4: np.dtype("<u4"), 8: np.dtype("<u8")}

PERIOD_LIMIT = 1 << 20
"""The places of elements in their groups repeat after a period; up to so many elements the places are cached."""

FLAT_GROUP_LIMIT = 16
"""Groups shorter than this are ranked by comparing shifted copies, longer ones by partitioning rows."""

KEPT_STEP = 1 << 20
"""Cached places are rounded up to a multiple of this many elements, so that chunks of similar size share one array."""


def as_array(array: Array) -> NDArray[Any]:
    """Return a NumPy array that shares the memory of one on the host: of a memoryview, or the array itself."""
    if isinstance(array, np.ndarray):
        return array
    if hasattr(array, "__array__"):  # what the compiled kernels rank as it is
        return np.asarray(array)
    return np.frombuffer(array, INTS[array.itemsize])


def arrays_of(read: Read) -> Callable[[int, int], NDArray[Any]]:
    """Return a function that reads what `read` does as NumPy arrays."""
    return lambda first, stop: as_array(read(first, stop))


def on_host(array: Array) -> NDArray[Any]:
    """Return an array as NumPy's, copied if it lies on a device."""
    return array.cpu().numpy() if is_tensor(array) else as_array(array)


def is_from(start: int, count: int, length: int, inner: int, first: int) -> NDArray[np.bool_]:
    """Return whether the middle index of each of `count` elements from `start` is `first` or more."""
    flags: NDArray[np.bool_] = repeat_runs(_middle_of_runs(start, count, length, inner) >= first, start, count, inner)
    return flags


def _middle_of_runs(start: int, count: int, length: int, inner: int) -> NDArray[np.int64]:
    first = start // inner
    return np.arange(first, first + runs_of(start, count, inner)) % length


def before_in_group(start: int, count: int, length: int, inner: int, group: int) -> NDArray[np.int8]:
    """Return how many members of its group precede each of `count` elements from `start`, as in `keep_largest`."""
    # The places repeat with every group, or with every slab where the last group of a slab is short.
    span = group if length % group == 0 else length
    period = span * inner
    if period > PERIOD_LIMIT:
        # Runs of `inner` elements have the same place, so no number of eight bytes is needed for each element.
        runs = (_middle_of_runs(start, count, length, inner) % group).astype(np.int8)
        return repeat_runs(runs, start, count, inner)
    places = _cached_places(-(-count // KEPT_STEP) * KEPT_STEP + period, span, inner, group)
    return places[start % period : start % period + count]


@lru_cache(maxsize=8)
def _cached_places(count: int, span: int, inner: int, group: int) -> NDArray[np.int8]:
    once = np.repeat((np.arange(span) % group).astype(np.int8), inner)
    return _cycle(once, count)


def _cycle(once: NDArray[np.int8], count: int) -> NDArray[np.int8]:
    # `np.resize` would make a list of all repetitions first.
    return np.tile(once, -(-count // once.size))[:count]


def slabs(start: int, count: int, length: int, inner: int) -> Iterator[tuple[slice, tuple[int, int, int]]]:
    """Yield parts of a run of an (outer, length, inner) array as (slice of the run, shape (slabs, rows, inner)).

    The run starts and ends between rows of `inner` elements. Whole slabs come together, parts of slabs alone.
    """
    slab, offset = length * inner, 0
    while offset < count:
        first = (start + offset) % slab
        whole = (count - offset) // slab if first == 0 else 0
        rows = length if whole else min(slab - first, count - offset) // inner
        size = max(whole, 1) * rows * inner
        yield slice(offset, offset + size), (max(whole, 1), rows, inner)
        offset += size
