"""Whether a checkpoint is what it should be: conditions as values, and what was found for each of them.

    findings = check("model.safetensors", [Sparsity(Bound(0.5)), Finite()])
    assert all(finding.holds for finding in findings)

Nothing is written. What reads weights is imported when a condition needs it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from prunecli.checkpoint import OUTSIDE, PathLike
from prunecli.errors import CheckpointError, UsageError
from prunecli.formats.open import open_checkpoint
from prunecli.inspection.pairing import Pair, open_at, pair_up
from prunecli.io.scan import bytes_to_read
from prunecli.progress import start
from prunecli.report.gates import Count
from prunecli.selection.patterns import matching
from prunecli.selection.select import Selector, select
from prunecli.strategies.amounts import front_dim

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from prunecli.checkpoint import Checkpoint, TensorInfo
    from prunecli.inspection.group_counts import Found, Full
    from prunecli.io.threads import Worker
    from prunecli.kernels.ops import Read
    from prunecli.progress import Progress


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found for a condition: for one tensor where it fails, and for all tensors together (`tensor` None).

    `condition` is how the command line spells it; `wanted` and `got` are words. A condition that holds has one finding,
    one that fails has a finding per tensor that fails it.
    """

    condition: str
    holds: bool
    tensor: str | None
    wanted: str
    got: str


class Condition(Protocol):
    """Something that a checkpoint should be."""

    def judge(self, look: Look) -> Iterator[Finding]:
        """Yield one finding that holds, or those that do not."""


def check(  # noqa: PLR0913 - one keyword per question a user may have
    path: PathLike,
    conditions: Sequence[Condition],
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    min_dim: int | None = None,
    min_numel: int = 0,
    key: str | None = None,
    threads: int = 0,
    label: str | None = None,
    progress: Progress | None = None,
) -> tuple[Finding, ...]:
    """Return what the checkpoint at `path` is found to be, condition by condition.

    `include`, `exclude`, `min_dim` and `min_numel` select tensors as for pruning, see `selection.Rules`; conditions
    that compare with another checkpoint look at every tensor of the state_dict that `include` and `exclude` leave.
    `key` is the dotted path of the state_dict in a nested checkpoint, `threads` 0 takes as many as help, `label`
    names the checkpoint in messages, `progress` receives the progress. Raises UsageError where no condition is given,
    and PruneError, in one of its kinds, for a checkpoint that cannot be read, patterns that match nothing, and a
    condition that fits no tensor.
    """
    if not conditions:
        raise UsageError("check needs a condition", hint="--min-sparsity 50%, --pattern 2:4, --finite, or another")
    rules = Selector(tuple(include), tuple(exclude), min_dim, min_numel)
    look = Look(open_checkpoint(path, key=key, label=label), rules, key, threads, progress)
    return tuple(finding for condition in conditions for finding in condition.judge(look))


class Look:
    """A checkpoint being checked: what several conditions ask for is read once."""

    def __init__(
        self, checkpoint: Checkpoint, rules: Selector, key: str | None, threads: int, progress: Progress | None
    ) -> None:
        """Read nothing yet."""
        self.checkpoint, self.rules, self.key = checkpoint, rules, key
        self.threads, self.progress = threads, progress

    @cached_property
    def tensors(self) -> list[TensorInfo]:
        """The selected tensors, in checkpoint order; SelectionError where there are none."""
        return [target.tensor for target in select(self.checkpoint, self.rules).targets]

    @cached_property
    def found(self) -> list[Found]:
        """What was counted in each of the selected tensors."""
        from prunecli.inspection.group_counts import count  # noqa: PLC0415  -- NumPy, which a usage error must not wait for
        from prunecli.io.scan import scan_tensors  # noqa: PLC0415

        def one(worker: Worker, tensor: TensorInfo, read: Read) -> Found:
            return count(worker.host, tensor, read)

        advance = start(self.progress, "counting", bytes_to_read(self.tensors))
        return scan_tensors(self.checkpoint, self.tensors, one, threads=self.threads, advance=advance)

    def counts(self, option: str, pattern: str | None) -> list[Count]:
        """Return the zeros of the selected tensors, or of those that `pattern` of `option` matches."""
        chosen = (
            range(len(self.tensors))
            if pattern is None
            else matching(option.removeprefix("--").replace("-", "_"), pattern, self.tensors)
        )
        return [Count(self.tensors[at].name, self.found[at].zeros, self.tensors[at].numel) for at in chosen]

    def full_groups(self, pattern: tuple[int, int], dim: int) -> list[Full]:
        """Return the groups of each selected tensor that have too many non-zeros."""
        dims = {tensor.name: front_dim(tensor, dim) for tensor in self.tensors}
        from prunecli.inspection.group_counts import full_groups  # noqa: PLC0415  -- NumPy, which a usage error must not wait for
        from prunecli.io.scan import scan_tensors  # noqa: PLC0415

        def one(worker: Worker, tensor: TensorInfo, read: Read) -> Full:
            return full_groups(worker.host, tensor, read, pattern, dims[tensor.name])

        advance = start(self.progress, "grouping", bytes_to_read(self.tensors))
        return scan_tensors(self.checkpoint, self.tensors, one, threads=self.threads, advance=advance)

    def against(self, path: PathLike) -> tuple[Checkpoint, list[Pair]]:
        """Open another checkpoint; return it, and the tensors of both state_dicts by name: first its own."""
        other = open_at(path, self.key)
        ours, theirs = ([t for t in c.tensors if t.unprunable_reason != OUTSIDE] for c in (self.checkpoint, other))
        pairs = pair_up(theirs, ours, self.rules.include, self.rules.exclude)
        if not pairs:
            hint = "leave out -x" if self.rules.exclude else None
            raise CheckpointError(f"there is no tensor to compare with {other.path}", hint=hint)
        return other, pairs


# --- conditions on the selected weights


# --- conditions on every tensor
