"""Run a pruning command: options become the keywords of `prunecli.prune`, and its report is printed."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunecli.cli.exit import DONE, FAILED, say, silence
from prunecli.cli.progress import show_progress
from prunecli.errors import OutputError, UsageError
from prunecli.report.gates import GateError, Gates
from prunecli.text.escape import printable

if TYPE_CHECKING:
    from typing import TextIO

    from prunecli.report.model import Report
    from prunecli.strategies.recipe import Recipe
    from prunecli.strategies.unstructured import Strategy


def run_pruning(strategy: Strategy | Recipe, **given: Any) -> int:  # noqa: ANN401 - the shared options
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
                progress=stack.enter_context(
                    show_progress(wanted=not (quiet or no_progress), verbose=verbose, last="flushing")
                ),
            )
            if ckpt == "-":
                _spool_input(stack, given)
            if to_pipe:
                _spool_output(stack, given)
            result = prune(strategy=strategy, **given)
    except GateError as error:
        told(error.report, _report_paths(error.report, given))
        say("failed: the result does not pass, and no checkpoint was written")
        return FAILED
    told(result, _report_paths(result, given))
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


def _report_paths(report: Report, given: dict[str, Any]) -> list[str]:
    """Name the report files that were written."""
    if given["reports"] is not None:
        return [str(path) for path in given["reports"]]
    if report.output_path in {None, "-"}:
        return []
    from prunecli.formats.output_names import default_report

    return [str(default_report(report.output_path or ""))]


def _tell(report: Report, report_paths: list[str], *, quiet: bool, as_json: bool, to_pipe: bool) -> None:
    """Print the result on standard output, or beside it where the checkpoint itself went there."""
    for warning in report.warnings:
        say(f"warning: {warning}")
    stream = sys.stderr if to_pipe else sys.stdout
    if stream is None or (quiet and not as_json):
        return
    try:
        _print(report, report_paths, stream, as_json=as_json)
        stream.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        silence(sys.stdout)
        done = "" if report.output_path is None else f"{printable(report.output_path)} is written, but "
        raise OutputError(f"{done}standard output took no more: {error.strerror}", hint="--report PATH.json") from error


def _print(report: Report, report_paths: list[str], stream: TextIO, *, as_json: bool) -> None:
    if as_json:
        from prunecli.report.json import to_json

        stream.write(to_json(report))
        return
    from prunecli.report.text import plain, print_table

    if not stream.isatty():
        stream.write(plain(report, reports=report_paths))
        return
    from rich.console import Console

    print_table(report, Console(file=stream, highlight=False), reports=report_paths)
