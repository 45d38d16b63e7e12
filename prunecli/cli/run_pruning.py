"""Run a pruning command: its options become a request, and the report of the run is printed."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from prunecli.cli.exit import DONE, FAILED, say, warn
from prunecli.cli.hints import as_options
from prunecli.cli.options import layouts
from prunecli.cli.output import printing, recorded, view
from prunecli.cli.processes import device_of, refuse_together, threads_of
from prunecli.cli.progress import show_progress
from prunecli.distributed.current import processes
from prunecli.errors import Argument, UsageError, spelled
from prunecli.report.gates import GateError, Gates

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prunecli.api import PruneRequest
    from prunecli.cli.options import SharedOptions
    from prunecli.engine.outputs import OutputRequest
    from prunecli.report.model import Report
    from prunecli.strategies.recipe import Recipe
    from prunecli.strategies.strategy import Strategy
    from prunecli.strategies.strip import Strip
    from prunecli.text.tables import View


def run_pruning(strategy: Strategy | Recipe, options: SharedOptions) -> int:
    """Prune with `strategy`, print the result, and return the exit code."""
    from prunecli.api import prune_request

    _check(options)
    shown = view(options.top, all_tensors=options.all_tensors, json=options.prints_json)
    try:
        with ExitStack() as stack:
            request = _through_pipes(stack, _request(stack, strategy, options), options)
            report, paths = prune_request(request)
    except GateError as error:
        if processes().rank:
            return FAILED
        _show(error.report, options.report_paths or (), options, shown, None)
        say("failed: the result does not meet the gates, so no checkpoint was written")
        return FAILED
    if processes().rank == 0:
        _show(report, paths, options, shown, options.mask_out)
    return DONE


def _check(options: SharedOptions) -> None:
    """Raise UsageError for options that contradict each other, and for those that several processes do not have."""
    if options.quiet and options.verbose:
        raise UsageError("--quiet and --verbose contradict each other", hint="leave out one of them")
    printed = ["--json"] * options.json + ["--report -"] * (options.report or []).count(Path("-"))
    if len(printed) > 1:
        raise UsageError(f"{printed[0]} and {printed[1]} both print the report", hint="leave out one of them")
    if options.output == "-" and printed and not options.dry_run:
        raise UsageError(
            f"{printed[0]} and -o - both write to standard output",
            hint=(Argument("reports", ["PATH.json"]), ", or ", Argument("output", "FILE")),
        )
    if processes().size > 1:
        _check_together(options)
    if options.ckpt != "-":
        return
    if options.in_place:
        raise UsageError("standard input cannot be pruned in place", hint="-o PATH, or -o -")
    if options.output is None and not options.dry_run:
        raise UsageError("a checkpoint from standard input has no name for its output", hint="-o PATH, or -o -")


def _check_together(options: SharedOptions) -> None:
    """Raise UsageError for options that several processes do not have."""
    wrong = {
        "standard input": options.ckpt == "-",
        "-o -": options.output == "-" and not options.dry_run,
        "--in-place": options.in_place,
    }
    for name, given in wrong.items():
        if given:
            refuse_together(name)


def _request(stack: ExitStack, strategy: Strategy | Recipe, options: SharedOptions) -> PruneRequest:
    """Return the request that the options describe; the progress bars end with `stack`."""
    from prunecli.api import PruneRequest
    from prunecli.conversion.layout import Layout
    from prunecli.engine.options import RunOptions
    from prunecli.engine.outputs import OutputRequest
    from prunecli.engine.score_files import ScoreInputs
    from prunecli.selection.select import Selector

    progress = show_progress(
        wanted=not (options.quiet or options.no_progress or processes().rank),
        verbose=options.verbose and not processes().rank,
        last="flushing",
    )
    return PruneRequest(
        options.ckpt,
        strategy,
        Selector(
            options.include or (),
            options.exclude or (),
            options.min_dim,
            options.min_numel,
            layouts(options.layout),
        ),
        ScoreInputs(options.scores, options.act_norms, options.mask_in, options.of),
        OutputRequest(
            options.output, options.report_paths, options.mask_out, options.force, options.in_place, options.dry_run
        ),
        RunOptions(
            threads=threads_of(options.threads),
            strict=options.strict,
            sha256=options.sha256,
            estimate=options.estimate,
            gates=Gates(options.min_sparsity, options.max_sparsity, options.max_tensor_sparsity),
            command=recorded(options.context),
            progress=stack.enter_context(progress),
            group=processes(),
        ),
        options.key,
        device_of(options.device),
        Layout(options.max_shard_size, untie=options.untie, drop_rest=options.drop_rest, strip=_strip(options)),
    )


def _strip(options: SharedOptions) -> Strip | None:
    """Return what is stripped; UsageError for a cast without it."""
    if options.strip is not None:
        from prunecli.strategies.strip import Strip

        return Strip(options.strip, options.to, options.allow_overflow)
    if options.to is not None or options.allow_overflow:
        flag = "--to" if options.to is not None else "--allow-overflow"
        raise UsageError(f"{flag} needs --strip, which says what is kept", hint="--strip model")
    return None


def _through_pipes(stack: ExitStack, request: PruneRequest, options: SharedOptions) -> PruneRequest:
    """Replace `-` by temporary files: standard input is copied to one now, standard output from one at the end."""
    if options.ckpt == "-":
        path = _spool_input(stack, request.outputs)
        request = replace(request, path=path, options=replace(request.options, label="standard input"))
    if options.output == "-" and not options.dry_run:
        from prunecli.cli.pipes import spooled_output

        descriptor = stack.enter_context(spooled_output())
        request = replace(request, outputs=replace(request.outputs, output=descriptor))
    return request


def _spool_input(stack: ExitStack, outputs: OutputRequest) -> Path:
    """Copy standard input to a temporary file, in the folder of the output if there is one, and return its path."""
    from prunecli.cli.pipes import spooled_input
    from prunecli.engine.outputs import check_paths

    check_paths(outputs)  # before a long pipe is read
    nowhere = outputs.output in {None, "-"} or outputs.dry_run
    folder = None if nowhere else Path(str(outputs.output)).absolute().parent
    return stack.enter_context(spooled_input(folder))


def _show(report: Report, paths: Sequence[Path], options: SharedOptions, shown: View, mask: str | None) -> None:
    """Print the summary on standard output, or on standard error if the checkpoint went to standard output."""
    _warn(report.warnings, (options.context.obj or ())[1:])
    to_pipe, hint = options.output == "-" and not options.dry_run, Argument("reports", ["PATH.json"])
    with printing(to_stderr=to_pipe, written=report.output_path, hint=hint) as stream:
        if options.prints_json:
            from prunecli.report.json import to_json

            stream.write(to_json(report))
        elif not options.quiet:
            from prunecli.report.text import write_report

            write_report(report, stream, shown, reports=list(map(str, paths)), mask=mask, verbose=options.verbose)


def _warn(warnings: Sequence[str], words: Sequence[str]) -> None:
    """Print warnings, each with its hint if it has one; `words` are the arguments of the command line."""
    for warning in warnings:
        warn(warning, spelled(getattr(warning, "hint_parts", None), partial(as_options, words=words), " "))
