"""`prune search`: the largest amount at which the user's own evaluation stays within a drop."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer
from typer import Option

from prunecli.cli import evaluation as evaluated
from prunecli.cli import options, parsers
from prunecli.cli import strategy_arguments as varied
from prunecli.cli.evaluation import Table, print_json, say
from prunecli.errors import UsageError
from prunecli.text.escape import printable
from prunecli.text.numbers import format_bytes, percent

if TYPE_CHECKING:
    from prunecli.tuning.search import Attempt, SearchResult
    from prunecli.tuning.trial_file import Trial

MaxDrop: TypeAlias = Annotated[
    str | None, Option(metavar="D", help="How much worse the metric may get, in its own units.  [required]")
]
Higher: TypeAlias = Annotated[
    bool, Option("--higher-is-better/--lower-is-better", help="Whether the metric is a score or a loss.")
]
Tolerance: TypeAlias = Annotated[
    float, Option(metavar="A", parser=parsers.number("--tolerance", "0.01"), help="Amounts are multiples of this.")
]
MostTries: TypeAlias = Annotated[
    int | None,
    Option("--tries", metavar="N", parser=parsers.whole("--tries", "5", least=1), help="Try at most N amounts."),
]
Output: TypeAlias = Annotated[
    str | None,
    Option("-o", "--output", metavar="PATH", help="Where the result goes. [default: CKPT.pruned.EXT]"),
]
DryRun: TypeAlias = Annotated[bool, Option("-n", "--dry-run", help="Only search, write no checkpoint.")]

SCHEMA = 1
"""The version of the JSON form."""


def search(context: typer.Context, words: varied.Words = None) -> int:
    """Find the largest amount your evaluation bears."""
    return varied.invoke(context, words or [], _search)


def _search(
    vary: varied.MakeStrategy,
    context: typer.Context,
    ckpt: evaluated.Ckpt,
    strategy: evaluated.StrategyName,
    *,
    evaluation: evaluated.Eval = None,
    max_drop: MaxDrop = None,
    higher_is_better: Higher = True,
    metric: evaluated.Metric = None,
    tolerance: Tolerance = 0.01,
    tries: MostTries = None,
    output: Output = None,
    report: options.Reports = None,
    state: evaluated.State = None,
    fresh: evaluated.Fresh = False,
    json: evaluated.Json = False,
    dry_run: DryRun = False,
    force: options.Force = False,
    include: options.Include = None,
    exclude: options.Exclude = None,
    min_dim: options.MinDim = None,
    min_numel: options.MinNumel = 0,
    key: options.Key = None,
    quiet: evaluated.Quiet = False,
) -> int:
    """Find the largest amount whose metric stays within the drop.

    Bisects the amounts between 0 and 1. Each is pruned to a hidden place and evaluated there by your command; the
    largest that stayed within the drop is written at the end, and the exit code is 1 where none did. Bisection takes
    for granted that pruning more is never better. With a noisy metric a larger amount may do as well; what is written
    was measured itself.
    """
    from prunecli.formats.output_names import default_output
    from prunecli.tuning.search import search as find_largest
    from prunecli.tuning.trials import default_state

    evaluate, limit = evaluated.required(ckpt, evaluation), _drop(max_drop)
    if output == "-":
        raise UsageError("a search prints its tries on standard output, so the checkpoint needs a file", hint="-o PATH")
    target = default_output(ckpt) if output is None else Path(output)
    state_file = default_state(ckpt, target) if state is None else state
    table = Table(quiet=quiet or json)
    with evaluated.showing_output():
        result = find_largest(
            ckpt,
            vary,
            evaluate,
            max_drop=limit,
            higher_is_better=higher_is_better,
            tolerance=tolerance,
            tries=tries,
            metric=metric,
            output=target,
            reports=report,
            state=state_file,
            fresh=fresh,
            dry_run=dry_run,
            force=force,
            include=include or (),
            exclude=exclude or (),
            min_dim=min_dim,
            min_numel=min_numel,
            key=key,
            command=context.obj or (),
            on_attempt=lambda attempt: _print_attempt(table, attempt),
        )
    for warning in result.warnings:
        say(f"warning: {warning} --metric PATTERN names another number")
    if json:
        document = _document(result, limit, (ckpt, strategy, evaluation), higher_is_better=higher_is_better)
        print_json(document)
    else:
        _print_result(table, result, limit, state_file)
        _print_output(table, result, report)
    if result.best is None:
        say(f"nothing found: every amount that was tried drops by more than {_short(limit)}")
        return 1
    return 0


def _drop(text: str | None) -> Decimal:
    """Return the number, exactly: a drop of as much as is allowed is allowed."""
    if text is None:
        raise UsageError("--max-drop is missing: how much worse the metric may get", hint="--max-drop 0.01")
    try:
        return Decimal(text)
    except InvalidOperation:
        raise UsageError(
            f"--max-drop takes a number in the metric's own units, not {text!r}", hint="--max-drop 0.01"
        ) from None


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
    """Print the best amount, the next one beyond the limit, and the number of tries."""
    best, beyond = result.best, result.beyond
    table.say()
    if best is not None:
        got = f"{best.trial.zeros:,} of {best.trial.numel:,} weights zero ({percent(best.trial.sparsity)})"
        metric = f"metric {_short(best.trial.metric)}, drop {_short(best.drop)} of {_short(limit)} allowed"
        table.say(f"found     amount {best.amount:g}: {got}, {metric}")
    if beyond is not None:
        table.say(f"beyond    amount {beyond.amount:g} drops by {_short(beyond.drop)}")
    if not result.complete:
        table.say("open      the tries were used up before the two amounts were next to each other")
    made = sum(not attempt.trial.remembered for attempt in result.attempts)
    table.say(f"tries     {len(result.attempts)}, {made} of them evaluated now; remembered in {printable(str(state))}")


def _print_output(table: Table, result: SearchResult, reports: list[Path] | None) -> None:
    """Print the paths that were written, or the way to write them."""
    written = result.report
    if written is not None and written.output_path is not None:
        from prunecli.formats.output_names import default_report

        table.say(f"output    {printable(written.output_path)} ({format_bytes(written.output_bytes or 0)})")
        for path in [default_report(written.output_path)] if reports is None else reports:
            table.say(f"report    {printable(str(path))}")
        return
    table.say("output    nothing written")
    if result.best is not None:
        table.say("to write  the same command without -n: what was evaluated is remembered")


def _document(
    result: SearchResult, limit: Decimal, names: tuple[str, str, str | None], *, higher_is_better: bool
) -> dict[str, Any]:
    """Return the result as JSON values."""
    return {
        "schema": SCHEMA,
        "checkpoint": names[0],
        "strategy": names[1],
        "eval": names[2],
        "max_drop": float(limit),
        "higher_is_better": higher_is_better,
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
