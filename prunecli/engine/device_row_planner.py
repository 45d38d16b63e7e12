"""Plans for the rows of tensors on devices whose rows do not lie in one piece: the cut of each row is found there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prunecli.engine.device_rows import RUN, DeviceRows
from prunecli.engine.together import SMALL
from prunecli.plans import CutPerSlice

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from prunecli.engine.scored_tensors import ScoredTensors
    from prunecli.io.threads import Pool
    from prunecli.kernels.ops import Array
    from prunecli.plans import PruneSmallestOfRow, TensorPlan


class DeviceRowBatch:
    """Targets whose rows are cut. Small ones are pruned whole, so their plans decide for themselves."""

    def __init__(
        self, tensors: ScoredTensors, rows: Mapping[int, PruneSmallestOfRow], plans: dict[int, TensorPlan]
    ) -> None:
        """Compute nothing yet; `rows` has the wanted plan of each target, and the final ones go to `plans`."""
        self._there, self._plans = DeviceRows(tensors), plans
        self._rows = {index: plan for index, plan in rows.items() if tensors.targets[index].nbytes > SMALL}

    @property
    def size(self) -> int:
        """The bytes of weights that are read."""
        return sum(self._there.tensors.targets[index].nbytes for index in self._rows)

    def start(self, pool: Pool) -> None:
        """Do nothing: kernels are queued in `finish`."""

    def finish(self, pool: Pool) -> None:  # noqa: ARG002 - protocol
        """Queue the kernels that find the cuts, and store the plans, whose cuts stay on the device."""
        for index, plan in self._rows.items():
            ops = self._there.ops(index)
            found = [ops.cuts_of_rows(rows, plan.wanted) for rows in self._tiles(index, plan)]
            cuts, limits = (ops.torch.cat(part) for part in zip(*found, strict=True))
            self._plans[index] = CutPerSlice(plan.view, cuts, limits)

    def _tiles(self, index: int, plan: PruneSmallestOfRow) -> Iterator[Array]:
        """Yield the patterns of some slices, a row for each."""
        view = plan.view
        width, row = max(RUN // view.size, 1), view.slices * view.after
        for stack in range(view.stacks):
            for low in range(0, view.slices, width):
                high = min(low + width, view.slices)
                first = stack * view.before * row + low * view.after
                rows = self._there.columns(index, first, (view.before, row), (high - low) * view.after)
                y = self._there.patterns(rows)
                yield y.reshape(view.before, high - low, view.after).transpose(0, 1).reshape(high - low, -1)
