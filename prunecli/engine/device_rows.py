"""The values that a strategy ranks, of tensors that lie on devices: they are computed and stay there."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

from prunecli.engine.scorers import RemainingScorer
from prunecli.engine.together import SMALL
from prunecli.io.threads import Worker
from prunecli.kernels.rows import Rows
from prunecli.kernels.torch_tally import fetch
from prunecli.kernels.torch_values import stacked

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator, Sequence

    from prunecli.engine.scored_tensors import ScoredTensors
    from prunecli.kernels.ops import Array

RUN = 1 << 22
"""The values that are computed at once; they and what they are computed from take a few times 8 bytes each."""


class DeviceRows:
    """The targets of a job, of which some lie on devices."""

    def __init__(self, tensors: ScoredTensors) -> None:
        """Compute nothing yet."""
        self.tensors, self.worker = tensors, Worker(None)

    def has(self, member: int) -> bool:
        """Return whether a target lies on a device."""
        return self.tensors.reader.on_device(self.tensors.targets[member])

    def ops(self, member: int) -> Any:  # noqa: ANN401 - TorchOps
        """Return the kernels for a target."""
        return self.worker.ops_of(self._weights(member, 0, 0))

    def _weights(self, member: int, first: int, stop: int) -> Array:
        return self.tensors.reader.array_reader(self.worker, self.tensors.targets[member])(first, stop)

    def stacks(self, members: Sequence[int]) -> Iterator[tuple[int, ...]]:
        """Yield the targets that are computed together: large ones alone, small ones of one shape in stacks."""
        kinds: dict[Hashable, list[int]] = {}
        for member in members:
            tensor = self.tensors.targets[member]
            if tensor.nbytes > SMALL:
                yield (member,)
                continue
            kind = tensor.shape, tensor.dtype, tensor.scale is None, self.tensors.reader.device(tensor)
            own = kinds.setdefault(kind, [])
            own.append(member)
            if len(own) * tensor.numel >= RUN:
                yield tuple(kinds.pop(kind))
        yield from map(tuple, kinds.values())

    def rows(self, members: Sequence[int]) -> Rows:
        """Return a stack of whole targets."""
        weights = [self._weights(member, 0, self.tensors.targets[member].numel) for member in members]
        return Rows(tuple(members), weights[0][None] if len(weights) == 1 else stacked(weights))

    def runs(self, member: int, first: int = 0) -> Iterator[Rows]:
        """Yield the runs of one target."""
        numel = self.tensors.targets[member].numel
        for low, high in pairwise([*range(first, numel, RUN), numel]):
            yield Rows((member,), self._weights(member, low, high)[None], low)

    def blocks(self, member: int, length: int, number: int, step: int) -> Rows:
        """Return runs of one target, whose first elements are about `step` from each other."""
        tensor, step = self.tensors.targets[member], step // 8 * 8  # as random numbers need it
        if not tensor.contiguous:
            runs = [self._weights(member, n * step, n * step + length) for n in range(number)]
            return Rows((member,), stacked(runs), 0, step)
        weights = self._weights(member, 0, tensor.numel)
        return Rows((member,), weights.as_strided((number, length), (step, 1), weights.storage_offset()), 0, step)

    def columns(self, member: int, first: int, rows: tuple[int, int], length: int) -> Rows:
        """Return `length` columns of a matrix in a target, from the element `first`; `rows` are (number, length)."""
        number, step = rows
        weights = self._weights(member, 0, self.tensors.targets[member].numel)
        weights = weights.as_strided((number, length), (step, 1), weights.storage_offset() + first)
        return Rows((member,), weights, first, step)

    def parts(self, members: tuple[int, ...]) -> Iterator[Rows]:
        """Yield a stack, or the runs of one target."""
        yield from [self.rows(members)] if len(members) > 1 else self.runs(members[0])

    def patterns(self, rows: Rows) -> Array:
        """Return what is ranked, in the shape of the rows."""
        scorer, member = self.tensors.scorer, rows.members[0]
        if scorer is None:
            return self.worker.ops_of(rows.weights).magnitudes(rows.weights, self.tensors.dtype(member))
        return scorer.on_device(self.worker, rows)


def remaining_on_devices(tensors: ScoredTensors, members: Sequence[int]) -> dict[int, int]:
    """Return how many weights of targets on devices are not already pruned, with one copy for each device."""
    there, scorer = DeviceRows(tensors), tensors.scorer
    if not isinstance(scorer, RemainingScorer):
        raise TypeError(scorer)
    stacks = list(there.stacks(members))
    pruned = [sum(scorer.pruned(there.worker, rows).sum(1) for rows in there.parts(stack)) for stack in stacks]
    return {
        member: tensors.targets[member].numel - number
        for stack, numbers in zip(stacks, fetch(pruned), strict=True)
        for member, number in zip(stack, numbers, strict=True)
    }
