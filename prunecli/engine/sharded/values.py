"""The values that a strategy ranks, of the parts that this process has: in row-major order of each part."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from prunecli.dtypes import FLOATS
from prunecli.engine.scored_tensors import ScoredTensors
from prunecli.io.threads import Stopped
from prunecli.kernels.arrays import as_array, on_host
from prunecli.kernels.ops import is_tensor
from prunecli.kernels.rows import Rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from prunecli.checkpoint import TensorInfo
    from prunecli.distributed.mesh_group import MeshGroup
    from prunecli.dtypes import Float
    from prunecli.engine.scorers import Scorer
    from prunecli.engine.sharded.parts import Part
    from prunecli.io.memory_reader import MemoryReader
    from prunecli.io.threads import Pool, Worker
    from prunecli.kernels.ops import Array

T = TypeVar("T")

RUN = 1 << 20
"""Elements that are counted at once; their numbers take a few times 8 bytes each."""


class PartScorer:
    """A scorer of parts: it asks the scorer of the whole tensors for each run of neighbours."""

    def __init__(self, whole: Scorer, parts: Mapping[int, Part]) -> None:
        """Score `parts`, by the positions of their targets."""
        self._whole, self._parts = whole, parts

    @property
    def reads_weights(self) -> bool:
        """Whether patterns depend on the weights."""
        return self._whole.reads_weights

    def dtype(self, index: int) -> Float:
        """Return the format of a target's patterns."""
        return self._whole.dtype(index)

    def patterns(self, worker: Worker, index: int, weights: Array, first: int) -> Array:
        """Return the patterns of `weights`, which start at element `first` of the part."""
        count, found = len(weights), list[Any]()
        for start, low, high in pieces(self._parts[index], first, first + count):
            own = weights[low - first : high - first]
            if is_tensor(own):
                y = self._whole.on_device(worker, Rows((index,), own[None], start))[0]
            else:
                y = as_array(self._whole.patterns(worker, index, own, start))
            if high - low == count:
                return y
            found.append(y.copy() if isinstance(y, np.ndarray) else y.clone())
        if isinstance(found[0], np.ndarray):
            return np.concatenate(found)
        import torch  # noqa: PLC0415 - there are tensors, so it is loaded

        return torch.cat(found)

    def on_device(self, worker: Worker, rows: Rows) -> Array:
        """Return the patterns of a run of weights on a device."""
        ((index, weights, first),) = rows.each()
        return self.patterns(worker, index, weights, first)[None]


def pieces(part: Part, first: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """Yield the runs in the elements [first, stop) of a part: (first element in the whole tensor, low, high)."""
    starts, lengths, places = part.runs
    run = int(np.searchsorted(places, first, "right")) - 1
    while first < stop:
        high = min(int(places[run] + lengths[run]), stop)
        yield int(starts[run]) + first - int(places[run]), first, high
        first, run = high, run + 1


@dataclass(frozen=True)
class Values:
    """The targets of a run with the parts that this process has, by the positions of the targets.

    `scorer` is that of the whole tensors; None ranks magnitudes.
    """

    group: MeshGroup
    targets: Sequence[TensorInfo]
    parts: Mapping[int, Part]
    reader: MemoryReader
    scorer: Scorer | None = None

    @cached_property
    def whole(self) -> ScoredTensors:
        """The whole tensors, whose weights cannot be read."""
        return ScoredTensors(self.targets, self.reader, self.scorer)

    @cached_property
    def own(self) -> ScoredTensors:
        """The parts in place of the tensors; a target without a part is empty."""
        locals_ = [
            self.parts[index].local if index in self.parts else replace(tensor, shape=(0,), strides=(1,))
            for index, tensor in enumerate(self.targets)
        ]
        scorer = None if self.scorer is None else PartScorer(self.scorer, self.parts)
        return ScoredTensors(locals_, self.reader, scorer)

    def counted(self, index: int) -> bool:
        """Return whether this process counts a part of a target."""
        return index in self.parts and self.parts[index].counted

    def patterns(self, worker: Worker, index: int) -> Iterator[tuple[int, Array]]:
        """Yield the patterns of a part in runs, with the place of the first one; an array is valid until the next."""
        part = self.parts[index].local
        read = self.own.array_reader_of(worker, index)
        for low in range(0, part.numel, RUN):
            weights = read(low, min(low + RUN, part.numel))
            if self.scorer is None and isinstance(weights, np.ndarray):
                yield low, worker.host.magnitudes(weights, FLOATS[part.dtype])
            else:
                yield low, self.own.patterns(worker, index, low, weights)

    def patterns_on_host(self, worker: Worker, index: int) -> Iterator[tuple[int, NDArray[Any]]]:
        """Yield the same as arrays of NumPy."""
        for low, y in self.patterns(worker, index):
            yield low, y if isinstance(y, np.ndarray) else on_host(y)


def in_pool(pool: Pool, work: Callable[[], T]) -> T:
    """Return the result of `work`, which waits for tasks of `pool`; an error of a task is raised as it is."""
    try:
        return work()
    except Stopped:
        if pool.error is not None:
            raise pool.error from None
        raise
