"""`prune search`: the largest amount at which the user's own evaluation stays within a drop."""

from __future__ import annotations

import json as to_text
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer
from typer import Option

from prunecli.cli import evaluation as evaluated
from prunecli.cli import options, parsers
from prunecli.cli import strategy_arguments as varied
from prunecli.cli.evaluation import Table, say, tell_json
from prunecli.errors import UsageError
from prunecli.text.escape import printable
from prunecli.text.numbers import format_bytes, percent

if TYPE_CHECKING:
    from prunecli.checkpoint import Checkpoint
    from prunecli.report.model import Report
    from prunecli.strategies.unstructured import Strategy
    from prunecli.tuning.search import Attempt, Found, MetricGoal, Tell
    from prunecli.tuning.trials import Trial

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
    from prunecli.tuning.search import AmountGrid, MetricGoal, search_warnings
    from prunecli.tuning.search import search as bisect

    goal, steps = MetricGoal(_drop(max_drop), higher_is_better), AmountGrid(tolerance, tries)
    vary(0.0)  # the strategy's own options, before any work
    chosen = {
        "include": include or [],
        "exclude": exclude or [],
        "min_dim": min_dim,
        "min_numel": min_numel,
        "key": key,
    }
    question = evaluated.asked(ckpt, evaluation, metric, chosen)
    target = _target(ckpt, output)
    if not dry_run:
        _check(question.checkpoint, target, report, force=force)
    table = Table((8, 8, 12, 12, 10), quiet=quiet or json)
    where = evaluated.state_for(target, state)
    with evaluated.tried(question, where, fresh=fresh) as trials:
        found = bisect(trials, vary, goal, steps, lambda unpruned: _head(table, unpruned))
        written = None
        if found.best is not None and not dry_run:
            trials.check_unchanged()
            written = _publish(ckpt, vary(found.best.amount), target, report, context, {**chosen, "force": force})
    for doubt in search_warnings(found):
        say(f"warning: {doubt}")
    if json:
        tell_json(to_text.dumps(_document(found, goal, (ckpt, strategy, evaluation), written), indent=1))
    else:
        _tell(table, found, goal, where)
        _next(table, found, written, report)
    if found.best is None:
        say(f"nothing found: every amount that was tried drops by more than {_short(goal.max_drop)}")
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


# --- where the result goes


def _target(ckpt: str, output: str | None) -> Path:
    from prunecli.formats.output_names import default_output

    if output == "-":
        raise UsageError("a search prints its tries on standard output, so the checkpoint needs a file", hint="-o PATH")
    return default_output(ckpt) if output is None else Path(output)


def _check(checkpoint: Checkpoint, target: Path, reports: list[Path] | None, *, force: bool) -> None:
    """Refuse before the search what could not be published after it."""
    from prunecli.formats.output_names import default_report
    from prunecli.io.targets import check_output, check_writable_target
    from prunecli.report.renderers import check_suffixes

    inputs, names = [file.path for file in checkpoint.files], None
    if checkpoint.is_directory:
        names = {path.relative_to(checkpoint.path).as_posix() for path in inputs}
        names.update(p.as_posix() for c in checkpoint.other_files for p in (c, *c.parents[:-1]))
        inputs.append(checkpoint.path)
    check_output(target, sources=inputs, force=force, in_place=False, names=names)
    check_suffixes(reports or ())
    for paper in [default_report(target)] if reports is None else reports:
        check_writable_target(paper, force=force, others=[*inputs, target])


def _publish(
    ckpt: str,
    strategy: Strategy,
    target: Path,
    reports: list[Path] | None,
    context: typer.Context,
    chosen: dict[str, Any],
) -> Report:
    from prunecli.api import prune

    return prune(ckpt, strategy, output=target, reports=reports, command=context.obj or (), **chosen)


# --- what is printed


def _head(table: Table, unpruned: Trial) -> Tell:
    """Print the table's head and the unpruned checkpoint; return what prints a try."""
    table.line("amount", "sparsity", "metric", "drop", "seconds", "verdict")
    sparsity, seconds = percent(unpruned.sparsity), f"{unpruned.seconds:.1f}"
    table.line("-", sparsity, _short(unpruned.metric), "-", seconds, f'unpruned, read from "{unpruned.line}"')

    def tell(tried: Attempt) -> None:
        trial = tried.trial
        verdict = "within" if tried.within else "too much"
        known = ", remembered" if trial.remembered else ""
        numbers = f"{tried.amount:g}", percent(trial.sparsity), _short(trial.metric), _short(tried.drop)
        table.line(*numbers, f"{trial.seconds:.1f}", verdict + known)

    return tell


def _short(number: Decimal) -> str:
    return f"{float(number):.6g}"


def _tell(table: Table, found: Found, goal: MetricGoal, state: Path) -> None:
    """Print what was found, and how sure that is."""
    best, beyond = found.best, found.beyond
    table.say()
    if best is not None:
        got = f"{best.trial.zeros:,} of {best.trial.numel:,} weights zero ({percent(best.trial.sparsity)})"
        metric = f"metric {_short(best.trial.metric)}, drop {_short(best.drop)} of {_short(goal.max_drop)} allowed"
        table.say(f"found     amount {best.amount:g}: {got}, {metric}")
    if beyond is not None:
        table.say(f"beyond    amount {beyond.amount:g} drops by {_short(beyond.drop)}")
    if not found.complete:
        table.say("open      the tries were used up before the two amounts were next to each other")
    made = sum(not t.trial.remembered for t in found.tries)
    table.say(f"tries     {len(found.tries)}, {made} of them evaluated now; remembered in {printable(str(state))}")


def _next(
    table: Table,
    found: Found,
    written: Report | None,
    reports: list[Path] | None,
) -> None:
    """Say where the result is, or what makes it."""
    if written is not None and written.output_path is not None:
        from prunecli.formats.output_names import default_report

        table.say(f"output    {printable(written.output_path)} ({format_bytes(written.output_bytes or 0)})")
        for path in [default_report(written.output_path)] if reports is None else reports:
            table.say(f"report    {printable(str(path))}")
        return
    table.say("output    nothing written")
    if found.best is not None:
        table.say("to write  the same command without -n: what was evaluated is remembered")


def _document(
    found: Found, goal: MetricGoal, names: tuple[str, str, str | None], written: Report | None
) -> dict[str, Any]:
    """Return the result as JSON has it."""
    return {
        "schema": SCHEMA,
        "checkpoint": names[0],
        "strategy": names[1],
        "eval": names[2],
        "max_drop": float(goal.max_drop),
        "higher_is_better": goal.higher_is_better,
        "unpruned": _values(found.unpruned),
        "tries": [_tried(t) for t in found.tries],
        "best": found.best and _tried(found.best),
        "beyond": found.beyond and _tried(found.beyond),
        "complete": found.complete,
        "output": written and written.output_path,
    }


def _tried(tried: Attempt) -> dict[str, Any]:
    from prunecli.tuning.sweep import number

    return {"amount": tried.amount, **_values(tried.trial), "drop": number(tried.drop), "within": tried.within}


def _values(trial: Trial) -> dict[str, Any]:
    from prunecli.tuning.sweep import number

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
