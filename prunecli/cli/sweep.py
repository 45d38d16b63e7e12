"""`prune sweep`: the user's own evaluation at a ladder of amounts, as a table and as a plot. Changes no checkpoint."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer
from typer import Option

from prunecli.cli import evaluation as evaluated
from prunecli.cli import options
from prunecli.cli import strategy_arguments as varied
from prunecli.cli.evaluation import Table, print_json
from prunecli.cli.output import check_paper
from prunecli.text.escape import printable
from prunecli.text.numbers import percent

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from prunecli.tuning.sweep import SweepPoint

At: TypeAlias = Annotated[str, Option(metavar="A,A,...", help="The amounts to try, as in 0.5,0.8,90%.")]
Csv: TypeAlias = Annotated[Path | None, Option(metavar="PATH", help="Write the table as CSV, too.")]
Svg: TypeAlias = Annotated[Path | None, Option(metavar="PATH", help="Write the plot as SVG, too.")]
State: TypeAlias = Annotated[
    Path | None,
    Option(metavar="PATH", help="Remembers the trials; candidates lie beside it. [default: CKPT.pruned.search.json]"),
]
Force: TypeAlias = Annotated[bool, Option("-f", "--force", help="Replace an existing table or plot.")]

DEFAULT_AMOUNTS = "0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9,0.95"

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
    at: At = DEFAULT_AMOUNTS,
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
    from prunecli.io.publish import publish_text
    from prunecli.tuning.sweep import parse_amounts
    from prunecli.tuning.sweep import sweep as evaluate_all
    from prunecli.tuning.sweep_text import to_csv
    from prunecli.tuning.trials import default_state

    evaluate, amounts = evaluated.required(ckpt, evaluation), parse_amounts(at)
    state_file = default_state(ckpt) if state is None else state
    if csv is not None or svg is not None:
        _check({"--csv": csv, "--svg": svg}, [*_files(ckpt, key), state_file], force=force)
    table = Table(quiet=quiet or json)
    with evaluated.showing_output():
        points = evaluate_all(
            ckpt,
            vary,
            evaluate,
            amounts=amounts,
            metric=metric,
            state=state_file,
            fresh=fresh,
            include=include or (),
            exclude=exclude or (),
            min_dim=min_dim,
            min_numel=min_numel,
            key=key,
            on_point=lambda point: _tell(table, point),
        )
    if csv is not None:
        publish_text(csv, to_csv(points), force=force)
    if svg is not None:
        publish_text(svg, _picture(points, f"{strategy} on {Path(ckpt).name}"), force=force)
    if json:
        print_json(_document(points, (ckpt, strategy, evaluation)))
    _draw(table, points)
    for name, path in (("remembered in", state_file), ("table", csv), ("plot", svg)):
        if path is not None:
            table.say(f"{name:<14}{printable(str(path))}")
    return 0


def _files(ckpt: str, key: str | None) -> list[Path]:
    from prunecli.formats.open import open_checkpoint

    return [file.path for file in open_checkpoint(ckpt, key=key).files]


def _check(report_paths: Mapping[str, Path | None], others: list[Path], *, force: bool) -> None:
    """Raise OutputError before the work if a table or a plot cannot be written after it."""
    for option, path in report_paths.items():
        if path is not None:
            check_paper(option, path, force=force, others=others)
            others.append(path)


def _tell(table: Table, point: SweepPoint) -> None:
    """Print a point, and before the first one the head."""
    trial = point.trial
    if point.amount is None:
        table.line("amount", "sparsity", "metric", "change", "seconds", "")
    note = f'unpruned, read from "{trial.line}"' if point.amount is None else "remembered" if trial.remembered else ""
    amount = "-" if point.amount is None else f"{point.amount:g}"
    change = "-" if point.change is None else f"{float(point.change):+.6g}"
    table.line(amount, percent(trial.sparsity), f"{float(trial.metric):.6g}", change, f"{trial.seconds:.1f}", note)


def _draw(table: Table, points: Sequence[SweepPoint]) -> None:
    """Print a bar per point."""
    from prunecli.tuning.sweep_text import bars, bars_from

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


def _picture(points: Sequence[SweepPoint], title: str) -> str:
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


def _mark(point: SweepPoint) -> tuple[float, float, str]:
    amount = "unpruned" if point.amount is None else f"amount {point.amount:g}"
    metric = float(point.trial.metric)
    return point.trial.sparsity, metric, f"{amount}: {percent(point.trial.sparsity)} zero, metric {metric:.6g}"


def _document(points: Sequence[SweepPoint], names: tuple[str, str, str | None]) -> dict[str, object]:
    """Return the result as the JSON document."""
    from prunecli.tuning.sweep_text import number, values

    first, *others = points
    return {
        "schema": SCHEMA,
        "checkpoint": names[0],
        "strategy": names[1],
        "eval": names[2],
        "unpruned": {"metric": number(first.trial.metric), "sparsity": round(first.trial.sparsity, 6)},
        "points": [values(point) for point in others],
    }
