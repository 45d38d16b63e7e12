"""`prune search`: the largest amount at which the user's own evaluation stays within a drop."""

from __future__ import annotations

import json as to_text
import shlex
import sys
from contextlib import ExitStack, contextmanager
from decimal import Decimal, InvalidOperation
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer
from typer import Argument, Option

from prunecli import options, varied
from prunecli.errors import UsageError
from prunecli.escape import shown
from prunecli.render import percent

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prunecli.searching import Found, Tell, Try, Vary
    from prunecli.tensors import Checkpoint
    from prunecli.trials import Question, Trial

StrategyName: TypeAlias = Annotated[
    str, Argument(metavar="STRATEGY", help="A pruning command that takes an amount; its options may follow.")
]
Eval: TypeAlias = Annotated[
    str | None,
    Option(
        "--eval",
        metavar="COMMAND",
        help="Prints the metric of the checkpoint whose path stands for {}; runs without a shell.  [required]",
    ),
]
MetricPattern: TypeAlias = Annotated[
    str | None,
    Option("--metric", metavar="REGEX", help="The number is in its last match. [default: the last number printed]"),
]
State: TypeAlias = Annotated[
    Path | None,
    Option(metavar="PATH", help="Remembers what was evaluated; candidates lie beside it. [default: OUTPUT.search.json]"),
]
Fresh: TypeAlias = Annotated[bool, Option("--fresh", help="Evaluate anew what is remembered.")]
MaxDrop: TypeAlias = Annotated[
    str | None, Option(metavar="D", help="How much worse the metric may get, in its own units.  [required]")
]
Higher: TypeAlias = Annotated[
    bool, Option("--higher-is-better/--lower-is-better", help="Whether the metric is a score or a loss.")
]
Tolerance: TypeAlias = Annotated[
    float, Option(metavar="A", parser=options.number("--tolerance", "0.01"), help="Amounts are multiples of this.")
]
MostTries: TypeAlias = Annotated[
    int | None,
    Option("--tries", metavar="N", parser=options.whole("--tries", "5", least=1), help="Try at most N amounts."),
]
Json: TypeAlias = Annotated[bool, Option("--json", help="Print the result as JSON.")]
DryRun: TypeAlias = Annotated[bool, Option("-n", "--dry-run", help="Only search; write no checkpoint.")]
Quiet: TypeAlias = Annotated[bool, Option("-q", "--quiet", help="No table.")]

_WIDTHS = (8, 8, 12, 12)
_HEADER = ("amount", "sparsity", "metric", "drop")


def search(context: typer.Context, words: varied.Words = None) -> int:
    """Find the sparsity your evaluation can bear."""
    return varied.invoke(context, words or [], _search)


def _search(  # noqa: PLR0913 - an option per question
    vary: Vary,
    context: typer.Context,
    ckpt: options.Ckpt,
    strategy: StrategyName,
    *,
    evaluation: Eval = None,
    max_drop: MaxDrop = None,
    higher_is_better: Higher = True,
    metric: MetricPattern = None,
    tolerance: Tolerance = 0.01,
    tries: MostTries = None,
    output: options.Output = None,
    report: options.Reports = None,
    state: State = None,
    fresh: Fresh = False,
    json: Json = False,
    dry_run: DryRun = False,
    force: options.Force = False,
    include: options.Include = None,
    exclude: options.Exclude = None,
    min_dim: options.MinDim = None,
    min_numel: options.MinNumel = 0,
    key: options.Key = None,
    quiet: Quiet = False,
) -> int:
    """Find the largest amount whose metric stays within the drop.

    Bisects the amounts from 0 to 1: each is pruned to a hidden place, and your command evaluates it there. The largest
    that was measured within the drop is written at the end. That it is the largest of all takes for granted that
    pruning more is never better: with a noisy metric it is one that is good enough.
    """
    from prunecli.searching import Goal, Steps, doubts  # noqa: PLC0415  -- fast start is a feature
    from prunecli.searching import search as bisect  # noqa: PLC0415

    goal, steps = Goal(_drop(max_drop), higher_is_better), Steps(tolerance, tries)
    chosen = {"include": include or [], "exclude": exclude or [], "min_dim": min_dim, "min_numel": min_numel}
    question = asked(ckpt, evaluation, metric, {**chosen, "key": key})
    target = _target(ckpt, output)
    papers = None if report is None else [*report]
    _check(question.checkpoint, target, papers, force=force, dry_run=dry_run)
    vary(0.0)
    lines = None if quiet or json else _Lines()
    found = _found(question, state_beside(target, state), partial(bisect, vary=vary, goal=goal, steps=steps), fresh, lines)
    for doubt in doubts(found):
        print(f"warning: {doubt}", file=sys.stderr)  # noqa: T201
    best, written = found.best, None
    if best is not None and not dry_run:
        from prunecli.api import prune  # noqa: PLC0415  -- imports NumPy

        written = prune(
            ckpt, vary(best.amount), output=target, reports=papers, force=force, command=context.obj or (), **given(chosen, key)
        )
    if json:
        print(to_text.dumps(_document(found, goal, ckpt, evaluation, strategy, written and written.output_path), indent=1))  # noqa: T201
    elif lines is not None:
        lines.end(found, goal, written and written.output_path, ckpt, strategy)
    if best is None:
        print(f"nothing found: no amount that was tried stays within {goal.max_drop}", file=sys.stderr)  # noqa: T201
    return 1 if best is None else 0
