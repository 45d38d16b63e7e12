"""What the commands beside pruning tell: how far they are on standard error, and the result on standard output."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from prunecli.errors import OutputError, UsageError
from prunecli.progress import no_progress

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path
    from typing import TextIO

    from prunecli.progress import Advance, ProgressFactory


def progress_for(*, wanted: bool) -> ProgressFactory:
    """Return what shows passes: a bar each on a terminal, a line now and then elsewhere, nothing unless `wanted`."""
    return _shown if wanted else no_progress


@contextmanager
def _shown(phase: str, size: int) -> Iterator[Advance]:
    from prunecli.cli.progress import Bar, Lines

    terminal = sys.stderr is not None and sys.stderr.isatty()
    with Bar(last=phase) if terminal else Lines(verbose=False) as progress:
        progress.begin({phase: size})
        yield partial(progress.advance, phase)


def check_paper(option: str, path: Path, *, force: bool, others: Iterable[Path]) -> None:
    """Refuse before the work what `option` cannot write at `path` after it; `others` are what the run reads and writes.

    Raises UsageError for a dash, as standard output has the result, and OutputError.
    """
    if str(path) == "-":
        command = "scan" if option == "--html" else "sweep"
        raise UsageError(
            f"{option} takes a path: standard output has the result", hint=f"{option} {command}.{option[2:]}"
        )
    from prunecli.io.targets import ELSEWHERE, check_writable_target

    try:
        check_writable_target(path, force=force, others=others)
    except OutputError as error:
        hint = (error.hint or "").replace(ELSEWHERE, f"write elsewhere with {option} PATH")
        raise OutputError(str(error), hint=hint or None) from error


@contextmanager
def printing(stream: TextIO | None = None, *, done: str = "") -> Iterator[TextIO | None]:
    """Give the stream for the result (standard output unless another is named), None where it is closed.

    Raises OutputError where it takes no more; `done` says what was done all the same: "x.pth is written, but ".
    """
    stream = sys.stdout if stream is None else stream
    try:
        yield stream
        if stream is not None:
            stream.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        _silence(stream)
        raise OutputError(f"{done}the result cannot be printed: {error.strerror}") from error


def _silence(stream: TextIO | None) -> None:
    """Point the stream at nothing: Python flushes it once more at exit, and would complain then."""
    if stream is not None:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
