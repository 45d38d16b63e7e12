"""What `prune search` and `prune sweep` have in common: their options, and a checkpoint made ready to be tried."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

from typer import Argument, Option

from prunecli.cli.output import printing
from prunecli.errors import UsageError
from prunecli.text.escape import printable
from prunecli.tuning.evaluate import EXAMPLE, EvaluationError, parse_command

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from prunecli.report.model import Report
    from prunecli.strategies.unstructured import Strategy
    from prunecli.tuning.trials import Trials, TrialSetup

Ckpt: TypeAlias = Annotated[
    str, Argument(metavar="CKPT", help="A .pth or safetensors file, a directory or index of shards.")
]
StrategyName: TypeAlias = Annotated[
    str, Argument(metavar="STRATEGY", help="A pruning command that takes an amount; its own options may follow.")
]
Eval: TypeAlias = Annotated[
    str | None,
    Option(
        "--eval",
        metavar="COMMAND",
        help="Prints the metric of the checkpoint whose path stands for {}. Runs without a shell.  [required]",
    ),
]
Metric: TypeAlias = Annotated[
    str | None,
    Option("--metric", metavar="REGEX", help="The number is in its last match. [default: the last number printed]"),
]
State: TypeAlias = Annotated[
    Path | None,
    Option(metavar="PATH", help="Remembers the trials; candidates lie beside it. [default: OUTPUT.search.json]"),
]
Fresh: TypeAlias = Annotated[bool, Option("--fresh", help="Evaluate anew what is remembered.")]
Json: TypeAlias = Annotated[bool, Option("--json", help="Print the result as JSON.")]
Quiet: TypeAlias = Annotated[bool, Option("-q", "--quiet", help="Print no table.")]


def asked(ckpt: str, evaluation: str | None, metric: str | None, chosen: Mapping[str, Any]) -> TrialSetup:
    """Return what is to be tried on the checkpoint `ckpt`; `chosen` are the options of `api.prune` that select.

    Raise UsageError for a command or a pipe that cannot be tried, and what opening and selecting raise.
    """
    if evaluation is None:
        raise UsageError("--eval is missing: the command that prints a checkpoint's metric", hint=EXAMPLE)
    command = parse_command(evaluation, metric)
    if ckpt == "-":
        raise UsageError("a pipe gives its checkpoint once, and it is evaluated many times", hint="cat > ckpt.pth")

    from prunecli.formats.open import open_checkpoint
    from prunecli.selection.select import Selector, select
    from prunecli.tuning.trials import TrialSetup

    checkpoint = open_checkpoint(ckpt, key=chosen["key"])
    rules = Selector(tuple(chosen["include"]), tuple(chosen["exclude"]), chosen["min_dim"], chosen["min_numel"])
    select(checkpoint, rules)

    def prune(strategy: Strategy, output: Path | None) -> Report:
        from prunecli.api import prune

        return prune(ckpt, strategy, output=output, reports=(), dry_run=output is None, **chosen)

    return TrialSetup(Path(ckpt), checkpoint, prune, command, chosen)


def state_for(output: Path, state: Path | None) -> Path:
    """Return where the trials are remembered: `state`, or a name beside `output`."""
    if state is not None:
        return state
    from prunecli.formats.output_names import default_report

    report = default_report(output)
    return report.with_name(f"{report.name.removesuffix('.report.json')}.search.json")


@contextmanager
def tried(question: TrialSetup, state: Path, *, fresh: bool) -> Iterator[Trials]:
    """Give the trials; what a failing command printed goes to standard error, before the error itself does."""
    from prunecli.tuning.trials import trials

    try:
        with trials(question, state, fresh=fresh) as made:
            yield made
    except EvaluationError as error:
        for line in error.output:
            say(f"  | {line}")
        raise


def say(line: str) -> None:
    """Print `line` on standard error, where there is one."""
    if sys.stderr is not None:
        print(printable(line), file=sys.stderr)  # noqa: T201 - a face


def tell_json(document: str) -> None:
    """Print the result as JSON on standard output, where there is one; OutputError where it takes no more."""
    if sys.stdout is not None:
        _print(document)


def _print(line: str) -> None:
    with printing() as stream:
        print(line, file=stream)


class Table:
    """A table that is printed line by line while it comes about."""

    def __init__(self, widths: tuple[int, ...], *, quiet: bool) -> None:
        """Columns are `widths` characters wide and right-aligned; the last cell of a line is free text."""
        self._widths, self._quiet = widths, quiet or sys.stdout is None

    def line(self, *cells: str) -> None:
        """Print a line of the table, at once."""
        *numbers, last = cells
        padded = [cell.rjust(width) for cell, width in zip(numbers, self._widths, strict=True)]
        self.say("  ".join([*padded, last]).rstrip())

    def say(self, line: str = "") -> None:
        """Print a line of its own on standard output."""
        if not self._quiet:
            _print(line)
