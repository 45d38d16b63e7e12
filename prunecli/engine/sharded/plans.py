"""The plan of a part, from that of the whole tensor.

A part that consists of few runs is seen as these runs of the whole tensor, and the plan of the whole tensor applies.
Another part is seen as a tensor of its own, with a plan of its own.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from prunecli.engine.sharded.measured import blocks_of_part, cut_error, view_of_part
from prunecli.engine.sharded.parts import has_whole_groups
from prunecli.kernels.views import block_grid
from prunecli.plans import Cut, CutPerSlice, KeepLargestOfGroup, PruneBlocks, PruneSlices, PruneSmallestOfRow

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from prunecli.engine.sharded.parts import Part, ViewPart
    from prunecli.plans import TensorPlan

MOST_RUNS = 128
"""The most runs of a part that is seen as runs."""


def fits_runs(plan: TensorPlan, part: Part) -> bool:
    """Return whether the plan of the whole tensor can be applied to the runs of a part, each for itself."""
    if part.number_of_runs > MOST_RUNS:
        return False
    starts, lengths, _ = part.runs
    return all(
        plan.reach(part.tensor.shape, start, start + length) == (start, start + length)
        for start, length in zip(starts.tolist(), lengths.tolist(), strict=True)
    )


def check_groups(plan: TensorPlan, part: Part) -> None:
    """Raise UsageError if a group that is ranked together is not in one part."""
    if not isinstance(plan, KeepLargestOfGroup):
        return
    size = part.tensor.shape[plan.dim]
    if not has_whole_groups(part.indices[plan.dim], size, plan.group, plan.parts):
        raise cut_error(part, f"groups of {plan.group} along dim {plan.dim}")


def plan_of_part(plan: TensorPlan, part: Part) -> TensorPlan:
    """Return the plan for a part that is a tensor of its own; UsageError if there is none."""
    if isinstance(plan, PruneSlices):
        own = view_of_part(part, plan.view)
        alive = np.frombuffer(plan.alive, np.uint8)[own.numbers]
        return replace(plan, view=own.view, alive=alive.tobytes())
    if isinstance(plan, CutPerSlice):
        own = view_of_part(part, plan.view)
        return CutPerSlice(own.view, plan.cuts[own.numbers], _own_limits(own, plan.limits[own.numbers]))
    if isinstance(plan, PruneSmallestOfRow):
        return replace(plan, view=view_of_part(part, plan.view).view)
    if isinstance(plan, PruneBlocks):
        own = view_of_part(part, plan.view)
        bands, columns = blocks_of_part(part, own, plan.block)
        grid = np.frombuffer(plan.alive, np.uint8).reshape(block_grid(plan.view, plan.block))
        alive = grid[np.ix_(own.stacks, bands, columns)]
        return replace(plan, view=own.view, alive=alive.tobytes())
    if isinstance(plan, KeepLargestOfGroup) and plan.parts > 1 and _is_cut(part, plan.dim):
        raise cut_error(part, f"groups of {plan.group} along dim {plan.dim}")
    return plan


def with_own_ties(plan: TensorPlan, ties: int | None) -> TensorPlan:
    """Return the plan with the number of ties that this process prunes."""
    return replace(plan, ties=ties) if isinstance(plan, Cut) and ties is not None else plan


def _own_limits(own: ViewPart, limits: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the last pruned positions in the part's rows from those in the whole rows."""
    found: NDArray[np.int64] = np.searchsorted(own.positions, limits, "right") - 1
    return found


def _is_cut(part: Part, dim: int) -> bool:
    return len(part.indices[dim]) < part.tensor.shape[dim]
