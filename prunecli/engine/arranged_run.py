"""Write an arrangement of a checkpoint without pruning: the pass of a run with no targets."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prunecli.engine.arranged import check_written, open_arranged
from prunecli.engine.run import Run
from prunecli.engine.work import Work
from prunecli.io.reader import open_sources
from prunecli.selection.select import Selection

if TYPE_CHECKING:
    from prunecli.checkpoint import Checkpoint
    from prunecli.engine.options import RunOptions
    from prunecli.engine.outputs import Outputs


@dataclass(frozen=True, slots=True)
class Written:
    """The outcome: warnings about what casts lost, and the duration in seconds."""

    warnings: tuple[str, ...]
    seconds: float


def write_arranged(checkpoint: Checkpoint, outputs: Outputs, options: RunOptions) -> Written:
    """Write the arrangement of `outputs`, complete or not at all. Raises PruneError as `prune_files` does."""
    started = time.monotonic()
    run = Run(checkpoint, Work(Selection((), ()), (), {}), options)
    with ExitStack() as stack:
        sources = stack.enter_context(open_sources(checkpoint))
        sinks = stack.enter_context(open_arranged(run, sources, outputs))
        warnings: list[str] = []
        if any(sinks):
            run.execute(sources, sinks)
            warnings = check_written(outputs, sinks)
    return Written(tuple(warnings), time.monotonic() - started)
