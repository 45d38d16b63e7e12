"""The command `prune search`: the largest amount at which the user's evaluation stays within a limit."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Option

from prunecli.cli import evaluation, options, strategy_arguments
from prunecli.cli.command_list import OUTPUT
from prunecli.cli.evaluation import Table
from prunecli.cli.exit import DONE, FAILED, say, warn
from prunecli.cli.output import check_page_and_figure, write_figure, write_page
from prunecli.cli.value_options import flag_option, number_option, text_option, whole_option
from prunecli.errors import Argument, UsageError
from prunecli.text.escape import printable
from prunecli.text.nearest import nearest_number
from prunecli.text.numbers import counted, percent

if TYPE_CHECKING:
    from prunecli.tuning.search import Attempt, SearchResult
    from prunecli.tuning.trial_file import Trial

MaxDrop = Annotated[
    str | None, text_option("--max-drop", "D", "How much worse the metric may get, in its own units.  [required]")
]
Higher = Annotated[
    bool, Option("--higher-is-better/--lower-is-better", help="Whether the metric is a score or a loss.")
]
Tolerance = Annotated[float, number_option("--tolerance", "A", 0.01, "The amounts are multiples of this.")]
Tries = Annotated[int | None, whole_option("--tries", "N", 5, "Try at most N amounts.", least=1)]
Output = Annotated[
    str | None, text_option("-o --output", "PATH", "The result. [default: CKPT.pruned.EXT]", panel=OUTPUT)
]
State = Annotated[Path | None, evaluation.state_option("OUTPUT.search.json")]
DryRun = Annotated[
    bool, flag_option("-n --dry-run", "Only search: write no checkpoint, remember the trials.", panel=OUTPUT)
]

SETTINGS = strategy_arguments.SETTINGS
SCHEMA = 1
"""The version of the JSON form."""


@dataclass(frozen=True, kw_only=True)
class Arguments(evaluation.TrialArguments):
    """Find the largest amount that keeps your metric within a limit.

    Bisects the amounts between 0 and 1. Each candidate is written to a temporary file and passed to your command. The
    largest amount within the limit is written at the end; the exit code is 1 if there is none. Bisection assumes that
    pruning more is never better. If the metric is noisy, a larger amount may also stay within the limit; the metric of
    the result was always measured.
    """

    max_drop: MaxDrop = None
    higher_is_better: Higher = True
    tolerance: Tolerance = 0.01
    tries: Tries = None
    output: Output = None
    report: options.Reports = None
    no_report: options.NoReport = False
    html: options.Html = None
    figure: options.Figure = None
    state: State = None
    dry_run: DryRun = False
    force: options.Force = False


def search(context: typer.Context, words: strategy_arguments.Words = None) -> int:
    """Find the largest amount that keeps your metric within a limit."""
    arguments = strategy_arguments.parse(context, words or [], Arguments)

    from prunecli.formats.output_names import default_output
    from prunecli.tuning.trials import state_file

    if arguments.evaluate is None and arguments.max_drop is None:
        message = "--eval and --max-drop are missing: what prints the metric, and how much worse it may get"
        raise UsageError(message, hint=(Argument("evaluate", "python eval.py {}"), Argument("max_drop", 0.01)))
    limit = _limit(arguments.max_drop)
    if arguments.output == "-":
        raise UsageError("a search prints its tries on standard output, so the checkpoint needs a file", hint="-o PATH")
    if Path("-") in (arguments.report or ()):
        hint = Argument("reports", ["PATH.json"])
        raise UsageError("a search prints its tries on standard output, so the report needs a file", hint=hint)
    reports = options.report_paths(arguments.report, no_report=arguments.no_report)
    target = default_output(arguments.ckpt) if arguments.output is None else Path(arguments.output)
    state = state_file(arguments.ckpt, arguments.state, target)
    table = Table(quiet=arguments.quiet or arguments.json)
    others = [target, state, Path(arguments.ckpt), *(reports or ())]
    check_page_and_figure(arguments.html, arguments.figure, force=arguments.force, others=others)
    result = _search(arguments, limit, target, state, table, context.obj or ())
    for warning in result.warnings:
        warn(f"{warning} --metric PATTERN names another number")
    _write_drawings(result, arguments, limit, context.obj or ())
    if arguments.json:
        evaluation.print_json(_document(result, limit, arguments))
    else:
        _print_result(table, result, limit, state)
        _print_output(table, result, reports, {"page": arguments.html, "figure": arguments.figure})
    if result.best is None:
        say(f"nothing found: every amount that was tried drops by more than {_short(limit)}")
        return FAILED
    return DONE


def _write_drawings(result: SearchResult, arguments: Arguments, limit: Decimal, command: tuple[str, ...]) -> None:
    """Write the page and the figure that were asked for."""
    from prunecli.tuning.search import MetricGoal

    goal = MetricGoal(limit, arguments.higher_is_better)
    if arguments.html is not None:
        from prunecli.tuning.pages import search_page

        page = search_page(result, arguments.ckpt, goal, command)
        write_page(arguments.html, page, force=arguments.force)
    if arguments.figure is not None:
        from prunecli.tuning.pages import draw_metric

        trials = [result.unpruned, *(attempt.trial for attempt in result.attempts)]
        title = f"{arguments.strategy} on {Path(arguments.ckpt).name}"
        figure = draw_metric(trials, title, arguments.figure.suffix, float(goal.allowed(result.unpruned)))
        write_figure(arguments.figure, figure, force=arguments.force)


def _limit(text: str | None) -> Decimal:
    """Return the exact number, so that a drop that equals the limit is within it."""
    if text is None:
        raise UsageError("--max-drop is missing: how much worse the metric may get", hint=Argument("max_drop", 0.01))
    try:
        return Decimal(text)
    except InvalidOperation:
        message = f"--max-drop is a number in the metric's own units, not {text!r}"
        raise UsageError(message, hint=Argument("max_drop", nearest_number(text, 0.01))) from None


def _search(
    arguments: Arguments, limit: Decimal, target: Path, state: Path, table: Table, command: tuple[str, ...]
) -> SearchResult:
    from prunecli.tuning.search import search as find_largest

    evaluate = evaluation.required(arguments.ckpt, arguments.evaluate)
    with evaluation.showing_output(verbose=arguments.verbose):
        return find_largest(
            arguments.ckpt,
            arguments.make_strategy,
            evaluate,
            max_drop=limit,
            higher_is_better=arguments.higher_is_better,
            tolerance=arguments.tolerance,
            tries=arguments.tries,
            output=target,
            reports=options.report_paths(arguments.report, no_report=arguments.no_report),
            state=state,
            dry_run=arguments.dry_run,
            force=arguments.force,
            **arguments.keywords(),
            command=command,
            on_attempt=lambda attempt: _print_attempt(table, attempt),
        )


# --- the printed result


def _print_attempt(table: Table, attempt: Attempt) -> None:
    """Print an attempt; for the unpruned checkpoint, which comes first, print the table's head before it."""
    trial = attempt.trial
    sparsity, metric, seconds = percent(trial.sparsity), _short(trial.metric), f"{trial.seconds:.1f}"
    if trial.strategy is None:
        table.line("amount", "sparsity", "metric", "drop", "seconds", "verdict")
        table.line("-", sparsity, metric, "-", seconds, f'unpruned, read from "{trial.line}"')
        return
    verdict = ("within" if attempt.within else "too much") + (", remembered" if trial.remembered else "")
    table.line(f"{attempt.amount:g}", sparsity, metric, _short(attempt.drop), seconds, verdict)


def _short(number: Decimal) -> str:
    return f"{float(number):.6g}"


def _print_result(table: Table, result: SearchResult, limit: Decimal, state: Path) -> None:
    """Print the best amount, the next one beyond the limit, the number of tries, and where they are remembered."""
    table.say()
    table.say(_sentence(result, limit))
    table.say()
    if result.beyond is not None:
        table.say(f"beyond    amount {result.beyond.amount:g} drops by {_short(result.beyond.drop)}")
    if not result.complete:
        table.say("open      the tries were used up before the two amounts were next to each other")
    made = sum(not attempt.trial.remembered for attempt in result.attempts)
    table.say(f"tries     {len(result.attempts)}, {made} of them evaluated now; remembered in {printable(str(state))}")


def _sentence(result: SearchResult, limit: Decimal) -> str:
    """Return the result in one sentence: the largest amount within the limit, and the checkpoint that has it."""
    best, written = result.best, result.report
    if best is None:
        return f"no amount that was tried drops by {_short(limit)} or less; no checkpoint written"
    metric = f"metric {_short(best.trial.metric)}, drop {_short(best.drop)} of {_short(limit)} allowed"
    end = "; no checkpoint written (dry run)"
    if written is not None and written.output_path is not None:
        end = f" -> {printable(written.output_path)}"
    weights = counted(best.trial.numel, "weight")
    return f"amount {best.amount:g}: {percent(best.trial.sparsity)} of {weights} zero, {metric}{end}"


def _print_output(
    table: Table, result: SearchResult, reports: list[Path] | None, drawings: dict[str, Path | None]
) -> None:
    """Print the paths of the reports, or the way to write the checkpoint, and the paths of page and figure."""
    written = result.report
    if written is not None and written.output_path is not None:
        from prunecli.formats.output_names import default_report

        for path in [default_report(written.output_path)] if reports is None else reports:
            table.say(f"report    {printable(str(path))}")
    elif result.best is not None:
        table.say("to write  the same command without -n, which uses the remembered trials")
    for what, drawing in drawings.items():
        if drawing is not None:
            table.say(f"{what:<8}  {printable(str(drawing))}")


def _document(result: SearchResult, limit: Decimal, arguments: Arguments) -> dict[str, Any]:
    """Return the result as JSON values."""
    from prunecli.tuning.sweep_text import number

    return {
        "schema": SCHEMA,
        "checkpoint": arguments.ckpt,
        "strategy": arguments.strategy,
        "eval": arguments.evaluate,
        "max_drop": number(limit),
        "higher_is_better": arguments.higher_is_better,
        "unpruned": _values(result.unpruned),
        "tries": [_attempt_values(attempt) for attempt in result.attempts],
        "best": result.best and _attempt_values(result.best),
        "beyond": result.beyond and _attempt_values(result.beyond),
        "complete": result.complete,
        "output": result.report and result.report.output_path,
    }


def _attempt_values(attempt: Attempt) -> dict[str, Any]:
    from prunecli.tuning.sweep_text import number

    values = _values(attempt.trial)
    return {"amount": attempt.amount, **values, "drop": number(attempt.drop), "within": attempt.within}


def _values(trial: Trial) -> dict[str, Any]:
    from prunecli.tuning.sweep_text import number

    return {
        "strategy": trial.strategy,
        "sparsity": round(trial.sparsity, 6),
        "zeros": trial.zeros,
        "weights": trial.numel,
        "metric": number(trial.metric),
        "line": trial.line,
        "seconds": trial.seconds,
        "remembered": trial.remembered,
    }
