"""The results of `sweep` and `search` as HTML pages: the curve of the metric, and a table of the trials."""

from __future__ import annotations

import shlex
from dataclasses import replace
from math import isfinite, nan
from pathlib import PurePath
from typing import TYPE_CHECKING

from prunecli.report.listing import Card, Cell, Listing, Table, render_listing
from prunecli.report.plots import Series, curves
from prunecli.text.numbers import percent
from prunecli.tuning.metric import name_in
from prunecli.tuning.plot import Mark, plot

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prunecli.tuning.search import Attempt, MetricGoal, SearchResult
    from prunecli.tuning.sweep import SweepPoint
    from prunecli.tuning.trial_file import Trial

_COLUMNS = ("sparsity", "metric", "change", "seconds", "line")
_NUMERIC = frozenset({"metric", "change", "drop", "seconds"})


def sweep_page(points: Sequence[SweepPoint], path: str, varied: str, command: Sequence[str]) -> str:
    """Return the points of a sweep as a page; `varied` is the name of the number that was varied."""
    rows = [
        (
            Cell("unpruned" if point.amount is None else f"{varied} {point.amount:g}"),
            *_trial(point.trial),
            Cell("-" if point.change is None else f"{float(point.change):+.6g}"),
            *_rest(point.trial),
        )
        for point in points
    ]
    columns = (varied, *_COLUMNS)
    table = Table("Trials", columns, rows, _NUMERIC)
    return render_listing(_page("Sweep", path, [point.trial for point in points], table, command))


def search_page(result: SearchResult, path: str, goal: MetricGoal, command: Sequence[str]) -> str:
    """Return the attempts of a search as a page, with the metric that `goal` allows."""
    rows = [_attempt(attempt) for attempt in result.attempts]
    columns = ("amount", "sparsity", "metric", "drop", "seconds", "line", "verdict")
    best = result.best
    found = Card(
        "Found",
        "nothing" if best is None else f"{best.amount:g}",
        "amount",
        _found(best, goal),
    )
    trials = [result.unpruned, *(attempt.trial for attempt in result.attempts)]
    table, allowed = Table("Tries", columns, rows, _NUMERIC), float(goal.allowed(result.unpruned))
    page = _page("Search", path, trials, table, command, allowed)
    return render_listing(replace(page, cards=(found,), warnings=result.warnings))


def draw_metric(trials: Sequence[Trial], title: str, suffix: str, allowed: float = nan) -> bytes:
    """Return a figure of the metric against the sparsity; `trials` begin with the unpruned checkpoint.

    `allowed` is the worst metric within the limit of a search.
    """
    ordered = sorted(trials, key=lambda trial: trial.sparsity)
    name = name_in(trials[0].line)
    series = Series(name, [trial.sparsity for trial in ordered], [float(trial.metric) for trial in ordered])
    levels = [(float(trials[0].metric), "unpruned"), (allowed, "allowed")]
    drawn = [one for one in levels if isfinite(one[0])]
    return curves([series], title, ("weights that are zero", name), suffix, drawn)


def _page(
    kind: str, path: str, trials: Sequence[Trial], table: Table, command: Sequence[str], allowed: float = nan
) -> Listing:
    unpruned = float(trials[0].metric)
    marks = [
        Mark(trial.sparsity, float(trial.metric), f"{percent(trial.sparsity)} zero, metric {float(trial.metric):.6g}")
        for trial in sorted(trials, key=lambda trial: trial.sparsity)
    ]
    return Listing(
        kind=f"{kind}: the metric at several amounts",
        title=PurePath(path).name or path,
        lead=f"Unpruned: {unpruned:.6g}, read from \u201c{trials[0].line}\u201d",
        tables=(table,),
        facts=(("command", shlex.join(command) or "-"), ("checkpoint", path)),
        svg=plot(
            "Metric against sparsity",
            marks,
            x_label="weights that are zero",
            y_label=name_in(trials[0].line),
            levels=[(unpruned, f"unpruned: {unpruned:.6g}"), (allowed, f"allowed: {allowed:.6g}")],
        ),
    )


def _attempt(attempt: Attempt) -> tuple[Cell, ...]:
    return (
        Cell(f"{attempt.amount:g}"),
        *_trial(attempt.trial),
        Cell(f"{float(attempt.drop):.6g}"),
        *_rest(attempt.trial),
        Cell("within" if attempt.within else "too much"),
    )


def _found(best: Attempt | None, goal: MetricGoal) -> str:
    limit = f"{float(goal.max_drop):.6g}"
    if best is None:
        return f"Every amount that was tried drops by more than {limit}."
    trial = best.trial
    return (
        f"{trial.zeros:,} of {trial.numel:,} weights are zero, the metric is {float(trial.metric):.6g}, "
        f"{float(best.drop):.6g} of {limit} allowed."
    )


def _trial(trial: Trial) -> tuple[Cell, Cell]:
    sparsity = Cell(percent(trial.sparsity), bar=100 * trial.sparsity)
    return sparsity, Cell(f"{float(trial.metric):.6g}")


def _rest(trial: Trial) -> tuple[Cell, Cell]:
    return Cell(f"{trial.seconds:.1f}"), Cell(trial.line, own=True)
