"""Bounds on sparsity: what a fraction of some tensors is in whole weights, and which gates a report does not pass.

Counts in, sentences out. Nothing here reads a file, and
`prunecli.inspection.check` judges by the same numbers and words.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from prunecli.errors import PruneError, UsageError
from prunecli.text.escape import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from prunecli.report.model import Report

MOST_DIGITS = 8
"""Digits behind the point after which a percentage is told as it is."""


@dataclass(frozen=True, slots=True)
class Count:
    """How much of a tensor is zero: `zeros` of its `numel` entries."""

    name: str
    zeros: int
    numel: int


@dataclass(frozen=True, slots=True)
class Bound:
    """The least, or with `upper` the most, that may be zero: a `fraction` from 0 to 1.

    A bound counts whole weights, rounded as amounts are (`round(fraction * n)`, half to even), over all tensors or
    tensor by tensor, whichever asks for less: what `--amount 50%` made is 50% sparse. But a least that is not 0 asks
    for one zero, and a most that is not 1 for one weight, however small the tensor.
    """

    fraction: float
    upper: bool = False

    def __post_init__(self) -> None:
        """Raise UsageError for what is no fraction."""
        if not 0 <= self.fraction <= 1:
            raise UsageError(f"a sparsity is 0 to 1 (or 0% to 100%), not {self.fraction:g}", hint="0.5, or 50%")

    def zeros(self, numels: Sequence[int]) -> int:
        """Return how many zeros tensors of `numels` entries need, or may have."""
        both = self._of(sum(numels)), sum(self._of(numel) for numel in numels)
        return max(both) if self.upper else min(both)

    def _of(self, numel: int) -> int:
        rounded = round(self.fraction * numel)
        if self.upper:
            return rounded if self.fraction == 1 else max(min(rounded, numel - 1), 0)
        return max(rounded, 1) if self.fraction and numel else rounded

    def holds(self, counts: Sequence[Count]) -> bool:
        """Whether `counts`, taken together, are within the bound."""
        zeros, limit = sum(c.zeros for c in counts), self.zeros([c.numel for c in counts])
        return zeros <= limit if self.upper else zeros >= limit

    def wanted(self) -> str:
        """Say what is wanted: "at least 50%"."""
        return f"at {'most' if self.upper else 'least'} {percentage(self.fraction)}"

    def got(self, counts: Sequence[Count]) -> str:
        """Say what `counts` are together, and by how many weights they miss: "49.9% (499 of 1,000; 1 too few)"."""
        zeros, numels = sum(c.zeros for c in counts), [c.numel for c in counts]
        off = abs(zeros - self.zeros(numels))
        miss = "" if self.holds(counts) else f"; {off:,} too {'many' if self.upper else 'few'}"
        return f"{self._share(zeros, sum(numels))} ({zeros:,} of {sum(numels):,}{miss})"

    def _share(self, zeros: int, numel: int) -> str:
        """Return a percentage with as many digits as it takes to tell it from the bound, from none and from all."""
        if not numel:
            return "0.0%"
        misleading = {self.fraction, 0.0, 1.0} - {zeros / numel}
        for digits in range(1, MOST_DIGITS):
            text = f"{100 * zeros / numel:.{digits}f}"
            if float(text) / 100 not in misleading:
                return f"{text}%"
        return f"{100 * zeros / numel:.{MOST_DIGITS}f}%"


def percentage(fraction: float) -> str:
    """Return a fraction that was asked for as a percentage, without digits that nobody asked for."""
    return f"{100 * fraction:.10g}%"


@dataclass(frozen=True, slots=True)
class Gates:
    """What the result of a run must be, or it is not published: fractions from 0 to 1, None where nothing is asked.

    `min_sparsity` and `max_sparsity` bound the selected tensors together, `max_tensor_sparsity` each of them. What
    was zero before counts too.
    """

    min_sparsity: float | None = None
    max_sparsity: float | None = None
    max_tensor_sparsity: float | None = None

    def __post_init__(self) -> None:
        """Raise UsageError for what is no fraction, and for bounds that nothing can meet."""
        for fraction in (self.min_sparsity, self.max_sparsity, self.max_tensor_sparsity):
            if fraction is not None:
                Bound(fraction)
        highest = min((f for f in (self.max_sparsity, self.max_tensor_sparsity) if f is not None), default=1.0)
        if self.min_sparsity is not None and self.min_sparsity > highest:
            raise UsageError(
                f"nothing is at least {percentage(self.min_sparsity)} zero and at most {percentage(highest)}",
                hint=f"--min-sparsity {percentage(highest)}, or less",
            )


def failures(report: Report, gates: Gates) -> tuple[str, ...]:
    """Return a sentence for each gate that `report` does not pass, and for each tensor at the gate of every tensor.

    Only selected tensors count. Names are escaped for a terminal.
    """
    counts = [Count(r.name, r.zeros_after, r.numel) for r in report.rows if r.selected and r.zeros_after is not None]
    return tuple(_failures(counts, gates))


def _failures(counts: Sequence[Count], gates: Gates) -> Iterator[str]:
    for option, fraction, upper in (
        ("--min-sparsity", gates.min_sparsity, False),
        ("--max-sparsity", gates.max_sparsity, True),
    ):
        bound = None if fraction is None else Bound(fraction, upper)
        if bound is not None and not bound.holds(counts):
            yield f"{option}: wanted {bound.wanted()} zero over the selected tensors, got {bound.got(counts)}"
    if gates.max_tensor_sparsity is None:
        return
    each = Bound(gates.max_tensor_sparsity, upper=True)
    for count in counts:
        if not each.holds([count]):
            wanted, got = each.wanted(), each.got([count])
            yield f"--max-tensor-sparsity: wanted {wanted} zero, got {got} in {printable(count.name)}"


class GateError(PruneError):
    """The result is not what a gate asked for, so nothing was published; the command line exits with 1.

    `failures` has a sentence for each gate, and `report` says what the result would have been.
    """

    def __init__(self, failures: tuple[str, ...], report: Report) -> None:
        """Keep what failed and the numbers."""
        super().__init__("the result does not pass, and no checkpoint was written: " + "; ".join(failures))
        self.failures, self.report = failures, report
