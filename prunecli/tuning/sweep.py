"""Sweep over several amounts: the metric and the sparsity of each, and of the unpruned checkpoint."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING

from prunecli.errors import Argument, UsageError
from prunecli.selection.select import Selector
from prunecli.strategies.amounts import parse_amount
from prunecli.text.escape import printable
from prunecli.tuning.trials import check_maker, set_up, trials

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from decimal import Decimal

    from prunecli.checkpoint import Keys, PathLike
    from prunecli.tuning.evaluate import Evaluate
    from prunecli.tuning.trial_file import Trial
    from prunecli.tuning.trials import MakeStrategy
    from prunecli.tuning.watch import Watch

DEFAULT_AMOUNTS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
"""The amounts of a sweep that names none."""

_EXAMPLE = Argument("amounts", "0.5,0.8,90%")


@dataclass(frozen=True, slots=True)
class SweepPoint:
    """A trial of an amount (0-1), or of another number that is varied, and its metric minus the unpruned one.

    `amount` is None for the unpruned checkpoint. `change` is None for it too, and if a metric is not finite.
    """

    amount: float | None
    trial: Trial
    change: Decimal | None


def parse_amounts(text: str) -> tuple[float, ...]:
    """Return the amounts (0-1) in "0.5,80%", ascending and without duplicates; UsageError if one is malformed."""
    parts = [part.strip() for part in text.split(",")]
    try:
        return tuple(sorted({parse_amount(part, allow_whole=True) for part in parts}))
    except UsageError as error:
        fixed = ",".join(filter(None, map(_nearest, parts)))
        raise UsageError(str(error), hint=Argument("amounts", fixed) if fixed else _EXAMPLE) from None


def _nearest(part: str) -> str:
    """Return the amount that is nearest to a part of a list; "" for an empty part."""
    try:
        parse_amount(part, allow_whole=True)
    except UsageError as error:
        return str(error.hint_parts.value) if isinstance(error.hint_parts, Argument) and part else ""
    return part


def _check_amounts(amounts: object) -> None:
    """Raise UsageError unless `amounts` is a list of numbers from 0 to 1."""
    hint = Argument("amounts", [0.5, 0.8])
    if not isinstance(amounts, Collection) or isinstance(amounts, str):
        raise UsageError(f"the amounts are a list of numbers, not {printable(repr(amounts))}", hint=hint)
    for amount in amounts:
        if not (isinstance(amount, Real) and 0 <= float(amount) <= 1):
            raise UsageError(f"the amount is 0 to 1, not {printable(repr(amount))}", hint=hint)


def sweep(  # noqa: PLR0913 - one keyword for each option
    path: PathLike,
    strategy: MakeStrategy,
    evaluate: Evaluate,
    *,
    amounts: Sequence[float] = DEFAULT_AMOUNTS,
    metric: str | None = None,
    state: PathLike | None = None,
    fresh: bool = False,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    min_dim: int | None = None,
    min_numel: int = 0,
    key: Keys = None,
    on_point: Callable[[SweepPoint], None] = lambda _: None,
    watch: Watch | None = None,
) -> list[SweepPoint]:
    """Evaluate the checkpoint at several amounts of pruning. The checkpoint itself does not change.

        sweep("model.pth", lambda amount: L1(amount=amount), "python eval.py {}", amounts=[0.5, 0.8])

    The unpruned checkpoint is evaluated first. Each candidate is written to a temporary file and removed after its
    evaluation.

    Args:
        path: The checkpoint: a file, or a directory or index of shards.
        strategy: A function from an amount (0-1) to a strategy.
        evaluate: A command line that prints the metric, with `{}` for the path of the checkpoint, or a function from
            that path to the metric. The command runs without a shell.
        amounts: The amounts to try, each 0 to 1, in this order.
        metric: A regular expression that finds the metric in the output of the command, as in `prunecli.search`.
        state: A JSON file that remembers trials between runs, as in `prunecli.search`.
        fresh: Whether to evaluate remembered trials again.
        include: Patterns over tensor names, as in `prunecli.prune`.
        exclude: Patterns of tensors to leave out.
        min_dim: The smallest number of dimensions of a tensor to prune.
        min_numel: The smallest number of elements of a tensor to prune.
        key: The dotted path of the state_dict in a nested checkpoint, or several of them, or globs over them.
        on_point: A function that receives each point after it is measured.
        watch: Receives what is evaluated, how many follow, and the lines that the evaluation prints.

    Returns:
        The point of the unpruned checkpoint, then a point for each amount.

    Raises:
        UsageError: If an argument is out of range.
        EvaluationError: If the evaluation fails.
        PruneError: If the checkpoint cannot be read or pruned, or the state file cannot be written.
    """
    _check_amounts(amounts)
    check_maker(strategy)
    setup = set_up(path, evaluate, metric, Selector(include, exclude, min_dim, min_numel), key, watch)
    points: list[SweepPoint] = []
    with trials(setup, state, fresh=fresh) as made:
        setup.watch.upcoming(None, len(amounts))
        unpruned = made.unpruned(strategy(0.0))
        points.append(SweepPoint(None, unpruned, None))
        on_point(points[-1])
        for number, amount in enumerate(amounts, 1):
            setup.watch.upcoming(amount, len(amounts) - number)
            trial = made.of(strategy(amount))
            finite = unpruned.metric.is_finite() and trial.metric.is_finite()
            points.append(SweepPoint(amount, trial, trial.metric - unpruned.metric if finite else None))
            on_point(points[-1])
    return points
