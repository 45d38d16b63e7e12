"""Exit codes, signals and error messages of the command line."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

from prunecli.errors import PruneError
from prunecli.io.published import recording
from prunecli.text.colour import DIM, RED, YELLOW, painted
from prunecli.text.escape import printable, shortened

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import FrameType
    from typing import TextIO

DONE, FAILED, WRONG, INTERRUPTED, BROKEN_PIPE = 0, 1, 2, 130, 141
"""Exit codes; the code for a signal is its number plus 128."""

_LONGEST, _LONGEST_HINT, _LONGEST_WARNING = 400, 1000, 600
"""The most characters of a message, a hint and a warning: names, paths and values in them can be of any length."""

_COLOURS = {"error": RED, "failed": RED, "interrupted": RED, "warning": YELLOW, "hint": DIM}
"""The colours of messages by their labels."""

TyperError: type[Exception] = typer.BadParameter.__base__ or Exception
"""The base class of all usage errors, which Typer does not export: `BadParameter` derives from it in every version."""


@contextmanager
def exit_codes() -> Iterator[None]:
    """Exit with 130 on Ctrl-C and quietly on a broken pipe. Typer would use other codes.

    After Ctrl-C a line says which files were written before.
    """
    try:
        with recording() as published:
            yield
    except KeyboardInterrupt:
        # Candidates of a search are published, too, and are gone by now.
        there = [printable(str(place)) for place in published if isinstance(place, str) or place.exists()]
        done = f"{' and '.join(dict.fromkeys(there))} written" if there else "nothing was written"
        say(f"interrupted: {done}")
        raise typer.Exit(INTERRUPTED) from None
    except BrokenPipeError:
        silence(sys.stdout)
        raise typer.Exit(BROKEN_PIPE) from None


@contextmanager
def terminate_cleanly() -> Iterator[None]:
    """Clean up on SIGTERM and SIGHUP as on Ctrl-C, unless the process ignores them (nohup)."""
    names = [name for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in (getattr(signal, name) for name in names)}
    for number, handler in before.items():
        # `nohup` ignores SIGHUP, and a program that calls `main` may have its own handlers: both stay.
        if handler is signal.SIG_DFL:
            signal.signal(number, _terminate)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _terminate(number: int, _: FrameType | None) -> None:
    raise SystemExit(128 + number)  # unlike the default action, it lets `finally` blocks remove temporary files


def report_error(error: Exception, words: Sequence[str]) -> int:
    """Print the error of `prune WORDS` and its hint, and return the exit code."""
    if isinstance(error, OSError):
        silence(sys.stdout)
        error = _as_error(error)
    from prunecli.cli.repair.meant import meant

    message, hint = message_and_hint(error, words) if isinstance(error, PruneError) else _usage(error)
    if (line := meant(words, error)) is not None:
        message, hint = message.partition(". Did you mean ")[0], line
    say(f"error: {shortened(printable(message), _LONGEST)}")
    say_hint(hint)
    return int(getattr(error, "code", WRONG))


def _as_error(error: OSError) -> PruneError:
    if isinstance(error, FileNotFoundError) and error.filename is None:  # os.getcwd names no file
        return PruneError("the current directory no longer exists", hint="cd DIRECTORY")
    where = "" if error.filename is None else f": {error.filename}"
    return PruneError(f"{error.strerror or error}{where}")


def message_and_hint(error: PruneError | OSError, words: Sequence[str]) -> tuple[str, str | None]:
    """Return the message of an error and its hint, as options where it has arguments."""
    from functools import partial

    from prunecli.cli.hints import as_options

    error = _as_error(error) if isinstance(error, OSError) else error
    return str(error), error.hint_as(partial(as_options, words=words), " ")


def _usage(error: Any) -> tuple[str, str | None]:  # noqa: ANN401 - a TyperError
    """Return Typer's message in the form of the other messages, and a hint."""
    # Typer adds similar options to the message, and our hint is a better one.
    text = str(error.message if hasattr(error, "possibilities") else error.format_message()).rstrip(".")
    context = getattr(error, "ctx", None)
    return text[:1].lower() + text[1:], f"{context.command_path if context else 'prune COMMAND'} --help"


def warn(warning: str, hint: str | None = None) -> None:
    """Print a warning, and what to do next if there is something."""
    say(f"warning: {shortened(printable(warning), _LONGEST_WARNING)}")
    say_hint(hint)


def say_hint(hint: str | None) -> None:
    """Print a hint if there is one."""
    if hint:
        say(f"hint: {shortened(printable(hint), _LONGEST_HINT)}")


def say(line: str) -> None:
    """Print `line` on standard error, if it is open. If it is full, the line is lost; the exit code still counts."""
    if sys.stderr is None:
        return
    try:
        print(_painted(line), file=sys.stderr, flush=True)  # noqa: T201
    except BrokenPipeError:  # `exit_codes` ends the run quietly
        raise
    except OSError:
        silence(sys.stderr)


def _painted(line: str) -> str:
    """Return a message with the colour of its kind, on a terminal: its label, or the whole line of a hint."""
    label, colon, rest = line.partition(":")
    code = _COLOURS.get(label)
    if code is None or not colon:
        return line
    return painted(line, code, sys.stderr) if code == DIM else painted(label + colon, code, sys.stderr) + rest


def escape_unencodable() -> None:
    """Print characters that the encoding lacks as escapes."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def silence(stream: TextIO | None) -> None:
    """Redirect `stream` to the null device. Python flushes it at exit, and would report the error once more."""
    if stream is not None:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
