"""Standard input and output as files. A checkpoint is read from its end, so a pipe is copied to a temporary file."""

from __future__ import annotations

import os
import select
import stat
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from prunecli.cli.processes import refuse_together
from prunecli.cli.progress import show_progress
from prunecli.errors import CheckpointError, OutputError, UsageError
from prunecli.io.published import record
from prunecli.io.temporary import DESCRIPTORS, no_space_error, temporary_file
from prunecli.io.transfer import read_all
from prunecli.remote.urls import public

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import IO

    from prunecli.checkpoint import Checkpoint, Keys
    from prunecli.cli.progress import Details

CHUNK = 1 << 20
"""Bytes that are copied at once."""


def readable(stack: ExitStack, ckpt: str) -> tuple[str | Path, str | None]:
    """Return the path to open for the argument `ckpt`, and its name in messages (None: the path).

    A copy of standard input is removed when `stack` closes. Raises the errors of `spooled_input`.
    """
    if ckpt != "-":
        return ckpt, None
    refuse_together("standard input")
    return stack.enter_context(spooled_input(None)), "standard input"


@contextmanager
def opened_checkpoint(ckpt: str, key: Keys, *, progress: bool) -> Iterator[tuple[Checkpoint, str, Details]]:
    """Return the checkpoint for the argument `ckpt`, its name in messages, and the receiver of progress."""
    from prunecli.formats.open import open_checkpoint

    with ExitStack() as stack:
        path, label = readable(stack, ckpt)
        checkpoint = open_checkpoint(path, key=key, label=label, remote=True)
        yield checkpoint, label or public(ckpt), stack.enter_context(show_progress(wanted=progress))


@contextmanager
def spooled_input(folder: Path | None) -> Iterator[Path]:
    """Copy standard input to a temporary file in `folder` (None: the system's) and return its path.

    A regular file, as `< CKPT` gives, is not copied. Raises UsageError if there is no input, CheckpointError if reading
    fails, and OutputError if there is no space for the copy.
    """
    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError("`-` reads a checkpoint from a pipe, and there is none", hint="cat CKPT | prune COMMAND -")
    source = sys.stdin.fileno()
    if _is_unread_file(source):
        yield DESCRIPTORS / str(source)
        return
    with temporary_file(folder) as file:
        while data := _read(source):
            _write_copy(file, data, folder)
        yield DESCRIPTORS / str(file.fileno()) if DESCRIPTORS.is_dir() else Path(file.name)


@contextmanager
def spooled_output() -> Iterator[int]:
    """Return the descriptor of a temporary file, and copy it to standard output when the block ends without an error.

    Raises UsageError if standard output cannot take a checkpoint, and OutputError if there is no space.
    """
    if sys.stdout is None:
        raise UsageError("-o - needs standard output, which is closed", hint="-o PATH")
    if sys.stdout.isatty():
        raise UsageError("a checkpoint cannot be written to a terminal", hint="-o PATH, or -o - > PATH")
    with temporary_file(None) as file:
        try:
            yield file.fileno()
        except OSError as error:
            if error.errno is None or error.filename is not None:  # not an error of the temporary file
                raise
            raise no_space_error(None, error) from error
        record("standard output")
        _copy(file.fileno(), sys.stdout.fileno())


def _is_unread_file(fd: int) -> bool:
    """Whether `fd` is a regular file at its start that can be opened again."""
    # A copy is needed in all other cases: a read position is shared with other processes, and a path may be denied.
    path = DESCRIPTORS / str(fd)
    unread = stat.S_ISREG(os.fstat(fd).st_mode) and os.lseek(fd, 0, os.SEEK_CUR) == 0
    return unread and os.access(path, os.R_OK)


def _read(source: int) -> bytes:
    """Return the next bytes, or b"" at the end."""
    select.select([source], [], [])  # the other end may have made the pipe non-blocking
    try:
        return os.read(source, CHUNK)
    except OSError as error:
        raise CheckpointError(f"cannot read standard input: {error.strerror}") from error


def _write_copy(file: IO[bytes], data: bytes, folder: Path | None) -> None:
    rest = memoryview(data)
    try:
        while rest:
            rest = rest[file.write(rest) :]
    except OSError as error:
        raise no_space_error(folder, error) from error


def _copy(source: int, target: int) -> None:
    size, offset = os.fstat(source).st_size, 0
    while offset < size:
        data = memoryview(bytearray(min(CHUNK, size - offset)))
        if read_all(source, data, offset) < len(data):
            raise OutputError("the temporary copy of the checkpoint became shorter while it was being read")
        offset += len(data)
        while data:
            data = data[_write(target, data) :]


def _write(target: int, data: memoryview) -> int:
    try:
        return os.write(target, data)
    except BrokenPipeError:  # `exit_codes` ends the run quietly
        raise
    except BlockingIOError:  # the reader may have made the pipe non-blocking: wait until it has space
        select.select([], [target], [])
        return 0
    except OSError as error:
        raise OutputError(
            f"standard output did not take the whole checkpoint: {error.strerror}",
            hint="-o PATH reserves the space first",
        ) from error
