"""The command `prune sweep`: the user's metric at several amounts, as a table and as a plot. Changes no checkpoint."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer  # noqa: TC002 - Typer evaluates annotations

from prunecli.cli import evaluation, options, parsers, strategy_arguments
from prunecli.cli.command_list import OUTPUT
from prunecli.cli.evaluation import Table
from prunecli.cli.output import check_export, check_page_and_figure, check_suffix, write_figure
from prunecli.cli.value_options import flag_option, text_option
from prunecli.errors import Argument, UsageError
from prunecli.text.escape import printable
from prunecli.text.numbers import percent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prunecli.tuning.sweep import SweepPoint

DEFAULT_AMOUNTS = "0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9,0.95"

At = Annotated[
    str | None, text_option("--at", "A,A,...", f"The amounts to try, as in 0.5,0.8,90%. [default: {DEFAULT_AMOUNTS}]")
]
Vary = Annotated[
    str,
    text_option(
        "--vary",
        "amount|slope",
        "The number that --at lists: the amount, or the slope of a ramp.",
        parser=parsers.varied,
    ),
]
Csv = Annotated[Path | None, text_option("--csv", "PATH", "Write the table as CSV as well.", panel=OUTPUT)]
State = Annotated[Path | None, evaluation.state_option("CKPT.pruned.EXT.search.json")]
Force = Annotated[bool, flag_option("-f --force", "Replace an existing table or plot.", panel=OUTPUT)]

SETTINGS = strategy_arguments.SETTINGS
SCHEMA = 1
"""The version of the JSON form."""

_BAR = 30  # characters of the longest bar


@dataclass(frozen=True, kw_only=True)
class Arguments(evaluation.TrialArguments):
    """Show your metric at several amounts.

    The unpruned checkpoint is evaluated first. Each candidate is written to a temporary file, passed to your command,
    and removed.
    """

    at: At = None
    vary: Vary = "amount"
    csv: Csv = None
    figure: options.Figure = None
    html: options.Html = None
    state: State = None
    force: Force = False


def sweep(context: typer.Context, words: strategy_arguments.Words = None) -> int:
    """Show your metric at several amounts."""
    arguments = strategy_arguments.parse(context, words or [], Arguments)

    from prunecli.tuning.sweep import parse_amounts
    from prunecli.tuning.trials import state_file

    evaluate, amounts = evaluation.required(arguments.ckpt, arguments.evaluate), parse_amounts(_numbers(arguments))
    state = state_file(arguments.ckpt, arguments.state)
    _check_exports(arguments, state)
    table = Table(quiet=arguments.quiet or arguments.json)
    points = _sweep(arguments, evaluate, amounts, state, table)
    _write_exports(arguments, points, context.obj or ())
    if arguments.json:
        evaluation.print_json(_document(points, arguments))
    _draw(table, points)
    for name, path in (
        ("remembered in", state),
        ("table", arguments.csv),
        ("figure", arguments.figure),
        ("page", arguments.html),
    ):
        if path is not None:
            table.say(f"{name:<14}{printable(str(path))}")
    return 0


def _numbers(arguments: Arguments) -> str:
    """Return the numbers to try; UsageError if a slope is varied and none is given."""
    if arguments.at is None and arguments.vary != "amount":
        raise UsageError("the slopes to try are missing", hint=Argument("at", "0,0.01,0.02"))
    return DEFAULT_AMOUNTS if arguments.at is None else arguments.at


def _sweep(
    arguments: Arguments, evaluate: str, amounts: Sequence[float], state: Path, table: Table
) -> list[SweepPoint]:
    from prunecli.tuning.sweep import sweep as evaluate_all

    with evaluation.showing_output(verbose=arguments.verbose):
        return evaluate_all(
            arguments.ckpt,
            arguments.make_strategy,
            evaluate,
            amounts=amounts,
            state=state,
            **arguments.keywords(),
            on_point=lambda point: _print_point(table, point, arguments.vary),
        )


# --- the table and the plot as files


def _check_exports(arguments: Arguments, state: Path) -> None:
    """Raise before the work if a table, a page or a figure cannot be written after it."""
    if not (arguments.csv or arguments.html or arguments.figure):
        return
    from prunecli.formats.open import open_checkpoint

    others = [*(file.path for file in open_checkpoint(arguments.ckpt, key=arguments.key).files), state]
    if arguments.csv is not None:
        check_export(Argument("csv", "sweep.csv"), arguments.csv, force=arguments.force, others=others)
        check_suffix(arguments.csv, "csv", "table", (".csv",))
        others.append(arguments.csv)
    check_page_and_figure(arguments.html, arguments.figure, force=arguments.force, others=others)


def _write_exports(arguments: Arguments, points: Sequence[SweepPoint], command: Sequence[str]) -> None:
    from prunecli.io.publish import publish_text
    from prunecli.tuning.sweep_text import to_csv

    if arguments.csv is not None:
        publish_text(arguments.csv, to_csv(points, arguments.vary), force=arguments.force)
    if arguments.figure is not None:
        from prunecli.tuning.pages import draw_metric

        title = f"{arguments.strategy} on {Path(arguments.ckpt).name}"
        write_figure(
            arguments.figure,
            draw_metric([point.trial for point in points], title, arguments.figure.suffix),
            force=arguments.force,
        )
    if arguments.html is not None:
        from prunecli.tuning.pages import sweep_page

        page = sweep_page(points, arguments.ckpt, arguments.vary, command)
        publish_text(arguments.html, page, force=arguments.force)


# --- the printed result


def _print_point(table: Table, point: SweepPoint, varied: str) -> None:
    """Print a row of the table, with the heading before the first row."""
    trial = point.trial
    if point.amount is None:
        table.line(varied, "sparsity", "metric", "change", "seconds", "")
    note = f'unpruned, read from "{trial.line}"' if point.amount is None else "remembered" if trial.remembered else ""
    amount = "-" if point.amount is None else f"{point.amount:g}"
    change = "-" if point.change is None else f"{float(point.change):+.6g}"
    table.line(amount, percent(trial.sparsity), f"{float(trial.metric):.6g}", change, f"{trial.seconds:.1f}", note)


def _draw(table: Table, points: Sequence[SweepPoint]) -> None:
    """Print a bar for each point."""
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


def _document(points: Sequence[SweepPoint], arguments: Arguments) -> dict[str, object]:
    """Return the result as the JSON document."""
    from prunecli.tuning.sweep_text import number, values

    first, *others = points
    return {
        "schema": SCHEMA,
        "checkpoint": arguments.ckpt,
        "strategy": arguments.strategy,
        "eval": arguments.evaluate,
        "unpruned": {"metric": number(first.trial.metric), "sparsity": round(first.trial.sparsity, 6)},
        "points": [values(point, arguments.vary) for point in others],
    }
