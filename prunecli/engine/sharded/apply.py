"""Pruning the parts that this process has, in place, and counting what the report says about them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from prunecli.dtypes import FLOATS
from prunecli.engine.in_memory import InPlace
from prunecli.engine.measure import statistics_of
from prunecli.engine.pruner import Pruner
from prunecli.engine.sharded.measured import view_of_part
from prunecli.engine.sharded.values import pieces
from prunecli.io.layout import Piece
from prunecli.io.memory_reader import MemoryReader, copied, copy_back
from prunecli.kernels.arrays import on_host
from prunecli.kernels.tally import Statistics

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from collections.abc import Set as AbstractSet

    from numpy.typing import NDArray

    from prunecli.checkpoint import TensorInfo
    from prunecli.engine.pruner import ApplyContext
    from prunecli.engine.sharded.parts import Part
    from prunecli.engine.sharded.small import Collector
    from prunecli.engine.sharded.two_four import GroupCounter
    from prunecli.formats.safetensors.mask_writer import MaskSink
    from prunecli.io.threads import Worker
    from prunecli.kernels.ops import Array
    from prunecli.kernels.tally import Shared, Tally


@dataclass(frozen=True, slots=True)
class Appearance:
    """How the parts of the targets are seen.

    Attributes:
        parts: The parts by the positions of their targets.
        in_runs: The targets whose parts are seen as runs of the whole tensor; another part is a tensor of its own.
        counters: What counts groups of 4 where they lie in several parts, of the parts that this process has.
        cut_groups: The targets of which any process has such groups.
        collectors: What collects magnitudes of small targets whose parts are tensors of their own.
        collected: These targets, in all processes.
    """

    parts: Mapping[int, Part]
    in_runs: AbstractSet[int]
    counters: Mapping[int, GroupCounter]
    cut_groups: AbstractSet[int]
    collectors: Mapping[int, Collector]
    collected: AbstractSet[int]


class PartPruner(Pruner):
    """Prunes parts; `tallies` collects what is counted of each, and the ends of blocks that other processes have."""

    def __init__(self, context: ApplyContext, seen: Appearance) -> None:
        """Start without results; the targets of `context` are as `seen` says."""
        super().__init__(context)
        self._seen = seen
        self.tallies: dict[int, tuple[Tally, Shared]] = {}

    def runs(self, target: int, size: int) -> Iterator[Piece]:
        """Yield the runs of a part of about `size` bytes; `low` and `high` are places in the part."""
        if target not in self._seen.in_runs:
            yield from super().runs(target, size)
            return
        plan, part, ordinal = self.context.plans[target], self._seen.parts[target], 0
        step = max(size // part.tensor.itemsize, 1)
        for start, length, place in zip(*(numbers.tolist() for numbers in part.runs), strict=True):
            first, end = start, start + length
            while first < end:
                stop = end if end - first <= step else min(plan.reach(part.tensor.shape, first, first + step)[1], end)
                yield Piece(target, first, stop, place + first - start, place + stop - start, ordinal)
                first, ordinal = stop, ordinal + 1

    def size(self, target: int) -> int:
        """Return the number of weights of a part."""
        part = self._seen.parts.get(target)
        return 0 if part is None else part.local.numel

    def statistics(self, target: int, bounds: tuple[int, int] | None) -> Statistics:
        """Return what is counted about a part."""
        part = self._seen.parts[target]
        counted = statistics_of_part(part, bounds, in_runs=target in self._seen.in_runs)
        if target not in self._seen.counters:
            return counted
        return Statistics(counted.dtype, counted.numel, counted.outputs, counted.inputs, None, bounds)

    def close(self, target: int, tally: Any, shared: Shared, *, late: bool) -> None:  # noqa: ANN401 - Tally, or TorchTally
        """Keep what is counted of a part, unless another process counts it."""
        if self._seen.parts[target].counted:
            if late:
                from prunecli.kernels.torch_tally import settle  # noqa: PLC0415 - for devices only

                settle([tally])
            self.tallies[target] = (tally, shared)


def statistics_of_part(part: Part, bounds: tuple[int, int] | None, *, in_runs: bool) -> Statistics:
    """Return what is counted about a part, in the numbers of the whole tensor or in its own."""
    tensor = part.tensor
    whole = statistics_of(tensor, bounds)
    if in_runs:
        return whole
    outputs, inputs = (None if v is None else view_of_part(part, v).view for v in (whole.outputs, whole.inputs))
    groups = None
    if whole.groups is not None and tensor.layout.inputs is not None:
        shape, dim = part.local.shape, tensor.layout.inputs
        groups = shape[dim] // tensor.layout.groups, int(np.prod(shape[dim + 1 :]))
    return Statistics(whole.dtype, part.local.numel, outputs, inputs, groups, bounds)


class PartsInPlace(InPlace):
    """Prunes parts over their own memory; with `write` False they are only measured."""

    def __init__(self, pruner: PartPruner, reader: MemoryReader, seen: Appearance, *, write: bool) -> None:
        """Prune the targets of `pruner` that this process has a part of."""
        super().__init__(pruner, reader, write=write)
        self._seen = seen

    def in_memory(self, index: int) -> TensorInfo:
        """Return the part of a target."""
        return self._seen.parts[index].local

    def _prune(self, worker: Worker, array: Array, piece: Piece) -> None:
        counter, collector = self._seen.counters.get(piece.target), self._seen.collectors.get(piece.target)
        if counter is None and collector is None:
            super()._prune(worker, array, piece)
            return
        x, tensor = copied(array, piece.low, piece.high), self.in_memory(piece.target)
        before = _magnitudes(worker, x, tensor)
        self.pruner.prune(worker, x, piece, piece.first, slice(0, len(x)))
        after = _magnitudes(worker, x, tensor)
        if counter is not None:
            counter.add(piece.low, after != 0)
        if collector is not None:
            collector.add(piece.low, before, after)
        if self._write:
            copy_back(x, array, piece.low)


def _magnitudes(worker: Worker, x: Array, tensor: TensorInfo) -> NDArray[Any]:
    """Return a copy of the magnitudes on the host."""
    dtype = FLOATS[tensor.dtype]
    if isinstance(x, np.ndarray):
        return np.array(worker.host.magnitudes(x, dtype))
    return on_host(worker.ops_of(x).magnitudes(x, dtype))


class MaskOfParts:
    """Writes the masks of parts at their places in the mask of whole tensors. All other places are not written."""

    def __init__(self, sink: MaskSink, seen: Appearance) -> None:
        """Write to `sink`."""
        self._sink, self._seen = sink, seen

    def write(self, target: int, first: int, kept: NDArray[np.uint8]) -> None:
        """Write the ones and zeros of a run of a part."""
        if target in self._seen.in_runs:
            self._sink.write(target, first, kept)
            return
        for start, low, high in pieces(self._seen.parts[target], first, first + len(kept)):
            self._sink.write(target, start, kept[low - first : high - first])
