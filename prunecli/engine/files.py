"""Pruning the files of a checkpoint: from open inputs to outputs that appear together, whole or not at all."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from prunecli.engine.options import Options
from prunecli.engine.run import Run
from prunecli.formats.safetensors.mask_writer import MaskLayout, MaskSink
from prunecli.io.files import Sink
from prunecli.io.output_files import output_files
from prunecli.io.publish import new_file
from prunecli.io.reader import open_sources

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from prunecli.checkpoint import Checkpoint
    from prunecli.engine.work import Work
    from prunecli.io.files import Source
    from prunecli.report.model import Report

DIRECT_SHARE = 32
"""Outputs larger than this fraction of the memory are written around the page cache."""


def prune_files(checkpoint: Checkpoint, work: Work, output: Path | int | None, options: Options) -> Report:
    """Write `checkpoint` to `output` with the work done on it; with `output` None only measure.

    `output` is a path, or an open and seekable file descriptor, which is left open and not flushed.

    The output appears whole or not at all, and the mask with it. Raises PruneError for a damaged or changing input, a
    strategy that does not fit a tensor, and an output that cannot be written.
    """
    began = time.monotonic()
    run = Run(checkpoint, work, options)
    with ExitStack() as stack:
        sources = stack.enter_context(open_sources(checkpoint))
        masks = None if options.masks is None else stack.enter_context(_mask(run, options.masks, force=options.force))
        sinks: Sequence[Sink | None] = [None] * len(sources)
        if output is not None:
            sinks = stack.enter_context(_sinks(checkpoint, sources, output, options))
        run.execute(sources, sinks, masks)
        report = run.report(output, time.monotonic() - began)
        if options.verify is not None:
            options.verify(report)
    return report


@contextmanager
def _mask(run: Run, path: Path | int, *, force: bool) -> Iterator[MaskSink]:
    layout = MaskLayout(run.targets)
    if isinstance(path, int):
        os.ftruncate(path, layout.size)
        yield MaskSink(path, layout)
        return
    with new_file(path, size=layout.size, force=force) as draft:
        yield MaskSink(draft.fd, layout)


@contextmanager
def _sinks(
    checkpoint: Checkpoint, sources: Sequence[Source], output: Path | int, options: Options
) -> Iterator[list[Sink]]:
    """Give an open sink per file; they are published together when the block ends well."""
    sizes = [file.size for file in checkpoint.files]
    with ExitStack() as stack:
        fds = stack.enter_context(output_files(checkpoint, sources, output, sizes, force=options.force))
        direct = _is_large(sum(sizes)) if options.direct is None else options.direct
        sinks = []
        for fd in fds:
            sink = Sink(fd, direct=direct and not isinstance(output, int))
            stack.callback(sink.close)
            sinks.append(sink)
        yield sinks


def _is_large(size: int) -> bool:
    """Tell whether an output of `size` bytes would push much else out of the page cache."""
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return False
    return size > memory // DIRECT_SHARE
