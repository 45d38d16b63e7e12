"""The output files of a checkpoint: one per input file, published together.

Their content is written by the caller; a directory's other files are copied here.
"""

from __future__ import annotations

import os
from contextlib import closing, contextmanager
from functools import partial
from typing import TYPE_CHECKING

from prunecli.checkpoint import Span
from prunecli.io.descriptors import Descriptor
from prunecli.io.parts import FilePlan, write_parts
from prunecli.io.publish import finish_member, make_member, new_directory, new_file, write_failure
from prunecli.io.reader import open_source
from prunecli.io.transfer import WriteError, write_all

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence
    from pathlib import Path

    from prunecli.checkpoint import Checkpoint
    from prunecli.io.arrangement import Arrangement
    from prunecli.io.files import Source


@contextmanager
def output_files(
    checkpoint: Checkpoint,
    sources: Sequence[Source],
    output: Path | int,
    sizes: Sequence[int],
    *,
    force: bool,
    replacement: Callable[[Path], bytes | None] = lambda _: None,
    announce: Callable[[Path], None] | None = None,
) -> Iterator[list[Descriptor]]:
    """Make one output file per file of `checkpoint` and publish all of them when the block ends without an error.

    Those of a directory are opened when they are used. `sources` are the input files, `sizes` the sizes of the output
    files in bytes. `output` is the path of the file or directory, or the descriptor of an open file. Of a directory's
    other files those are copied for which `replacement`, called with the relative path, returns None; the others get
    the bytes it returns. With `force` an existing output is replaced. `announce` gets the path of the hidden file or
    directory when all files in it have their space, so that other processes can write to them. Raises OutputError if
    the output cannot be written.
    """
    if isinstance(output, int):
        os.ftruncate(output, sizes[0])
        yield [Descriptor(fd=output)]
    elif checkpoint.is_directory:
        with new_directory(output, mode=checkpoint.path.stat().st_mode, force=force) as directory:
            _copy_other_files(checkpoint, directory, replacement)
            paths = [directory / file.path.relative_to(checkpoint.path) for file in checkpoint.files]
            with _members(output, paths, sizes, [source.mode for source in sources]) as members:
                if announce is not None:
                    announce(directory)
                yield members
    else:
        with new_file(output, size=sizes[0], mode=sources[0].mode, force=force, announce=announce) as fd:
            yield [Descriptor(fd=fd)]


@contextmanager
def arranged_files(
    arrangement: Arrangement,
    folder: Path,
    output: Path | int,
    *,
    mode: int,
    force: bool,
    replaced: Collection[str],
) -> Iterator[list[Descriptor]]:
    """Make the files of an arrangement and publish all of them when the block ends without an error.

    `folder` is the directory of the input, whose other files are copied as the arrangement says; `mode` is that of its
    files. The files `replaced` of an existing directory may go. See `output_files` for the other arguments.
    """
    sizes = [file.size for file in arrangement.outputs]
    if isinstance(output, int):
        os.ftruncate(output, sizes[0])
        yield [Descriptor(fd=output)]
    elif arrangement.is_directory:
        # The permission to search a directory follows the permission to read it.
        folder_mode = mode | (mode & 0o444) >> 2
        with new_directory(output, mode=folder_mode, force=force, replaced=replaced) as directory:
            for relative in arrangement.other_files:
                _copy_file(folder / relative, directory / relative, None)
            for name, content in arrangement.texts:
                with new_file(directory / name, size=len(content), mode=mode) as fd:
                    write_all(fd, memoryview(content), 0)
            paths = [directory / file.name for file in arrangement.outputs]
            with _members(output, paths, sizes, [mode] * len(paths)) as members:
                yield members
    else:
        with new_file(output, size=sizes[0], mode=mode, force=force) as fd:
            yield [Descriptor(fd=fd)]


@contextmanager
def _members(
    output: Path, paths: Sequence[Path], sizes: Sequence[int], modes: Sequence[int]
) -> Iterator[list[Descriptor]]:
    """Make the files `paths` of the directory that becomes `output`, and flush them when the block ends."""
    members = [Descriptor(partial(os.open, path, os.O_RDWR | os.O_CLOEXEC)) for path in paths]
    try:
        for path, size in zip(paths, sizes, strict=True):
            make_member(path, size)
        yield members
        for member, mode in zip(members, modes, strict=True):
            with member.opened() as fd:
                finish_member(fd, mode)
    except OSError as error:
        if isinstance(error, WriteError) and isinstance(error.output, int):  # an error of another file
            raise
        failure = write_failure(output, sum(sizes), error)
        if failure is None:
            raise
        raise failure from error
    finally:
        for member in members:
            member.close()


def _copy_other_files(checkpoint: Checkpoint, directory: Path, replacement: Callable[[Path], bytes | None]) -> None:
    """Copy the files without tensors, such as the index, the configuration and the tokenizer."""
    for relative in checkpoint.other_files:
        _copy_file(checkpoint.path / relative, directory / relative, replacement(relative))


def _copy_file(path: Path, target: Path, new: bytes | None) -> None:
    """Copy a file into a directory that is not published yet; it gets the content `new` unless that is None."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with closing(open_source(path, path.stat().st_size)) as source:
        plan = FilePlan((Span(0, source.size) if new is None else new,))
        with new_file(target, size=plan.size, mode=path.stat().st_mode) as fd:
            write_parts(source, fd, plan.parts)
        source.check_unchanged()
