"""Print the result of a command on standard output."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from prunecli.cli.exit import silence
from prunecli.errors import OutputError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path
    from typing import TextIO


def check_paper(option: str, path: Path, *, force: bool, others: Iterable[Path]) -> None:
    """Refuse before the work what `option` cannot write at `path` after it; `others` are what the run reads and writes.

    Raises UsageError for a dash, as standard output has the result, and OutputError.
    """
    if str(path) == "-":
        command = "scan" if option == "--html" else "sweep"
        raise UsageError(
            f"{option} takes a path: standard output has the result", hint=f"{option} {command}.{option[2:]}"
        )
    from prunecli.io.targets import check_writable_target

    check_writable_target(path, force=force, others=others, argument=option.lstrip("-"))


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
        silence(stream)
        raise OutputError(f"{done}the result cannot be printed: {error.strerror}") from error
