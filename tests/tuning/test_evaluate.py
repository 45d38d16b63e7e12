"""Evaluations: commands that print a metric, and Python functions that return it."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from support.children import start_python
from support.evaluation import names, python_command, save_weights

from prunecli.errors import Argument, UsageError
from prunecli.tuning.evaluate import EvaluationError, evaluation_of, parse_command


@pytest.mark.parametrize(
    ("command", "message", "output"),
    [
        (python_command("print('\\x1b[2Jhi'); import sys; sys.exit('it broke')"), "exit code 1", ("hi", "it broke")),
        (python_command("import os; os.kill(os.getpid(), 9)"), "was killed by SIGKILL", ()),
        (python_command("print('fine')"), "printed no number on its standard output", ("fine",)),
        ("./absent-command {}", "there is no command './absent-command'", ()),
        ("/ {}", "cannot run '/'", ()),
    ],
)
def test_a_command_that_fails_is_an_error(command: str, message: str, output: tuple[str, ...]) -> None:
    """The error names the failure and holds the last lines of both outputs, safe for a terminal."""
    with pytest.raises(EvaluationError, match=message) as caught:
        parse_command(command).measure(Path("c.pth"))

    assert caught.value.output == output


@pytest.mark.parametrize(
    ("command", "message", "hint"),
    [
        ("python eval.py", "has no {}", "evaluate='python eval.py {}'"),
        ("python eval.py {} | tail", "without a shell", "evaluate='sh -c \\'python eval.py \"$0\" | tail\\' {}'"),
        ("sh -c 'x {}' ; y", "without a shell", 'write the line to a file, with "$1" for the checkpoint'),
        ("A=1 python eval.py {}", "without a shell", "evaluate='env A=1 python eval.py {}'"),
        ("python 'eval.py {}", "cannot be split into words: no closing quotation", "evaluate='python eval.py {}'"),
        ("python a\0b {}", "has a NUL character", "evaluate='python eval.py {}'"),
        ("", "the evaluation command is empty", "evaluate='python eval.py {}'"),
    ],
)
def test_a_malformed_command_is_an_error_with_a_hint(command: str, message: str, hint: str) -> None:
    """A command that cannot be run is rejected before anything runs, with a command to use instead."""
    with pytest.raises(UsageError, match=message) as caught:
        parse_command(command)

    assert (caught.value.hint or "").startswith(hint)


def test_the_placeholder_may_stand_anywhere_in_a_word() -> None:
    """Every placeholder is replaced by the path, also inside a word and with spaces in the path."""
    assert parse_command("x --ckpt={} '{}'").on(Path("/a b")) == ["x", "--ckpt=/a b", "/a b"]


def test_the_path_is_no_metric() -> None:
    """Numbers in the path that a command prints do not count."""
    with pytest.raises(EvaluationError, match="printed no number"):
        parse_command(python_command("import sys; print(sys.argv[1])")).measure(Path("0.5 7"))


def test_only_the_end_of_a_long_output_is_read() -> None:
    """The last number is read from an evaluation that prints megabytes on both outputs."""
    flood = (
        "import sys\nfor i in range(40): sys.stderr.write('e' * 99999); sys.stdout.write('1 ' * 99999)\nprint('', .5)"
    )

    assert parse_command(python_command(flood)).measure(Path("c.pth")).value == Decimal("0.5")


@pytest.mark.parametrize(("result", "expected"), [(0.75, "0.75"), (3, "3.0"), (np.float32(0.5), "0.5")])
def test_a_function_returns_the_metric(result: float, expected: str) -> None:
    """A function gets the path; the number that it returns is the metric, exactly as Python prints it."""
    paths: list[Path] = []

    def evaluate(path: Path) -> float:
        paths.append(path)
        return result

    assert str(evaluation_of(evaluate).measure(Path("c.pth")).value) == expected
    assert paths == [Path("c.pth")]


@pytest.mark.parametrize("result", [None, "much", [1.0, 2.0]])
def test_a_function_must_return_a_number(result: object) -> None:
    """A function that returns anything else is an error."""
    with pytest.raises(EvaluationError, match="which is not a number"):
        evaluation_of(lambda _: result).measure(Path("c.pth"))  # type: ignore[arg-type,return-value]


def test_a_function_takes_no_pattern() -> None:
    """A pattern for the metric of a function raises UsageError."""
    with pytest.raises(UsageError, match="needs a command line"):
        evaluation_of(lambda _: 0.0, "accuracy")


def running(pid: int) -> bool:
    """Return whether a process runs; a zombie does not."""
    ran = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, check=False, text=True)
    return bool(ran.stdout.strip()) and not ran.stdout.startswith("Z")


@pytest.mark.skipif(shutil.which("ps") is None, reason="there is no ps here")
def test_an_interrupt_ends_the_command_and_removes_the_candidate(tmp_path: Path) -> None:
    """SIGINT ends the evaluation and its child processes, removes temporary files, and exits with 130."""
    ckpt, mark = save_weights(tmp_path), tmp_path / "pid"
    inner = f"import os, time; open({str(mark)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-I', '-S', '-c', {inner!r}])"
    script = "import sys\nfrom prunecli.cli.main import main\nsys.exit(main(['search', *sys.argv[1:]]))"
    arguments = [ckpt, "--eval", python_command(child), "--max-drop", "1", "global"]

    with start_python("-c", script, *arguments, stderr=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        while not (mark.exists() and mark.read_text()):
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        process.communicate()

    assert process.returncode == 130
    assert names(ckpt.parent) == {"c.safetensors"}
    while running(int(mark.read_text())):  # it would sleep for 600 s
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("sh -c 'python eval.py {}'", """sh -c 'python eval.py "$0"' {}"""),
        ("bash -ec 'python eval.py \"{}\" | tail -1'", """bash -ec 'python eval.py "$0" | tail -1' {}"""),
        ('/bin/sh -c "x {} y {}"', """/bin/sh -c 'x "$0" y "$0"' {}"""),
        ("""sh -c "x '{}'" """, "sh eval.sh {}"),
        ("sh -c 'x {} $0' y", "sh eval.sh {}"),
    ],
)
def test_a_path_in_the_script_of_a_shell_is_refused(text: str, hint: str) -> None:
    """A shell reads its script as a program: a path in it could be one. The path is an argument in the hint."""
    with pytest.raises(UsageError, match="would run the checkpoint's path as a part of its script") as error:
        parse_command(text)

    parts = error.value.hint_parts
    argument = parts[-1] if isinstance(parts, tuple) else parts
    assert isinstance(argument, Argument)
    assert argument.value == hint
    parse_command(str(argument.value))
