"""Pruning the files of a checkpoint: open the inputs and outputs, execute the run, and publish the outputs together."""

from __future__ import annotations

import time
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from prunecli.engine.options import RunOptions
from prunecli.engine.outputs import Outputs
from prunecli.engine.run import Run
from prunecli.engine.run_report import make_report
from prunecli.errors import OutputError
from prunecli.formats.safetensors.mask_writer import MaskLayout, MaskSink
from prunecli.io.assembled import AssembledSink, AssembledSource
from prunecli.io.files import Sink, Source
from prunecli.io.output_files import output_files
from prunecli.io.publish import UnflushedError, new_file
from prunecli.io.reader import open_sources
from prunecli.report.gates import GateError, Gates, failures
from prunecli.text.escape import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from prunecli.checkpoint import Checkpoint
    from prunecli.engine.work import Work
    from prunecli.io.files import Input, Output
    from prunecli.report.model import Report


def prune_files(checkpoint: Checkpoint, work: Work, outputs: Outputs, options: RunOptions) -> Report:
    """Do the work on `checkpoint`, write the result and the mask to `outputs`, and return the report.

    The reports of `outputs` are not written here. Without an output path the run only measures. A file descriptor
    stays open and is not flushed. The checkpoint and the mask appear together and complete, or not at all.

    Raises:
        PruneError: The input is damaged or changes during the run, the strategy does not fit a tensor, or an output
            cannot be written.
        GateError: The result does not meet the gates of `options`; no checkpoint and no mask is written then.
    """
    started = time.monotonic()
    run = Run(checkpoint, work, options)
    with ExitStack() as stack:
        sources = stack.enter_context(open_sources(checkpoint))
        masks = stack.enter_context(_mask(run, outputs))
        sinks = stack.enter_context(_sinks(run, sources, outputs))
        result = run.execute(sources, sinks, masks)
        report = make_report(run, result, outputs.checkpoint, time.monotonic() - started)
        if outputs.arrangement is not None:
            report = _about_arrangement(report, outputs, sinks)
        if options.gates is not None:
            _refuse_failures(report, options.gates)  # inside the block, so that nothing is published
        options.group.barrier()
        options.group.settle()
    return report


def _refuse_failures(report: Report, gates: Gates) -> None:
    """Raise GateError with the report of an unpublished run where `report` does not meet `gates`."""
    if failed := failures(report, gates):
        unpublished = replace(report, output_path=None, output_bytes=None, output_sha256=None)
        raise GateError(failed, replace(unpublished, warnings=(*report.warnings, *failed)))


@contextmanager
def _mask(run: Run, outputs: Outputs) -> Iterator[MaskSink | None]:
    """Open the mask, if one is written; the block publishes the checkpoint, and the mask follows at its end."""
    if outputs.mask is None:
        yield None
        return
    layout = MaskLayout(run.targets, with_base=isinstance(outputs.mask, Path))
    if isinstance(outputs.mask, int):
        yield MaskSink(outputs.mask, layout)
    else:
        with (
            _published_after(outputs.checkpoint, outputs.mask) as end_of_block,
            _mask_file(run, layout, outputs.mask, force=outputs.replaces(outputs.mask)) as sink,
        ):
            yield sink
            end_of_block()


@contextmanager
def _mask_file(run: Run, layout: MaskLayout, path: Path, *, force: bool) -> Iterator[MaskSink]:
    """Open the mask, which is published when the block ends without an error."""
    if run.part.group.size > 1:
        from prunecli.engine.shared_files import shared_mask  # noqa: PLC0415 - for several processes only

        with shared_mask(run, layout, path, force=force) as sink:
            yield sink
        return
    with new_file(path, size=layout.size, force=force) as fd:
        yield MaskSink(fd, layout)


@contextmanager
def _published_after(checkpoint: Path | int | None, mask: Path) -> Iterator[Callable[[], None]]:
    """Add to an error that the checkpoint is written and its mask is not, where that is so.

    Yields a function to call when the checkpoint is published.
    """
    published: list[bool] = []
    try:
        yield lambda: published.append(isinstance(checkpoint, Path))
    except UnflushedError as error:
        if published:
            raise
        raise UnflushedError(
            f"{error}; the mask {printable(str(mask))} is not written", hint=error.hint_parts
        ) from error
    except OutputError as error:
        if not any(published):
            raise
        message = f"{printable(str(checkpoint))} is written, but its mask is not: {error}"
        raise OutputError(message, hint=error.hint_parts) from error


def _about_arrangement(report: Report, outputs: Outputs, sinks: Sequence[Output | None]) -> Report:
    """Return the report with what is said about the new layout; CheckpointError if a cast loses too much."""
    from prunecli.engine.arranged import check_written  # noqa: PLC0415 - most runs keep the layout

    warnings = check_written(outputs, sinks)
    size = None if report.output_bytes is None else outputs.arranged.size
    facts = (*report.facts, *outputs.facts)
    return replace(report, output_bytes=size, facts=facts, warnings=(*report.warnings, *warnings))


@contextmanager
def _sinks(run: Run, sources: Sequence[Input], outputs: Outputs) -> Iterator[Sequence[Output | None]]:
    """Open one sink per file; all are published together when the block ends without an error."""
    if outputs.arrangement is not None:
        from prunecli.engine.arranged import open_arranged  # noqa: PLC0415 - most runs keep the layout

        with open_arranged(run, sources, outputs) as arranged:
            yield arranged
        return
    sizes, output = [file.size for file in run.checkpoint.files], outputs.checkpoint
    if output is None:
        yield [None] * len(sources)
        return
    force = outputs.force or outputs.in_place
    with ExitStack() as stack:
        inputs = [source for source in sources if isinstance(source, Source)]
        direct = run.writes_around_cache(sum(sizes))
        if run.part.group.size > 1 and isinstance(output, Path):
            from prunecli.engine.shared_files import shared_sinks  # noqa: PLC0415 - for several processes only

            yield stack.enter_context(shared_sinks(run, inputs, output, force=force, direct=direct))
            return
        files = stack.enter_context(output_files(run.checkpoint, inputs, output, sizes, force=force))
        sinks = []
        for file in files:
            sink = Sink(file, direct=direct and not isinstance(output, int))
            stack.callback(sink.close)
            sinks.append(sink)
        yield _with_stream(sinks, sources)


def _with_stream(sinks: Sequence[Sink], sources: Sequence[Input]) -> Sequence[Output]:
    """Return the sinks of all streams of a checkpoint: those of its files, and that of tensors in chunks of them."""
    last = sources[-1]
    return [*sinks, AssembledSink(sinks, last)] if isinstance(last, AssembledSource) else sinks
