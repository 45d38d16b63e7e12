"""Check whether a checkpoint meets conditions. Nothing is written.

findings = check("model.safetensors", [MinSparsity(0.5), Finite()])
assert all(finding.holds for finding in findings)
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from prunecli.errors import UsageError
from prunecli.inspection.checked import CheckedCheckpoint
from prunecli.inspection.passes import Passes, opened
from prunecli.selection.select import Selector
from prunecli.text.escape import printable, shortened

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from prunecli.checkpoint import Checkpoint, Keys, PathLike
    from prunecli.inspection.findings import Condition, Finding
    from prunecli.progress import Progress


def check(  # noqa: PLR0913 - one keyword for each option
    path: PathLike | Checkpoint,
    conditions: Sequence[Condition],
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    min_dim: int | None = None,
    min_numel: int = 0,
    layout: Mapping[str, str] | None = None,
    key: Keys = None,
    threads: int = 0,
    label: str | None = None,
    progress: Progress | None = None,
) -> tuple[Finding, ...]:
    """Check whether a checkpoint meets conditions.

    Conditions on weights apply to the selected tensors. Conditions that compare with another checkpoint apply to every
    tensor of the state_dict that `include` and `exclude` allow.

    Args:
        path: The checkpoint: a file, a directory or index of shards, or an open checkpoint.
        conditions: One or more of `MinSparsity`, `MaxSparsity`, `GroupPattern`, `Convertible`, `Finite`, `NoAllZero`,
            `SameStructure` and `OnlyZerosAdded`.
        include: Patterns over tensor names, as in `prunecli.prune`.
        exclude: Patterns of tensors to leave out.
        min_dim: The smallest number of dimensions of a selected tensor (None: as in `prunecli.prune`).
        min_numel: The smallest number of elements of a selected tensor.
        layout: The meaning of dimensions by pattern, as in `prunecli.prune`.
        key: The dotted path of the state_dict in a nested checkpoint, or several of them, or globs over them.
        threads: The number of threads, 0 for the number that suits the machine.
        label: A name of the checkpoint for messages.
        progress: A receiver of progress.

    Returns:
        One finding for each condition that holds, and one for each tensor that fails a condition.

    Raises:
        UsageError: If there is no condition, or an argument is out of range.
        SelectionError: If a pattern matches nothing or a condition fits no tensor.
        CheckpointError: If a checkpoint cannot be read.
    """
    _require_conditions(conditions)
    selector = Selector(include, exclude, min_dim, min_numel, layout or {})
    checked = CheckedCheckpoint(Passes(opened(path, key, label), threads, progress), selector, key)
    if progress is not None:
        progress.expect({condition.phase: checked.bytes_of(condition.phase) for condition in conditions})
    return tuple(finding for condition in conditions for finding in condition.judge(checked))


def _require_conditions(conditions: object) -> None:
    """Raise UsageError unless `conditions` is a list of at least one condition."""
    hint = "pass a list such as [MinSparsity(0.5), Finite()]"
    if not isinstance(conditions, Collection) or isinstance(conditions, (str, bytes)):
        shown = printable(shortened(repr(conditions), 80))
        raise UsageError(f"the conditions are a list, not {shown}", hint=hint)
    if not conditions:
        raise UsageError("check needs a condition", hint=hint)
    for condition in conditions:
        if not hasattr(condition, "judge"):
            raise UsageError(f"{printable(shortened(repr(condition), 80))} is no condition", hint=hint)
