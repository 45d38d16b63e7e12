"""Whether a checkpoint is what it should be: conditions as values, and what was found for each of them.

    findings = check("model.safetensors", [Sparsity(Bound(0.5)), Finite()])
    assert all(finding.holds for finding in findings)

Nothing is written. What reads weights is imported when a condition needs it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from prunecli.checkpoint import OUTSIDE
from prunecli.errors import CheckpointError, UsageError
from prunecli.formats.open import open_checkpoint
from prunecli.inspection.pairing import Pair, open_at, pair_up
from prunecli.progress import bytes_of, unwatched
from prunecli.report.gates import Bound, Count, percentage
from prunecli.selection.select import Rules, matching, select
from prunecli.strategies.amounts import front_dim
from prunecli.text.escape import shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from prunecli.checkpoint import Checkpoint, TensorInfo
    from prunecli.inspection.group_counts import Found, Full
    from prunecli.io.threads import Worker
    from prunecli.kernels.norms import Read
    from prunecli.progress import Watch

PathLike = str | os.PathLike[str]

GROUP_MAX = 32767
"""The longest group, as in `topk`."""


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
    watch: Watch = unwatched,
) -> tuple[Finding, ...]:
    """Return what the checkpoint at `path` is found to be, condition by condition.

    `include`, `exclude`, `min_dim` and `min_numel` select tensors as for pruning, see `selection.Rules`; conditions
    that compare with another checkpoint look at every tensor of the state_dict that `include` and `exclude` leave.
    `key` is the dotted path of the state_dict in a nested checkpoint, `threads` 0 takes as many as help, `label`
    names the checkpoint in messages, and `watch` is told of each pass. Raises UsageError where no condition is given,
    and PruneError, in one of its kinds, for a checkpoint that cannot be read, patterns that match nothing, and a
    condition that fits no tensor.
    """
    if not conditions:
        raise UsageError("check needs a condition", hint="--min-sparsity 50%, --pattern 2:4, --finite, or another")
    rules = Rules(tuple(include), tuple(exclude), min_dim, min_numel)
    look = Look(open_checkpoint(path, key=key, label=label), rules, key, threads, watch)
    return tuple(finding for condition in conditions for finding in condition.judge(look))


class Look:
    """A checkpoint being checked: what several conditions ask for is read once."""

    def __init__(self, checkpoint: Checkpoint, rules: Rules, key: str | None, threads: int, watch: Watch) -> None:
        """Read nothing yet."""
        self.checkpoint, self.rules, self.key, self.threads, self.watch = checkpoint, rules, key, threads, watch

    @cached_property
    def tensors(self) -> list[TensorInfo]:
        """The selected tensors, in checkpoint order; SelectionError where there are none."""
        return [target.tensor for target in select(self.checkpoint, self.rules).targets]

    @cached_property
    def found(self) -> list[Found]:
        """What was counted in each of the selected tensors."""
        from prunecli.inspection.group_counts import count  # noqa: PLC0415  -- NumPy, which a usage error must not wait for
        from prunecli.io.reader import scan  # noqa: PLC0415

        def one(worker: Worker, tensor: TensorInfo, read: Read) -> Found:
            return count(worker.host, tensor, read)

        with self.watch("counting", bytes_of(self.tensors)) as advance:
            return scan(self.checkpoint, self.tensors, one, threads=self.threads, advance=advance)

    def counts(self, option: str, pattern: str | None) -> list[Count]:
        """Return the zeros of the selected tensors, or of those that `pattern` of `option` matches."""
        chosen = range(len(self.tensors)) if pattern is None else matching(option, pattern, self.tensors)
        return [Count(self.tensors[at].name, self.found[at].zeros, self.tensors[at].numel) for at in chosen]

    def full_groups(self, pattern: tuple[int, int], dim: int) -> list[Full]:
        """Return the groups of each selected tensor that have too many non-zeros."""
        dims = {tensor.name: front_dim(tensor, dim) for tensor in self.tensors}
        from prunecli.inspection.group_counts import full_groups  # noqa: PLC0415  -- NumPy, which a usage error must not wait for
        from prunecli.io.reader import scan  # noqa: PLC0415

        def one(worker: Worker, tensor: TensorInfo, read: Read) -> Full:
            return full_groups(worker.host, tensor, read, pattern, dims[tensor.name])

        with self.watch("grouping", bytes_of(self.tensors)) as advance:
            return scan(self.checkpoint, self.tensors, one, threads=self.threads, advance=advance)

    def against(self, path: PathLike) -> tuple[Checkpoint, list[Pair]]:
        """Open another checkpoint; return it, and the tensors of both state_dicts by name: first its own."""
        other = open_at(path, self.key)
        ours, theirs = ([t for t in c.tensors if t.fixed != OUTSIDE] for c in (self.checkpoint, other))
        pairs = pair_up(theirs, ours, self.rules.include, self.rules.exclude)
        if not pairs:
            hint = "leave out -x" if self.rules.exclude else None
            raise CheckpointError(f"there is no tensor to compare with {other.path}", hint=hint)
        return other, pairs


# --- conditions on the selected weights


@dataclass(frozen=True, slots=True)
class Sparsity:
    """The selected tensors together, or `each` of them, are within `bound`; `of` is a pattern that narrows them."""

    bound: Bound
    of: str | None = None
    each: bool = False

    @property
    def option(self) -> str:
        """The option of the command line."""
        return f"--{'max' if self.bound.upper else 'min'}-{'tensor-' if self.each else ''}sparsity"

    def judge(self, look: Look) -> Iterator[Finding]:
        """Yield what the zeros come to; of single tensors that all hold, the one nearest to the bound."""
        bound = self.bound
        text = f"{self.option} {'' if self.of is None else f'{self.of}='}{percentage(bound.fraction)}"
        counts = look.counts(self.option, self.of)
        if not self.each:
            yield Finding(text, bound.holds(counts), None, bound.wanted(), bound.got(counts))
            return
        failed = [count for count in counts if not bound.holds([count])]
        for count in failed:
            yield Finding(text, holds=False, tensor=count.name, wanted=bound.wanted(), got=bound.got([count]))
        if not failed:
            near = sorted(counts, key=lambda count: count.zeros / count.numel)[-1 if bound.upper else 0]
            got = f"{bound.got([near])} at {'most' if bound.upper else 'least'}, in {shown(near.name)}"
            yield Finding(text, holds=True, tensor=None, wanted=f"each {bound.wanted()}", got=got)


@dataclass(frozen=True, slots=True)
class Pattern:
    """Every group of `group` consecutive weights along `dim` has at most `keep` non-zeros, a short last one too."""

    keep: int
    group: int
    dim: int = 1

    def __post_init__(self) -> None:
        """Raise UsageError for what no group can be."""
        if not 1 <= self.group <= GROUP_MAX or not 0 <= self.keep <= self.group:
            raise UsageError(
                f"--pattern {self.keep}:{self.group} is no K of every G: G is 1 to {GROUP_MAX}, K is 0 to G",
                hint="--pattern 2:4",
            )

    def judge(self, look: Look) -> Iterator[Finding]:
        """Yield the first group that is too full, and how many are, of each tensor that has one."""
        text = f"--pattern {self.keep}:{self.group}" + (f" --dim {self.dim}" if self.dim != 1 else "")
        wanted = f"at most {self.keep} of every {self.group} along dim {self.dim}"
        found = look.full_groups((self.keep, self.group), self.dim)
        for tensor, full in zip(look.tensors, found, strict=True):
            if full.place is not None:
                place = _place(tensor, full.place, front_dim(tensor, self.dim), self.group)
                got = f"{full.nonzeros} at {place}; {full.full:,} of {full.groups:,} groups"
                yield Finding(text, holds=False, tensor=tensor.name, wanted=wanted, got=got)
        if not any(full.full for full in found):
            groups = sum(full.groups for full in found)
            yield Finding(text, holds=True, tensor=None, wanted=wanted, got=f"0 of {groups:,} groups have more")


@dataclass(frozen=True, slots=True)
class Finite:
    """No weight is NaN or infinite."""

    def judge(self, look: Look) -> Iterator[Finding]:
        """Yield how many weights are not finite, and where the first one is."""
        odd = [(t, f) for t, f in zip(look.tensors, look.found, strict=True) if f.first_odd is not None]
        for tensor, found in odd:
            got = f"{found.nonfinite:,} NaN or infinite, first at {_place(tensor, found.first_odd or 0)}"
            yield Finding("--finite", holds=False, tensor=tensor.name, wanted="all finite", got=got)
        if not odd:
            got = f"all {sum(t.numel for t in look.tensors):,} weights are"
            yield Finding("--finite", holds=True, tensor=None, wanted="all finite", got=got)


@dataclass(frozen=True, slots=True)
class NoAllZero:
    """No tensor is zero throughout."""

    def judge(self, look: Look) -> Iterator[Finding]:
        """Yield the tensors that are."""
        text, wanted = "--no-all-zero", "a weight that is not zero"
        dead = [t for t, found in zip(look.tensors, look.found, strict=True) if found.zeros == t.numel]
        for tensor in dead:
            got = f"all {tensor.numel:,} weights are zero"
            yield Finding(text, holds=False, tensor=tensor.name, wanted=wanted, got=got)
        if not dead:
            yield Finding(
                text, holds=True, tensor=None, wanted=wanted, got=f"each of {len(look.tensors):,} tensors has one"
            )


# --- conditions on every tensor


@dataclass(frozen=True, slots=True)
class SameStructure:
    """The tensors have the names, dtypes and shapes of those in the checkpoint at `other`, whatever its container."""

    other: PathLike

    def judge(self, look: Look) -> Iterator[Finding]:
        """Yield the tensors that one checkpoint lacks or has in another form."""
        _, pairs = look.against(self.other)
        yield from _structure(f"--same-structure-as {os.fspath(self.other)}", pairs)


@dataclass(frozen=True, slots=True)
class OnlyZerosAdded:
    """The tensors are those of the checkpoint at `other`, bit for bit, but for floats that are zero now (+0 or -0)."""

    other: PathLike

    def judge(self, look: Look) -> Iterator[Finding]:
        """Yield the tensors in which something else changed, with the first place."""
        from prunecli.dtypes import FLOATS  # noqa: PLC0415
        from prunecli.inspection.compare import compare  # noqa: PLC0415  -- NumPy, which a usage error must not wait for

        text = f"--only-zeros-added-since {os.fspath(self.other)}"
        other, pairs = look.against(self.other)
        alike = [(p.a, p.b) for p in pairs if p.a is not None and p.b is not None and p.kinds[0] == p.kinds[1]]
        failed = [] if len(alike) == len(pairs) else list(_structure(text, pairs))
        with look.watch("comparing", bytes_of(t for pair in alike for t in pair)) as advance:
            changes = compare(other, look.checkpoint, alike, threads=look.threads, advance=advance)
        for (tensor, _), change in zip(alike, changes, strict=True):
            bad, first = change.otherwise, change.first_other
            if tensor.dtype not in FLOATS:  # zero is a number like others there
                bad, first = change.changed, change.first
            if first is not None:
                got = f"{bad:,} of {change.entries:,} changed otherwise, first at {_place(tensor, first)}"
                failed.append(Finding(text, holds=False, tensor=tensor.name, wanted="unchanged or zero", got=got))
        yield from failed
        if not failed:
            zeroed, entries = sum(c.changed for c in changes), sum(c.entries for c in changes)
            got = f"{zeroed:,} of {entries:,} became zero, 0 changed otherwise"
            yield Finding(text, holds=True, tensor=None, wanted="unchanged or zero", got=got)


def _structure(condition: str, pairs: Sequence[Pair]) -> Iterator[Finding]:
    """Yield a finding for each pair that is not alike, or one for all; the first of a pair is what is wanted."""
    failed = [pair for pair in pairs if pair.kinds[0] != pair.kinds[1]]
    for pair in failed:
        wanted, got = pair.kinds
        yield Finding(condition, holds=False, tensor=pair.name, wanted=str(wanted or "none"), got=str(got or "none"))
    if not failed:
        got_all = f"all {len(pairs):,} tensors have them"
        yield Finding(condition, holds=True, tensor=None, wanted="its names, dtypes and shapes", got=got_all)


def _place(tensor: TensorInfo, at: int, dim: int | None = None, group: int = 1) -> str:
    """Return the indices of the row-major place `at`, with the range of a group along `dim`: "[12, 4:8]"."""
    indices: list[str] = []
    for axis in reversed(range(len(tensor.shape))):
        at, index = divmod(at, tensor.shape[axis])
        stop = min(index + group, tensor.shape[axis])
        indices.append(f"{index}:{stop}" if axis == dim else str(index))
    return f"[{', '.join(reversed(indices))}]"
