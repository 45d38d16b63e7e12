"""Searching for the largest amount whose metric stays within a drop of the unpruned checkpoint's: bisection.

It takes for granted that pruning more is never better. Where the metric is noisy or bumpy that is not so, and then a
larger amount than the one found may do as well; what is found was measured itself, always. Nothing here prunes,
evaluates or prints.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from math import ceil
from typing import TYPE_CHECKING

from prunecli.errors import UsageError
from prunecli.tuning.evaluate import EvaluationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TypeAlias

    from prunecli.strategies.unstructured import Strategy
    from prunecli.tuning.trials import Trial, Trials

    MakeStrategy: TypeAlias = Callable[[float], Strategy]
    Tell: TypeAlias = Callable[["Attempt"], None]

_DIGITS = 12  # of an amount, so that 3 * 0.1 is 0.3


@dataclass(frozen=True, slots=True)
class MetricGoal:
    """How far the metric may fall, in its own units; a loss falls by rising."""

    max_drop: Decimal
    higher_is_better: bool = True

    def __post_init__(self) -> None:
        """Refuse drops that mean nothing."""
        if not (self.max_drop.is_finite() and self.max_drop >= 0):
            raise UsageError(f"--max-drop is a number of 0 or more, not {self.max_drop}", hint="--max-drop 0.01")

    def drop(self, unpruned: Decimal, metric: Decimal) -> Decimal:
        """Return by how much `metric` is worse than `unpruned`; negative where it is better."""
        return unpruned - metric if self.higher_is_better else metric - unpruned


@dataclass(frozen=True, slots=True)
class Attempt:
    """A trial of an amount (0-1), how much worse the metric got, and whether that is within the drop."""

    amount: float
    trial: Trial
    drop: Decimal
    within: bool


@dataclass(frozen=True, slots=True)
class Found:
    """What a search came to: `tries` in their order, the largest `best` within the drop, the smallest `beyond` it.

    `complete` says whether no step of the tolerance is left between the two; otherwise the tries were used up.
    """

    unpruned: Trial
    tries: tuple[Attempt, ...]
    complete: bool

    @property
    def best(self) -> Attempt | None:
        """The largest amount that stayed within the drop."""
        return max((t for t in self.tries if t.within), key=lambda t: t.amount, default=None)

    @property
    def beyond(self) -> Attempt | None:
        """The smallest amount that did not."""
        return min((t for t in self.tries if not t.within), key=lambda t: t.amount, default=None)


@dataclass(frozen=True, slots=True)
class AmountGrid:
    """The amounts to search among: the multiples of `tolerance` between 0 and 1, in at most `most` tries."""

    tolerance: float = 0.01
    most: int | None = None

    def __post_init__(self) -> None:
        """Refuse steps that lead nowhere."""
        if not 0 < self.tolerance <= 0.5:
            raise UsageError(
                f"--tolerance is more than 0 and at most 0.5, not {self.tolerance:g}", hint="--tolerance 0.01"
            )

    @property
    def count(self) -> int:
        """The first multiple that is 1 or more; nobody tries it, for then nothing is left."""
        return ceil(1 / self.tolerance - 1e-9)

    def amount(self, step: int) -> float:
        """Return the amount after so many steps."""
        return round(step * self.tolerance, _DIGITS)


def search(
    trials: Trials, vary: MakeStrategy, goal: MetricGoal, steps: AmountGrid, tell: Callable[[Trial], Tell]
) -> Found:
    """Find the largest amount within the goal; `vary` makes the strategy of an amount.

    `tell` hears of the unpruned checkpoint's trial first; what it returns hears of each try. Raise EvaluationError
    where the unpruned metric is not finite, and what the trials raise.
    """
    unpruned = trials.unpruned(vary(0.0))
    if not unpruned.metric.is_finite():
        raise EvaluationError(
            f"the unpruned checkpoint's metric is {unpruned.metric}, and no drop from that can be measured",
            output=(unpruned.line,),
        )
    told = tell(unpruned)

    def attempt(amount: float) -> Attempt:
        trial = trials.of(vary(amount))
        tried = judged(amount, trial, unpruned, goal)
        told(tried)
        return tried

    low, high = 0, steps.count
    tries: list[Attempt] = []
    while high - low > 1 and (steps.most is None or len(tries) < steps.most):
        middle = (low + high) // 2
        tries.append(attempt(steps.amount(middle)))
        low, high = (middle, high) if tries[-1].within else (low, middle)
    return Found(unpruned, tuple(tries), complete=high - low <= 1)


def judged(amount: float, trial: Trial, unpruned: Trial, goal: MetricGoal) -> Attempt:
    """Say whether a trial is within the goal; a metric that is not finite never is."""
    if not trial.metric.is_finite():
        return Attempt(amount, trial, Decimal("Infinity"), within=False)
    drop = goal.drop(unpruned.metric, trial.metric)
    return Attempt(amount, trial, drop, within=drop <= goal.max_drop)


def search_warnings(found: Found) -> Iterator[str]:
    """Yield a sentence where what was found is no proof that the command prints the metric."""
    tries = found.tries
    if tries and all(t.within for t in tries) and found.complete:
        yield (
            f"every try stayed within the drop, up to amount {tries[-1].amount:g}: is {float(tries[-1].trial.metric):g}"
            f' in "{tries[-1].trial.line}" the metric? --metric PATTERN names another number'
        )
