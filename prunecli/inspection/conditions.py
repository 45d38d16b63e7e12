"""conditions."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prunecli.checkpoint import PathLike
from prunecli.errors import UsageError
from prunecli.inspection.check import Finding, Look
from prunecli.inspection.pairing import Pair
from prunecli.io.scan import bytes_to_read
from prunecli.progress import start
from prunecli.report.gates import Bound, percentage
from prunecli.strategies.amounts import front_dim
from prunecli.text.escape import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from prunecli.checkpoint import TensorInfo


GROUP_MAX = 32767
"""The longest group, as in `topk`."""


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
            got = f"{bound.got([near])} at {'most' if bound.upper else 'least'}, in {printable(near.name)}"
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
        advance = start(look.progress, "comparing", bytes_to_read(t for pair in alike for t in pair))
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
