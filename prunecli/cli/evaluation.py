"""The options that `prune search` and `prune sweep` share, and their output while they run."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument

from prunecli.cli import options, strategy_arguments
from prunecli.cli.colours import Color
from prunecli.cli.command_list import OUTPUT, RUNNING
from prunecli.cli.exit import say
from prunecli.cli.output import printing
from prunecli.cli.value_options import flag_option, text_option
from prunecli.cli.watching import Watching
from prunecli.errors import UsageError
from prunecli.text.escape import printable
from prunecli.text.json import dump_json
from prunecli.text.tables import Column, aligned_line
from prunecli.tuning.evaluate import EXAMPLE, EvaluationError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Ckpt = Annotated[str, Argument(metavar="CKPT", help="A .pth or safetensors file, a directory or index of shards.")]
StrategyName = Annotated[
    str, Argument(metavar="STRATEGY", help="A pruning command that takes an amount; its own options may follow.")
]
Eval = Annotated[
    str | None,
    text_option(
        "--eval",
        "COMMAND",
        "Command that prints the metric; {} is the path of the checkpoint. Runs without a shell.  [required]",
    ),
]
Metric = Annotated[
    str | None,
    text_option(
        "--metric",
        "REGEX",
        "Regular expression; the metric is taken from its last match. [default: the last number printed]",
    ),
]
Fresh = Annotated[bool, flag_option("--fresh", "Evaluate remembered trials again.")]
Verbose = Annotated[
    bool, flag_option("-v --verbose", "Print what the evaluation prints, on standard error.", panel=RUNNING)
]
Quiet = Annotated[bool, flag_option("-q --quiet", "Print no table.", panel=RUNNING)]


def state_option(default: str) -> Any:  # noqa: ANN401 - Typer's own
    """Return the option for the state file, which has another default name in each command."""
    description = f"The file that remembers the trials; candidates are written next to it. [default: {default}]"
    return text_option("--state", "PATH", description, panel=OUTPUT)


@dataclass(frozen=True, kw_only=True)
class TrialArguments:
    """The arguments that both commands have."""

    make_strategy: strategy_arguments.MakeStrategy
    ckpt: Ckpt
    strategy: StrategyName
    evaluate: Eval = None
    metric: Metric = None
    fresh: Fresh = False
    json: options.Json = False
    include: options.Include = None
    exclude: options.Exclude = None
    min_dim: options.MinDim = None
    min_numel: options.MinNumel = 0
    key: options.Key = None
    quiet: Quiet = False
    verbose: Verbose = False
    no_progress: options.NoProgress = False
    color: Color = "auto"

    def keywords(self) -> dict[str, Any]:
        """Return the arguments of a trial by the names that `prunecli.search` and `prunecli.sweep` give them."""
        return {
            "metric": self.metric,
            "fresh": self.fresh,
            "include": self.include or (),
            "exclude": self.exclude or (),
            "min_dim": self.min_dim,
            "min_numel": self.min_numel,
            "key": self.key,
            "watch": Watching(wanted=not (self.quiet or self.no_progress), verbose=self.verbose),
        }


def required(ckpt: str, evaluation: str | None) -> str:
    """Return the evaluation command; UsageError if it is missing or cannot be tried on the checkpoint."""
    if evaluation is None:
        raise UsageError("--eval is missing: the command that prints a checkpoint's metric", hint=EXAMPLE)
    if ckpt == "-":
        raise UsageError("a pipe gives its checkpoint once, and it is evaluated many times", hint="cat > ckpt.pth")
    return evaluation


@contextmanager
def showing_output(*, verbose: bool) -> Iterator[None]:
    """Print the output of a failing evaluation on standard error, before the error itself is printed.

    With `verbose` it is there already.
    """
    try:
        yield
    except EvaluationError as error:
        for line in () if verbose else error.output:
            say(printable(f"  | {line}"))
        raise


def print_json(document: Mapping[str, object]) -> None:
    """Print the result as JSON on standard output, if there is one; OutputError if it takes no more."""
    _print(dump_json(document))


def _print(text: str) -> None:
    with printing() as stream:
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
