"""The options that `prune search` and `prune sweep` share, and their output while they run."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, TypeAlias

from typer import Argument, Option

from prunecli.cli.exit import say
from prunecli.cli.output import printing
from prunecli.errors import UsageError
from prunecli.text.escape import printable
from prunecli.text.json import dump_json
from prunecli.text.tables import Column, aligned_line
from prunecli.tuning.evaluate import EXAMPLE, EvaluationError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

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
        help="Command that prints the metric; {} is the path of the checkpoint. Runs without a shell.  [required]",
    ),
]
Metric: TypeAlias = Annotated[
    str | None,
    Option(
        "--metric",
        metavar="REGEX",
        help="Regular expression; the metric is taken from its last match. [default: the last number printed]",
    ),
]
Fresh: TypeAlias = Annotated[bool, Option("--fresh", help="Evaluate remembered trials again.")]
Quiet: TypeAlias = Annotated[bool, Option("-q", "--quiet", help="Print no table.")]


def required(ckpt: str, evaluation: str | None) -> str:
    """Return the evaluation command; UsageError if it is missing or cannot be tried on the checkpoint."""
    if evaluation is None:
        raise UsageError("--eval is missing: the command that prints a checkpoint's metric", hint=EXAMPLE)
    if ckpt == "-":
        raise UsageError("a pipe gives its checkpoint once, and it is evaluated many times", hint="cat > ckpt.pth")
    return evaluation


@contextmanager
def showing_output() -> Iterator[None]:
    """Print the output of a failing evaluation on standard error, before the error itself is printed."""
    try:
        yield
    except EvaluationError as error:
        for line in error.output:
            say(printable(f"  | {line}"))
        raise


def print_json(document: Mapping[str, object]) -> None:
    """Print the result as JSON on standard output, if there is one; OutputError if it takes no more."""
    _print(dump_json(document))


def _print(text: str) -> None:
    with printing() as stream:
        if stream is not None:
            stream.write(text)


_COLUMNS = (*(Column("", right=True) for _ in range(5)), Column(""))
_WIDTHS = (8, 8, 12, 12, 10, 0)  # characters; the last column is free text


class Table:
    """The table of trials. A line is printed when its trial ends."""

    def __init__(self, *, quiet: bool) -> None:
        """Print nothing if `quiet`."""
        self._quiet = quiet

    def line(self, *cells: str) -> None:
        """Print a line of the table."""
        self.say(aligned_line(_COLUMNS, _WIDTHS, cells))

    def say(self, line: str = "") -> None:
        """Print a line outside the table."""
        if not self._quiet:
            _print(f"{line}\n")
