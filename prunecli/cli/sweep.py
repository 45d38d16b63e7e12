"""`prune sweep`: the user's own evaluation at a ladder of amounts, as a table and as a plot. Changes no checkpoint."""

from __future__ import annotations

import json as to_text
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer
from typer import Option

from prunecli.cli import evaluation as evaluated
from prunecli.cli import options
from prunecli.cli import strategy_arguments as varied
from prunecli.cli.evaluation import Table, tell_json
from prunecli.cli.output import check_paper
from prunecli.text.escape import printable
from prunecli.text.numbers import percent
from prunecli.tuning.sweep import LADDER, Point, bars, bars_from, number, parse_ladder, to_csv, values

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from prunecli.tuning.trials import TrialSetup

At: TypeAlias = Annotated[str, Option(metavar="A,A,...", help="The amounts to try, as in 0.5,0.8,90%.")]
Csv: TypeAlias = Annotated[Path | None, Option(metavar="PATH", help="Write the table as CSV, too.")]
Svg: TypeAlias = Annotated[Path | None, Option(metavar="PATH", help="Write the plot as SVG, too.")]
State: TypeAlias = Annotated[
    Path | None,
    Option(metavar="PATH", help="Remembers the trials; candidates lie beside it. [default: CKPT.pruned.search.json]"),
]
Force: TypeAlias = Annotated[bool, Option("-f", "--force", help="Replace an existing table or plot.")]

SCHEMA = 1
"""The version of the JSON form."""

_BAR = 30  # marks of the longest bar


def sweep(context: typer.Context, words: varied.Words = None) -> int:
    """Show your evaluation at a ladder of amounts."""
    return varied.invoke(context, words or [], _sweep)


def _sweep(
    vary: varied.MakeStrategy,
    ckpt: evaluated.Ckpt,
    strategy: evaluated.StrategyName,
    *,
    evaluation: evaluated.Eval = None,
    at: At = LADDER,
    metric: evaluated.Metric = None,
    csv: Csv = None,
    svg: Svg = None,
    state: State = None,
    fresh: evaluated.Fresh = False,
    json: evaluated.Json = False,
    force: Force = False,
    include: options.Include = None,
    exclude: options.Exclude = None,
    min_dim: options.MinDim = None,
    min_numel: options.MinNumel = 0,
    key: options.Key = None,
    quiet: evaluated.Quiet = False,
) -> int:
    """Show the metric at a ladder of amounts.

    Each amount is pruned to a hidden place and evaluated there by your command; the checkpoint itself is evaluated
    first. Nothing is kept but the numbers.
    """
    from prunecli.formats.output_names import default_output
    from prunecli.io.publish import publish_text
    from prunecli.tuning.sweep import sweep as try_all

    amounts = parse_ladder(at)
    vary(0.0)  # the strategy's own options, before any work
    chosen = {
        "include": include or [],
        "exclude": exclude or [],
        "min_dim": min_dim,
        "min_numel": min_numel,
        "key": key,
    }
    question = evaluated.asked(ckpt, evaluation, metric, chosen)
    where = evaluated.state_for(default_output(ckpt), state)
    _check(question, {"--csv": csv, "--svg": svg}, where, force=force)
    table = Table((8, 8, 12, 12, 10), quiet=quiet or json)
    with evaluated.tried(question, where, fresh=fresh) as trials:
        points = try_all(trials, vary, amounts, lambda point: _tell(table, point))
    if csv is not None:
        publish_text(csv, to_csv(points), force=force)
    if svg is not None:
        publish_text(svg, _picture(points, f"{strategy} on {Path(ckpt).name}"), force=force)
    if json:
        tell_json(_document(points, (ckpt, strategy, evaluation)))
    _draw(table, points)
    for name, path in (("remembered in", where), ("table", csv), ("plot", svg)):
        if path is not None:
            table.say(f"{name:<14}{printable(str(path))}")
    return 0


def _check(question: TrialSetup, report_paths: Mapping[str, Path | None], state: Path, *, force: bool) -> None:
    """Refuse before the work what could not be written after it."""
    others = [*(file.path for file in question.checkpoint.files), state]
    for option, paper in report_paths.items():
        if paper is not None:
            check_paper(option, paper, force=force, others=others)
            others.append(paper)


def _tell(table: Table, point: Point) -> None:
    """Print a point, and before the first one the head."""
    trial = point.trial
    if point.amount is None:
        table.line("amount", "sparsity", "metric", "change", "seconds", "")
    note = f'unpruned, read from "{trial.line}"' if point.amount is None else "remembered" if trial.remembered else ""
    amount = "-" if point.amount is None else f"{point.amount:g}"
    change = "-" if point.change is None else f"{float(point.change):+.6g}"
    table.line(amount, percent(trial.sparsity), f"{float(trial.metric):.6g}", change, f"{trial.seconds:.1f}", note)


def _draw(table: Table, points: Sequence[Point]) -> None:
    """Print a bar per point."""
    table.say()
    mark = "\u2588" if sys.stdout is not None and sys.stdout.isatty() and _has_blocks() else "#"
    metrics = [point.trial.metric for point in points]
    for point, bar in zip(points, bars(metrics, _BAR, mark), strict=True):
        table.say(f"{percent(point.trial.sparsity):>8}  {bar} {float(point.trial.metric):.6g}")
    table.say(f"          bars begin at {bars_from(metrics, _BAR):.4g}")
    table.say()


def _has_blocks() -> bool:
    try:
        "\u2588".encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def _picture(points: Sequence[Point], title: str) -> str:
    from prunecli.tuning.plot import Mark, plot

    unpruned = float(points[0].trial.metric)
    marks = [_mark(point) for point in sorted(points, key=lambda p: p.trial.sparsity)]
    label = f"unpruned: {unpruned:.6g}"
    return plot(
        title,
        [Mark(*m) for m in marks],
        x_label="weights that are zero",
        y_label="metric",
        level=unpruned,
        level_label=label,
    )


def _mark(point: Point) -> tuple[float, float, str]:
    amount = "unpruned" if point.amount is None else f"amount {point.amount:g}"
    metric = float(point.trial.metric)
    return point.trial.sparsity, metric, f"{amount}: {percent(point.trial.sparsity)} zero, metric {metric:.6g}"


def _document(points: Sequence[Point], names: tuple[str, str, str | None]) -> str:
    """Return the result as JSON."""
    first, *others = points
    document = {
        "schema": SCHEMA,
        "checkpoint": names[0],
        "strategy": names[1],
        "eval": names[2],
        "unpruned": {"metric": number(first.trial.metric), "sparsity": round(first.trial.sparsity, 6)},
        "points": [values(point) for point in others],
    }
    return to_text.dumps(document, indent=1)
