"""Pruning tensors that lie in memory: the run of a file, with the tensors as input and output."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from prunecli.engine.run import Run
from prunecli.engine.run_report import make_report
from prunecli.formats.safetensors.mask_writer import MaskLayout, MaskSink

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prunecli.engine.options import RunOptions
    from prunecli.engine.work import Work
    from prunecli.io.files import Output
    from prunecli.io.memory import TensorsInMemory
    from prunecli.report.model import Report

FETCHED_WINDOW = 1 << 24
"""Bytes of a window of tensors on a device: each window is copied to the host and back."""


def prune_in_memory(
    memory: TensorsInMemory, work: Work, options: RunOptions, *, write: bool, mask: int | None = None
) -> Report:
    """Do the work on the tensors in `memory` and return the report; change the tensors only with `write`.

    `mask` is a file descriptor that gets the mask of the kept weights.
    """
    started = time.monotonic()
    run = Run(memory.checkpoint, work, options)
    outputs: Sequence[Output | None] = memory.regions if write else [None] * len(memory.regions)
    masks = None if mask is None else MaskSink(mask, MaskLayout(run.targets))
    memory.synchronize()
    # The versions are incremented also after an error, because some of the tensors may have been changed by then.
    try:
        result = run.execute(memory.regions, outputs, masks)
    finally:
        if write:
            memory.synchronize()
            memory.mark_changed(name for t in work.selection.targets for name in (t.tensor.name, *t.aliases))
    output = memory.checkpoint.path if write else None
    return make_report(run, result, output, time.monotonic() - started)
