"""Plans from numbers measured on tensors that lie on devices: those of all of them are fetched together."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import nan
from typing import TYPE_CHECKING, Any

import numpy as np

from prunecli.dtypes import FLOATS
from prunecli.engine.device_norms import FLAGS_LIMIT, DeviceNorms
from prunecli.engine.device_rows import RUN
from prunecli.engine.stacked_measure import stacks
from prunecli.engine.together import SMALL
from prunecli.io.scales import ScaleReader
from prunecli.io.threads import Worker
from prunecli.kernels import torch_folds, torch_values
from prunecli.kernels.folds import Numbers
from prunecli.kernels.later import Later, fetched
from prunecli.kernels.rows import Rows
from prunecli.kernels.transfers import to_device
from prunecli.plans import PruneBlocks, PruneSlices

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from prunecli.dtypes import Float
    from prunecli.engine.measured_planner import MeasuredPlanner
    from prunecli.engine.scored_tensors import ScoredTensors
    from prunecli.io.threads import Pool
    from prunecli.kernels.ops import Array

WAITING = 1 << 26
"""The bytes on devices of what is measured, and of copies of small tensors, that wait to be fetched."""


@dataclass(frozen=True, slots=True)
class DeviceScores:
    """The numbers of `WorkerValues` for a target on a device where scores are ranked."""

    tensors: ScoredTensors
    worker: Worker
    index: int

    def ranked(self) -> Numbers:
        """Return the scores."""
        return self._numbers(self._scored, self.tensors.dtype(self.index), ranked=True)

    def signed(self) -> Numbers:
        """Return the weights with their signs, and NaN for already pruned ones, as patterns of float64."""
        tensor = self.tensors.targets[self.index]
        scales = ScaleReader(self.tensors.reader.sources)

        def signed(rows: Rows) -> Array:
            ((_, weights, first),) = rows.each()
            if tensor.scale is None:
                numbers = torch_values.values(weights, FLOATS[tensor.dtype]).clone()
            else:
                numbers = scales.values(self.worker, tensor, weights, first)
            numbers.masked_fill_(self._scored(rows)[0] < 0, nan)
            return torch_values.patterns(numbers)[None]

        return self._numbers(signed, FLOATS["F64"])

    def remaining(self) -> Numbers:
        """Return 1 for remaining weights and 0 for already pruned ones, as patterns."""
        return self._numbers(lambda rows: (self._scored(rows) >= 0).short(), FLOATS["F16"], ranked=True)

    def _scored(self, rows: Rows) -> Array:
        scorer = self.tensors.scorer
        if scorer is None:
            raise TypeError
        return scorer.on_device(self.worker, rows)

    def _numbers(self, compute: Callable[[Rows], Array], dtype: Float, *, ranked: bool = False) -> Numbers:
        weights = self.tensors.reader.array_reader(self.worker, self.tensors.targets[self.index])

        def read(first: int, stop: int) -> Array:
            return compute(Rows((self.index,), weights(first, stop)[None], first))[0]

        return Numbers(read, dtype, ranked=ranked, kernels=torch_folds, run=RUN)


class DeviceMeasureBatch:
    """The targets of a strategy that lie on devices."""

    def __init__(self, planner: MeasuredPlanner, members: Sequence[int]) -> None:
        """Read nothing yet."""
        self._planner, self._members = planner, members
        self._worker = Worker(None)
        self._flags = 0

    @property
    def size(self) -> int:
        """The bytes of weights that are read."""
        return sum(self._planner.tensors.targets[member].nbytes for member in self._members)

    def start(self, pool: Pool) -> None:
        """Do nothing: kernels are queued in `finish`, and are computed while later ones are."""

    def finish(self, pool: Pool) -> None:  # noqa: ARG002 - protocol
        """Measure, fetch the numbers of many targets together, and store their plans."""
        waiting: list[tuple[int, Any, Any]] = []
        size = 0
        members = DeviceNorms(self._planner).plan(self._members)
        for member, own in self._numbers(members):
            measured, alive = self._planner.measure(self._worker, member, own)
            waiting.append((member, measured, alive))
            size += (measured.numbers if isinstance(measured, Later) else measured).nbytes
            size += 0 if own is None else self._planner.tensors.targets[member].nbytes
            if size >= WAITING:
                self._conclude(waiting)
                waiting, size = [], 0
        self._conclude(waiting)

    def _numbers(self, members: Sequence[int]) -> Iterator[tuple[int, Numbers | None]]:
        """Yield targets, first small ones that are measured together, with their weights."""
        together: set[int] = set()
        for member, own in stacks(self._planner.tensors, members):
            together.add(member)
            yield member, own
        yield from ((member, None) for member in members if member not in together)

    def _conclude(self, waiting: Sequence[tuple[int, Any, Any]]) -> None:
        """Store the plans of targets."""
        found = fetched([measured for _, measured, _ in waiting])
        for (member, _, alive), measured in zip(waiting, found, strict=True):
            self._planner.store(member, self._planner.plan_from(member, measured, alive))
            self._keep_few(member)
        self._send_flags([member for member, _, _ in waiting])

    def _keep_few(self, member: int) -> None:
        """Move flags of blocks to the host if there are too many on devices."""
        plans, plan = self._planner.plans, self._planner.plans[member]
        if isinstance(plan, PruneBlocks) and not isinstance(plan.alive, bytes):
            self._flags += plan.alive.nbytes
            if self._flags > FLAGS_LIMIT:
                plans[member] = replace(plan, alive=bytes(plan.alive.cpu().numpy()))

    def _send_flags(self, members: Sequence[int]) -> None:
        """Copy the flags of slices of large targets to their devices, with one copy for each device."""
        targets, reader, plans = self._planner.tensors.targets, self._planner.tensors.reader, self._planner.plans
        by_device: dict[str, list[tuple[int, PruneSlices]]] = {}
        for member in members:
            plan = plans[member]
            if isinstance(plan, PruneSlices) and targets[member].nbytes > SMALL:
                device = reader.device(targets[member])
                by_device.setdefault(device, []).append((member, plan))
        for device, sliced in by_device.items():
            flags = to_device(np.frombuffer(b"".join(plan.alive for _, plan in sliced), np.int8), device)
            for (member, plan), own in zip(sliced, flags.split([len(plan.alive) for _, plan in sliced]), strict=True):
                plans[member] = replace(plan, alive=own)
