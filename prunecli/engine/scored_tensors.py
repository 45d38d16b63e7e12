"""The values that a strategy ranks, as sortable integers ("patterns"), read in runs of a tensor's elements."""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING

from prunecli.dtypes import FLOATS, Float
from prunecli.engine.part import Part
from prunecli.io.reader import SCAN_BYTES
from prunecli.kernels.backend import has_native
from prunecli.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from prunecli.checkpoint import TensorInfo
    from prunecli.engine.scorers import Scorer
    from prunecli.io.reader import Reader
    from prunecli.io.threads import Worker
    from prunecli.kernels.ops import Array, Read

NEAR = 1 << 16
"""Bytes between two tensors that are read with them."""

SCORE_SIZE = 8
"""The most bytes of a score."""


@dataclass(frozen=True, slots=True)
class ScoredTensors:
    """The targets of a run, with the reader of their weights and the scorer; None ranks magnitudes.

    `step` is the number of bytes of one step of a scan, if it is not the usual one. `part` says which targets this
    process reads.
    """

    targets: Sequence[TensorInfo]
    reader: Reader
    scorer: Scorer | None = None
    step: int | None = None
    part: Part = field(default_factory=Part)

    @property
    def reads_weights(self) -> bool:
        """Whether the patterns depend on the weights."""
        return self.scorer is None or self.scorer.reads_weights

    def dtype(self, index: int) -> Float:
        """Return the format whose patterns are ranked for a target."""
        return FLOATS[self.targets[index].dtype] if self.scorer is None else self.scorer.dtype(index)

    def as_ranked(self, index: int) -> TensorInfo:
        """Return a target with the dtype of what is ranked, as strategies see it."""
        return self.targets[index].with_dtype(self.dtype(index).name)

    def weights(self, worker: Worker, index: int, first: int, stop: int) -> Array:
        """Return the weights [first, stop) as integers, or a placeholder of that size if no pattern needs them."""
        return self.reader_of(worker, index)(first, stop)

    def reader_of(self, worker: Worker, index: int) -> Read:
        """Return the function that returns runs of weights, as `weights` does.

        The bytes of a tensor that is not contiguous are read once, now.
        """
        tensor = self.targets[index]
        if not self.reads_weights:
            return lambda first, stop: range(stop - first)  # it has a length, and no number is looked at
        return self.reader.range_reader(worker, tensor)

    def array_reader_of(self, worker: Worker, index: int) -> Callable[[int, int], Array]:
        """Return the function that shows runs of weights where they lie, for the kernels of `Worker.ops_of`."""
        if not self.reads_weights:
            return self.reader_of(worker, index)
        return self.reader.array_reader(worker, self.targets[index])

    def _step(self, index: int) -> int:
        """Return the elements of one step of a scan; scores have up to 8 bytes for each.

        Compiled kernels rank codes with a scale as they are.
        """
        tensor = self.targets[index]
        size = self.step or self.reader.run_size(tensor)
        if self.scorer is not None and size > SCAN_BYTES:
            return size // SCORE_SIZE
        return size // (tensor.itemsize if has_native() else tensor.value_size)

    def ranges(self, index: int) -> Iterator[tuple[int, int]]:
        """Yield the element ranges of a scan: pieces of a contiguous tensor, the whole of another one."""
        tensor = self.targets[index]
        step = self._step(index) if tensor.contiguous else tensor.numel
        for first in range(0, tensor.numel, step):
            yield first, min(first + step, tensor.numel)

    def runs(self, worker: Worker, index: int, first: int, stop: int) -> Iterator[tuple[int, Array]]:
        """Yield the weights [first, stop) where they lie, in runs of one step of a scan, with their first elements."""
        read, step = self.array_reader_of(worker, index), self._step(index)
        for low in range(first, stop, step):
            yield low, read(low, min(low + step, stop))

    def neighbours(self, members: Iterable[int]) -> Iterator[list[int]]:
        """Yield `members` in the order of the files, those together that `read_together` can read with one read."""
        run: list[int] = []
        file = first = end = 0
        for tensor, member in sorted(((self.targets[m], m) for m in members), key=_place):
            start, stop = tensor.start, tensor.end
            near = tensor.file == file and end <= start < end + NEAR and stop - first <= SCAN_BYTES
            if run and not (near and tensor.contiguous and self.scorer is None and self.step is None):
                yield run
                run = []
            if not run:
                file, first = tensor.file, start
            run.append(member)
            end = stop if tensor.contiguous else stop + NEAR + SCAN_BYTES  # then no other is near
        if run:
            yield run

    def read_together(self, worker: Worker, members: Sequence[int]) -> list[Array]:
        """Return all weights of neighbours where they lie, for the kernels of `Worker.ops_of`."""
        if len(members) > 1:
            return self.reader.read_together(worker, [self.targets[member] for member in members])
        return [self.array_reader_of(worker, members[0])(0, self.targets[members[0]].numel)]

    def patterns(self, worker: Worker, index: int, first: int, weights: Array) -> Array:
        """Return the patterns of `weights`, which start at element `first`, for `worker.ops_of(weights)`."""
        ops = worker.ops_of(weights)
        if self.scorer is None:
            return ops.magnitudes(ops.load(weights), self.dtype(index))
        return ops.load(self.scorer.patterns(worker, index, weights, first))


def _place(numbered: tuple[TensorInfo, int]) -> tuple[int, int]:
    return numbered[0].file, numbered[0].start


def count_remaining(worker: Worker, tensors: ScoredTensors, scorer: Scorer, index: int) -> int:
    """Return how many weights of a target are not already pruned, which is where the pattern is not -1."""
    count = 0
    for first, weights in tensors.runs(worker, index, 0, tensors.targets[index].numel):
        if hasattr(scorer, "remaining"):  # it need not compute scores
            count += scorer.remaining(worker, index, weights, first)
        else:
            count += int((scorer.patterns(worker, index, weights, first) >= 0).sum())
    return count
