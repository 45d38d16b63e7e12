"""Bitwise comparison of pairs of tensors, read side by side in runs of constant size.

Entries are compared as integers, so a NaN equals itself and -0.0 differs from +0.0. Values are decoded only for runs
that differ.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from prunecli.dtypes import BITS, FLOATS
from prunecli.errors import Argument, CheckpointError
from prunecli.inspection.together import in_parts
from prunecli.io.reader import Reader, open_sources
from prunecli.io.scan import bytes_to_read
from prunecli.io.threads import Pool, Worker, default_threads, results
from prunecli.kernels.arrays import UINTS, arrays_of
from prunecli.kernels.backend import has_native
from prunecli.kernels.bit_patterns import values
from prunecli.kernels.changes import Changes, changes
from prunecli.kernels.numpy_ops import NumpyOps
from prunecli.kernels.scales import scale_values
from prunecli.progress import start
from prunecli.text.escape import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from prunecli.checkpoint import Checkpoint, TensorInfo
    from prunecli.inspection.pairing import Pair
    from prunecli.kernels.ops import Read
    from prunecli.progress import Progress

RUN = 1 << 18
"""Numbers that are compared at once, so that those of both sides fit into the cache of a core."""

PIECE = 1 << 24
"""Numbers of one job. Several threads compare the jobs of a large tensor."""

OVERLAP_LIMIT = 1 << 24
"""The largest number of entries of two views that overlap themselves, because they are expanded to compare them."""

_COMPLEX = {"C64": "F32", "C128": "F64"}


@dataclass(frozen=True, slots=True)
class Change:
    """The changes of one tensor's entries, from the first checkpoint to the second.

    Attributes:
        entries: The number of entries; an entry that both tensors repeat, as expanded views do, is compared once. For
            4- and 6-bit dtypes, `entries` and all counts are bytes.
        changed: The number of entries with another bit pattern.
        to_zero: The number of entries that became zero, of either sign, from another value.
        zero_signs: The number of zeros that changed their sign.
        largest: The largest finite |b - a| of the changed entries, or None if there is none.
        nonfinite: The number of changed entries whose difference is not finite.
        first: The row-major index of the first change.
        first_other: The row-major index of the first change after which the entry is not zero.
    """

    entries: int
    changed: int = 0
    to_zero: int = 0
    zero_signs: int = 0
    largest: float | None = None
    nonfinite: int = 0
    first: int | None = None
    first_other: int | None = None

    @property
    def otherwise(self) -> int:
        """The number of entries that changed to another value than zero."""
        return self.changed - self.to_zero - self.zero_signs


def compare(
    a: Checkpoint, b: Checkpoint, pairs: Sequence[Pair], *, threads: int = 0, progress: Progress | None = None
) -> dict[str, Change]:
    """Return the changes of each pair of a tensor of `a` and one of `b` with the same form, by name.

    `threads` 0 means the number that suits the machine. Raises CheckpointError if a file cannot be read or changes
    during the pass, or if two views overlap themselves too often.
    """
    alike = {pair.name: pair.alike for pair in pairs if pair.alike is not None}
    jobs = [(name, job) for name, tensors in alike.items() if tensors[0].numel for job in _jobs(*tensors)]
    # In the order of the file, so that the disk reads ahead.
    jobs.sort(key=lambda numbered: (numbered[1].a.file, numbered[1].a.start, numbered[1].low))

    def compute(positions: range) -> list[Change]:
        own = [jobs[position][1] for position in positions]
        advance = start(progress, "comparing", sum(_bytes_read(job) for job in own))
        with open_sources(a) as left, open_sources(b) as right:
            side = _SideBySide(Reader(left, advance), Reader(right, advance))
            with Pool(threads or default_threads(), None) as pool:
                changes = results([pool.submit(side.change, job) for job in own])
            for source in (*left, *right):
                source.check_unchanged()
        return changes

    changes = in_parts([a, b], [_bytes_read(job) for _, job in jobs], compute, Change)
    parts: dict[str, list[Change]] = {}
    for (name, _), change in zip(jobs, changes, strict=True):
        parts.setdefault(name, []).append(change)
    return {name: replace(_total(parts.get(name, [])), entries=_entries(first)) for name, (first, _) in alike.items()}


def _bytes_read(job: _Job) -> int:
    if job.high - job.low == job.a.numel:  # with the gaps inside
        return bytes_to_read([job.a, job.b])
    return (job.high - job.low) * (job.a.itemsize + job.b.itemsize)


def _entries(tensor: TensorInfo) -> int:
    return tensor.nbytes if BITS[tensor.dtype] % 8 else tensor.numel


def _total(parts: Sequence[Change]) -> Change:
    """Return the sum of the changes of a tensor's parts."""
    return Change(
        0,
        sum(part.changed for part in parts),
        sum(part.to_zero for part in parts),
        sum(part.zero_signs for part in parts),
        max((part.largest for part in parts if part.largest is not None), default=None),
        sum(part.nonfinite for part in parts),
        min((part.first for part in parts if part.first is not None), default=None),
        min((part.first_other for part in parts if part.first_other is not None), default=None),
    )


# --- two tensors as the same numbers in the same order


@dataclass(frozen=True, slots=True)
class _Job:
    """The range [low, high) of two tensors to compare; `parts` numbers make an entry, 2 for complex entries."""

    a: TensorInfo
    b: TensorInfo
    parts: int
    low: int
    high: int


def _jobs(a: TensorInfo, b: TensorInfo) -> Iterator[_Job]:
    """Yield the jobs of a pair. A tensor that is not contiguous is one job."""
    a, b = _without_repeats(a, b)
    parts = 1
    if half := _COMPLEX.get(a.dtype):
        a, b, parts = _split(a, half), _split(b, half), 2
    elif BITS[a.dtype] % 8:
        a, b = _bytes(a), _bytes(b)
    step = PIECE if a.contiguous and b.contiguous else a.numel
    for low in range(0, a.numel, step):
        yield _Job(a, b, parts, low, min(low + step, a.numel))


def _without_repeats(a: TensorInfo, b: TensorInfo) -> tuple[TensorInfo, TensorInfo]:
    """Reduce dimensions along which both tensors repeat their entries to length 1.

    An expanded view of a few bytes can have any number of entries.
    """
    if not (a.overlaps_itself and b.overlaps_itself):
        return a, b
    shape = tuple(n if s or t else 1 for n, s, t in zip(a.shape, a.strides, b.strides, strict=True))
    once = replace(a, shape=shape), replace(b, shape=shape)
    if once[0].numel > max(once[0].extent + once[1].extent, OVERLAP_LIMIT):
        raise CheckpointError(
            f"{printable(repr(a.name))} overlaps itself in both checkpoints, too often to be compared",
            hint=(Argument("exclude", [printable(a.name)]), " leaves it out"),
        )
    return once


def _split(tensor: TensorInfo, half: str) -> TensorInfo:
    """Return a complex tensor as a tensor of real and imaginary parts."""
    strides = (*(2 * stride for stride in tensor.strides), 1)
    return replace(tensor, dtype=half, shape=(*tensor.shape, 2), strides=strides, offset=2 * tensor.offset)


def _bytes(tensor: TensorInfo) -> TensorInfo:
    return replace(tensor, dtype="U8", shape=(tensor.nbytes,), strides=(1,), offset=0)


# --- one job


class _SideBySide:
    """Two checkpoints that a thread reads at once, each with its own buffer: a read overwrites the previous one."""

    def __init__(self, first: Reader, second: Reader) -> None:
        self._readers = first, second
        self._local = threading.local()

    def change(self, worker: Worker, job: _Job) -> Change:
        """Return the changes of a job."""
        second: Worker | None = getattr(self._local, "worker", None)
        if second is None:
            second = self._local.worker = Worker(None)
        left, right = self._readers[0].range_reader(worker, job.a), self._readers[1].range_reader(second, job.b)
        return _total(list(_changes(worker.host, job, arrays_of(left), arrays_of(right))))


def _changes(ops: NumpyOps, job: _Job, left: Read, right: Read) -> Iterator[Change]:
    """Yield the changes of each run that differs."""
    for low in range(job.low, job.high, RUN):
        high = min(low + RUN, job.high)
        x, y = left(low, high), right(low, high)
        if job.parts == 1 and job.a.dtype in FLOATS and has_native():
            yield _counted(changes(x, y, FLOATS[job.a.dtype]), low)
        elif not np.array_equal(x, y):
            yield _change(ops, job, low // job.parts, x.reshape(-1, job.parts), y.reshape(-1, job.parts))


def _counted(found: Changes, start: int) -> Change:
    """Return the changes of two runs of weights whose first entry has the index `start`."""
    return Change(
        0,
        found.changed,
        found.to_zero,
        found.zero_signs,
        found.largest if found.changed > found.nonfinite else None,
        found.nonfinite,
        None if found.first < 0 else start + found.first,
        None if found.first_other < 0 else start + found.first_other,
    )


def _change(ops: NumpyOps, job: _Job, start: int, x: NDArray[Any], y: NDArray[Any]) -> Change:
    """Return the changes of two runs of shape (entries, parts), whose first entry has the index `start`."""
    # Each row is one entry: a complex entry has changed if its real or its imaginary part has.
    indices = np.flatnonzero((x != y).any(axis=1) if job.parts > 1 else x != y)
    before, after = _values(ops, x[indices], job.a.dtype), _values(ops, y[indices], job.a.dtype)
    zero = (after == 0).all(axis=1)
    signs = zero & (before == 0).all(axis=1)
    with np.errstate(over="ignore", invalid="ignore"):
        sizes = np.hypot.reduce(after - before, axis=1, initial=0.0)
    finite = sizes[np.isfinite(sizes)]
    others = indices[~zero]
    return Change(
        0,
        indices.size,
        int(np.count_nonzero(zero & ~signs)),
        int(np.count_nonzero(signs)),
        float(finite.max()) if finite.size else None,
        indices.size - finite.size,
        start + int(indices[0]),
        start + int(others[0]) if others.size else None,
    )


def _values(ops: NumpyOps, x: NDArray[Any], dtype: str) -> NDArray[np.float64]:
    """Return the values of the bit patterns `x` as float64, in the same shape."""
    if dtype in FLOATS:
        sizes = values(ops.magnitudes(x.reshape(-1), FLOATS[dtype]), FLOATS[dtype]).reshape(x.shape)
        return np.where(x < 0, -sizes, sizes)
    if dtype == "F8_E8M0":
        return scale_values(x, dtype)
    numbers: NDArray[np.float64] = (x if dtype[0] == "I" else x.view(UINTS[x.itemsize])).astype(np.float64)
    return numbers
