"""The command line: options become a strategy and keyword arguments of `prunecli.api.prune`, errors an exit code.

Knows nothing about tensors or bytes. Nothing heavy is imported before an option has been found wrong: `--help` and
usage errors need neither NumPy nor torch.
"""

from __future__ import annotations

import inspect
import os
import signal
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prunecli import options
from prunecli.errors import PruneError, UsageError
from prunecli.strategies import Global, Percentile, Spread, Strategy, Threshold, TopK

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from prunecli.report import Report

DONE, FAILED, WRONG, INTERRUPTED, TERMINATED, BROKEN_PIPE = 0, 1, 2, 130, 143, 141
"""Exit codes: FAILED is for gates and checks, WRONG for usage and input."""

app = typer.Typer(
    name="prune",
    help="Zero weights in checkpoint files: the right ones, nothing else, as fast as copying the file.",
    epilog="Exit codes: 0 done, 1 a check failed, 2 wrong usage or input, 130 interrupted.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _shared(
    ckpt: options.Ckpt,
    output: options.Output = None,
    report: options.Reports = None,
    json: options.Json = False,
    dry_run: options.DryRun = False,
    force: options.Force = False,
    in_place: options.InPlace = False,
    sha256: options.Sha256 = False,
    include: options.Include = None,
    exclude: options.Exclude = None,
    min_dim: options.MinDim = None,
    min_numel: options.MinNumel = 0,
    key: options.Key = None,
    strict: options.Strict = False,
    device: options.Device = "cpu",
    threads: options.Threads = 0,
    quiet: options.Quiet = False,
    no_progress: options.NoProgress = False,
) -> None:
    """Hold the signature that `command` adds to each pruning command."""


def command(make: Callable[..., Strategy]) -> Callable[..., Strategy]:
    """Register `make`, a function from its own options to a strategy, as a command with the shared options."""
    # Not get_type_hints: before Python 3.11 it wraps what defaults to None once more, and Typer loses the option.
    own, shared = (dict(inspect.signature(f, eval_str=True).parameters) for f in (make, _shared))

    def run(**given: Any) -> None:  # noqa: ANN401 - typed by the signature below
        with _errors_as_exit_codes():
            strategy = make(**{name: given.pop(name) for name in own})
            _prune(strategy, **given)

    parameters = [shared.pop("ckpt"), *own.values(), *shared.values()]
    typed = [p.replace(kind=p.KEYWORD_ONLY) for p in parameters]
    run.__signature__ = inspect.Signature(typed)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in typed}
    run.__doc__ = make.__doc__
    app.command(make.__name__.rstrip("_"))(run)
    return make


@command
def threshold(
    thr: Annotated[
        float | None, typer.Option("--thr", metavar="T", help="Zero weights with |w| <= T.", show_default=False)
    ] = None,
    thr_std: Annotated[
        float | None,
        typer.Option("--thr-std", metavar="Q", help="T = Q * std(w) of each tensor instead.", show_default=False),
    ] = None,
) -> Strategy:
    """Zero every weight whose magnitude is T or less."""
    if thr is not None and thr_std is not None:
        raise UsageError("--thr and --thr-std are two answers to one question", hint="give one of them")
    if thr is not None:
        return Threshold(thr)
    if thr_std is not None:
        return Spread(thr_std)
    raise UsageError("threshold needs a threshold", hint="--thr 0.1, or --thr-std 0.5")


@command
def percentile(
    q: Annotated[float, typer.Option("--q", metavar="Q", help="Percentile of |w|, 0 to 100.", show_default=False)],
) -> Strategy:
    """Zero, in each tensor, every weight up to the Q-th percentile of its magnitudes (np.percentile)."""
    return Percentile(q)


@command
def global_(
    amount: Annotated[
        str | None, typer.Option("--amount", metavar="A", help="A fraction (0.5) or a percentage (50%).")
    ] = None,
    count: Annotated[int | None, typer.Option("--count", metavar="K", help="This many weights.")] = None,
) -> Strategy:
    """Zero the smallest weights of all selected tensors together, exactly as many as asked."""
    return Global(None if amount is None else parse_amount(amount), count)


@command
def topk(
    keep: Annotated[int | None, typer.Option("--keep", metavar="K", help="Keep the K largest ...")] = None,
    group: Annotated[int | None, typer.Option("--group", metavar="G", help="... of every G.")] = None,
    pattern: Annotated[
        str | None, typer.Option("--pattern", metavar="K:G", help="The same in one: 2:4 keeps 2 of every 4.")
    ] = None,
    dim: Annotated[int, typer.Option("--dim", metavar="D", help="Groups run along this dimension.")] = 1,
    tail: Annotated[
        str, typer.Option("--tail", metavar="keep|zero|error", help="What becomes of a short last group.")
    ] = "keep",
) -> Strategy:
    """Keep the K largest of every G consecutive weights along a dimension, and zero the others."""
    if (pattern is None) == (keep is None and group is None):
        raise UsageError("topk needs --keep with --group, or --pattern", hint="--keep 2 --group 4, or --pattern 2:4")
    if pattern is not None:
        return TopK(*parse_pattern(pattern), dim, tail)
    if keep is None or group is None:
        raise UsageError("--keep and --group go together", hint="--keep 2 --group 4")
    return TopK(keep, group, dim, tail)


def parse_amount(text: str) -> float:
    """Return the fraction that "0.5", "50%" or "1.0" means; UsageError for a bare whole number and other text."""
    number = text.removesuffix("%").strip()
    try:
        value = float(number)
    except ValueError:
        raise UsageError(f"--amount {text!r} is no number", hint="--amount 0.5 or --amount 50%") from None
    if text.endswith("%"):
        value /= 100
    elif number.lstrip("+-").isdigit() and value != 0:
        raise UsageError(
            f"--amount {text} could mean a fraction or a number of weights",
            hint=f"--count {number} for that many weights, --amount {value:.1f} or {number}% for a part of them",
        )
    return value


def parse_pattern(text: str) -> tuple[int, int]:
    """Return (2, 4) for "2:4"."""
    keep, colon, group = text.partition(":")
    if not (colon and keep.isascii() and keep.isdigit() and group.isascii() and group.isdigit()):
        raise UsageError(f"--pattern is K:G, keep K of every G, not {text!r}", hint="--pattern 2:4")
    return int(keep), int(group)


def _prune(strategy: Strategy, **given: Any) -> None:  # noqa: ANN401 - the shared options
    """Run one pruning command: spool pipes, prune, print."""
    from prunecli.api import prune

    ckpt, output = given.pop("ckpt"), given.pop("output")
    quiet, as_json, no_progress = given.pop("quiet"), given.pop("json"), given.pop("no_progress")
    to_pipe, dry_run = output == "-", given["dry_run"]
    if to_pipe and as_json and not dry_run:
        raise UsageError("--json and -o - both want standard output", hint="--report PATH.json, or -o FILE")
    if ckpt == "-" and output is None and not dry_run:
        raise UsageError("a checkpoint from a pipe has no name to derive the output's from", hint="-o PATH, or -o -")
    with ExitStack() as stack:
        given.update(
            path=ckpt,
            output=output,
            reports=given.pop("report"),
            include=given["include"] or (),
            exclude=given["exclude"] or (),
            command=("prune", *sys.argv[1:]),
            progress=_bar(stack, wanted=not (quiet or no_progress)),
        )
        if ckpt == "-":
            _spool_input(stack, given)
        if to_pipe:
            _spool_output(stack, given)
        result = prune(strategy=strategy, **given)
    _tell(result, _papers(result, given), quiet=quiet, as_json=as_json, to_pipe=to_pipe and not dry_run)


def _spool_input(stack: ExitStack, given: dict[str, Any]) -> None:
    from prunecli.spool import spooled_input

    beside = None if given["output"] in {None, "-"} else Path(given["output"]).absolute().parent
    if given["in_place"]:
        raise UsageError("a pipe cannot be pruned in place", hint="-o PATH, or -o -")
    given.update(path=stack.enter_context(spooled_input(beside)), label="standard input")


def _spool_output(stack: ExitStack, given: dict[str, Any]) -> None:
    from prunecli.spool import spooled_output

    if not given["dry_run"]:
        given["output"] = stack.enter_context(spooled_output())


def _bar(stack: ExitStack, *, wanted: bool) -> Any:  # noqa: ANN401 - a progress.Bar, imported late
    if not wanted or not sys.stderr.isatty():
        return None
    from prunecli.progress import Bar

    return stack.enter_context(Bar())


def _papers(report: Report, given: dict[str, Any]) -> list[str]:
    """Name the report files that were written."""
    if given["reports"] is not None:
        return [str(path) for path in given["reports"]]
    if report.output_path in {None, "-"}:
        return []
    from prunecli.checkpoint import default_report

    return [str(default_report(report.output_path or ""))]


def _tell(report: Report, papers: list[str], *, quiet: bool, as_json: bool, to_pipe: bool) -> None:
    """Print the result on standard output, or beside it where the checkpoint itself went there."""
    for warning in report.warnings:
        print(f"warning: {warning}", file=sys.stderr)  # noqa: T201
    if as_json:
        from prunecli.report import to_json

        sys.stdout.write(to_json(report))
    elif not quiet:
        _show(report, papers, sys.stderr if to_pipe else sys.stdout)
    sys.stdout.flush()


def _show(report: Report, papers: list[str], stream: Any) -> None:  # noqa: ANN401 - a text stream
    from prunecli.render import plain, print_table

    if not stream.isatty():
        stream.write(plain(report, reports=papers))
        return
    from rich.console import Console

    print_table(report, Console(file=stream, highlight=False), reports=papers)


class _errors_as_exit_codes:  # noqa: N801 - used like a function
    """Turn what ends a run into one line on standard error and an exit code."""

    def __enter__(self) -> None:
        """Let a polite kill clean up as Ctrl-C does."""
        signal.signal(signal.SIGTERM, _terminate)

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        """Exit with the code that fits the error; what is not known keeps its traceback."""
        if isinstance(error, PruneError):
            print(f"error: {error}", file=sys.stderr)  # noqa: T201
            if error.hint:
                print(f"hint: {error.hint}", file=sys.stderr)  # noqa: T201
            raise typer.Exit(WRONG)
        if isinstance(error, BrokenPipeError):
            # Python flushes standard output once more at exit, and would complain then.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(BROKEN_PIPE)
        if isinstance(error, KeyboardInterrupt):
            print("interrupted: nothing was written", file=sys.stderr)  # noqa: T201
            raise typer.Exit(INTERRUPTED)


def _terminate(_: int, __: FrameType | None) -> None:
    raise SystemExit(TERMINATED)
