"""Plans from numbers that a strategy measures on each tensor: a deviation, or one norm per slice or block."""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from prunecli.dtypes import FLOATS
from prunecli.engine.rank_planner import in_batches
from prunecli.engine.scorers import RemainingScorer
from prunecli.io.scales import ScaleReader
from prunecli.io.threads import Tasks
from prunecli.kernels.arrays import arrays_of, as_array
from prunecli.kernels.bit_patterns import floats
from prunecli.kernels.folds import Numbers
from prunecli.kernels.later import fetched

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from prunecli.checkpoint import TensorInfo
    from prunecli.engine.device_measure import DeviceScores
    from prunecli.engine.planner import Batch
    from prunecli.engine.scored_tensors import ScoredTensors
    from prunecli.engine.scorers import Scorer
    from prunecli.io.threads import Pool, Worker
    from prunecli.kernels.later import Measured
    from prunecli.kernels.ops import Read
    from prunecli.plans import TensorPlan
    from prunecli.strategies.strategy import PlansFromMeasure


class MeasuredPlanner:
    """Plans each tensor of a strategy from its own measured numbers.

    The plans go to `plans`; `followers` maps a target to its bias.
    """

    def __init__(
        self,
        strategy: PlansFromMeasure,
        tensors: ScoredTensors,
        plans: dict[int, TensorPlan],
        followers: Mapping[int, int],
    ) -> None:
        """Read nothing yet."""
        self.strategy, self.tensors, self.plans, self.followers = strategy, tensors, plans, followers
        # Ranking copies all norms of a tensor. One thread at a time limits the memory.
        self._lock = Lock()

    def batches(self, members: Sequence[int]) -> list[Batch]:
        """Return the targets in batches: those on devices together, and others in the order of the files."""
        targets, reader = self.tensors.targets, self.tensors.reader
        there = {m: None for m in members if reader.on_device(targets[m])}
        here = in_batches([m for m in members if m not in there], lambda member: [targets[member]])
        batches: list[Batch] = [MeasuredBatch(self, batch) for batch in here]
        if there:
            from prunecli.engine.device_measure import DeviceMeasureBatch  # noqa: PLC0415 - it needs torch

            batches.insert(0, DeviceMeasureBatch(self, list(there)))
        return batches

    def plan(self, worker: Worker, index: int) -> None:
        """Store the plan of a target."""
        measured, alive = self.measure(worker, index)
        with self._lock:
            plan = self.plan_from(index, fetched([measured])[0], alive)
        self.store(index, plan)

    def measure(
        self, worker: Worker, index: int, own: Numbers | None = None
    ) -> tuple[Measured, NDArray[np.bool_] | None]:
        """Return what the strategy measures on a target; `own` are its weights, if others are measured with it."""
        return self.strategy.measure(WorkerValues(self.tensors, worker, index, own))

    def plan_from(
        self, index: int, measured: NDArray[np.float64], alive: NDArray[np.bool_] | None = None
    ) -> TensorPlan:
        """Return the plan of a target from what was measured."""
        return self.strategy.plan_from(self.tensors.as_ranked(index), measured, alive)

    def store(self, index: int, plan: TensorPlan) -> None:
        """Store the plan of a target, and that of its bias."""
        self.plans[index] = plan
        if index in self.followers:
            self.plans[self.followers[index]] = plan.of_bias


class MeasuredBatch:
    """Targets that are measured together."""

    def __init__(self, planner: MeasuredPlanner, members: Sequence[int]) -> None:
        """Read nothing yet."""
        self._planner, self._members = planner, members
        self._measuring: Tasks | None = None

    @property
    def size(self) -> int:
        """The bytes of weights that are read."""
        return sum(self._planner.tensors.targets[member].nbytes for member in self._members)

    def start(self, pool: Pool) -> None:
        """Begin to measure."""
        self._measuring = Tasks(pool)
        self._measuring.each(self._planner.plan, [(member,) for member in self._members])

    def finish(self, pool: Pool) -> None:  # noqa: ARG002 - protocol
        """Wait until the plans are stored."""
        if self._measuring is not None:
            self._measuring.wait()


@dataclass(frozen=True, slots=True)
class WorkerValues:
    """The `TensorValues` of one target, read by one worker."""

    tensors: ScoredTensors
    worker: Worker
    index: int
    own: Numbers | None = None

    @property
    def tensor(self) -> TensorInfo:
        """The target."""
        return self.tensors.targets[self.index]

    def ranked(self) -> Numbers:
        """Return the numbers that are ranked."""
        if (scorer := self.tensors.scorer) is None:
            return self._weights(long=True)
        if self.own is not None:
            return self.own
        if self._on_device is not None:
            return self._on_device.ranked()
        return Numbers(self._patterns(scorer, lambda y: y), scorer.dtype(self.index), ranked=True)

    @property
    def _on_device(self) -> DeviceScores | None:
        """The scores of a target that lies on a device; None if it lies on the host."""
        if not self.tensors.reader.on_device(self.tensor):
            return None
        from prunecli.engine.device_measure import DeviceScores  # noqa: PLC0415 - it needs torch

        return DeviceScores(self.tensors, self.worker, self.index)

    def signed(self) -> Numbers:
        """Return the weights with their signs."""
        if (scorer := self.tensors.scorer) is None:
            return self._weights(long=False)
        if self._on_device is not None:
            return self._on_device.signed()
        read = arrays_of(self.tensors.reader.range_reader(self.worker, self.tensor))
        scales = ScaleReader(self.tensors.reader.sources)

        def signed(first: int, stop: int) -> NDArray[Any]:
            weights = read(first, stop)
            if self.tensor.scale is None:
                numbers = floats(self.worker.host, weights, FLOATS[self.tensor.dtype])
            else:
                numbers = scales.values(self.worker, self.tensor, weights, first, "signed")
            numbers[as_array(scorer.patterns(self.worker, self.index, weights, first)) < 0] = np.nan
            return numbers.view(np.int64)

        return Numbers(signed, FLOATS["F64"])

    def remaining(self) -> Numbers | None:
        """Return a positive number for remaining weights; None if all remain."""
        return self.marks() if isinstance(self.tensors.scorer, RemainingScorer) else None

    def marks(self) -> Numbers:
        """Return a positive number for weights whose score is not -1."""
        if (scorer := self.tensors.scorer) is None:
            raise TypeError
        if self._on_device is not None:
            return self._on_device.remaining()
        # The smallest positive pattern of any format is more than 0.
        return Numbers(self._patterns(scorer, lambda y: (y >= 0).astype(np.int16)), FLOATS["F16"], ranked=True)

    def _weights(self, *, long: bool) -> Numbers:
        """Return the weights; `long` runs are read where kernels need no memory for each weight."""
        if self.own is not None:
            return self.own
        reader, dtype = self.tensors.reader, FLOATS[self.tensor.dtype]
        if not reader.on_device(self.tensor):
            return Numbers(arrays_of(reader.range_reader(self.worker, self.tensor)), dtype)
        from prunecli.kernels import torch_folds  # noqa: PLC0415 - it needs torch

        read = reader.array_reader(self.worker, self.tensor)
        run = torch_folds.run_of(read(0, 1).device) if long else torch_folds.RUN
        return Numbers(read, dtype, kernels=torch_folds, run=run)

    def _patterns(self, scorer: Scorer, convert: Callable[[NDArray[Any]], NDArray[Any]]) -> Read:
        read = self.tensors.reader_of(self.worker, self.index)
        return lambda first, stop: convert(as_array(scorer.patterns(self.worker, self.index, read(first, stop), first)))
