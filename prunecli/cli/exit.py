"""Exit codes, signals and error messages of the command line."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

from prunecli.cli.hints import as_options
from prunecli.errors import PruneError
from prunecli.text.escape import printable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType
    from typing import TextIO

DONE, FAILED, WRONG, INTERRUPTED, BROKEN_PIPE = 0, 1, 2, 130, 141
"""Exit codes; a signal's is 128 more than its number."""

TyperError: type[Exception] = typer.BadParameter.__mro__[2]
"""What Typer raises for a usage error or a subclass of it; Typer exports only the leaves."""


@contextmanager
def exits() -> Iterator[None]:
    """Exit as Ctrl-C and a reader that went away ask for; Typer would give both codes of its own."""
    try:
        yield
    except KeyboardInterrupt:
        say("interrupted")
        raise typer.Exit(INTERRUPTED) from None
    except BrokenPipeError:
        silence(sys.stdout)
        raise typer.Exit(BROKEN_PIPE) from None


@contextmanager
def terminate_cleanly() -> Iterator[None]:
    """Let SIGTERM and SIGHUP clean up as Ctrl-C does, unless somebody asked to ignore them (nohup)."""
    names = [name for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in (getattr(signal, name) for name in names)}
    for number, handler in before.items():
        if handler is signal.SIG_DFL:
            signal.signal(number, _terminate)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _terminate(number: int, _: FrameType | None) -> None:
    raise SystemExit(128 + number)


def report_error(error: Exception) -> int:
    """Say what went wrong and what to type next; return the exit code."""
    if isinstance(error, OSError):
        silence(sys.stdout)
        where = "" if error.filename is None else f": {error.filename}"
        error = PruneError(f"{error.strerror or error}{where}")
    message, hint = (str(error), error.hint_as(as_options)) if isinstance(error, PruneError) else _usage(error)
    say(f"error: {printable(message)}")
    if hint:
        say(f"hint: {printable(hint)}")
    return WRONG


def _usage(error: Any) -> tuple[str, str]:  # noqa: ANN401 - Typer's usage errors, whose class it does not export
    """Return Typer's message in the manner of the others, and a hint."""
    text = str(error.format_message()).rstrip(".")
    context = getattr(error, "ctx", None)
    return text[:1].lower() + text[1:], f"{context.command_path if context else 'prune COMMAND'} --help"


def say(line: str) -> None:
    """Print `line` on standard error, where there is one."""
    if sys.stderr is not None:
        print(line, file=sys.stderr)  # noqa: T201


def escape_unencodable() -> None:
    """Let names that the terminal's encoding does not have be printed as escapes."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def silence(stream: TextIO | None) -> None:
    """Redirect `stream` to the null device. Python flushes it at exit, and would report the error once more."""
    if stream is not None:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
