"""Sweeping a ladder of amounts: the metric at each, as a table, CSV, JSON-ready values and bars of text.

Nothing here prunes, evaluates or writes.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from io import StringIO
from typing import TYPE_CHECKING

from prunecli.errors import UsageError
from prunecli.text.escape import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from decimal import Decimal
    from typing import TypeAlias

    from prunecli.strategies.unstructured import Strategy
    from prunecli.tuning.trials import Trial, Trials

    MakeStrategy: TypeAlias = Callable[[float], Strategy]

LADDER = "0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9,0.95"
"""The amounts that are tried unless others are named."""

_COLUMNS = ("amount", "sparsity", "zeros", "weights", "metric", "change", "seconds")
_EXAMPLE = "--at 0.5,0.8,90%"


@dataclass(frozen=True, slots=True)
class Point:
    """A trial of an amount (0-1); the unpruned checkpoint has none. `change` is the metric less the unpruned one's."""

    amount: float | None
    trial: Trial
    change: Decimal | None


def parse_ladder(text: str) -> tuple[float, ...]:
    """Return the amounts (0-1) in "0.5,80%", ascending, each once; UsageError for other text."""
    amounts = {_amount(part.strip()) for part in text.split(",")}
    return tuple(sorted(amounts))


def _amount(text: str) -> float:
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        raise UsageError(
            f"--at takes amounts with commas between, not {printable(repr(text))}", hint=_EXAMPLE
        ) from None
    if not 0 <= value <= 1:
        raise UsageError(f"an amount is 0 to 1 (or 0% to 100%), not {printable(text)}", hint=_EXAMPLE)
    return round(value, 12)


def sweep(trials: Trials, vary: MakeStrategy, amounts: Sequence[float], tell: Callable[[Point], None]) -> list[Point]:
    """Try each of the amounts, after the unpruned checkpoint; `tell` hears of each. Raise what the trials raise.

    `vary` makes the strategy of an amount.
    """
    unpruned = trials.unpruned(vary(0.0))
    points = [Point(None, unpruned, None)]
    tell(points[0])
    for amount in amounts:
        trial = trials.of(vary(amount))
        both = unpruned.metric.is_finite() and trial.metric.is_finite()
        points.append(Point(amount, trial, trial.metric - unpruned.metric if both else None))
        tell(points[-1])
    return points


def to_csv(points: Sequence[Point]) -> str:
    """Return the table as CSV with a header; the unpruned checkpoint's amount and unknown changes are empty."""
    out = StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for point in points:
        row = values(point)
        writer.writerow(["" if row[column] is None else row[column] for column in _COLUMNS])
    return out.getvalue()


def values(point: Point) -> dict[str, object]:
    """Return a point's columns: numbers, text for a metric that is not finite, and None for what is not there."""
    trial = point.trial
    return {
        "amount": point.amount,
        "sparsity": round(trial.sparsity, 6),
        "zeros": trial.zeros,
        "weights": trial.numel,
        "metric": number(trial.metric),
        "change": None if point.change is None else number(point.change),
        "seconds": trial.seconds,
    }


def number(value: Decimal) -> float | str:
    """Return a metric for JSON, which has no word for infinities and NaN: those are text."""
    return float(value) if value.is_finite() else str(value)


def bars_from(metrics: Sequence[Decimal], width: int) -> float:
    """Return where bars begin: at 0 where the metrics differ much, else a little below the smallest."""
    finite = [float(m) for m in metrics if m.is_finite()] or [0.0]
    low, high = min(finite), max(finite)
    return 0.0 if 0 <= low <= high / 2 else low - (high - low) / (width - 1)


def bars(metrics: Sequence[Decimal], width: int, mark: str = "#") -> list[str]:
    """Return a bar per metric from `bars_from` on, the largest `width` marks wide; nothing for one not finite."""
    base = bars_from(metrics, width)
    high = max((float(m) for m in metrics if m.is_finite()), default=base)
    unit = (high - base) / width or 1.0
    return [mark * round((float(m) - base) / unit) if m.is_finite() else "" for m in metrics]
