"""Which process reads and writes which bytes: runs of whole tensors, so that most strategies exchange nothing.

All files are laid one after the other. A process has the bytes from one tensor to that where the next process begins.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

from prunecli.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from prunecli.checkpoint import CheckpointFile, TensorInfo

PRUNED_COST = 1
"""The cost of a byte that is pruned, besides that of copying it."""


@dataclass(frozen=True, slots=True)
class Share:
    """The bytes of one process: [start, end) of each file, by its number; `rank` is that of the process."""

    rank: int
    ranges: tuple[tuple[int, int], ...]

    @property
    def size(self) -> int:
        """The number of bytes."""
        return sum(end - start for start, end in self.ranges)

    def owns(self, tensor: TensorInfo) -> bool:
        """Return whether this process prunes the tensor."""
        return self.has(tensor.file, tensor.start)

    def has(self, file: int, position: int) -> bool:
        """Return whether a byte is of this share."""
        start, end = self.ranges[file]
        return start <= position < end


def shares(
    files: Sequence[CheckpointFile], tensors: Iterable[TensorInfo], targets: Iterable[TensorInfo], count: int
) -> list[Share]:
    """Divide `files` among `count` processes, about evenly; `targets` are the tensors that are pruned.

    No two processes have parts of one target, nor parts of targets that overlap.
    """
    if count == 1:
        return [Share(0, tuple((0, file.size) for file in files))]
    places = _Places(files, tensors, targets)
    cuts = [(0, 0), *places.cuts(count), (len(files), 0)]
    return [Share(rank, _ranges(files, *cuts[rank : rank + 2])) for rank in range(count)]


def _ranges(
    files: Sequence[CheckpointFile], first: tuple[int, int], last: tuple[int, int]
) -> tuple[tuple[int, int], ...]:
    """Return the bytes of each file between two places (file, byte)."""
    ranges = []
    for number, file in enumerate(files):
        start = 0 if number > first[0] else file.size if number < first[0] else first[1]
        end = file.size if number < last[0] else 0 if number > last[0] else last[1]
        ranges.append((start, max(start, end)))
    return tuple(ranges)


class _Places:
    """The places where a process may begin, with the cost of everything before them."""

    def __init__(
        self, files: Sequence[CheckpointFile], tensors: Iterable[TensorInfo], targets: Iterable[TensorInfo]
    ) -> None:
        self._places: list[tuple[int, int]] = []
        self._costs: list[int] = []
        starts, pruned = _by_file(tensors, len(files)), _by_file(targets, len(files))
        cost = 0
        for number, file in enumerate(files):
            for place, before in _file_places(starts[number], pruned[number]):
                self._places.append((number, place))
                self._costs.append(cost + place + before)
            cost += file.size + PRUNED_COST * sum(end - start for start, end in _united(pruned[number]))
        self._total = cost

    def cuts(self, count: int) -> Iterator[tuple[int, int]]:
        """Yield the places where the second and the later of `count` processes begin."""
        position = 0
        for rank in range(1, count):
            goal = self._total * rank // count
            after = bisect_left(self._costs, goal)
            candidates = [index for index in (after - 1, after) if position <= index < len(self._places)]
            position = min(candidates, key=lambda index: abs(self._costs[index] - goal), default=position)
            yield self._places[position] if self._places else (0, 0)


def _by_file(tensors: Iterable[TensorInfo], count: int) -> list[list[tuple[int, int]]]:
    ranges: list[list[tuple[int, int]]] = [[] for _ in range(count)]
    for tensor in tensors:
        if tensor.numel:
            ranges[tensor.file].append((tensor.start, tensor.end))
    return ranges


def _united(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the ranges sorted; those that overlap are one."""
    united: list[tuple[int, int]] = []
    for start, end in sorted(ranges):
        if united and start < united[-1][1]:
            united[-1] = (united[-1][0], max(united[-1][1], end))
        else:
            united.append((start, end))
    return united


def _file_places(tensors: Sequence[tuple[int, int]], targets: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield the bytes of a file where a process may begin, with the cost of the pruned bytes before them.

    They are its first byte, and the starts of all tensors but the first that lie in no target.
    """
    united, before, index = _united(targets), 0, 0
    yield 0, 0
    for start in sorted({start for start, _ in tensors} | {start for start, _ in united})[1:]:
        while index < len(united) and united[index][1] <= start:
            before += PRUNED_COST * (united[index][1] - united[index][0])
            index += 1
        if index == len(united) or start <= united[index][0]:
            yield start, before
