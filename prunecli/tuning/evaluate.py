"""The user's evaluation of a checkpoint: a command that prints the metric, or a Python function that returns it.

A command line is split as a shell splits it and run without a shell. This module does not interpret the metric and does
not read the checkpoint.
"""

from __future__ import annotations

import inspect
import os
import re
import shlex
import signal
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, TYPE_CHECKING, ClassVar, Protocol, TypeAlias

from prunecli.errors import Argument, PruneError, UsageError
from prunecli.text.escape import printable
from prunecli.tuning.follow import Follower
from prunecli.tuning.metric import Metric, compile_pattern, find_metric, shortened, without_colours
from prunecli.tuning.trial_file import file_identity

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Evaluate: TypeAlias = "str | Callable[[Path], float]"
"""An evaluation by the user: a command line with `{}` for the path, or a function from a path to the metric."""

OnLine: TypeAlias = "Callable[[str], None]"
"""A function that receives a line of the output of an evaluation."""

PLACEHOLDER = "{}"
"""The part of a command that the checkpoint's path replaces."""

EXAMPLE = Argument("evaluate", "python eval.py {}")
"""A hint that shows an evaluation command."""

_FILE = (
    'write the line to a file, with "$1" for the checkpoint, and use ',
    Argument("evaluate", "sh eval.sh {}"),
)
_SHELLS = {"sh", "bash", "dash", "zsh", "ksh"}

_OUTPUT_LIMIT = 1 << 20  # bytes from the end of each output that are read
_LOOK_EVERY = 0.2  # seconds between two looks at the output of a command that runs
_GRACE = 3.0  # seconds between SIGTERM and SIGKILL
_LAST_LINES = 12
_SHELL_WORDS = {"|", "||", "&&", ";", "&", ">", ">>", "<", "2>", "2>&1", "&>"}
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")


class EvaluationError(PruneError):
    """The evaluation could not run, failed, or gave no metric.

    `output` holds the last lines of the command's standard output and standard error, escaped for a terminal.
    """

    def __init__(self, message: str, *, hint: Argument | str | None = None, output: tuple[str, ...] = ()) -> None:
        """Keep the last lines of the output."""
        super().__init__(message, hint=hint)
        self.output = output


class Evaluation(Protocol):
    """An evaluation of checkpoints."""

    remembers: ClassVar[bool]
    """Whether results are remembered by default: `identity` covers all that they depend on."""

    def measure(self, path: Path, on_line: OnLine | None = None) -> Metric:
        """Return the metric of the checkpoint at `path`; EvaluationError if there is none.

        `on_line` receives each line that the evaluation prints, while it runs.
        """

    def identity(self) -> dict[str, object]:
        """Return the values that a remembered metric depends on, as JSON values."""


def evaluation_of(evaluate: Evaluate, metric: str | None = None) -> Evaluation:
    """Return the evaluation for a command line or a function; `metric` is a pattern for a command's output.

    Raises UsageError if the command line is malformed or the pattern cannot apply.
    """
    if isinstance(evaluate, str):
        return parse_command(evaluate, metric)
    if metric is not None:
        raise UsageError(
            "a pattern for the metric needs a command line: a Python function returns the metric",
            hint=("drop ", Argument("metric", metric)),
        )
    return Function(evaluate)


# --- a Python function


@dataclass(frozen=True, slots=True)
class Function:
    """An evaluation by a Python function from a path to a number."""

    function: Callable[[Path], float]
    remembers: ClassVar[bool] = False  # a closure can change while its name and its source file stay the same

    def measure(self, path: Path, on_line: OnLine | None = None) -> Metric:  # noqa: ARG002 - it prints by itself
        """Call the function; EvaluationError if it returns no number."""
        result = self.function(path)
        try:
            value = Decimal(str(float(result)))
        except (TypeError, ValueError):
            raise EvaluationError(f"the evaluation returned {printable(repr(result))}, which is not a number") from None
        return Metric(value, str(value))

    def identity(self) -> dict[str, object]:
        """Return the name of the function and its source file."""
        name = getattr(self.function, "__qualname__", type(self.function).__qualname__)
        try:
            source = inspect.getsourcefile(self.function)
        except TypeError:
            source = None
        script = Path(source) if source else None
        return {
            "eval": [f"{self.function.__module__}.{name}"],
            "metric": None,
            "script": file_identity(script) if script and script.is_file() else None,
        }


# --- a command


@dataclass(frozen=True, slots=True)
class Command:
    """An evaluation by a command: `words` with the placeholder, and a `pattern` for the metric (None: last number)."""

    words: tuple[str, ...]
    pattern: re.Pattern[str] | None = None
    remembers: ClassVar[bool] = True

    def on(self, path: Path) -> list[str]:
        """Return the words with `path` in place of every placeholder."""
        return [word.replace(PLACEHOLDER, str(path)) for word in self.words]

    def measure(self, path: Path, on_line: OnLine | None = None) -> Metric:
        """Run the command without input on the checkpoint at `path` and return the metric that it prints.

        Raises EvaluationError if the command cannot be run, its exit code is not 0, or it prints no metric. If this
        function is interrupted, it ends the command and all processes that the command started.
        """
        words = self.on(path)
        code, out, err = _run(words, on_line)
        line, output = printable(shlex.join(words)), tuple(_last_lines(out, err))
        # The candidate is deleted, so the hint cannot name it.
        hint = printable(shlex.join(word.replace(PLACEHOLDER, "CKPT") for word in self.words))
        if code:
            raise EvaluationError(f"the evaluation {_ended(code)}: {line}", hint=hint, output=output)
        # A path may contain numbers, and commands often print it.
        metric = find_metric(out.replace(str(path), PLACEHOLDER), self.pattern)
        if metric is None:
            what = "number" if self.pattern is None else f"match of the pattern {self.pattern.pattern!r} with a number"
            message = f"the evaluation printed no {what} on its standard output: {line}"
            raise EvaluationError(message, hint=hint, output=output)
        return metric

    def identity(self) -> dict[str, object]:
        """Return the words, the pattern, and the script: the first file among the words."""
        words = (word for word in self.words if PLACEHOLDER not in word)
        # Later files may be outputs of the command. os.path.isfile accepts words that are no valid paths.
        script = next((Path(word) for word in words if os.path.isfile(word)), None)  # noqa: PTH113
        return {
            "eval": list(self.words),
            "metric": None if self.pattern is None else self.pattern.pattern,
            "script": script and file_identity(script),
        }


def parse_command(text: str, metric: str | None = None) -> Command:
    """Split a command line into a command and compile the pattern `metric`; UsageError if one of them is malformed."""
    try:
        words = tuple(shlex.split(text))
    except ValueError as error:
        message = f"the evaluation command {text!r} cannot be split into words: {str(error).lower()}"
        raise UsageError(message, hint=EXAMPLE) from None
    if not words:
        raise UsageError("the evaluation command is empty", hint=EXAMPLE)
    if not any(PLACEHOLDER in word for word in words):
        raise UsageError(
            f"the evaluation command {text!r} has no {{}}, which stands for the checkpoint",
            hint=Argument("evaluate", f"{text} {{}}"),
        )
    _refuse_shell(words, text)
    return Command(words, None if metric is None else compile_pattern(metric))


def _refuse_shell(words: tuple[str, ...], text: str) -> None:
    """Raise UsageError if the command needs a shell."""
    operator = next((word for word in words if word in _SHELL_WORDS), None)
    if operator is not None:
        raise UsageError(
            f"the evaluation runs without a shell, so {operator!r} has no effect: {text}", hint=_with_shell(text)
        )
    if _ASSIGNMENT.match(words[0]):
        raise UsageError(
            f"the evaluation runs without a shell, so {words[0]!r} sets no variable",
            hint=Argument("evaluate", f"env {text}"),
        )
    _refuse_path_in_script(words)
    if any("\0" in word for word in words):
        raise UsageError("the evaluation command has a NUL character in it", hint=EXAMPLE)


def _refuse_path_in_script(words: tuple[str, ...]) -> None:
    """Raise UsageError for `sh -c 'python eval.py {}'`: a shell would read the path as a part of the script."""
    if os.path.basename(words[0]) not in _SHELLS:  # noqa: PTH119 - a word, not a path
        return
    for index, (option, script) in enumerate(pairwise(words), 1):
        if option.startswith("-") and option.endswith("c") and PLACEHOLDER in script:
            argument = script.replace(f'"{PLACEHOLDER}"', PLACEHOLDER).replace(PLACEHOLDER, '"$0"')
            simple = "'" not in script and index == len(words) - 1
            raise UsageError(
                f"the shell would run the checkpoint's path as a part of its script: {printable(script)}",
                hint=Argument("evaluate", f"{' '.join(words[:index])} '{argument}' {PLACEHOLDER}") if simple else _FILE,
            )


def _with_shell(text: str) -> Argument | tuple[str | Argument, ...]:
    """Return a hint that runs `text` in a shell: in quotes, or from a file if `text` has quotes itself."""
    if set("'\"\\$`") & set(text):
        return _FILE
    script = text.replace(PLACEHOLDER, '"$0"')
    return Argument("evaluate", f"sh -c '{script}' {{}}")


def _run(words: list[str], on_line: OnLine | None) -> tuple[int, str, str]:
    """Run a command; return its exit code and the ends of its standard output and standard error."""
    with TemporaryFile() as out, TemporaryFile() as err:
        with _started(words, out, err) as process:
            try:
                code = process.wait() if on_line is None else _followed(process, (out, err), on_line)
            except BaseException:
                _end(process)
                raise
        return code, _tail(out), _tail(err)


def _followed(process: subprocess.Popen[bytes], files: tuple[IO[bytes], ...], on_line: OnLine) -> int:
    """Pass on the lines of the output while the process runs, and return its exit code."""
    followers = [Follower(file, on_line) for file in files]
    code = None
    while code is None:
        with suppress(subprocess.TimeoutExpired):
            code = process.wait(_LOOK_EVERY)
        for follower in followers:
            follower.read(end=code is not None)
    return code


def _started(words: list[str], out: IO[bytes], err: IO[bytes]) -> subprocess.Popen[bytes]:
    """Start a command in a session of its own, so that all its processes can be ended together."""
    try:
        return subprocess.Popen(  # noqa: S603 - running the user's command is the purpose of this module
            words, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True
        )
    except FileNotFoundError:
        raise EvaluationError(
            f"there is no command {printable(repr(words[0]))} for the evaluation", hint=EXAMPLE
        ) from None
    except OSError as error:
        message = f"the evaluation cannot run {printable(repr(words[0]))}: {error.strerror}"
        raise EvaluationError(message, hint=EXAMPLE) from error


def _tail(stream: IO[bytes]) -> str:
    """Return the last part of a file as text."""
    size = stream.seek(0, os.SEEK_END)
    stream.seek(max(size - _OUTPUT_LIMIT, 0))
    return stream.read().decode("utf-8", "replace")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a command and its processes: first with SIGTERM, then with SIGKILL."""
    try:
        _signal(process, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE)
    finally:
        _signal(process, signal.SIGKILL)


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    # The command and its group may have ended by now; some systems then deny permission.
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
    """Yield the last lines of standard output, then those of standard error, escaped for a terminal."""
    for text in (out, err):
        lines = [line for line in without_colours(text).splitlines() if line.strip()]
        yield from (shortened(line.rstrip()) for line in lines[-_LAST_LINES:])
