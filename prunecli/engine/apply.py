"""The second phase of a run: read each window of a file, prune it, measure it, compute checksums, and write it."""

from __future__ import annotations

from dataclasses import dataclass, field
from threading import Condition, Event, Lock, get_ident
from typing import TYPE_CHECKING, Any

from prunecli.dtypes import FLOATS
from prunecli.engine.measure import statistics_of, stats_from
from prunecli.errors import CheckpointError, PruneError
from prunecli.io.crc32 import combine, crc32
from prunecli.io.layout import Layout, Piece, TargetRange, UntouchedRange, Window
from prunecli.io.reader import flat_native, gather, scatter, store_flat, view_elements
from prunecli.io.scales import ScaleReader
from prunecli.io.threads import Stopped
from prunecli.kernels.tally import Shared
from prunecli.plans import Chunk, without_masks
from prunecli.text.escape import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from prunecli.checkpoint import CheckpointFile, Checksum, TensorInfo
    from prunecli.engine.measure import TensorStats
    from prunecli.engine.scorers import Scorer
    from prunecli.formats.safetensors.mask_writer import MaskSink
    from prunecli.io.files import Input, Output
    from prunecli.io.threads import Worker
    from prunecli.kernels.ops import Array, Keep
    from prunecli.kernels.tally import Tally
    from prunecli.plans import TensorPlan


STRIDED_RUN = 1 << 22
"""The bytes of a run of a tensor that is not contiguous."""

MANY_PIECES = 4
"""In a window with this many pieces or more, the pieces are small: see `Worker.computing`."""


class TieBudget:
    """The number of weights equal to the cut of one tensor that are pruned, granted in the order of its pieces.

    Ties are broken by position in the checkpoint, and threads process pieces in any order: so a piece waits until all
    earlier pieces of its tensor have taken their share.
    """

    def __init__(self, ties: int, stopped: Event) -> None:
        """Grant `ties` in all; waiting ends early when `stopped` is set."""
        self._remaining, self._next = ties, 0
        self._stopped = stopped
        self._change = Condition()

    def take(self, ordinal: int, equal: int) -> int:
        """Return how many of the `equal` weights of piece number `ordinal` are pruned; waits for earlier pieces."""
        with self._change:
            while self._remaining and self._next != ordinal:
                if self._stopped.is_set():
                    raise Stopped
                self._change.wait(0.05)  # not for ever: a thread that failed does not notify
            granted = min(self._remaining, equal)
            self._remaining -= granted
            self._next += 1
            self._change.notify_all()
            return granted


@dataclass(frozen=True, slots=True)
class ApplyContext:
    """The inputs of an `Applier`.

    Attributes:
        targets: The tensors to prune.
        plans: Their plans by position; they are added during the run, before the windows that need them.
        sources: The open input files.
        stopped: Set when the run has failed and no thread should wait any more.
        advance: Called with the number of a file and a number of processed bytes.
        scorers: The scorers of targets that are not ranked by magnitude.
        masks: Receives the kept weights of each target, if a mask file is written.
        histograms: Whether to count magnitudes.
    """

    targets: Sequence[TensorInfo]
    plans: dict[int, TensorPlan]
    sources: Sequence[Input]
    stopped: Event
    advance: Callable[[int, int], None]
    scorers: Mapping[int, Scorer] = field(default_factory=dict)
    masks: MaskSink | None = None
    histograms: bool = False


@dataclass(frozen=True, slots=True)
class _Part:
    """The checksums of a part of a record, before and after."""

    start: int
    length: int
    before: int
    after: int


class Applier:
    """Applies the plans to the files of one checkpoint; `results` collects the measurements of each target."""

    def __init__(self, context: ApplyContext) -> None:
        """Start without results."""
        self.context = context
        self._by_file: dict[int, list[tuple[int, TensorInfo]]] = {}
        for index, tensor in enumerate(context.targets):
            if tensor.numel:
                self._by_file.setdefault(tensor.file, []).append((index, tensor))
        self._scales = ScaleReader(context.sources)
        self.results: dict[int, TensorStats] = {}
        self._budgets: dict[int, TieBudget] = {}
        self._tallies: dict[int, dict[int, Tally]] = {}
        self._shared: dict[int, Shared] = {}
        self._remaining: dict[int, int] = {}
        self._parts: dict[tuple[int, int], list[_Part]] = {}
        self._lock = Lock()

    def layout(self, number: int, file: CheckpointFile, *, window: int) -> Layout:
        """Return the layout of file `number`: the ranges of its targets, and the records whose checksum changes."""
        ranges = [self._range(index, tensor) for index, tensor in self._by_file.get(number, ())]
        # A record of which a byte changes is read whole, because its checksum covers all of its bytes.
        return Layout(file.size, ranges, [c.span for c in self.changed_checksums(number, file)], window=window)

    def _range(self, index: int, tensor: TensorInfo) -> TargetRange:
        def reach(first: int, stop: int) -> tuple[int, int]:
            # A plan that is missing when windows are laid out is made from numbers, and decides each weight alone.
            plan = self.context.plans.get(index)
            if plan is None or not tensor.contiguous:
                return first, stop
            return plan.reach(tensor.shape, first, stop)

        return TargetRange(tensor.start, tensor.end, index, tensor.itemsize, not tensor.contiguous, reach)

    def changed_checksums(self, number: int, file: CheckpointFile) -> list[Checksum]:
        """Return the checksums over bytes of a target of file `number`."""
        storages = {tensor.span for _, tensor in self._by_file.get(number, ())}
        return [checksum for checksum in file.checksums if checksum.span in storages]

    def copy(self, number: int, sink: Output | None, part: UntouchedRange) -> None:
        """Copy an untouched range of file `number`."""
        if sink is not None:
            sink.copy(self.context.sources[number], part.start, part.end)
        self.context.advance(number, part.end - part.start)

    def apply(
        self, worker: Worker, number: int, sink: Output | None, window: Window, checksums: Sequence[Checksum]
    ) -> None:
        """Read a window of file `number`, prune its pieces, and write it; `checksums` overlap the window."""
        view = worker.buffer(window.read_end - window.read_start)
        self.context.sources[number].read(view, window.read_start)
        own = view[window.start - window.read_start : window.end - window.read_start]
        parts = [(checksum, _overlap(window, checksum)) for checksum in checksums]
        # Computed now, because the pieces are pruned in place.
        before = [crc32(own[low:high]) for _, (low, high) in parts]
        with worker.computing(small=not self.context.scorers and len(window.pieces) >= MANY_PIECES):
            for piece in window.pieces:
                self._apply_piece(worker, view, window, piece)
        worker.wait()
        for (checksum, (low, high)), old in zip(parts, before, strict=True):
            part = _Part(window.start + low, high - low, old, crc32(own[low:high]))
            with self._lock:
                self._parts.setdefault((number, checksum.span.start), []).append(part)
        if sink is not None:
            sink.write(own, window.start)
        self.context.advance(number, len(own))

    def _apply_piece(self, worker: Worker, view: memoryview, window: Window, piece: Piece) -> None:
        tensor = self.context.targets[piece.target]
        try:
            elements = view_elements(view, tensor.start - window.read_start, tensor, piece.low, piece.high)
            if tensor.contiguous:
                flat = flat_native(elements, tensor)
                self._prune(worker, flat, piece, piece.low, slice(piece.first - piece.low, piece.stop - piece.low))
                store_flat(flat, elements)
            else:
                self._prune_strided(worker, elements, piece.target)
        except (PruneError, OSError, Stopped):
            raise
        except Exception as error:
            raise RuntimeError(f"while pruning tensor {tensor.name!r}") from error

    def _prune_strided(self, worker: Worker, view: NDArray[Any], target: int) -> None:
        """Prune a whole tensor that is not contiguous, in runs that are copied out of its `view` and back."""
        for run in self._strided_runs(target):
            flat = gather(view, run.first, run.stop)
            self._prune(worker, flat, run, run.first, slice(0, flat.size))
            scatter(flat, view, run.first)

    def _strided_runs(self, target: int) -> Iterator[Piece]:
        """Yield the row-major runs of a target, each with all elements that its plan needs to decide about it."""
        tensor, plan = self.context.targets[target], self.context.plans[target]
        first = ordinal = 0
        while first < tensor.numel:
            stop = min(first + STRIDED_RUN // tensor.value_size, tensor.numel)
            _, stop = plan.reach(tensor.shape, first, stop)
            yield Piece(target, first, stop, first, stop, ordinal)
            first, ordinal = stop, ordinal + 1

    def _prune(self, worker: Worker, x: NDArray[Any], piece: Piece, start: int, own: slice) -> None:
        """Prune the weights `x` (from row-major element `start`) in place, and measure those in the slice `own`."""
        context, ops = self.context, worker.ops
        tensor, plan = context.targets[piece.target], context.plans[piece.target]
        scorer = context.scorers.get(piece.target)
        weights = ops.load(x)
        if scorer is not None:
            y = ops.load(scorer.patterns(worker, piece.target, x, start))
        else:
            y = ops.magnitudes(weights, FLOATS[tensor.dtype])
        keep = plan.keep(ops, y, Chunk(tensor.shape, start, x.size, lambda equal: self._grant(worker, piece, equal)))
        if scorer is not None:
            ops.drop_pruned(keep, y)
        first, keep = start + (own.start or 0), ops.part(keep, own)
        if context.masks is not None:
            context.masks.write(piece.target, first, ops.as_flags(keep))
        self._apply_keep(worker, piece.target, x[own], weights[own], keep, first)
        self._finish(piece.target, x[own].size)

    def _apply_keep(self, worker: Worker, target: int, x: NDArray[Any], weights: Array, keep: Keep, first: int) -> None:
        """Prune the host integers `x`, from element `first`, which are `weights` on the device, and count them."""
        tensor, ops, tally = self.context.targets[target], worker.ops, self._tally(worker, target)
        if tensor.scale is None:
            tally.prune(weights, keep, first, write=True)
            ops.unload(weights, x)
        else:
            # Measured as products, which are the weights that the codes stand for.
            tally.add(ops.load(self._scales.magnitudes(worker, tensor, x, first, "values")), keep, first)
            ops.store_masked(weights, keep, x, FLOATS[tensor.dtype])

    def _grant(self, worker: Worker, piece: Piece, equal: int) -> int:
        with worker.waiting():  # the thread that it waits for may need the compute lock
            return self._budget(piece).take(piece.ordinal, equal)

    def _budget(self, piece: Piece) -> TieBudget:
        with self._lock:
            budget = self._budgets.get(piece.target)
            if budget is None:
                ties = getattr(self.context.plans[piece.target], "ties", 0)
                budget = self._budgets[piece.target] = TieBudget(ties, self.context.stopped)
            return budget

    def _tally(self, worker: Worker, target: int) -> Tally:
        """Return this thread's tally of a target: with one per thread, threads do not wait to count."""
        # Without the lock: `setdefault` is one step, and each thread has a key of its own.
        by_thread = self._tallies.setdefault(target, {})
        tally = by_thread.get(get_ident())
        if tally is None:
            tensor, plans = self.context.targets[target], self.context.plans
            bounds = None if target in self.context.scorers else plans[target].bounds
            statistics = statistics_of(tensor, bounds, histogram=self.context.histograms)
            shared = self._shared.setdefault(target, Shared())
            tally = by_thread[get_ident()] = worker.ops.tally(statistics, shared)
        return tally

    def _finish(self, target: int, count: int) -> None:
        """Record that `count` more weights of a target are done; after the last one, keep only its result."""
        with self._lock:
            self._remaining[target] = self._remaining.get(target, self.context.targets[target].numel) - count
            if self._remaining[target]:
                return
            first, *others = self._tallies.pop(target).values()
            del self._shared[target]
            # Plans live as long as the run, and a mask of blocks can be large.
            self.context.plans[target] = without_masks(self.context.plans[target])
        for tally in others:
            first.merge(tally)
        dtype = FLOATS[self.context.targets[target].value_dtype]
        self.results[target] = stats_from(first.counts(), dtype, histogram=self.context.histograms)

    def write_checksums(self, number: int, file: CheckpointFile, sink: Output | None) -> None:
        """Verify the old checksums of the records that changed, and write the new ones to `sink`, if there is one.

        Raises CheckpointError if a checksum of the input does not match its bytes.
        """
        for checksum in self.changed_checksums(number, file):
            before, after = _combined(self._parts[number, checksum.span.start])
            if before != checksum.value:
                raise CheckpointError(
                    f"{printable(str(file.path))} is damaged: the {checksum.span.length} bytes at offset "
                    f"{checksum.span.start} have the CRC-32 {before:08x}, and the file says {checksum.value:08x}",
                    hint="get a fresh copy; `unzip -t` names the damaged record",
                )
            if sink is not None:
                for place in checksum.places:
                    sink.write(memoryview(after.to_bytes(4, "little")), place)


def _overlap(window: Window, checksum: Checksum) -> tuple[int, int]:
    low = max(window.start, checksum.span.start) - window.start
    high = min(window.end, checksum.span.end) - window.start
    return low, high


def _combined(parts: Sequence[_Part]) -> tuple[int, int]:
    """Return the checksums before and after of parts that together cover a record."""
    before = after = 0
    for part in sorted(parts, key=lambda p: p.start):
        before = combine(before, part.before, part.length)
        after = combine(after, part.after, part.length)
    return before, after
