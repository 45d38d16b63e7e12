"""Pruning tensors where they are in memory: what `prunecli.prune` does to a file, done to a state_dict.

Checks all that can be checked before a weight changes.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, cast

from prunecli.engine.prepare import Ranks, plan_work
from prunecli.engine.recipe_run import Layers, Recipe
from prunecli.engine.run import Options, Run
from prunecli.errors import UsageError
from prunecli.formats.safetensors.mask_writer import MaskLayout, MaskSink
from prunecli.io.memory import describe
from prunecli.kernels.devices import resolve
from prunecli.selection.select import Rules

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from prunecli.engine.work import Work
    from prunecli.io.files import Sink, Source
    from prunecli.io.memory import Memory
    from prunecli.report.model import Report
    from prunecli.strategies.unstructured import Strategy

    PathLike = str | os.PathLike[str]

FETCHED_WINDOW = 1 << 24
"""Bytes of a window of tensors that lie on a device: each is fetched and sent back."""


def prune_state_dict(  # noqa: PLR0913 - one keyword per question a user may have
    state_dict: Mapping[str, object],
    strategy: Strategy | Recipe,
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    min_dim: int | None = None,
    min_numel: int = 0,
    scores: PathLike | None = None,
    act_norms: PathLike | None = None,
    mask_in: PathLike | None = None,
    of: str = "all",
    device: str = "cpu",
    threads: int = 0,
    dry_run: bool = False,
    strict: bool = False,
) -> Report:
    """Zero the weights of `state_dict` that `strategy` chooses, in place, and say what was done.

    `state_dict` is a flat dict of torch tensors by name, such as `model.state_dict()`, whose tensors are the model's
    own: on the CPU or on devices, parameters that require grad, transposed or sliced. The result is bit for bit
    what `prunecli.prune` makes of the same dict saved to a file, where all keywords are explained; among equals at a
    cut, tensors go in the order of the dict. Tied tensors are pruned once; what is no tensor is passed over, and
    sparse, quantized and meta tensors are named in the report's `facts`. `device` is where numbers are compared;
    the tensors stay where they are.

    Raises PruneError, and then nothing has changed: all is rehearsed first, so the weights are read twice. A run that
    is interrupted in its second half, or whose device fails, leaves some weights pruned and others not yet; to run
    it again is safe with a threshold or a mask, for an amount load the weights anew.
    """
    if threads < 0:
        raise UsageError(f"--threads is 0 or more, not {threads}", hint="--threads 2")
    memory = describe(state_dict)
    rules = Rules(tuple(include), tuple(exclude), min_dim, min_numel)
    ranks = Ranks(scores=scores, act_norms=act_norms, mask_in=mask_in, of=of)
    window = FETCHED_WINDOW if memory.on_device else 0
    options = Options(device=resolve(device), threads=threads, window=window, strict=strict)

    def run_layer(work: Work, mask: int | None) -> Report:
        rehearsed = _run(memory, work, options, write=False, mask=mask)
        return rehearsed if dry_run or mask is not None else _run(memory, work, options, write=True)

    if isinstance(strategy, Recipe):
        return Layers(memory.checkpoint, rules, strategy, ranks).run(run_layer, None)
    return run_layer(plan_work(memory.checkpoint, rules, strategy, ranks), None)


def _run(memory: Memory, work: Work, options: Options, *, write: bool, mask: int | None = None) -> Report:
    """Read and measure, with `write` put the results back, and write what stays to the descriptor `mask`."""
    began = time.monotonic()
    run = Run(memory.checkpoint, work, options)
    # A region has all that is asked of a file to read and of one to write.
    sources = cast("Sequence[Source]", memory.regions)
    sinks: Sequence[Sink | None] = cast("Sequence[Sink]", memory.regions) if write else [None] * len(sources)
    masks = None if mask is None else MaskSink(mask, MaskLayout(run.targets))
    memory.settle()
    try:
        run.execute(sources, sinks, masks)
    finally:
        if write:
            memory.settle()
            memory.mark_changed(name for t in work.selection.targets for name in (t.tensor.name, *t.aliases))
    output: Path | None = memory.checkpoint.path if write else None
    return run.report(output, time.monotonic() - began)
