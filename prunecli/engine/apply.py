"""The second phase: every window of a file read, pruned, measured, checked and written, in one pass."""

from __future__ import annotations

import os
from bisect import bisect_right
from dataclasses import dataclass
from threading import Condition, Lock, get_ident
from typing import TYPE_CHECKING, Any
from zlib import crc32

from prunecli.dtypes import FLOATS
from prunecli.engine.measure import StatsCollector
from prunecli.errors import CheckpointError, PruneError
from prunecli.io.crc32 import combine
from prunecli.io.layout import Layout, TargetRange, UntouchedRange, Window
from prunecli.io.reader import flat_native, store_flat, view_elements
from prunecli.io.threads import Stopped
from prunecli.plans import Chunk, without_masks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from threading import Event

    from numpy.typing import NDArray

    from prunecli.checkpoint import CheckpointFile, Checksum, TensorInfo
    from prunecli.engine.measure import TensorStats
    from prunecli.engine.scorers import Scorer
    from prunecli.formats.safetensors.mask_writer import MaskSink
    from prunecli.io.files import Sink, Source
    from prunecli.io.layout import Piece
    from prunecli.io.threads import Worker
    from prunecli.plans import TensorPlan
    from prunecli.report.histogram import BeforeAfter


CROWD = 4
"""So many pieces in a window are small ones."""


class TieBudget:
    """How many equals of one tensor may still go, handed out in the order of its pieces."""

    def __init__(self, ties: int, stopped: Event) -> None:
        """Allow `ties`; waiting ends early when `stopped` is set."""
        self._left, self._next = ties, 0
        self._stopped = stopped
        self._change = Condition()

    def take(self, ordinal: int, equal: int) -> int:
        """Return how many of the `equal` weights of piece number `ordinal` may go; waits for the earlier pieces."""
        with self._change:
            while self._left and self._next != ordinal:
                if self._stopped.is_set():
                    raise Stopped
                self._change.wait(0.05)
            granted = min(self._left, equal)
            self._left -= granted
            self._next += 1
            self._change.notify_all()
            return granted


@dataclass(frozen=True, slots=True)
class TensorResult:
    """What was measured of a target: facts, and magnitudes where they were asked for."""

    facts: TensorStats
    histogram: BeforeAfter | None


@dataclass(frozen=True, slots=True)
class _Part:
    """The checksums of a part of a record, before and after."""

    start: int
    length: int
    before: int
    after: int


class Applier:
    """Applies the plans to the files of one checkpoint; `found` collects, per target, what was measured on the way."""

    def __init__(  # noqa: PLR0913 - what there is to know
        self,
        targets: Sequence[TensorInfo],
        plans: dict[int, TensorPlan],
        sources: Sequence[Source],
        stopped: Event,
        advance: Callable[[int, int], None],
        *,
        scorers: Mapping[int, Scorer] | None = None,
        masks: MaskSink | None = None,
        histograms: bool = False,
    ) -> None:
        """Take the targets, their plans (filled in while the work goes on), and whom to tell (file, bytes done).

        `scorers` say what is ranked of targets where that is not the magnitudes; `masks` are told what stays,
        and `histograms` of magnitudes are counted if asked for.
        """
        self.targets, self.plans, self.sources = targets, plans, sources
        self._scorers, self._masks, self._histograms = scorers or {}, masks, histograms
        self._stopped, self._advance = stopped, advance
        self._budgets: dict[int, TieBudget] = {}
        self._tallies: dict[int, dict[int, StatsCollector]] = {}
        self._left: dict[int, int] = {}
        self.found: dict[int, TensorResult] = {}
        self._parts: dict[tuple[int, int], list[_Part]] = {}
        self._lock = Lock()

    def layout(self, file: int, shape: CheckpointFile, *, window: int) -> Layout:
        """Cut a file up: the runs of its targets, and whole every record whose checksum will change."""
        runs = [self._run(at, t) for at, t in enumerate(self.targets) if t.file == file and t.numel]
        touched = [sum_.span for sum_ in self.touched(file, shape)]
        return Layout(shape.size, runs, touched, window=window)

    def _run(self, at: int, tensor: TensorInfo) -> TargetRange:
        def reach(first: int, stop: int) -> tuple[int, int]:
            plan = self.plans.get(at)
            if plan is None or not tensor.contiguous:
                return first, stop
            return plan.reach(tensor.shape, first, stop)

        return TargetRange(tensor.start, tensor.end, at, tensor.itemsize, not tensor.contiguous, reach)

    def touched(self, file: int, shape: CheckpointFile) -> list[Checksum]:
        """Return the checksums over bytes of a target."""
        storages = {t.span for t in self.targets if t.file == file and t.numel}
        return [checksum for checksum in shape.checksums if checksum.span in storages]

    def copy(self, file: int, sink: Sink | None, part: UntouchedRange) -> None:
        """Carry an untouched range over."""
        if sink is not None:
            sink.copy(self.sources[file], part.start, part.end)
        self._advance(file, part.end - part.start)

    def window(
        self, worker: Worker, file: int, sink: Sink | None, window: Window, checksums: Sequence[Checksum]
    ) -> None:
        """Read a window, prune its pieces, and write it."""
        view = worker.buffer(window.read_end - window.read_start)
        self.sources[file].read(view, window.read_start)
        own = view[window.start - window.read_start : window.end - window.read_start]
        parts = [(c, _overlap(window, c)) for c in checksums]
        before = [crc32(own[low:high]) for _, (low, high) in parts]
        with worker.computing(small=not self._scorers and len(window.pieces) >= CROWD):
            for piece in window.pieces:
                self._piece(worker, view, window, piece)
        for (checksum, (low, high)), old in zip(parts, before, strict=True):
            part = _Part(window.start + low, high - low, old, crc32(own[low:high]))
            with self._lock:
                self._parts.setdefault((file, checksum.span.start), []).append(part)
        if sink is not None:
            sink.write(own, window.start)
        self._advance(file, len(own))

    def _piece(self, worker: Worker, view: memoryview, window: Window, piece: Piece) -> None:
        tensor = self.targets[piece.target]
        try:
            raw = view_elements(view, tensor.start - window.read_start, tensor, piece.low, piece.high)
            flat = flat_native(raw, tensor)
            if tensor.contiguous:
                self._prune(worker, flat, piece, piece.low, slice(piece.first - piece.low, piece.stop - piece.low))
            else:
                self._prune(worker, flat, piece, 0, slice(0, flat.size))
            store_flat(flat, raw)
        except (PruneError, Stopped):
            raise
        except Exception as error:
            raise RuntimeError(f"while pruning tensor {tensor.name!r}") from error

    def _prune(self, worker: Worker, x: NDArray[Any], piece: Piece, start: int, own: slice) -> None:
        """Prune the weights `x` (from row-major element `start`) in place, and measure those in `own`."""
        tensor, plan = self.targets[piece.target], self.plans[piece.target]
        dtype, ops, host = FLOATS[tensor.dtype], worker.ops, worker.host
        squares = worker.squares.of(x[own], dtype)
        before = host.magnitudes(x, dtype)
        tile = Chunk(tensor.shape, start, x.size, lambda equal: self._grant(worker, piece, equal))
        scorer = self._scorers.get(piece.target)
        weights = x if ops is host else ops.load(x)
        if scorer is not None:
            y = ops.load(scorer.patterns(worker, piece.target, x, start))
        else:
            y = before if ops is host else ops.magnitudes(weights, dtype)
        keep = plan.keep(ops, y, tile)
        if scorer is not None:
            ops.drop_pruned(keep, y)
        if self._masks is not None:
            self._masks.write(piece.target, start + (own.start or 0), ops.as_flags(keep)[own])
        ops.store_masked(weights, keep, x)
        # The keep array was applied: its memory is free for the sums and for what is left.
        left = worker.squares.of(x[own], dtype)
        after = host.magnitudes(x[own], dtype, "keep")
        self._tally(piece.target).add(start + (own.start or 0), before[own], after, (squares, left))
        self._done(piece.target, after.size)

    def _grant(self, worker: Worker, piece: Piece, equal: int) -> int:
        with worker.waiting():
            return self._budget(piece).take(piece.ordinal, equal)

    def _budget(self, piece: Piece) -> TieBudget:
        with self._lock:
            budget = self._budgets.get(piece.target)
            if budget is None:
                ties = getattr(self.plans[piece.target], "ties", 0)
                budget = self._budgets[piece.target] = TieBudget(ties, self._stopped)
            return budget

    def _tally(self, target: int) -> StatsCollector:
        """Return this thread's tally of a target: threads do not wait for each other to count."""
        own = self._tallies.setdefault(target, {})
        tally = own.get(get_ident())
        if tally is None:
            tensor = self.targets[target]
            bounds = None if target in self._scorers else self.plans[target].bounds
            tally = own[get_ident()] = StatsCollector(
                tensor.shape, FLOATS[tensor.dtype], bounds, histogram=self._histograms
            )
        return tally

    def _done(self, target: int, count: int) -> None:
        """Note that so many weights of a target are done; what is known of it then takes less room than on the way."""
        with self._lock:
            self._left[target] = self._left.get(target, self.targets[target].numel) - count
            if self._left[target]:
                return
            first, *others = self._tallies.pop(target).values()
            self.plans[target] = without_masks(self.plans[target])
        for tally in others:
            first.merge(tally)
        self.found[target] = TensorResult(first.stats(), first.histogram())

    def repair(self, file: int, shape: CheckpointFile, fd: int | None) -> None:
        """Check the old checksums of the records that changed, and write the new ones to `fd`.

        Raises CheckpointError where the input's own checksum does not match its bytes.
        """
        for checksum in self.touched(file, shape):
            before, after = _combined(self._parts[file, checksum.span.start])
            if before != checksum.value:
                raise CheckpointError(
                    f"{shape.path} is damaged: the {checksum.span.length} bytes at offset {checksum.span.start} "
                    f"have the CRC-32 {before:08x}, and the file says {checksum.value:08x}",
                    hint="get a fresh copy; `unzip -t` names the damaged record",
                )
            for place in checksum.places if fd is not None else ():
                os.pwrite(fd, after.to_bytes(4, "little"), place)  # type: ignore[arg-type] # not None in here


def _overlap(window: Window, checksum: Checksum) -> tuple[int, int]:
    low = max(window.start, checksum.span.start) - window.start
    high = min(window.end, checksum.span.end) - window.start
    return low, high


def overlapping(window: Window, checksums: Sequence[Checksum]) -> Iterator[Checksum]:
    """Yield the checksums over bytes of the window; `checksums` are in file order and lie apart from each other."""
    first = bisect_right(checksums, window.start, key=_end)
    for at in range(first, len(checksums)):
        if checksums[at].span.start >= window.end:
            return
        yield checksums[at]


def _end(checksum: Checksum) -> int:
    return checksum.span.end


def _combined(parts: Sequence[_Part]) -> tuple[int, int]:
    """Return the checksums before and after of parts that together cover a record."""
    before = after = 0
    for part in sorted(parts, key=lambda p: p.start):
        before = combine(before, part.before, part.length)
        after = combine(after, part.after, part.length)
    return before, after
