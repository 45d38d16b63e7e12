"""Pruning and measuring runs of tensors that lie in memory, in place: by the run of a file, and where tensors live."""

from __future__ import annotations

from dataclasses import field
from threading import Condition, Event, Lock, get_ident
from typing import TYPE_CHECKING, Any

from prunecli.dtypes import FLOATS
from prunecli.engine.measure import statistics_of, stats_from
from prunecli.engine.part import Part
from prunecli.errors import PruneError
from prunecli.io.layout import Piece
from prunecli.io.threads import Stopped
from prunecli.kernels.ops import Array, is_tensor
from prunecli.kernels.rows import Rows
from prunecli.kernels.tally import Shared
from prunecli.plans import Chunk, Cut, KeepLargestOfGroup, PruneBlocks, PruneSlices, without_masks
from prunecli.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from prunecli.checkpoint import TensorInfo
    from prunecli.engine.base_digests import BaseDigests
    from prunecli.engine.measure import TensorStats
    from prunecli.engine.scorers import Scorer
    from prunecli.formats.safetensors.mask_writer import MaskSink
    from prunecli.io.files import Input
    from prunecli.io.scales import ScaleReader
    from prunecli.io.threads import Worker
    from prunecli.kernels.ops import Keep, Ops
    from prunecli.kernels.tally import Counts, Statistics, Tally
    from prunecli.kernels.torch_many import ManyCounts
    from prunecli.plans import TensorPlan


WAITING_BYTES = 1 << 26
"""The bytes on devices of what was counted about tensors that were pruned together; with more they are fetched."""


class TieBudget:
    """The number of weights equal to the cut of one tensor that are pruned, granted in the order of its pieces.

    Ties are broken by position in the checkpoint, and threads process pieces in any order: so a piece waits until all
    earlier pieces of its tensor have taken their share.
    """

    def __init__(self, ties: int, stopped: Event) -> None:
        """Grant `ties` in all; waiting ends early when `stopped` is set."""
        self._remaining: Any = ties
        self._next = 0
        self._stopped = stopped
        self._change = Condition()

    def take(self, ordinal: int, equal: Array) -> Array:
        """Return how many of the `equal` weights of piece number `ordinal` are pruned; waits for earlier pieces.

        Numbers on a device stay there.
        """
        with self._change:
            while (is_tensor(self._remaining) or self._remaining) and self._next != ordinal:
                if self._stopped.is_set():
                    raise Stopped
                self._change.wait(0.05)  # not for ever: a thread that failed does not notify
            granted = equal.clamp(max=self._remaining) if is_tensor(equal) else min(self._remaining, equal)
            self._remaining = self._remaining - granted
            self._next += 1
            self._change.notify_all()
            return granted


class naming:  # noqa: N801 - a context manager; a class takes a third of the time of a generator
    """Raises an error that nothing expects with the name of the tensor that it is about."""

    __slots__ = ("_tensor",)

    def __init__(self, tensor: TensorInfo) -> None:
        """Name `tensor`."""
        self._tensor = tensor

    def __enter__(self) -> None:
        """Do nothing."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Raise RuntimeError for an error that nothing expects."""
        expected = error is None or isinstance(error, (PruneError, OSError, Stopped))
        if not expected and isinstance(error, Exception):
            raise RuntimeError(f"while pruning tensor {self._tensor.name!r}") from error


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
        base: Receives the weights before they are pruned, if their digests are needed.
        part: The targets and the bytes of this process.
    """

    targets: Sequence[TensorInfo]
    plans: dict[int, TensorPlan]
    sources: Sequence[Input]
    stopped: Event
    advance: Callable[[int, int], None]
    scorers: Mapping[int, Scorer] = field(default_factory=dict)
    masks: MaskSink | None = None
    histograms: bool = False
    base: BaseDigests | None = None
    part: Part = field(default_factory=Part)


def _scale_reader(context: ApplyContext) -> ScaleReader | None:
    """Return the reader of the scales of codes; None if no target holds codes."""
    if all(tensor.scale is None for tensor in context.targets):
        return None
    from prunecli.io.scales import ScaleReader  # noqa: PLC0415 - it needs NumPy

    return ScaleReader(context.sources)


class Pruner:
    """Prunes the targets of a run piece by piece; `results` collects the measurements of each target."""

    def __init__(self, context: ApplyContext) -> None:
        """Start without results."""
        self._unresolved: list[tuple[int, Any]] = []
        self._waiting: list[Any] = []
        self._many: list[tuple[Sequence[int], ManyCounts]] = []
        self._blocks = 0
        self.context = context
        self._scales = _scale_reader(context)
        self.results: dict[int, TensorStats] = {}
        self._budgets: dict[int, TieBudget] = {}
        self._tallies: dict[int, dict[int, Tally]] = {}
        self._shared: dict[int, Shared] = {}
        self._remaining: dict[int, int] = {}
        self._lock = Lock()

    def runs(self, target: int, size: int) -> Iterator[Piece]:
        """Yield the row-major runs of a target of about `size` bytes.

        Each has all elements that its plan needs to decide about it.
        """
        tensor, plan = self.context.targets[target], self.context.plans[target]
        numel, step, shape = tensor.numel, size // tensor.value_size, tensor.shape
        first = ordinal = 0
        while first < numel:
            stop = numel if numel - first <= step else plan.reach(shape, first, first + step)[1]
            yield Piece(target, first, stop, first, stop, ordinal)
            first, ordinal = stop, ordinal + 1

    def prune(self, worker: Worker, x: Array, piece: Piece, start: int, own: slice, *, write: bool = True) -> None:
        """Measure the weights `x` (from row-major element `start`) in the slice `own`, and with `write` prune them."""
        context, ops = self.context, worker.ops_of(x)
        tensor, plan = context.targets[piece.target], context.plans[piece.target]
        scorer = context.scorers.get(piece.target)
        weights = ops.load(x)
        count, first = len(x), start + (own.start or 0)
        keep = None
        if context.base is not None:
            context.base.add(worker, piece.target, first, x[own])
        if scorer is None and context.masks is None and is_tensor(weights) and len(x[own]) == count:
            keep = self._keep_on_device(worker, ops, weights, piece)
        if keep is None:
            y = self._ranked(worker, ops, x, weights, piece.target, start)
            chunk = Chunk(tensor.shape, start, count, lambda equal: self._grant(worker, piece, equal))
            keep = plan.keep(ops, y, chunk)
            if scorer is not None:
                ops.drop_pruned(keep, y)
            keep = ops.part(keep, own)
        if context.masks is not None:
            context.masks.write(piece.target, first, ops.as_flags(keep))
        tally = self._tally(ops, piece.target)
        if self._scales is None or tensor.scale is None:
            tally.prune(weights[own], keep, first, write=write)
            if write:
                ops.unload(weights[own], x[own])
        else:
            # Measured as products, which are the weights that the codes stand for.
            tally.add(ops.load(self._scales.magnitudes(worker, tensor, x[own], first, "values")), keep, first)
            if write:
                ops.store_masked(weights[own], keep, x[own], FLOATS[tensor.dtype])
        self._finish(piece.target, len(x[own]), late=is_tensor(weights))

    def _ranked(self, worker: Worker, ops: Ops, x: Array, weights: Array, target: int, start: int) -> Array:
        """Return what ranks the weights `x`, which are loaded as `weights`."""
        scorer = self.context.scorers.get(target)
        if scorer is None:
            return ops.magnitudes(weights, FLOATS[self.context.targets[target].dtype])
        if is_tensor(x):
            return scorer.on_device(worker, Rows((target,), x[None], start))[0]
        return ops.load(scorer.patterns(worker, target, x, start))

    def _keep_on_device(self, worker: Worker, ops: Any, weights: Array, piece: Piece) -> Keep | None:  # noqa: ANN401 - TorchOps
        """Return what survives as a rule that the kernels of a device apply in one pass; None if there is none."""
        tensor, plan = self.context.targets[piece.target], self.context.plans[piece.target]
        dtype = FLOATS[tensor.dtype]
        if isinstance(plan, KeepLargestOfGroup):
            return ops.groups(piece.first, len(weights), plan.view(tensor.shape), plan.group, plan.count)
        if isinstance(plan, (PruneSlices, PruneBlocks)):  # they decide by the position
            return plan.keep(ops, weights, Chunk(tensor.shape, piece.first, len(weights), lambda equal: equal))
        if not isinstance(plan, Cut):
            return None
        ties: Any = plan.ties
        if ties and len(weights) < tensor.numel:
            ties = self._grant(worker, piece, ops.equal_in_blocks(weights, dtype, plan.bits).sum())
        return ops.cut(weights, dtype, plan.bits, ties)

    def _grant(self, worker: Worker, piece: Piece, equal: int | Array) -> int | Array:
        with worker.waiting():  # the thread that it waits for may need the compute lock
            return self._budget(piece).take(piece.ordinal, equal)

    def _budget(self, piece: Piece) -> TieBudget:
        with self._lock:
            budget = self._budgets.get(piece.target)
            if budget is None:
                ties = getattr(self.context.plans[piece.target], "ties", 0)
                budget = self._budgets[piece.target] = TieBudget(ties, self.context.stopped)
            return budget

    def _tally(self, ops: Ops, target: int) -> Tally:
        """Return this thread's tally of a target: with one per thread, threads do not wait to count."""
        # Without the lock: `setdefault` is one step, and each thread has a key of its own.
        by_thread = self._tallies.setdefault(target, {})
        tally = by_thread.get(get_ident())
        if tally is None:
            bounds = None if target in self.context.scorers else self.context.plans[target].bounds
            shared = self._shared.setdefault(target, Shared())
            tally = by_thread[get_ident()] = ops.tally(self.statistics(target, bounds), shared)
        return tally

    def statistics(self, target: int, bounds: tuple[int, int] | None) -> Statistics:
        """Return what is counted about a target."""
        return statistics_of(self.context.targets[target], bounds, histogram=self.context.histograms)

    def size(self, target: int) -> int:
        """Return the number of weights of a target that are pruned here."""
        return self.context.targets[target].numel

    def _finish(self, target: int, count: int, *, late: bool) -> None:
        """Record that `count` more weights of a target are done; after the last one, keep only its result."""
        with self._lock:
            self._remaining[target] = self._remaining.get(target, self.size(target)) - count
            if self._remaining[target]:
                return
            first, *others = self._tallies.pop(target).values()
            shared = self._shared.pop(target)
            # Plans live as long as the run, and a mask of blocks can be large.
            self.context.plans[target] = without_masks(self.context.plans[target])
        for tally in others:
            first.merge(tally)
        self.close(target, first, shared, late=late)

    def close(self, target: int, tally: Tally, shared: Shared, *, late: bool) -> None:  # noqa: ARG002 - for subclasses
        """Keep the result of a target, whose weights are all done; `late` ones are still on a device."""
        if late:
            self._keep_late(target, tally)
        else:
            self.store(target, tally.counts())

    def _keep_late(self, target: int, tally: Any) -> None:  # noqa: ANN401 - TorchTally
        """Keep a tally whose numbers are on a device; those of several tensors are added up together."""
        from prunecli.kernels.torch_tally import WAITING, finish  # noqa: PLC0415 - for devices only

        with self._lock:
            self._unresolved.append((target, tally))
            self._waiting.append(tally)
            self._blocks += tally.waiting
            if self._blocks < WAITING:
                return
            full, self._waiting, self._blocks = self._waiting, [], 0
        finish(full)

    def store(self, target: int, counts: Counts) -> None:
        """Keep what was counted about a target."""
        dtype = FLOATS[self.context.targets[target].value_dtype]
        self.results[target] = stats_from(counts, dtype, histogram=self.context.histograms)

    def keep_many(self, targets: Sequence[int], counted: ManyCounts) -> None:
        """Keep what was counted about targets that were pruned together; it lies on a device."""
        with self._lock:
            self._many.append((targets, counted))
            for target in targets:
                self.context.plans[target] = without_masks(self.context.plans[target])
            if sum(each.numbers.nbytes for _, each in self._many) < WAITING_BYTES:
                return
            full, self._many = self._many, []
        self._resolve_many(full)

    def _resolve_many(self, many: Sequence[tuple[Sequence[int], ManyCounts]]) -> None:
        from prunecli.kernels.torch_tally import fetch_arrays  # noqa: PLC0415 - for devices only

        arrays = fetch_arrays([counted.numbers for _, counted in many])
        for (targets, counted), numbers in zip(many, arrays, strict=True):
            for target, counts in zip(targets, counted.of_each(numbers), strict=True):
                self.store(target, counts)

    def resolve(self) -> None:
        """Fetch the numbers that are still on devices, with one copy for each device."""
        if not self._unresolved and not self._many:
            return
        from prunecli.kernels.torch_tally import counts_of  # noqa: PLC0415 - for devices only

        self._resolve_many(self._many)
        tallies = [tally for _, tally in self._unresolved]
        for (target, _), counts in zip(self._unresolved, counts_of(tallies), strict=True):
            self.store(target, counts)
        self._unresolved, self._many = [], []
