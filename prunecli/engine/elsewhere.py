"""Runs over models that are elsewhere: the weights are read once, in one pass that writes a local output."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prunecli.engine.work import Work
from prunecli.remote.errors import local_only, reads_twice

if TYPE_CHECKING:
    from prunecli.checkpoint import Checkpoint
    from prunecli.engine.options import RunOptions
    from prunecli.engine.recipe_run import RecipeRun


def check_plan(checkpoint: Checkpoint, plan: RecipeRun | Work, options: RunOptions) -> None:
    """Raise CheckpointError before any weight is read, where a run would read a model elsewhere more than once.

    What planning reads is known later, see `check_planning`.
    """
    if isinstance(plan, Work):
        again = any(job.sources.has_pruned for job in plan.jobs)
    else:
        again = len(plan.passes) > 1 or plan.inputs.mask_in is not None or plan.inputs.of != "all"
    if again or options.sha256 or options.estimate:
        raise reads_twice(str(checkpoint.path))
    if options.group.size > 1:
        raise local_only(str(checkpoint.path))


def check_planning(checkpoint: Checkpoint, size: int) -> None:
    """Raise CheckpointError if planning reads `size` bytes of weights, because pruning reads them once more."""
    if size:
        raise reads_twice(str(checkpoint.path))
