"""Bounds on sparsity, counted in whole weights, and the gates that a report has to pass.

`prunecli.inspection.check` judges files by the same bounds. This module reads no file.
"""

from __future__ import annotations

from numbers import Real
from typing import TYPE_CHECKING

from prunecli.errors import Argument, PruneError, UsageError
from prunecli.text.escape import printable
from prunecli.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prunecli.report.model import Report

MOST_DIGITS = 8
"""The digits after the decimal point of a percentage, at most."""


@dataclass(frozen=True, slots=True)
class Count:
    """The zeros of one tensor: `zeros` of its `numel` elements."""

    name: str
    zeros: int
    numel: int


@dataclass(frozen=True, slots=True)
class Bound:
    """The smallest allowed fraction of zeros, or the largest with `upper`. `fraction` is 0 to 1.

    A bound counts whole weights. The count is rounded as amounts are (`round(fraction * n)`, half to even), over all
    tensors or tensor by tensor, whichever is easier to meet. So the output of amount 0.5 is 50% sparse. In a small
    tensor, a lower bound above 0 still requires one zero, and an upper bound below 1 one weight that is not zero.
    """

    fraction: float
    upper: bool = False

    def __post_init__(self) -> None:
        """Raise UsageError for a number outside 0 to 1."""
        fraction: object = self.fraction
        if not isinstance(fraction, Real):
            raise UsageError(f"a sparsity is a number, not {printable(repr(fraction))}", hint="0.5 for one half")
        # NaN fails this comparison too.
        if not 0 <= self.fraction <= 1:
            raise UsageError(f"a sparsity is 0 to 1 (or 0% to 100%), not {self.fraction:g}", hint="0.5 for one half")

    def zeros(self, numels: Sequence[int]) -> int:
        """Return the number of zeros that tensors of `numels` elements need, or may have."""
        together, one_by_one = self._rounded(sum(numels)), sum(self._rounded(numel) for numel in numels)
        return max(together, one_by_one) if self.upper else min(together, one_by_one)

    def _rounded(self, numel: int) -> int:
        rounded = round(self.fraction * numel)
        if self.upper:
            return rounded if self.fraction == 1 else max(min(rounded, numel - 1), 0)
        return max(rounded, 1) if self.fraction and numel else rounded

    def holds(self, counts: Sequence[Count]) -> bool:
        """Return whether the tensors, taken together, are within the bound."""
        zeros, limit = sum(c.zeros for c in counts), self.zeros([c.numel for c in counts])
        return zeros <= limit if self.upper else zeros >= limit

    def wanted(self) -> str:
        """Return the bound in words: "at least 50%"."""
        return f"at {'most' if self.upper else 'least'} {percentage(self.fraction)}"

    def got(self, counts: Sequence[Count]) -> str:
        """Return the sparsity and the number of weights that it misses: "49.9% (499 of 1,000; 1 too few)"."""
        zeros, numels = sum(c.zeros for c in counts), [c.numel for c in counts]
        off = abs(zeros - self.zeros(numels))
        miss = "" if self.holds(counts) else f"; {off:,} too {'many' if self.upper else 'few'}"
        return f"{self._share(zeros, sum(numels))} ({zeros:,} of {sum(numels):,}{miss})"

    def _share(self, zeros: int, numel: int) -> str:
        """Return a percentage with enough digits to differ from the bound, from 0% and from 100%."""
        if not numel:
            return "0.0%"
        misleading = {self.fraction, 0.0, 1.0} - {zeros / numel}
        for digits in range(1, MOST_DIGITS):
            text = f"{100 * zeros / numel:.{digits}f}"
            if float(text) / 100 not in misleading:
                return f"{text}%"
        return f"{100 * zeros / numel:.{MOST_DIGITS}f}%"


def percentage(fraction: float) -> str:
    """Return a requested fraction (0-1) as a percentage without trailing zeros: 0.5 is "50%"."""
    return f"{100 * fraction:.10g}%"


@dataclass(frozen=True, slots=True)
class Gates:
    """Bounds on the result of a run. If the result is outside, no checkpoint is published.

    Zeros of the input count too.

    Args:
        min_sparsity: The smallest sparsity (0-1) of the selected tensors together; None for no bound.
        max_sparsity: The largest sparsity (0-1) of the selected tensors together; None for no bound.
        max_tensor_sparsity: The largest sparsity (0-1) of each selected tensor; None for no bound.

    Raises:
        UsageError: A bound is outside 0 to 1, or no result can meet all of them.
    """

    min_sparsity: float | None = None
    max_sparsity: float | None = None
    max_tensor_sparsity: float | None = None

    def __post_init__(self) -> None:
        """Raise UsageError for a number outside 0 to 1 and for bounds that contradict each other."""
        for fraction in (self.min_sparsity, self.max_sparsity, self.max_tensor_sparsity):
            if fraction is not None:
                Bound(fraction)
        highest = min((f for f in (self.max_sparsity, self.max_tensor_sparsity) if f is not None), default=1.0)
        if self.min_sparsity is not None and self.min_sparsity > highest:
            raise UsageError(
                f"no result is at least {percentage(self.min_sparsity)} zero and at most {percentage(highest)}",
                hint=(Argument("min_sparsity", highest), ", or less"),
            )


def failures(report: Report, gates: Gates) -> tuple[str, ...]:
    """Return one sentence for each gate that `report` fails, and one per tensor for `max_tensor_sparsity`.

    Only selected tensors count. Names are escaped for a terminal.
    """
    if gates == Gates():
        return ()
    counts = [Count(r.name, r.zeros_after, r.numel) for r in report.rows if r.selected and r.zeros_after is not None]
    judged = [
        (gates.min_sparsity, False, "the selected weights", counts),
        (gates.max_sparsity, True, "the selected weights", counts),
        *((gates.max_tensor_sparsity, True, printable(count.name), [count]) for count in counts),
    ]
    sentences = (_failure(Bound(f, upper), of, some) for f, upper, of, some in judged if f is not None)
    return tuple(filter(None, sentences))


def _failure(bound: Bound, of: str, counts: Sequence[Count]) -> str:
    """Return the sentence about weights outside `bound`, "" if they are within it."""
    verb = "may" if bound.upper else "must"
    return "" if bound.holds(counts) else f"{bound.wanted()} of {of} {verb} be zero, not {bound.got(counts)}"


class GateError(PruneError):
    """The result fails a gate, so no checkpoint was published. The command line exits with 1.

    Attributes:
        failures: One sentence per failed gate.
        report: The report of the result that was not published.
    """

    def __init__(self, failures: tuple[str, ...], report: Report) -> None:
        """Join the sentences into the message; keep them and the report."""
        super().__init__("the result does not meet the gates, so no checkpoint was written: " + "; ".join(failures))
        self.failures, self.report = failures, report
