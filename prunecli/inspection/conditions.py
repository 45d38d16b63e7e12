"""The conditions of `check`: on the zeros, groups and values of the selected weights, and on every tensor.

check("model.safetensors", [MinSparsity(0.5), GroupPattern(2, 4), OnlyZerosAdded("dense.safetensors")])
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, ClassVar

from prunecli.checkpoint import PathLike
from prunecli.errors import Argument, UsageError
from prunecli.inspection.checked import Run
from prunecli.inspection.findings import Finding
from prunecli.report.gates import Bound, percentage
from prunecli.selection.notices import is_assumed
from prunecli.strategies.amounts import front_dim
from prunecli.strategies.semi_structured import MAX_GROUP
from prunecli.text.escape import printable
from prunecli.text.numbers import counted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from prunecli.checkpoint import TensorInfo
    from prunecli.inspection.checked import CheckedCheckpoint
    from prunecli.inspection.findings import Condition
    from prunecli.inspection.group_counts import OverfullGroups
    from prunecli.inspection.pairing import Pair


# --- conditions on the selected weights


@dataclass(frozen=True, slots=True)
class _SparsityCondition:
    fraction: float
    include: str | None = None
    each: bool = False
    upper: ClassVar[bool]
    phase: ClassVar[str] = "counting"

    def __post_init__(self) -> None:
        Bound(self.fraction, self.upper)  # raises UsageError if the fraction is not 0 to 1

    @property
    def _argument(self) -> str:
        return f"{'max' if self.upper else 'min'}_{'tensor_' if self.each else ''}sparsity"

    @property
    def arguments(self) -> tuple[Argument, ...]:
        """The bound, with the pattern before it."""
        pattern = "" if self.include is None else f"{self.include}="
        return (Argument(self._argument, f"{pattern}{percentage(self.fraction)}"),)

    def judge(self, checked: CheckedCheckpoint) -> Iterator[Finding]:
        """Yield the sparsity of all tensors together, or that of each tensor outside the bound.

        If each tensor is within the bound, the finding names the one that is nearest to it.
        """
        bound = Bound(self.fraction, self.upper)
        counts = checked.zero_counts(self._argument, self.include)
        if not self.each:
            yield Finding(self, bound.holds(counts), None, bound.wanted(), bound.got(counts))
            return
        failed = [count for count in counts if not bound.holds([count])]
        for count in failed:
            yield Finding(self, holds=False, tensor=count.name, wanted=bound.wanted(), got=bound.got([count]))
        if not failed:
            nearest = sorted(counts, key=lambda count: count.zeros / count.numel)[-1 if self.upper else 0]
            got = f"{bound.got([nearest])} at {'most' if self.upper else 'least'}, in {printable(nearest.name)}"
            yield Finding(self, holds=True, tensor=None, wanted=f"each {bound.wanted()}", got=got)


@dataclass(frozen=True, slots=True)
class MinSparsity(_SparsityCondition):
    """At least a fraction of the weights is zero.

    Args:
        fraction: The smallest fraction of zeros (0-1), met to the nearest weight as amounts are.
        include: A pattern that narrows the selected tensors (None: all of them).
        each: Whether the bound applies to each tensor instead of all tensors together.
    """

    upper: ClassVar[bool] = False


@dataclass(frozen=True, slots=True)
class MaxSparsity(_SparsityCondition):
    """At most a fraction of the weights is zero.

    Args:
        fraction: The largest fraction of zeros (0-1), met to the nearest weight as amounts are.
        include: A pattern that narrows the selected tensors (None: all of them).
        each: Whether the bound applies to each tensor instead of all tensors together.
    """

    upper: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class GroupPattern:
    """Every group of consecutive weights along a dimension has a limited number of non-zeros.

    A last group that is shorter may have as many non-zeros as a full one. The pattern does not apply to a tensor that
    is shorter than one group, which neither meets it nor fails it. If it applies to no tensor, the condition fails.

    Args:
        keep: The largest number of non-zeros in a group, 0 to `group`.
        group: The number of weights in a group, 1 to 32,767.
        dim: The dimension along which groups run; negative numbers count from the last one. None means the inputs of
            each tensor.
    """

    keep: int
    group: int
    dim: int | None = None
    phase: ClassVar[str] = "grouping"

    def __post_init__(self) -> None:
        """Raise UsageError for numbers that no group can have."""
        if not 1 <= self.group <= MAX_GROUP or not 0 <= self.keep <= self.group:
            raise UsageError(
                f"the pattern {self.keep}:{self.group} is not K of every G: G is 1 to {MAX_GROUP}, K is 0 to G",
                hint=Argument("pattern", "2:4"),
            )

    @property
    def arguments(self) -> tuple[Argument, ...]:
        """The pattern, and the dimension if there is one."""
        pattern = Argument("pattern", f"{self.keep}:{self.group}")
        return (pattern,) if self.dim is None else (pattern, Argument("dim", self.dim))

    def judge(self, checked: CheckedCheckpoint) -> Iterator[Finding]:
        """Yield the first overfull group of each tensor that has one, and how many it has."""
        runs = [self._run(tensor) for tensor in checked.tensors]
        counted = checked.overfull_groups((self.keep, self.group), runs)
        examined = [
            (tensor, run, groups)
            for tensor, run, groups in zip(checked.tensors, runs, counted, strict=True)
            if run is not None and groups is not None
        ]
        for tensor, run, groups in examined:
            if groups.first is not None:
                got = f"{_group(tensor, groups, run, self.group)}; {groups.overfull:,} of {groups.groups:,} groups"
                got += self._assumed([tensor])
                yield Finding(self, holds=False, tensor=tensor.name, wanted=self._wanted([(tensor, run)]), got=got)
        if all(groups.first is None for _, _, groups in examined):
            got = self._success(sum(groups.groups for _, _, groups in examined), runs.count(None), len(runs))
            got += self._assumed([tensor for tensor, _, _ in examined])
            wanted = self._wanted([(tensor, run) for tensor, run, _ in examined])
            yield Finding(self, holds=bool(examined), tensor=None, wanted=wanted, got=got)

    def _run(self, tensor: TensorInfo) -> Run | None:
        """Return the entries that groups of `tensor` consist of, or None if they are fewer than a group."""
        if self.dim is None:
            dim, run = tensor.layout.inputs, tensor.layout.input_run(tensor.shape)
        else:
            dim = front_dim(tensor, self.dim)
            run = tensor.shape[dim], prod(tensor.shape[dim + 1 :])
        return None if dim is None or run is None or run[0] < self.group else Run(dim, *run)

    def _wanted(self, examined: Sequence[tuple[TensorInfo, Run]]) -> str:
        """Return the pattern in words, with the dimension if it is the same for all tensors."""
        along = {tensor.layout.dim_words(run.dim) for tensor, run in examined}
        usual = "inputs" if self.dim is None else f"dim {self.dim}"
        return f"at most {self.keep} of every {self.group} along {along.pop() if len(along) == 1 else usual}"

    def _assumed(self, examined: Sequence[TensorInfo]) -> str:
        """Return a remark about tensors whose inputs nothing proves, or ""."""
        assumed = [tensor for tensor in examined if self.dim is None and is_assumed(tensor)]
        if not assumed:
            return ""
        which = printable(assumed[0].name) if len(assumed) == 1 else f"{len(assumed)} tensors"
        return "; the layout is assumed" if len(examined) == 1 else f"; the layout of {which} is assumed"

    def _success(self, groups: int, short: int, tensors: int) -> str:
        """Return the text for `tensors` without an overfull group, of which `short` are shorter than a group."""
        along = "inputs" if self.dim is None else f"weights along dim {self.dim}"
        if short == tensors:
            return f"n/a: no tensor has {self.group} {along}"
        text = f"0 of {groups:,} groups have more"
        return f"{text}; n/a to {counted(short, 'tensor')} with fewer than {self.group} {along}" if short else text


def _group(tensor: TensorInfo, groups: OverfullGroups, run: Run, length: int) -> str:
    """Return the non-zeros of the first overfull group and its position: "3 at [1, 4:8]"."""
    indices = list(_indices(tensor, groups.first or 0))
    start = indices[run.dim]
    stop = min(start + length, start - start % run.length + run.length)
    texts = [f"{start}:{stop}" if dim == run.dim else str(index) for dim, index in enumerate(indices)]
    return f"{groups.nonzeros} at [{', '.join(texts)}]"


@dataclass(frozen=True, slots=True)
class Finite:
    """No weight is NaN or infinite."""

    arguments: ClassVar[tuple[Argument, ...]] = (Argument("finite", value=True),)
    phase: ClassVar[str] = "counting"

    def judge(self, checked: CheckedCheckpoint) -> Iterator[Finding]:
        """Yield the number of weights that are not finite, and the position of the first one, for each tensor."""
        failures = [
            None
            if counts.first_nonfinite is None
            else f"{counts.nonfinite:,} NaN or infinite, first at {_position(tensor, counts.first_nonfinite)}"
            for tensor, counts in zip(checked.tensors, checked.counts, strict=True)
        ]
        success = f"all {sum(tensor.numel for tensor in checked.tensors):,} weights are"
        yield from _per_tensor(self, checked.tensors, failures, "all finite", success)


@dataclass(frozen=True, slots=True)
class NoAllZero:
    """Every tensor has a weight that is not zero."""

    arguments: ClassVar[tuple[Argument, ...]] = (Argument("no_all_zero", value=True),)
    phase: ClassVar[str] = "counting"

    def judge(self, checked: CheckedCheckpoint) -> Iterator[Finding]:
        """Yield the tensors whose weights are all zero."""
        failures = [
            f"all {tensor.numel:,} weights are zero" if counts.zeros == tensor.numel else None
            for tensor, counts in zip(checked.tensors, checked.counts, strict=True)
        ]
        success = f"each of {len(checked.tensors):,} tensors has one"
        yield from _per_tensor(self, checked.tensors, failures, "a weight that is not zero", success)


def _per_tensor(
    condition: Condition, tensors: Sequence[TensorInfo], failures: Sequence[str | None], wanted: str, success: str
) -> Iterator[Finding]:
    """Yield a finding for each tensor with a failure (the text that it got), or one for all tensors."""
    for tensor, failure in zip(tensors, failures, strict=True):
        if failure is not None:
            yield Finding(condition, holds=False, tensor=tensor.name, wanted=wanted, got=failure)
    if not any(failures):
        yield Finding(condition, holds=True, tensor=None, wanted=wanted, got=success)


# --- conditions on every tensor


@dataclass(frozen=True, slots=True)
class _OtherCheckpoint:
    other: PathLike
    argument: ClassVar[str]

    @property
    def arguments(self) -> tuple[Argument, ...]:
        """The path of the other checkpoint."""
        return (Argument(self.argument, os.fspath(self.other)),)


@dataclass(frozen=True, slots=True)
class SameStructure(_OtherCheckpoint):
    """The tensors have the names, dtypes and shapes of those in another checkpoint, in any container.

    Args:
        other: The path of the other checkpoint.
    """

    argument: ClassVar[str] = "same_structure_as"
    phase: ClassVar[str] = ""

    def judge(self, checked: CheckedCheckpoint) -> Iterator[Finding]:
        """Yield the tensors that one checkpoint lacks, or has with another dtype or shape."""
        _, pairs = checked.paired_with(self.other)
        yield from _structure(self, pairs)


@dataclass(frozen=True, slots=True)
class OnlyZerosAdded(_OtherCheckpoint):
    """The tensors equal those of another checkpoint bit for bit, except for floats that are zero now (+0 or -0).

    Args:
        other: The path of the other checkpoint.
    """

    argument: ClassVar[str] = "only_zeros_added_since"
    phase: ClassVar[str] = "comparing"

    def judge(self, checked: CheckedCheckpoint) -> Iterator[Finding]:
        """Yield the tensors with another change, and the position of the first one."""
        from prunecli.dtypes import FLOATS  # noqa: PLC0415
        from prunecli.inspection.compare import compare  # noqa: PLC0415 - NumPy, which a usage error must not wait for

        passes = checked.passes
        other, pairs = checked.paired_with(self.other)
        failed = [finding for finding in _structure(self, pairs) if not finding.holds]
        changes = compare(other, passes.checkpoint, pairs, threads=passes.threads, progress=passes.progress)
        for tensor in (pair.alike[0] for pair in pairs if pair.alike is not None):
            change = changes[tensor.name]
            count, first = change.otherwise, change.first_other
            if tensor.dtype not in FLOATS:  # a zero is an ordinary value of an integer
                count, first = change.changed, change.first
            if first is not None:
                got = f"{count:,} of {change.entries:,} changed otherwise, first at {_position(tensor, first)}"
                failed.append(Finding(self, holds=False, tensor=tensor.name, wanted="unchanged or zero", got=got))
        yield from failed
        if not failed:
            counted = [changes[pair.name] for pair in pairs if pair.tied_to is None and pair.name in changes]
            zeroed, entries = sum(change.changed for change in counted), sum(change.entries for change in counted)
            got = f"{zeroed:,} of {entries:,} became zero, 0 changed otherwise"
            yield Finding(self, holds=True, tensor=None, wanted="unchanged or zero", got=got)


def _structure(condition: Condition, pairs: Sequence[Pair]) -> Iterator[Finding]:
    """Yield a finding for each pair of different tensors, or one for all pairs. The first of a pair is wanted."""
    failed = [pair for pair in pairs if pair.forms[0] != pair.forms[1]]
    for pair in failed:
        wanted, got = (str(form or "none") for form in pair.forms)
        yield Finding(condition, holds=False, tensor=pair.name, wanted=wanted, got=got)
    if not failed:
        got = f"all {len(pairs):,} tensors have them"
        yield Finding(condition, holds=True, tensor=None, wanted="its names, dtypes and shapes", got=got)


def _position(tensor: TensorInfo, index: int) -> str:
    """Return a row-major index as indices: "[12, 4]"."""
    return f"[{', '.join(map(str, _indices(tensor, index)))}]"


def _indices(tensor: TensorInfo, index: int) -> tuple[int, ...]:
    """Return a row-major index as one index per dimension."""
    indices: list[int] = []
    for size in reversed(tensor.shape):
        index, along = divmod(index, size)
        indices.append(along)
    return tuple(reversed(indices))
