"""A checkpoint under check: the numbers that conditions need, each read once and shared by all conditions."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from prunecli.checkpoint import Keys, PathLike
from prunecli.errors import Argument, CheckpointError
from prunecli.inspection.pairing import Pair, open_with_key, pair_up, with_alike_names
from prunecli.io.scan import bytes_to_read
from prunecli.report.gates import Count
from prunecli.selection.patterns import matching
from prunecli.selection.select import Selector, select

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prunecli.checkpoint import Checkpoint, TensorInfo
    from prunecli.inspection.group_counts import OverfullGroups, TensorCounts
    from prunecli.inspection.passes import Passes
    from prunecli.io.threads import Worker
    from prunecli.kernels.ops import Read


@dataclass(frozen=True, slots=True)
class Run:
    """The entries along the dimension `dim` of a tensor: `length` of them, `inner` elements apart."""

    dim: int
    length: int
    inner: int


@dataclass(frozen=True)
class CheckedCheckpoint:
    """The checkpoint of a check, the selector of its tensors, and the key of its state_dict."""

    passes: Passes
    selector: Selector
    key: Keys

    @cached_property
    def tensors(self) -> list[TensorInfo]:
        """The selected tensors in checkpoint order; SelectionError if there are none."""
        return [target.tensor for target in select(self.passes.checkpoint, self.selector).targets]

    @cached_property
    def counts(self) -> list[TensorCounts]:
        """The zeros and the weights that are not finite of each selected tensor."""
        # NumPy is imported here, so that a wrong argument is reported without it.
        from prunecli.inspection.group_counts import TensorCounts, count_weights  # noqa: PLC0415

        return self.passes.measure("counting", self.tensors, count_weights, TensorCounts)

    def bytes_of(self, phase: str) -> int:
        """Return about how many bytes a pass of a condition reads."""
        if phase == "comparing":
            return 2 * bytes_to_read(self.passes.checkpoint.tensors)
        return bytes_to_read(tensor.codes for tensor in self.tensors) if phase else 0

    def zero_counts(self, argument: str, pattern: str | None) -> list[Count]:
        """Return the zeros of the selected tensors, or of those that the `pattern` of an argument matches."""
        indices = range(len(self.tensors)) if pattern is None else matching(argument, pattern, self.tensors)
        return [Count(self.tensors[i].name, self.counts[i].zeros, self.tensors[i].numel) for i in indices]

    def overfull_groups(self, pattern: tuple[int, int], runs: Sequence[Run | None]) -> list[OverfullGroups | None]:
        """Return the groups with too many non-zeros along the run of each selected tensor; None without a run."""
        # Groups are counted in the codes: `codes` is another tensor where there is a scale.
        chosen = [(tensor.codes, run) for tensor, run in zip(self.tensors, runs, strict=True) if run is not None]
        by_id = {id(tensor): (run.length, run.inner) for tensor, run in chosen}  # names may repeat
        from prunecli.inspection.group_counts import (  # noqa: PLC0415 - NumPy, as above
            OverfullGroups,
            count_overfull_groups,
        )

        def measure(worker: Worker, tensor: TensorInfo, read: Read) -> OverfullGroups:
            return count_overfull_groups(worker.host, tensor, read, pattern, by_id[id(tensor)])

        tensors = [tensor for tensor, _ in chosen]
        counted = iter(self.passes.measure("grouping", tensors, measure, OverfullGroups) if chosen else ())
        return [None if run is None else next(counted) for run in runs]

    def paired_with(self, path: PathLike) -> tuple[Checkpoint, list[Pair]]:
        """Open another checkpoint and pair the tensors of both state_dicts by name; those of `path` come first."""
        mine, other = with_alike_names(self.passes.checkpoint, open_with_key(path, self.key))
        exclude = list(self.selector.exclude)
        pairs = pair_up(other.inside, mine.inside, self.selector.include, exclude)
        if not pairs:
            hint = ("drop ", Argument("exclude", exclude)) if exclude else None
            raise CheckpointError(f"there is no tensor to compare with {other.path}", hint=hint)
        return other, pairs
