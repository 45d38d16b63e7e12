"""Pruning tensors that lie in memory: the run of a file, with the tensors as input and output."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from prunecli.distributed.mesh_group import ExchangeError
from prunecli.engine.device_errors import device_problem
from prunecli.engine.pruner import Pruner, naming
from prunecli.engine.run import Run
from prunecli.engine.run_report import make_report
from prunecli.engine.together import (
    BATCH_BYTES,
    BATCH_WEIGHTS,
    SCORE_SHARE,
    kind_of,
    needs_no_memory,
    prune_together,
)
from prunecli.errors import DeviceError
from prunecli.formats.safetensors.mask_writer import MaskLayout, MaskSink
from prunecli.io.memory import TensorsInMemory
from prunecli.io.memory_reader import MemoryReader, copied, copy_back, on_host
from prunecli.io.threads import InlinePool, Pool, Tasks, Worker
from prunecli.kernels.torch_tables import MOST_TOGETHER
from prunecli.plans import PruneBlocks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from prunecli.checkpoint import TensorInfo
    from prunecli.engine.measure import TensorStats
    from prunecli.engine.options import RunOptions
    from prunecli.engine.planner import Batch
    from prunecli.engine.pruner import ApplyContext
    from prunecli.engine.sharded.memory import ShardedTensors
    from prunecli.engine.sharded.run import ShardedRun
    from prunecli.engine.together import Kind
    from prunecli.engine.work import Work
    from prunecli.io.files import Input, Output
    from prunecli.io.layout import Piece
    from prunecli.kernels.ops import Array
    from prunecli.report.model import Report

SCORED_RUN = 1 << 23
"""Weights with scores that are pruned at once: a score takes 8 bytes, and is computed from others."""

LARGE_TENSOR = 1 << 19
"""A tensor on the host of more bytes than this is pruned by several threads; for smaller ones they would wait."""

LARGE_MODEL = 1 << 23
"""The bytes of such tensors for which threads are worth their start."""

TOGETHER = 1 << 20
"""The bytes of small tensors that one task prunes."""


class MemoryRun(Run):
    """A run over tensors in memory, which are pruned where they lie."""

    def __init__(self, memory: TensorsInMemory, work: Work, options: RunOptions, *, write: bool) -> None:
        """Prepare the run; the tensors are changed only with `write`."""
        super().__init__(memory.checkpoint, work, options)
        self._memory, self._write = memory, write
        self._shown = MemoryReader(memory)
        self.pruning = False
        """Whether weights may have been changed."""

    def _pool(self) -> Pool:
        sizes = (t.nbytes for t in self.targets if on_host(self._memory.tensors[t.name]))
        if sum(size for size in sizes if size > LARGE_TENSOR) > LARGE_MODEL:
            return super()._pool()
        return InlinePool(self.options.device)

    def _reader(self, sources: Sequence[Input], advance: Callable[[int], None] = lambda _: None) -> MemoryReader:  # noqa: ARG002 - as the base
        return self._shown

    def _apply(
        self,
        pool: Pool,
        batches: Sequence[Batch],
        context: ApplyContext,
        sinks: Sequence[Output | None],  # noqa: ARG002 - as the base
    ) -> Mapping[int, TensorStats]:
        """Make all plans, and then apply them: an error while planning leaves all tensors as they are."""
        for batch in batches:
            batch.start(pool)
            batch.finish(pool)
        self.pruning = self._write
        pruner = InPlace(Pruner(context), self._reader(()), write=self._write)
        tasks = Tasks(pool)
        tasks.each(pruner.prune, pruner.parts(on_host=True))
        pruner.prune_on_devices()
        tasks.wait()
        pruner.pruner.resolve()
        return pruner.pruner.results


class InPlace:
    """Prunes tensors over their own memory; with `write` False they are only measured."""

    def __init__(self, pruner: Pruner, reader: MemoryReader, *, write: bool) -> None:
        """Prune the targets of `pruner`, which `reader` finds."""
        self.pruner, self._reader, self._write = pruner, reader, write
        self._together: set[int] = set()
        self._worker = Worker(None)

    def prune_on_devices(self) -> None:
        """Queue the kernels for tensors on devices.

        One thread does it: their stream is not always that of the caller, and each would need memory on the device.
        """
        for (targets,) in self.parts_together():
            self.prune_together(self._worker, targets)
        for (pieces,) in self.parts(on_host=False):
            self.prune(self._worker, pieces)

    def parts_together(self) -> Iterator[tuple[list[int]]]:
        """Yield the tensors on devices that one task prunes together."""
        for kind, indices in self._kinds().items():
            if len(indices) == 1 and not kind.in_place:
                continue
            self._together.update(indices)
            targets = self.pruner.context.targets
            indices.sort(key=lambda index: targets[index].shape)
            yield from _batches(indices, [self._share(index, kind) for index in indices])

    def _kinds(self) -> dict[Kind, list[int]]:
        """Return the targets of each kind."""
        kinds: dict[Kind, list[int]] = {}
        for index, tensor in enumerate(self.pruner.context.targets):
            if not tensor.numel or self._reader.lies_on_host(tensor):
                continue
            array = self._reader.array(tensor)
            kind = kind_of(self.pruner, index, array, self._worker.ops_of(array), write=self._write)
            if kind is not None:
                kinds.setdefault(kind, []).append(index)
        return kinds

    def _share(self, index: int, kind: Kind) -> float:
        """Return how much of a batch a target takes."""
        context = self.pruner.context
        tensor, with_flags = context.targets[index], isinstance(context.plans[index], PruneBlocks)
        fewer = SCORE_SHARE if with_flags or index in context.scorers else 1
        share = fewer * (tensor.numel / BATCH_WEIGHTS if kind.in_place else tensor.nbytes / BATCH_BYTES)
        return max(share, 1 / MOST_TOGETHER)

    def prune_together(self, worker: Worker, targets: Sequence[int]) -> None:
        """Prune tensors on one device together."""
        arrays = [self._reader.array(self.pruner.context.targets[target]) for target in targets]
        prune_together(self.pruner, targets, arrays, worker, write=self._write)
        for target in targets:
            tensor = self.pruner.context.targets[target]
            self.pruner.context.advance(tensor.file, tensor.nbytes)

    def parts(self, *, on_host: bool | None = None) -> Iterator[tuple[list[Piece]]]:
        """Yield what one task prunes, there or anywhere: a run of a large tensor, or some small tensors."""
        part: list[Piece] = []
        size = 0
        for index, tensor in enumerate(self.pruner.context.targets):
            if not tensor.numel or index in self._together or not self.pruner.size(index):
                continue
            if on_host is not None and self._reader.lies_on_host(tensor) != on_host:
                continue
            for piece in self.pruner.runs(index, self._run_size(index)):
                part.append(piece)
                size += (piece.stop - piece.first) * tensor.itemsize
                if size >= TOGETHER:
                    yield (part,)
                    part, size = [], 0
        if part:
            yield (part,)

    def _run_size(self, index: int) -> int:
        """Return the bytes of a target that are pruned at once."""
        tensor = self.in_memory(index)
        size = self._reader.run_size(tensor)
        if self._reader.lies_on_host(tensor) or not tensor.contiguous:
            return size
        if index in self.pruner.context.scorers:
            return SCORED_RUN * tensor.itemsize
        ops: Any = self._worker.ops_of(self._reader.array(tensor))
        plan = self.pruner.context.plans[index]
        return max(size, ops.run * tensor.itemsize) if needs_no_memory(ops, tensor, plan) else size

    def in_memory(self, index: int) -> TensorInfo:
        """Return the tensor that lies in memory for a target."""
        return self.pruner.context.targets[index]

    def prune(self, worker: Worker, pieces: Sequence[Piece]) -> None:
        """Prune these runs."""
        for piece in pieces:
            tensor = self.pruner.context.targets[piece.target]
            with naming(tensor):
                self._prune(worker, self._reader.array(self.in_memory(piece.target)), piece)
            self.pruner.context.advance(tensor.file, (piece.stop - piece.first) * tensor.itemsize)
        worker.wait()

    def _prune(self, worker: Worker, array: Array, piece: Piece) -> None:
        strided = not self.in_memory(piece.target).contiguous
        x = copied(array, piece.low, piece.high) if strided else array[piece.low : piece.high]
        self.pruner.prune(worker, x, piece, piece.first, slice(0, len(x)), write=self._write)
        if strided and self._write:
            copy_back(x, array, piece.low)


def _batches(indices: Sequence[int], shares: Sequence[float]) -> Iterator[tuple[list[int]]]:
    """Yield indices in order, of which each part has shares that add up to 1 at most, or one index."""
    part: list[int] = []
    size = 0.0
    for index, share in zip(indices, shares, strict=True):
        if part and size + share > 1:
            yield (part,)
            part, size = [], 0.0
        part.append(index)
        size += share
    yield (part,)


def prune_in_memory(
    memory: TensorsInMemory | ShardedTensors, work: Work, options: RunOptions, *, write: bool, mask: int | None = None
) -> Report:
    """Do the work on the tensors in `memory` and return the report; change the tensors only with `write`.

    `mask` is a file descriptor that gets the mask of the kept weights.
    """
    started = time.monotonic()
    run = _run_over(memory, work, options, write=write)
    masks = None if mask is None else _mask_sink(mask, run.targets)
    # The versions are incremented also after an error, because some of the tensors may have been changed by then.
    try:
        memory.synchronize()
        result = run.execute(memory.regions, memory.regions if write else [None] * len(memory.regions), masks)
        memory.synchronize()
    except ExchangeError as error:
        raise ExchangeError(f"{error}; {_state(run)}", hint=error.hint_parts) from error
    except Exception as error:
        if (problem := device_problem(error)) is None:
            raise
        raise DeviceError(f"a device {problem}; {_state(run)}") from error
    finally:
        if write:
            memory.mark_changed([name for t in work.selection.targets for name in (t.tensor.name, *t.aliases)])
    output = memory.checkpoint.path if write else None
    return make_report(run, result, output, time.monotonic() - started)


def _state(run: MemoryRun | ShardedRun) -> str:
    """Return the state of the tensors after an error, in words."""
    return "some weights may be pruned and others not: load them again" if run.pruning else "no tensor was changed"


def _mask_sink(fd: int, targets: Sequence[TensorInfo]) -> MaskSink:
    layout = MaskLayout(targets)
    os.ftruncate(fd, layout.size)  # of a tensor in parts, this process does not write all
    return MaskSink(fd, layout)


def _run_over(
    memory: TensorsInMemory | ShardedTensors, work: Work, options: RunOptions, *, write: bool
) -> MemoryRun | ShardedRun:
    if isinstance(memory, TensorsInMemory):
        return MemoryRun(memory, work, options, write=write)
    from prunecli.engine.sharded.run import ShardedRun  # noqa: PLC0415 - most tensors are in one process

    return ShardedRun(memory, work, options, write=write)


def needs_rehearsal(work: Work, options: RunOptions) -> bool:
    """Return whether an error may be found in the numbers of tensors and score files while the plans are applied.

    Norms and masks of already pruned weights are read while plans are made.
    """
    files = any(job.sources.scores is not None or job.sources.strategy_mask is not None for job in work.jobs)
    # A row may have fewer remaining weights than a count.
    rows = any(job.sources.has_pruned and job.strategy.ranks_within_rows for job in work.jobs)
    scaled = any(target.tensor.scale is not None for target in work.selection.targets)
    return options.strict or files or rows or scaled
