"""Search for the largest amount whose metric stays within a limit, by bisection.

Bisection assumes that pruning more never improves the metric. If the metric is noisy, a larger amount than the result
may also stay within the limit. The metric of the result was always measured.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

from prunecli.api import prune
from prunecli.conversion.layout import Layout, converted_output
from prunecli.engine.outputs import OutputRequest, plan_outputs
from prunecli.errors import Argument, UsageError
from prunecli.formats.output_names import default_output
from prunecli.selection.select import Selector
from prunecli.tuning.evaluate import EvaluationError
from prunecli.tuning.trials import check_maker, set_up, state_file, trials

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from prunecli.checkpoint import Keys, PathLike
    from prunecli.report.model import Report
    from prunecli.tuning.evaluate import Evaluate
    from prunecli.tuning.trial_file import Trial
    from prunecli.tuning.trials import MakeStrategy, Trials
    from prunecli.tuning.watch import Watch

_DIGITS = 12  # of an amount, so that 3 * 0.1 is 0.3


@dataclass(frozen=True, slots=True)
class MetricGoal:
    """The largest allowed drop of the metric, in the metric's own units. A loss drops when it rises."""

    max_drop: Decimal
    higher_is_better: bool = True

    def __post_init__(self) -> None:
        """Raise UsageError for a drop that is negative or not finite."""
        if not (self.max_drop.is_finite() and self.max_drop >= 0):
            raise UsageError(
                f"the largest drop is a number of 0 or more, not {self.max_drop}",
                hint=Argument("max_drop", str(-self.max_drop) if self.max_drop.is_finite() else 0.01),
            )

    def allowed(self, unpruned: Trial) -> Decimal:
        """Return the worst metric that is within the limit."""
        return unpruned.metric - self.max_drop if self.higher_is_better else unpruned.metric + self.max_drop

    def attempt(self, amount: float, trial: Trial, unpruned: Trial) -> Attempt:
        """Compare a trial with the unpruned one. A metric that is not finite is never within the limit."""
        if not trial.metric.is_finite():
            return Attempt(amount, trial, Decimal("Infinity"), within=False)
        change = trial.metric - unpruned.metric
        drop = -change if self.higher_is_better else change
        return Attempt(amount, trial, drop, within=drop <= self.max_drop)


@dataclass(frozen=True, slots=True)
class AmountGrid:
    """The amounts that a search chooses from: multiples of `tolerance` between 0 and 1, in at most `tries` attempts."""

    tolerance: float = 0.01
    tries: int | None = None

    def __post_init__(self) -> None:
        """Raise UsageError for a tolerance or a number of attempts out of range."""
        if not 0 < self.tolerance <= 0.5:
            raise UsageError(
                f"the tolerance is more than 0 and at most 0.5, not {self.tolerance:g}",
                hint=Argument("tolerance", min(abs(self.tolerance) or 0.01, 0.5)),
            )
        if self.tries is not None and self.tries < 1:
            raise UsageError(
                f"the number of tries is 1 or more, not {self.tries}", hint=Argument("tries", -self.tries or 1)
            )

    @property
    def count(self) -> int:
        """The index of the first multiple that is 1 or more. It is never tried, because it prunes all weights."""
        return ceil(1 / self.tolerance - 1e-9)  # the quotient may exceed a whole number by a rounding error

    def most_tries(self, low: int, high: int, made: int = 0) -> int:
        """Return how many tries a bisection between two indices needs at most, after those that were made."""
        needed = max(high - low - 1, 0).bit_length()
        return needed if self.tries is None else min(needed, self.tries - made)

    def amount(self, index: int) -> float:
        """Return the amount at an index of the grid."""
        return round(index * self.tolerance, _DIGITS)


@dataclass(frozen=True, slots=True)
class Attempt:
    """A trial of an amount (0-1), the drop of its metric, and whether the drop is within the limit.

    For the unpruned checkpoint, `amount` and `drop` are 0 and `trial.strategy` is None.
    """

    amount: float
    trial: Trial
    drop: Decimal
    within: bool


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The result of a search: the trial of the unpruned checkpoint, and the attempts in their order.

    `complete` is True if the search ended because no amount of the grid is left between `best` and `beyond`, and False
    if it used up its tries. `report` belongs to the checkpoint that was written, if there is one.
    """

    unpruned: Trial
    attempts: tuple[Attempt, ...]
    complete: bool
    report: Report | None = None

    @property
    def best(self) -> Attempt | None:
        """The attempt with the largest amount within the limit."""
        return max((a for a in self.attempts if a.within), key=lambda a: a.amount, default=None)

    @property
    def beyond(self) -> Attempt | None:
        """The attempt with the smallest amount beyond the limit."""
        return min((a for a in self.attempts if not a.within), key=lambda a: a.amount, default=None)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings about a result that does not show that the evaluation measures the metric."""
        if not (self.attempts and self.complete and all(attempt.within for attempt in self.attempts)):
            return ()
        last, trial = self.attempts[-1], self.attempts[-1].trial
        doubt = f'is {float(trial.metric):g} in "{trial.line}" the metric?'
        return (f"every try stayed within the drop, up to amount {last.amount:g}: {doubt}",)


def search(  # noqa: PLR0913 - one keyword for each option
    path: PathLike,
    strategy: MakeStrategy,
    evaluate: Evaluate,
    *,
    max_drop: float | Decimal,
    higher_is_better: bool = True,
    tolerance: float = 0.01,
    tries: int | None = None,
    metric: str | None = None,
    output: PathLike | None = None,
    reports: Sequence[PathLike] | None = None,
    state: PathLike | None = None,
    fresh: bool = False,
    dry_run: bool = False,
    force: bool = False,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    min_dim: int | None = None,
    min_numel: int = 0,
    key: Keys = None,
    command: Sequence[str] = (),
    on_attempt: Callable[[Attempt], None] = lambda _: None,
    watch: Watch | None = None,
) -> SearchResult:
    r"""Find the largest amount whose metric stays within a limit, and write that checkpoint.

        search("model.pth", lambda amount: Global(amount=amount), "python eval.py {}", max_drop=0.01)

    The unpruned checkpoint is evaluated first, then amounts between 0 and 1 by bisection. Each candidate is written to
    a temporary file.

    Args:
        path: The checkpoint: a file, or a directory or index of shards.
        strategy: A function from an amount (0-1) to a strategy.
        evaluate: A command line that prints the metric, with `{}` for the path of the checkpoint, or a function from
            that path to the metric. The command runs without a shell.
        max_drop: The largest allowed drop of the metric, in its own units, 0 or more.
        higher_is_better: Whether the metric is a score; False for a loss.
        tolerance: Amounts are multiples of this number, more than 0 and at most 0.5.
        tries: The largest number of amounts to try; None means no limit.
        metric: A regular expression; the metric is the number in its last match, or in the first group of that match.
            None takes the last number in the output that stands alone.
        output: The path of the result (None: `model.pruned.pth` for `model.pth`).
        reports: The paths of the reports, as in `prunecli.prune`.
        state: A JSON file that remembers trials between runs. None means a file next to the output for a command
            line, and no file for a function, because a function can change without a trace.
        fresh: Whether to evaluate remembered trials again.
        dry_run: Whether to search only and write no checkpoint.
        force: Whether existing outputs may be replaced.
        include: Patterns over tensor names, as in `prunecli.prune`.
        exclude: Patterns of tensors to leave out.
        min_dim: The smallest number of dimensions of a tensor to prune.
        min_numel: The smallest number of elements of a tensor to prune.
        key: The dotted path of the state_dict in a nested checkpoint, or several of them, or globs over them.
        command: The command line to record in the report.
        on_attempt: A function that receives the unpruned checkpoint's attempt and then each attempt after it is made.
        watch: Receives what is evaluated, how many may follow, and the lines that the evaluation prints.

    Returns:
        The attempts, the best of them and, if a checkpoint was written, its report.

    Raises:
        UsageError: If arguments are out of range or contradict each other.
        EvaluationError: If the evaluation fails, or the metric of the unpruned checkpoint is not finite.
        PruneError: If the checkpoint cannot be read or pruned, or an output cannot be written.
    """
    goal, grid = MetricGoal(_exact(max_drop), higher_is_better), AmountGrid(tolerance, tries)
    check_maker(strategy)
    setup = set_up(path, evaluate, metric, Selector(include, exclude, min_dim, min_numel), key, watch)
    target = default_output(path) if output is None else Path(output)
    if not dry_run:
        # The result is written at the end, so its paths are checked before the search.
        converted = converted_output(setup.checkpoint, target, Layout())
        arrangement = None if converted is None else converted.arrangement
        request, kept = OutputRequest(target, reports, force=force), [state_file(path, state, target)]
        plan_outputs(setup.checkpoint, path, request, kept, None, arrangement)
    with trials(setup, state, target, fresh=fresh) as made:
        result = bisect(made, strategy, goal, grid, on_attempt, setup.watch)
        if result.best is None or dry_run:
            return result
        made.check_unchanged()
        best = strategy(result.best.amount)
        report = prune(path, best, output=target, reports=reports, command=command, force=force, **setup.selection)
        return replace(result, report=report)


def _exact(number: object) -> Decimal:
    """Return the number that is written, so that a drop that equals the limit is within it; UsageError for others."""
    try:
        return Decimal(str(number))
    except InvalidOperation:
        message = f"the largest drop is a number in the metric's own units, not {number!r}"
        raise UsageError(message, hint=Argument("max_drop", 0.01)) from None


def bisect(
    made: Trials,
    strategy: MakeStrategy,
    goal: MetricGoal,
    grid: AmountGrid,
    on_attempt: Callable[[Attempt], None],
    watch: Watch,
) -> SearchResult:
    """Try amounts of the grid until the largest one within the goal is found or the tries are used up.

    Raises EvaluationError if the unpruned metric is not finite.
    """
    low, high = 0, grid.count
    watch.upcoming(None, grid.most_tries(low, high))
    unpruned = made.unpruned(strategy(0.0))
    if not unpruned.metric.is_finite():
        raise EvaluationError(
            f"the unpruned checkpoint's metric is {unpruned.metric}, and no drop from that can be measured",
            output=(unpruned.line,),
        )
    on_attempt(Attempt(0.0, unpruned, Decimal(0), within=True))
    attempts: list[Attempt] = []
    while high - low > 1 and (grid.tries is None or len(attempts) < grid.tries):
        middle = (low + high) // 2
        amount = grid.amount(middle)
        watch.upcoming(amount, grid.most_tries(low, high, len(attempts)) - 1)
        attempts.append(goal.attempt(amount, made.of(strategy(amount)), unpruned))
        on_attempt(attempts[-1])
        low, high = (middle, high) if attempts[-1].within else (low, middle)
    return SearchResult(unpruned, tuple(attempts), complete=high - low <= 1)
