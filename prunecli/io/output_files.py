"""The output files of a checkpoint: one per input file, published together.

Their content is written by the caller; a directory's other files are copied here.
"""

from __future__ import annotations

import os
from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING

from prunecli.checkpoint import Span
from prunecli.io.files import Source
from prunecli.io.parts import FilePlan, write_parts
from prunecli.io.publish import new_directory, new_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from prunecli.checkpoint import Checkpoint


@contextmanager
def output_files(
    checkpoint: Checkpoint,
    sources: Sequence[Source],
    output: Path | int,
    sizes: Sequence[int],
    *,
    force: bool,
    replacement: Callable[[Path], bytes | None] = lambda _: None,
) -> Iterator[list[int]]:
    """Open one output file per file of `checkpoint` and publish all of them when the block ends without an error.

    Yields their descriptors. `sources` are the open input files, `sizes` the sizes of the output files in bytes.
    `output` is the path of the file or directory, or the descriptor of an open file. Of a directory's other files
    those are copied for which `replacement`, called with the relative path, returns None; the others get the bytes
    it returns. With `force` an existing output is replaced. Raises OutputError if the output cannot be written.
    """
    if isinstance(output, int):
        os.ftruncate(output, sizes[0])
        yield [output]
        return
    with ExitStack() as stack:
        directory = None
        if checkpoint.is_directory:
            mode = checkpoint.path.stat().st_mode
            directory = stack.enter_context(new_directory(output, mode=mode, force=force))
            _copy_other_files(checkpoint, directory, replacement)
        fds = []
        for file, source, size in zip(checkpoint.files, sources, sizes, strict=True):
            path = output if directory is None else directory / file.path.relative_to(checkpoint.path)
            mode = os.fstat(source.fd).st_mode
            replace = force and directory is None
            fds.append(stack.enter_context(new_file(path, size=size, mode=mode, force=replace)))
        yield fds


def _copy_other_files(checkpoint: Checkpoint, directory: Path, replacement: Callable[[Path], bytes | None]) -> None:
    """Copy the files without tensors, such as the index, the configuration and the tokenizer."""
    for relative in checkpoint.other_files:
        path, target = checkpoint.path / relative, directory / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        with closing(Source(path, path.stat().st_size)) as source:
            new = replacement(relative)
            plan = FilePlan((Span(0, source.size) if new is None else new,))
            with new_file(target, size=plan.size, mode=path.stat().st_mode) as fd:
                write_parts(source, fd, plan.parts)
            source.check_unchanged()
