"""The streams and the paths for the result of a command."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from prunecli.cli.exit import silence
from prunecli.errors import Argument, OutputError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path
    from typing import TextIO

    from prunecli.text.tables import View


@contextmanager
def printing(stream: TextIO | None = None, *, done: str = "") -> Iterator[TextIO | None]:
    """Return the stream for the result (default: standard output), or None if it is closed.

    Raises OutputError where printing fails; `done` begins its message, such as "x.pth is written, but ".
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


def view(top: int | None, *, all_tensors: bool, json: bool) -> View:
    """Return the part of the tensors that the text shows; UsageError for options that contradict each other."""
    from prunecli.text.tables import View

    if top is not None and all_tensors:
        raise UsageError("--top and --all exclude each other", hint="--top 10, or --all")
    if json and (top is not None or all_tensors):
        option = "--all" if all_tensors else "--top"
        raise UsageError(f"{option} limits the text only; JSON has every tensor", hint=f"leave out {option}")
    return View(top, all_tensors, hint="; --all lists each")


def check_export(argument: Argument, path: Path, *, force: bool, others: Iterable[Path]) -> None:
    """Raise before the work where the page, table or plot cannot be written to `path` after it.

    `argument` is an example of the argument that gave `path`; `others` are the other files that the run reads or
    writes. Raises UsageError for a dash, because standard output has the result, and OutputError.
    """
    if str(path) == "-":
        raise UsageError(f"the {argument.name} output needs a path: standard output has the result", hint=argument)
    from prunecli.io.targets import check_writable_target

    check_writable_target(path, force=force, others=others, argument=argument.name)
