"""What all processes of a run must agree on before it starts: the version, the options, and what they see."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from prunecli.distributed.agreement import agree, file_facts, state
from prunecli.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prunecli.checkpoint import Checkpoint, PathLike
    from prunecli.engine.options import RunOptions
    from prunecli.engine.outputs import Outputs
    from prunecli.selection.select import Selection


def agree_on(
    options: RunOptions,
    checkpoint: Checkpoint,
    selection: Selection,
    outputs: Outputs,
    others: Sequence[PathLike | None],
) -> None:
    """Return if all processes do the same, and several can do it; UsageError or ProcessFailedError if not.

    `others` are the files that the run reads besides the checkpoint.
    """
    size, what = options.group.size, None
    if checkpoint.assembly is not None:
        what = "a checkpoint with tensors in chunks"
    elif outputs.arrangement is not None:
        what = "an output in another format or layout"
    if what is not None:
        raise UsageError(f"{size} processes run this, and {what} needs one alone", hint="start one process")
    facts = {
        "the output": "" if outputs.checkpoint is None else str(outputs.checkpoint),
        **dict(file_facts(checkpoint)),
        **{f"the file {path}": state(Path(path)) for path in others if path is not None},
        "the selected tensors": _digest(selection),
    }
    agree(options.group, facts)


def _digest(selection: Selection) -> str:
    """Return a digest of the tensors that are pruned, with everything that plans depend on."""
    digest = hashlib.sha256()
    for target in selection.targets:
        tensor = target.tensor
        digest.update(repr((tensor, tensor.layout, tensor.scale, target.aliases)).encode())
    return digest.hexdigest()[:16]
