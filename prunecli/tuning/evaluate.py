"""The user's own evaluation: a command that is handed a checkpoint and prints a number, the metric.

The command line is split as a shell splits it and run without a shell. Nothing here knows what the metric means, nor
what a checkpoint is.
"""

from __future__ import annotations

import os
import re
import selectors
import shlex
import signal
import subprocess
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from math import isfinite
from typing import TYPE_CHECKING

from prunecli.errors import PruneError, UsageError
from prunecli.text.escape import printable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PLACEHOLDER = "{}"
"""What stands for the checkpoint's path in the command."""

EXAMPLE = "--eval 'python eval.py {}'"
"""A command as one types it."""

_KEPT = 1 << 20  # bytes of the end of each output that are looked at
_CHUNK = 1 << 16
_GRACE = 3.0  # seconds an interrupted command has to end by itself
_LAST_LINES = 12
_WIDEST = 160  # characters of a line that are told
_SHELL_WORDS = {"|", "||", "&&", ";", "&", ">", ">>", "<", "2>", "2>&1", "&>"}
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")
_COLOURS = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
_NUMBER = re.compile(
    # by itself: no part of a word, a path, a version, a date, a time of day or a number with commas
    r"(?<![\w./%+-])(?<![0-9]:)(?!(?<=[0-9],)[0-9]{3}(?![0-9]))"
    r"([+-]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]+)?|nan|inf(?:inity)?))(?: ?(%))?"
    r"(?![\w/%]|[.,:-]\w)",
    re.IGNORECASE,
)


class EvaluationError(PruneError):
    """The command could not be run, failed, or printed no metric; `output` holds the last lines that it printed."""

    def __init__(self, message: str, *, hint: str | None = None, output: tuple[str, ...] = ()) -> None:
        """Keep `output`, the last lines of the command's standard output and error, safe for a terminal."""
        super().__init__(message, hint=hint)
        self.output = output


@dataclass(frozen=True, slots=True)
class Command:
    """An evaluation command: `words` with the placeholder in one or more; `pattern` finds the metric (None: the rule).

    Without a pattern the metric is the last number on standard output that stands by itself.
    """

    words: tuple[str, ...]
    pattern: re.Pattern[str] | None = None

    def on(self, path: Path) -> list[str]:
        """Return the words with `path` in place of every placeholder."""
        return [word.replace(PLACEHOLDER, str(path)) for word in self.words]


@dataclass(frozen=True, slots=True)
class Metric:
    """A number the command printed, exactly as it is written (98.4% is 0.984), and the line it was read from."""

    value: Decimal
    line: str


def parse_command(text: str, pattern: str | None = None) -> Command:
    """Split `text` into a command, and compile `pattern`; UsageError where either can mean nothing."""
    try:
        words = tuple(shlex.split(text))
    except ValueError as error:
        raise UsageError(f"--eval {text!r} cannot be split into words: {str(error).lower()}", hint=EXAMPLE) from None
    if not words:
        raise UsageError("--eval is empty", hint=EXAMPLE)
    if not any(PLACEHOLDER in word for word in words):
        raise UsageError(
            f"--eval {text!r} has no {{}}, which stands for the checkpoint", hint=f"--eval {shlex.quote(text + ' {}')}"
        )
    _refuse_shell(words, text)
    return Command(words, None if pattern is None else _compiled(pattern))


def _refuse_shell(words: tuple[str, ...], text: str) -> None:
    found = next((word for word in words if word in _SHELL_WORDS), None)
    if found is not None:
        raise UsageError(f"--eval runs without a shell, which would read {found!r}", hint=_with_shell(text))
    if _ASSIGNMENT.match(words[0]):
        raise UsageError(
            f"--eval runs without a shell, which would set {words[0]!r}", hint=f"--eval {shlex.quote('env ' + text)}"
        )
    if any("\0" in word for word in words):
        raise UsageError("--eval has a NUL character in it", hint=EXAMPLE)


def _with_shell(text: str) -> str:
    """Return what to type to have a shell run `text`: in quotes where it has none itself, else by way of a file."""
    if set("'\"\\$`") & set(text):
        return "put the line into a file, with $1 for the checkpoint: --eval 'sh eval.sh {}'"
    return f"--eval \"sh -c '{text.replace(PLACEHOLDER, chr(92) + '$0')}' {{}}\""


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern, re.MULTILINE)
    except re.error as error:
        raise UsageError(
            f"--metric {pattern!r} is no regular expression: {error}", hint=r"--metric 'accuracy: (\S+)'"
        ) from None


# --- the metric


def find_metric(text: str, pattern: re.Pattern[str] | None = None) -> Metric | None:
    """Return the last number in `text` that stands by itself, or None; a percentage counts as its hundredth.

    With `pattern`, the number is looked for in its last match: in its first group, where it has one. A number that
    is part of a word, a path (`443/450`), a version or a date is none; NaN and infinities are numbers.
    """
    text = _COLOURS.sub("", text)
    matches = deque((_NUMBER if pattern is None else pattern).finditer(text), maxlen=1)
    if not matches:
        return None
    line = _line_at(text, matches[0].start())
    if pattern is None:
        return Metric(_value(matches[0]), line)
    found = find_metric(matches[0][1 if pattern.groups else 0] or "")
    return None if found is None else Metric(found.value, line)


def _value(found: re.Match[str]) -> Decimal:
    """Return the number, exactly; what is beyond the range of a float is infinite, or zero."""
    near = float(found[1])
    if not (isfinite(near) and near):
        return Decimal(near)
    return Decimal(found[1]) / 100 if found[2] else Decimal(found[1])


def _line_at(text: str, at: int) -> str:
    start = max(text.rfind("\n", 0, at), text.rfind("\r", 0, at)) + 1
    return _short(" ".join(text[start:].split("\n", 1)[0].split("\r", 1)[0].split()))


def _short(line: str) -> str:
    line = printable(line)
    return line if len(line) <= _WIDEST else f"{line[: _WIDEST - 3]}..."


# --- the run


def evaluate(command: Command, path: Path) -> tuple[Metric, float]:
    """Run `command` on the checkpoint at `path`; return the metric and the seconds it took.

    It gets no input. Of what it prints, the end is kept. Raise EvaluationError where it cannot be run, ends with
    anything but 0, or prints no number. Whatever ends this function ends the command and all that it started.
    """
    began = time.monotonic()
    words = command.on(path)
    code, out, err = _run(words)
    seconds = time.monotonic() - began
    line = printable(shlex.join(words))
    last = tuple(_last_lines(out, err))
    by_hand = printable(shlex.join(word.replace(PLACEHOLDER, "CKPT") for word in command.words))  # the candidate goes
    if code:
        raise EvaluationError(f"the evaluation {_ended(code)}: {line}", hint=by_hand, output=last)
    # the path may have numbers in it, and is often printed
    found = find_metric(out.replace(str(path), PLACEHOLDER), command.pattern)
    if found is None:
        what = "number" if command.pattern is None else f"match of --metric {command.pattern.pattern!r} with a number"
        raise EvaluationError(
            f"the evaluation printed no {what} on its standard output: {line}", hint=by_hand, output=last
        )
    return found, seconds


def _run(words: list[str]) -> tuple[int, str, str]:
    """Return the exit code and the ends of both outputs."""
    try:
        # a session of its own, so that all it started can be ended with it
        process = subprocess.Popen(  # noqa: S603 - running the user's command is what this is for
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except FileNotFoundError:
        raise EvaluationError(f"there is no command {printable(repr(words[0]))} for --eval", hint=EXAMPLE) from None
    except OSError as error:
        message = f"--eval cannot run {printable(repr(words[0]))}: {error.strerror}"
        raise EvaluationError(message, hint=EXAMPLE) from error
    with process:
        try:
            out, err = _ends(process)
            return process.wait(), out, err
        except BaseException:
            _end(process)
            raise


def _ends(process: subprocess.Popen[bytes]) -> tuple[str, str]:
    """Read both outputs until they are closed; return the end of each."""
    ends = {pipe: bytearray() for pipe in (process.stdout, process.stderr) if pipe is not None}
    with selectors.DefaultSelector() as ready:
        for pipe, end in ends.items():
            ready.register(pipe, selectors.EVENT_READ, end)
        while ready.get_map():
            for key, _ in ready.select():
                data = os.read(key.fd, _CHUNK)
                if not data:
                    ready.unregister(key.fileobj)
                key.data.extend(data)
                if len(key.data) > 2 * _KEPT:
                    del key.data[:-_KEPT]
    out, err = (end[-_KEPT:].decode("utf-8", "replace") for end in ends.values())
    return out, err


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the command and all that it started, first kindly."""
    try:
        _signal(process, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE)
    finally:
        _signal(process, signal.SIGKILL)


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def _ended(code: int) -> str:
    if code > 0:
        return f"ended with exit code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"


def _last_lines(out: str, err: str) -> Iterator[str]:
    """Yield the last lines of standard output, then those of standard error, safe for a terminal."""
    for text in (out, err):
        lines = [line for line in _COLOURS.sub("", text).splitlines() if line.strip()]
        yield from (_short(line.rstrip()) for line in lines[-_LAST_LINES:])
