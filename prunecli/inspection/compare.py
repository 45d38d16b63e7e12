"""How the entries of two tensors differ, bit for bit, read side by side in runs of constant size.

Equal runs cost a comparison of integers and no arithmetic. Entries are told apart by their patterns, so that a NaN is
equal to itself and -0.0 is not +0.0. Knows nothing about names.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from prunecli.dtypes import BITS, FLOATS
from prunecli.errors import CheckpointError
from prunecli.io.reader import Reader, open_sources
from prunecli.io.threads import Pool, Worker, default_threads, results
from prunecli.kernels.bit_patterns import values
from prunecli.kernels.numpy_ops import NumpyOps
from prunecli.kernels.ops import UINTS
from prunecli.text.escape import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from prunecli.checkpoint import Checkpoint, TensorInfo
    from prunecli.kernels.ops import Read

    Pair = tuple[TensorInfo, TensorInfo]

RUN = 1 << 18
"""Numbers compared at once: those of both sides fit into a core's cache."""

PIECE = 1 << 24
"""Numbers of a tensor that one thread compares before another may take over."""

OVERLAP_LIMIT = 1 << 24
"""Entries that two views which overlap themselves may have, though they are not in the file: they are unfolded."""

_COMPLEX = {"C64": "F32", "C128": "F64"}
_E8M0_NAN, _E8M0_BIAS = 255, 127  # Open Compute Project, Microscaling Formats 1.0, section 5.4


@dataclass(frozen=True, slots=True)
class Change:
    """How one tensor's `entries` differ, from the first checkpoint to the second.

    `changed` have another pattern; `to_zero` of them are zero now, of either sign. `largest` is the largest |b - a|
    of them, in the tensor's own units, among those whose difference is finite; None where there is none, and
    `nonfinite` counts the others. `first` and `first_other` are row-major places: of the first change, and of the first
    that is not to zero. Where both tensors repeat entries, as expanded views do, each is compared once. 4- and 6-bit
    numbers are compared by the byte: then `entries` and all counts are bytes.
    """

    entries: int
    changed: int = 0
    to_zero: int = 0
    largest: float | None = None
    nonfinite: int = 0
    first: int | None = None
    first_other: int | None = None

    @property
    def otherwise(self) -> int:
        """How many entries changed to something else than zero."""
        return self.changed - self.to_zero


def compare(
    a: Checkpoint,
    b: Checkpoint,
    pairs: Sequence[Pair],
    *,
    threads: int = 0,
    advance: Callable[[int], None] = lambda _: None,
) -> list[Change]:
    """Return how each of `pairs`, a tensor of `a` and one of `b` with the same dtype and shape, differs.

    `threads` 0 takes as many as help; `advance` is told the bytes that were read. Raises CheckpointError where a file
    cannot be read or changes meanwhile, and where two views that overlap themselves cannot be paired up.
    """
    jobs = [(at, job) for at, pair in enumerate(pairs) if pair[0].numel for job in _jobs(*pair)]
    jobs.sort(key=lambda numbered: (numbered[1].a.file, numbered[1].a.start, numbered[1].low))
    with open_sources(a) as first, open_sources(b) as second:
        side = _SideBySide(Reader(first, advance), Reader(second, advance))
        with Pool(threads or default_threads(), None) as pool:
            found = results([pool.submit(side.change, job) for _, job in jobs])
        for source in (*first, *second):
            source.check_unchanged()
    parts: dict[int, list[Change]] = {}
    for (at, _), change in zip(jobs, found, strict=True):
        parts.setdefault(at, []).append(change)
    return [replace(_total(parts.get(at, [])), entries=_entries(pair[0])) for at, pair in enumerate(pairs)]


def _entries(tensor: TensorInfo) -> int:
    return tensor.nbytes if BITS[tensor.dtype] % 8 else tensor.numel


def _total(parts: Sequence[Change]) -> Change:
    """Put the pieces of a tensor together."""
    return Change(
        0,
        sum(part.changed for part in parts),
        sum(part.to_zero for part in parts),
        max((part.largest for part in parts if part.largest is not None), default=None),
        sum(part.nonfinite for part in parts),
        min((part.first for part in parts if part.first is not None), default=None),
        min((part.first_other for part in parts if part.first_other is not None), default=None),
    )


# --- two tensors as the same numbers in the same order


@dataclass(frozen=True, slots=True)
class _Job:
    """The numbers [low, high) of `a` and `b` to compare; `parts` of them, 2 where they are complex, make an entry."""

    a: TensorInfo
    b: TensorInfo
    parts: int
    low: int
    high: int


def _jobs(a: TensorInfo, b: TensorInfo) -> Iterator[_Job]:
    """Cut a pair into jobs for several threads; a tensor that is not contiguous stays whole."""
    a, b = _once(a, b)
    parts = 1
    if half := _COMPLEX.get(a.dtype):
        a, b, parts = _split(a, half), _split(b, half), 2
    elif BITS[a.dtype] % 8:
        a, b = _bytes(a), _bytes(b)
    step = PIECE if a.contiguous and b.contiguous else a.numel
    for low in range(0, a.numel, step):
        yield _Job(a, b, parts, low, min(low + step, a.numel))


def _once(a: TensorInfo, b: TensorInfo) -> Pair:
    """Leave out dimensions along which both repeat, as expanded views do: a few bytes can have any number of those."""
    if not (a.overlaps_itself and b.overlaps_itself):
        return a, b
    shape = tuple(n if s or t else 1 for n, s, t in zip(a.shape, a.strides, b.strides, strict=True))
    once = replace(a, shape=shape), replace(b, shape=shape)
    if once[0].numel > max(once[0].extent + once[1].extent, OVERLAP_LIMIT):
        raise CheckpointError(
            f"{printable(repr(a.name))} overlaps itself in both checkpoints, and too often to be compared",
            hint=f"-x '{printable(a.name)}' leaves it out",
        )
    return once


def _split(tensor: TensorInfo, half: str) -> TensorInfo:
    """Return a complex tensor as its real and imaginary parts."""
    strides = (*(2 * stride for stride in tensor.strides), 1)
    return replace(tensor, dtype=half, shape=(*tensor.shape, 2), strides=strides, offset=2 * tensor.offset)


def _bytes(tensor: TensorInfo) -> TensorInfo:
    return replace(tensor, dtype="U8", shape=(tensor.nbytes,), strides=(1,), offset=0)


# --- the work of a thread


class _SideBySide:
    """Reads two checkpoints at once: the second through memory of its own, as a read ends what the last one gave."""

    def __init__(self, first: Reader, second: Reader) -> None:
        self._readers = first, second
        self._local = threading.local()

    def change(self, worker: Worker, job: _Job) -> Change:
        """Compare a job's numbers, run by run."""
        other: Worker | None = getattr(self._local, "worker", None)
        if other is None:
            other = self._local.worker = Worker(None)
        left, right = self._readers[0].range_reader(worker, job.a), self._readers[1].range_reader(other, job.b)
        return _total(list(_changes(worker.host, job, left, right)))


def _changes(ops: NumpyOps, job: _Job, left: Read, right: Read) -> Iterator[Change]:
    """Yield how each run differs, where it does."""
    for at in range(job.low, job.high, RUN):
        high = min(at + RUN, job.high)
        x, y = left(at, high), right(at, high)
        if not np.array_equal(x, y):
            yield _change(ops, job, at // job.parts, x.reshape(-1, job.parts), y.reshape(-1, job.parts))


def _change(ops: NumpyOps, job: _Job, start: int, x: NDArray[Any], y: NDArray[Any]) -> Change:
    """Say how two runs, (entries, parts) from entry `start` on, differ."""
    at = np.flatnonzero((x != y).any(axis=1) if job.parts > 1 else x != y)
    before, after = _values(ops, x[at], job.a.dtype), _values(ops, y[at], job.a.dtype)
    to_zero = (after == 0).all(axis=1)
    with np.errstate(over="ignore", invalid="ignore"):
        sizes = np.hypot.reduce(after - before, axis=1, initial=0.0)
    sized = sizes[np.isfinite(sizes)]
    others = at[~to_zero]
    return Change(
        0,
        at.size,
        int(np.count_nonzero(to_zero)),
        float(sized.max()) if sized.size else None,
        at.size - sized.size,
        start + int(at[0]),
        start + int(others[0]) if others.size else None,
    )


def _values(ops: NumpyOps, x: NDArray[Any], dtype: str) -> NDArray[np.float64]:
    """Return the numbers that the patterns `x` stand for, in float64, in the shape of `x`."""
    if dtype in FLOATS:
        sizes = values(ops.magnitudes(x.reshape(-1), FLOATS[dtype]), FLOATS[dtype]).reshape(x.shape)
        return np.where(x < 0, -sizes, sizes)
    if dtype == "F8_E8M0":
        exponents = x.view(np.uint8).astype(np.float64)
        return np.where(exponents == _E8M0_NAN, np.nan, np.exp2(exponents - _E8M0_BIAS))
    numbers: NDArray[np.float64] = (x if dtype[0] == "I" else x.view(UINTS[x.itemsize])).astype(np.float64)
    return numbers
