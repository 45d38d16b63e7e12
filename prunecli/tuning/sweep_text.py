"""The points of a sweep as CSV, as JSON values and as bars of text."""

from __future__ import annotations

import csv
from io import StringIO
from math import isfinite
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from decimal import Decimal

    from prunecli.tuning.sweep import SweepPoint

_COLUMNS = ("sparsity", "zeros", "weights", "metric", "change", "seconds")


def to_csv(points: Sequence[SweepPoint], varied: str = "amount") -> str:
    """Return the points as CSV with a header; `varied` is the name of the number that was varied.

    This number of the unpruned checkpoint and unknown changes are empty.
    """
    out = StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow((varied, *_COLUMNS))
    for point in points:
        row = values(point, varied)
        writer.writerow(["" if row[column] is None else row[column] for column in (varied, *_COLUMNS)])
    return out.getvalue()


def values(point: SweepPoint, varied: str = "amount") -> dict[str, object]:
    """Return the columns of a point as JSON values: numbers, text for a metric that is not finite, None if unknown."""
    trial = point.trial
    return {
        varied: point.amount,
        "sparsity": round(trial.sparsity, 6),
        "zeros": trial.zeros,
        "weights": trial.numel,
        "metric": number(trial.metric),
        "change": None if point.change is None else number(point.change),
        "seconds": trial.seconds,
    }


def number(value: Decimal) -> float | str:
    """Return a metric as a JSON value. Infinities and NaN, which JSON lacks, and larger numbers are text."""
    rounded = float(value)
    return rounded if isfinite(rounded) else str(value)


def bars_from(metrics: Sequence[Decimal], width: int) -> float:
    """Return the value at which bars begin: 0 if the metrics differ much, otherwise a little below the smallest."""
    finite = [float(metric) for metric in metrics if metric.is_finite()] or [0.0]
    low, high = min(finite), max(finite)
    return 0.0 if 0 <= low <= high / 2 else low - (high - low) / (width - 1)


def bars(metrics: Sequence[Decimal], width: int, mark: str = "#") -> list[str]:
    """Return a bar for each metric, which begins at `bars_from`. The largest has `width` marks.

    The bar of a metric that is not finite is empty.
    """
    base = bars_from(metrics, width)
    high = max((float(metric) for metric in metrics if metric.is_finite()), default=base)
    unit = (high - base) / width or 1.0
    return [mark * round((float(metric) - base) / unit) if metric.is_finite() else "" for metric in metrics]
