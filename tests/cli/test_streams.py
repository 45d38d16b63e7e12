"""Standard input, output and error: pipes, closed and full streams, terminals, encodings."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from support.command_line import HALF, listing, process, save_two_layers, shell

if TYPE_CHECKING:
    from pathlib import Path


FULL = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full here")  # noqa: PTH110


def test_a_checkpoint_goes_through_a_pipe(ckpt: Path) -> None:
    """`cat CKPT | prune ... - -o - | cat` gives the bytes of `prune ... CKPT`; the table goes to standard error."""
    process("global", ckpt, *HALF, "-q")

    ran = shell(f"cat {ckpt} | prune global - --amount 0.5 -o - | cat; exit ${{PIPESTATUS[1]}}")

    assert ran.returncode == 0
    assert ran.stdout == ckpt.with_name("ckpt.pruned.safetensors").read_bytes()
    assert b"50.0% of 96 weights zeroed" in ran.stderr
    assert b"standard output" in ran.stderr


def test_a_piped_checkpoint_has_no_temporary_name_in_the_report(ckpt: Path) -> None:
    """The report names a piped input "standard input"."""
    ran = process("global", "-", *HALF, "-n", "--json", input=ckpt.read_bytes())

    assert json.loads(ran.stdout)["input"]["path"] == "standard input"


@pytest.mark.parametrize(("content", "reason"), [(b"", b"empty"), (b"hello", b"text")])
def test_piped_input_is_checked_like_a_file(content: bytes, reason: bytes) -> None:
    """The error about a pipe without a checkpoint names standard input."""
    ran = process("global", "-", *HALF, "-n", input=content)

    assert (ran.returncode, ran.stdout) == (2, b"")
    assert ran.stderr.startswith(b"error: standard input is not a checkpoint")
    assert reason in ran.stderr


@pytest.mark.parametrize(("output", "message"), [("no/such", b"no directory no"), ("taken", b"taken exists")])
def test_an_impossible_output_is_refused_before_the_pipe_is_read(tmp_path: Path, output: str, message: bytes) -> None:
    """The run ends although its input, a pipe, never ends."""
    (tmp_path / "taken").touch()
    ours, theirs = os.pipe()

    ran = process("global", "-", *HALF, "-o", output, cwd=tmp_path, stdin=ours)

    os.close(ours)
    os.close(theirs)
    assert ran.returncode == 2
    assert message in ran.stderr


@pytest.mark.parametrize("options", ["-n", "-n --json", "-o - -q"])
def test_a_closed_reader_ends_the_run_without_a_message(ckpt: Path, options: str) -> None:
    """A broken pipe ends the run with 141, as it does for other tools, and prints nothing."""
    ran = shell(f"prune global {ckpt} --amount 0.5 {options} | true; exit ${{PIPESTATUS[0]}}")

    assert (ran.returncode, ran.stdout, ran.stderr) == (141, b"", b"")


@FULL
@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("l1 CKPT --amount 0.5 -v", 0),
        ("threshold CKPT --thr 100 -n", 0),
        ("l1 CKPT --amount 0.5 -o -", 0),
        ("l1 CKPT --amount 0.5 -i none", 2),
        ("l1 CKPT", 2),
        ("l1 CKPT --nonsense", 2),
        ("l1 CKPT --amount 0.5 --min-sparsity 0.9", 1),
        ("check CKPT --min-sparsity 0.9", 1),
        ("bake CKPT -v", 2),
        ("", 2),
    ],
)
def test_a_full_standard_error_changes_no_exit_code(ckpt: Path, command: str, code: int) -> None:
    """Messages that cannot be printed are lost; the result is the same, and there is no traceback."""
    ran = shell(f"prune {command.replace('CKPT', str(ckpt))} 2> /dev/full")

    assert ran.returncode == code
    if "-o -" in command:
        assert ran.stdout == shell(f"prune l1 {ckpt} --amount 0.5 -q -o -").stdout


@FULL
@pytest.mark.parametrize("options", ["-n", "-n --json", "-o - -q"])
def test_a_full_standard_output_is_one_sentence(ckpt: Path, options: str) -> None:
    """If standard output is full, the run prints one sentence and a hint and exits with 2."""
    ran = shell(f"prune global {ckpt} --amount 0.5 {options} > /dev/full")

    assert ran.returncode == 2
    assert ran.stderr.startswith((b"error: the result cannot be printed", b"error: standard output"))
    assert b"No space left on device\nhint: " in ran.stderr
    assert ran.stderr.count(b"\n") == 2


@FULL
def test_a_lost_table_does_not_hide_the_written_checkpoint(ckpt: Path) -> None:
    """If only the table cannot be printed, the message says that the checkpoint is written."""
    ran = shell(f"prune global {ckpt} --amount 0.5 > /dev/full; prune --help > /dev/full")

    assert f"{ckpt.with_name('ckpt.pruned.safetensors')} is written, but".encode() in ran.stderr
    assert b"Traceback" not in ran.stderr


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        ("prune global CKPT --amount 0.5 -q >&- 2>&-", 0, b""),
        ("prune global CKPT --amount 0.5 >&-", 0, b""),
        ("prune inspect CKPT >&-", 0, b""),
        ("prune global CKPT --amount 0.5 -o - >&-", 2, b"standard output, which is closed"),
        ("prune global - --amount 0.5 -n <&-", 2, b"there is none"),
        ("prune global missing --amount 0.5 2>&-", 2, b""),
    ],
)
def test_closed_streams_cause_no_traceback(ckpt: Path, line: str, code: int, message: bytes) -> None:
    """A closed standard stream is allowed where it is not needed; no file gets its descriptor."""
    ran = shell(line.replace("CKPT", str(ckpt)))

    assert (ran.returncode, ran.stdout) == (code, b"")
    assert message in ran.stderr
    assert b"Traceback" not in ran.stderr


def test_a_name_that_the_terminal_cannot_encode_is_escaped(tmp_path: Path) -> None:
    """If standard output is ASCII, other characters of names are printed as escapes."""
    path = save_two_layers(tmp_path / "c.safetensors", prefix="\u5c42.")

    ran = process("global", path, *HALF, "-n", env={**os.environ, "PYTHONIOENCODING": "ascii"})

    assert ran.returncode == 0
    assert b"\\u5c42.fc1.weight" in ran.stdout


def on_terminal(*args: str | Path, width: int = 80, **env: str) -> str:
    """Run the command line with a pseudo-terminal as standard output and error, and return its output."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(width), "TERM": "xterm-256color", **env}
    command = [sys.executable, "-m", "prunecli", *map(str, args)]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment) as child:
        os.close(theirs)
        output = b""
        while True:
            try:
                part = os.read(ours, 1 << 16)
            except OSError:  # Linux reports so that the other end is closed
                break
            if not part:
                break
            output += part
    os.close(ours)
    assert child.returncode == 0
    return output.decode()


@pytest.mark.parametrize("width", [60, 200])
def test_a_terminal_gets_the_table_in_its_width(tmp_path: Path, width: int) -> None:
    """The table fits the terminal, short runs show no bar, and markup in names is printed unchanged."""
    path = save_two_layers(tmp_path / "c.safetensors", prefix="[red]x")

    output = on_terminal("global", path, *HALF, "-n", width=width, NO_COLOR="1")

    rows = [line for line in re.sub(r"\x1b\[[0-9;]*m", "", output).splitlines() if ".weight " in line]
    assert [line.split()[0] for line in rows] == ["[red]xfc1.weight", "[red]xfc2.weight"]
    assert max(map(len, rows)) <= width
    assert not re.search(r"\x1b\[[0-9;]*[34][0-7]m", output)
    assert "\x1b[?25l" not in output


def test_a_checkpoint_is_not_written_to_a_terminal(ckpt: Path) -> None:
    """-o - on a terminal is refused."""
    with pytest.raises(AssertionError):
        on_terminal("global", ckpt, *HALF, "-o", "-")
    assert listing(ckpt.parent) == {ckpt.name}
