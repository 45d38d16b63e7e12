"""The command line: options become a strategy and keyword arguments of `prunecli.api.prune`, errors an exit code.

Knows nothing about tensors or bytes. Nothing heavy is imported before an option has been found wrong: `--help` and
usage errors need neither NumPy nor torch.
"""

from __future__ import annotations

import importlib
import inspect
import os
import signal
import sys
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prunecli import __version__
from prunecli.cli import options
from prunecli.cli.command_list import LOOKING, PRUNING
from prunecli.errors import GateError, OutputError, PruneError, UsageError
from prunecli.report.gates import Gates
from prunecli.text.escape import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import FrameType
    from typing import TextIO

    from prunecli.cli.progress import Details
    from prunecli.engine.recipe_run import Recipe
    from prunecli.report.model import Report
    from prunecli.strategies.unstructured import Strategy

DONE, FAILED, WRONG, INTERRUPTED, BROKEN_PIPE = 0, 1, 2, 130, 141
"""Exit codes; a signal's is 128 more than its number."""

_TyperError: type[Exception] = typer.BadParameter.__mro__[2]
"""What Typer raises for a usage error or a subclass of it; Typer exports only the leaves."""

_SETTINGS: dict[str, Any] = {
    "name": "prune",
    "help": "Zero weights in checkpoint files: the right ones, and nothing else.",
    "epilog": "Exit codes: 0 done, 1 a check failed, 2 wrong usage or input, 130 interrupted.",
    "pretty_exceptions_enable": False,
    "rich_markup_mode": None,
    "context_settings": {"help_option_names": ["-h", "--help"]},
}
app = typer.Typer(**_SETTINGS)


def main(args: Sequence[str] | None = None) -> int:
    """Run `prune` with `args` (None: the process's own) and return the exit code.

    What a user can cause ends in one sentence on standard error; what nobody foresaw keeps its traceback.
    """
    given = sys.argv[1:] if args is None else list(args)
    _never_refuse_a_character()
    try:
        with _polite_kills():
            program = _program(given)
            code = program(given, prog_name="prune", standalone_mode=False, obj=("prune", *given))
            if sys.stdout is not None:
                sys.stdout.flush()
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        _silence_stdout()
        return BROKEN_PIPE
    except (PruneError, _TyperError, OSError) as error:
        return _failed(error)
    return code if isinstance(code, int) else DONE


@app.callback(invoke_without_command=True)
def _prune_alone(
    context: typer.Context,
    *,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.", is_eager=True)] = False,
) -> None:
    if version:
        print("prune", __version__)  # noqa: T201
        raise typer.Exit
    if context.invoked_subcommand is None:
        _say(context.get_help())
        raise typer.Exit(WRONG)


def _shared(
    context: typer.Context,
    ckpt: options.Ckpt,
    output: options.Output = None,
    report: options.Reports = None,
    json: options.Json = False,
    dry_run: options.DryRun = False,
    force: options.Force = False,
    in_place: options.InPlace = False,
    sha256: options.Sha256 = False,
    estimate: options.Estimate = False,
    include: options.Include = None,
    exclude: options.Exclude = None,
    min_dim: options.MinDim = None,
    min_numel: options.MinNumel = 0,
    key: options.Key = None,
    scores: options.Scores = None,
    act_norms: options.ActNorms = None,
    mask_in: options.MaskIn = None,
    of: options.Of = "all",
    mask_out: options.MaskOut = None,
    strict: options.Strict = False,
    min_sparsity: options.MinSparsity = None,
    max_sparsity: options.MaxSparsity = None,
    max_tensor_sparsity: options.MaxTensorSparsity = None,
    device: options.Device = "cpu",
    threads: options.Threads = 0,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    no_progress: options.NoProgress = False,
) -> None:
    """Hold the signature that `add_command` adds to each pruning command."""


def add_command(make: Callable[..., Strategy | Recipe]) -> None:
    """Register `make`, a function from its own options to a strategy, as a command with the shared options."""
    # Not get_type_hints: before Python 3.11 it wraps what defaults to None once more, and Typer loses the option.
    own, shared = (dict(inspect.signature(f, eval_str=True).parameters) for f in (make, _shared))

    def run(**given: Any) -> int:  # noqa: ANN401 - typed by the signature below
        return _prune(make(**{name: given.pop(name) for name in own}), **given)

    first = [own[name] for name in own if own[name].default is inspect.Parameter.empty]
    rest = [own[name] for name in own if own[name].default is not inspect.Parameter.empty]
    parameters = [*first, shared.pop("ckpt"), *rest, *shared.values()]
    _register(make, run, parameters)


def add_tool(tool: Callable[..., int], **settings: Any) -> None:  # noqa: ANN401 - Typer's
    """Register `tool`, a function from its options to an exit code, as a command."""
    _register(tool, tool, list(inspect.signature(tool, eval_str=True).parameters.values()), **settings)


def _register(
    named: Callable[..., object],
    work: Callable[..., int],
    parameters: list[inspect.Parameter],
    **settings: Any,  # noqa: ANN401 - Typer's
) -> None:
    def run(**given: Any) -> int:  # noqa: ANN401 - typed by the signature below
        with _others_end_it():
            return work(**given)

    typed = [p.replace(kind=p.KEYWORD_ONLY) for p in parameters]
    run.__signature__ = inspect.Signature(typed)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in typed}
    run.__doc__ = named.__doc__
    app.command(named.__name__.rstrip("_"), **settings)(run)


def register(names: Sequence[str]) -> None:
    """Register the commands of these names that are not yet; only their rooms are imported."""
    known = {command.name for command in app.registered_commands}
    for name in names:
        if name not in known and name in PRUNING:
            add_command(_command("cmd_run" if name == "run" else "commands", name))
        elif name not in known:
            varied = {"context_settings": _room("varied").SETTINGS} if name in {"search", "sweep"} else {}
            add_tool(_command(f"cmd_{name}", name), **varied)
    order = {name: at for at, name in enumerate((*PRUNING, *LOOKING))}
    app.registered_commands.sort(key=lambda command: order.get(command.name or "", len(order)))


_MODULES = {
    "cmd_run": "cli.run",
    "commands": "cli.pruning",
    "varied": "cli.strategy_arguments",
    "cmd_inspect": "cli.inspect",
    "cmd_scan": "cli.scan",
    "cmd_check": "cli.check",
    "cmd_diff": "cli.diff",
    "cmd_bake": "cli.bake",
    "cmd_search": "cli.search",
    "cmd_sweep": "cli.sweep",
}


def _room(name: str) -> Any:  # noqa: ANN401 - a module
    return importlib.import_module("prunecli." + _MODULES[name])


def _command(room: str, name: str) -> Callable[..., Any]:
    found: Callable[..., Any] = getattr(_room(room), "global_" if name == "global" else name)
    return found


def _program(given: Sequence[str]) -> typer.Typer:
    """Return what a command line needs: the command it names, or every name with a line of help."""
    first = next((word for word in given if not word.startswith("-")), None)
    if any(name.endswith("_COMPLETE") and name.startswith("_PRUNE") for name in os.environ):
        register((*PRUNING, *LOOKING))
    elif first in {*PRUNING, *LOOKING}:
        register((first,))
    else:
        listed = typer.Typer(**_SETTINGS)
        listed.callback(invoke_without_command=True)(_prune_alone)
        for name, line in {**PRUNING, **LOOKING}.items():
            listed.command(name, help=line)(_listed)
        return listed
    return app


def _listed() -> None:
    """Stand for a command in the list of all: what names one gets the command itself."""


def _prune(strategy: Strategy | Recipe, **given: Any) -> int:  # noqa: ANN401 - the shared options
    """Run one pruning command: spool pipes, prune, print; return the exit code."""
    from prunecli.api import prune

    ckpt, output, context = given.pop("ckpt"), given.pop("output"), given.pop("context")
    quiet, as_json, no_progress = given.pop("quiet"), given.pop("json"), given.pop("no_progress")
    verbose = given.pop("verbose")
    if quiet and verbose:
        raise UsageError("--quiet and --verbose are two answers to one question", hint="-v")
    to_pipe, dry_run = output == "-", given["dry_run"]
    if to_pipe and as_json and not dry_run:
        raise UsageError("--json and -o - both want standard output", hint="--report PATH.json, or -o FILE")
    if ckpt == "-" and output is None and not dry_run:
        raise UsageError("a checkpoint from a pipe has no name to derive the output's from", hint="-o PATH, or -o -")
    gates = Gates(*(given.pop(name) for name in ("min_sparsity", "max_sparsity", "max_tensor_sparsity")))
    told = partial(_tell, quiet=quiet, as_json=as_json, to_pipe=to_pipe and not dry_run)
    try:
        with ExitStack() as stack:
            given.update(
                path=ckpt,
                output=output,
                reports=given.pop("report"),
                include=given["include"] or (),
                exclude=given["exclude"] or (),
                gates=gates,
                command=context.obj,
                progress=stack.enter_context(_progress(wanted=not (quiet or no_progress), verbose=verbose)),
            )
            if ckpt == "-":
                _spool_input(stack, given)
            if to_pipe:
                _spool_output(stack, given)
            result = prune(strategy=strategy, **given)
    except GateError as error:
        told(error.report, _papers(error.report, given))
        _say("failed: the result does not pass, and no checkpoint was written")
        return FAILED
    told(result, _papers(result, given))
    return DONE


def _spool_input(stack: ExitStack, given: dict[str, Any]) -> None:
    from prunecli.cli.pipes import spooled_input
    from prunecli.io.targets import check_output

    if given["in_place"]:
        raise UsageError("a pipe cannot be pruned in place", hint="-o PATH, or -o -")
    beside = None
    if given["output"] not in {None, "-"} and not given["dry_run"]:
        target = Path(given["output"])
        check_output(target, sources=(), force=given["force"], in_place=False)  # before a long pipe is read
        beside = target.absolute().parent
    given.update(path=stack.enter_context(spooled_input(beside)), label="standard input")


def _spool_output(stack: ExitStack, given: dict[str, Any]) -> None:
    from prunecli.cli.pipes import spooled_output

    if not given["dry_run"]:
        given["output"] = stack.enter_context(spooled_output())


def _progress(*, wanted: bool, verbose: bool) -> Details:
    from prunecli.cli.progress import Bar, Details, Lines

    if not wanted:
        return Details(verbose=verbose)
    terminal = sys.stderr is not None and sys.stderr.isatty()
    return Bar(verbose=verbose) if terminal else Lines(verbose=verbose)


def _papers(report: Report, given: dict[str, Any]) -> list[str]:
    """Name the report files that were written."""
    if given["reports"] is not None:
        return [str(path) for path in given["reports"]]
    if report.output_path in {None, "-"}:
        return []
    from prunecli.formats.open import default_report

    return [str(default_report(report.output_path or ""))]


def _tell(report: Report, papers: list[str], *, quiet: bool, as_json: bool, to_pipe: bool) -> None:
    """Print the result on standard output, or beside it where the checkpoint itself went there."""
    for warning in report.warnings:
        _say(f"warning: {warning}")
    stream = sys.stderr if to_pipe else sys.stdout
    if stream is None or (quiet and not as_json):
        return
    try:
        _print(report, papers, stream, as_json=as_json)
        stream.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        _silence_stdout()
        done = "" if report.output_path is None else f"{shown(report.output_path)} is written, but "
        raise OutputError(f"{done}standard output took no more: {error.strerror}", hint="--report PATH.json") from error


def _print(report: Report, papers: list[str], stream: TextIO, *, as_json: bool) -> None:
    if as_json:
        from prunecli.report.model import to_json

        stream.write(to_json(report))
        return
    from prunecli.report.text import plain, print_table

    if not stream.isatty():
        stream.write(plain(report, reports=papers))
        return
    from rich.console import Console

    print_table(report, Console(file=stream, highlight=False), reports=papers)


# --- how a run ends


@contextmanager
def _others_end_it() -> Iterator[None]:
    """Exit as Ctrl-C and a reader that went away ask for; Typer would give both codes of its own."""
    try:
        yield
    except KeyboardInterrupt:
        _say("interrupted")
        raise typer.Exit(INTERRUPTED) from None
    except BrokenPipeError:
        _silence_stdout()
        raise typer.Exit(BROKEN_PIPE) from None


@contextmanager
def _polite_kills() -> Iterator[None]:
    """Let SIGTERM and SIGHUP clean up as Ctrl-C does, unless somebody asked to ignore them (nohup)."""
    names = [name for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in (getattr(signal, name) for name in names)}
    for number, handler in before.items():
        if handler is signal.SIG_DFL:
            signal.signal(number, _terminate)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _terminate(number: int, _: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _failed(error: Exception) -> int:
    """Say what went wrong and what to type next; return the exit code."""
    if isinstance(error, OSError):
        if sys.stdout is not None:
            _silence_stdout()
        where = "" if error.filename is None else f": {error.filename}"
        error = PruneError(f"{error.strerror or error}{where}")
    message, hint = (str(error), error.hint) if isinstance(error, PruneError) else _usage(error)
    _say(f"error: {shown(message)}")
    if hint:
        _say(f"hint: {shown(hint)}")
    return WRONG


def _usage(error: Any) -> tuple[str, str]:  # noqa: ANN401 - Typer's usage errors, whose class it does not export
    """Return Typer's message in the manner of the others, and a hint."""
    text = str(error.format_message()).rstrip(".")
    context = getattr(error, "ctx", None)
    return text[:1].lower() + text[1:], f"{context.command_path if context else 'prune COMMAND'} --help"


def _say(line: str) -> None:
    """Print `line` on standard error, where there is one."""
    if sys.stderr is not None:
        print(line, file=sys.stderr)  # noqa: T201


def _never_refuse_a_character() -> None:
    """Let names that the terminal's encoding does not have be printed as escapes."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _silence_stdout() -> None:
    """Point standard output at nothing: Python flushes it once more at exit, and would complain then."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)
