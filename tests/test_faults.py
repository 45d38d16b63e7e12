"""Never lost: whatever stops a run, the old output is there or none, whole or absent, and nothing else is left."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from prunecli import splice
from prunecli.cli import main

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals and descriptors are POSIX's")

MATRICES, SIDE = 16, 1024  # 64 MiB: as many windows
OLD = b"what was there before"

CHILD = """
import os, signal, sys, time
from prunecli import splice
from prunecli.cli import main

where, count, number, *args = sys.argv[1:]
owner, name = (splice.Sink, "write") if where == "write" else (os, where)
real, left, number = getattr(owner, name), int(count), int(number)

def interrupted(*args, **kwargs):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), number)
        time.sleep(0.05)
    return real(*args, **kwargs)

setattr(owner, name, interrupted)
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background of a shell
sys.exit(main(args))
"""
"""Run the command line, and send the process a signal before the COUNT-th call of one function."""


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write 64 MiB of weights to a directory of their own."""
    path = tmp_path_factory.mktemp("big") / "big.safetensors"
    generator = np.random.default_rng(0)
    save_file(
        {f"l{i}.weight": generator.standard_normal((SIDE, SIDE), dtype=np.float32) for i in range(MATRICES)}, path
    )
    return path


@pytest.fixture(scope="module")
def expected(big: Path) -> bytes:
    """Return what an undisturbed run writes."""
    output = big.with_name("expected")
    assert main([*command(big, output), "--report", str(big.with_name("expected.json"))]) == 0
    return output.read_bytes()


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Write 3 MiB of weights into a directory of their own."""
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "small.safetensors"
    save_file({"fc.weight": np.random.default_rng(0).standard_normal((768, 1024), dtype=np.float32)}, path)
    return path


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Name an output in an empty directory."""
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "pruned.safetensors"


def command(source: Path, output: Path, *options: str) -> list[str]:
    """Return the command line of all runs here."""
    return ["threshold", str(source), "--thr", "0.5", "-o", str(output), "-q", *options]


def left(folder: Path) -> set[str]:
    """Return the names in `folder`."""
    return {path.name for path in folder.iterdir()}


def killed(number: int, where: str, count: int, args: list[str]) -> subprocess.CompletedProcess[bytes]:
    """Run the command line and kill it with signal `number` before the `count`-th call of `where`."""
    arguments = [sys.executable, "-c", CHILD, where, str(count), str(number), *args]
    return subprocess.run(arguments, capture_output=True, check=False, timeout=120)


# --- signals

MOMENTS = [("write", n) for n in sorted(random.Random(7).sample(range(2, 60), 9))] + [
    ("write", 1),
    ("posix_fallocate", 1),
    ("fsync", 1),
]
"""Twelve moments between opening the output and publishing it."""

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -signal.SIGKILL}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
@pytest.mark.parametrize(("where", "count"), MOMENTS)
def test_an_interrupted_run_keeps_the_old_output(big: Path, out: Path, number: int, where: str, count: int) -> None:
    """Ctrl-C and a polite kill, at any moment, leave the output that was there and nothing else."""
    out.write_bytes(OLD)

    ran = killed(number, where, count, command(big, out, "--force"))

    assert (CODES[signal.Signals(number)], b"") == (ran.returncode, ran.stdout)
    assert ran.stderr == (b"interrupted\n" if number == signal.SIGINT else b"")
    assert out.read_bytes() == OLD
    assert left(out.parent) == {out.name}


@pytest.mark.skipif(not hasattr(os, "O_TMPFILE"), reason="without nameless files a killed run leaves a hidden one")
@pytest.mark.parametrize(("where", "count"), MOMENTS)
def test_a_killed_run_leaves_nothing(big: Path, out: Path, where: str, count: int) -> None:
    """SIGKILL, at any moment before publishing, leaves no file at all."""
    ran = killed(signal.SIGKILL, where, count, command(big, out))

    assert CODES[signal.SIGKILL] == ran.returncode
    assert left(out.parent) == set()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=["INT", "TERM", "KILL"])
def test_a_signal_after_publishing_finds_the_output_whole(big: Path, out: Path, expected: bytes, number: int) -> None:
    """Interrupted between the output and its report, the output is there and whole."""
    ran = killed(number, "fsync", 3, command(big, out))  # 1: the file, 2: its directory, 3: the report

    assert CODES[signal.Signals(number)] == ran.returncode
    assert out.read_bytes() == expected
    assert left(out.parent) == {out.name}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=["INT", "TERM", "KILL"])
def test_in_place_survives_every_signal(small: Path, number: int) -> None:
    """A run that replaces its input and is stopped before publishing leaves the input as it was."""
    before = small.read_bytes()

    ran = killed(number, "fsync", 1, ["threshold", str(small), "--thr", "0.5", "--in-place", "-q"])

    assert CODES[signal.Signals(number)] == ran.returncode
    assert small.read_bytes() == before
    assert left(small.parent) == {small.name}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
@pytest.mark.parametrize(("where", "count"), [("write", 1), ("write", 4), ("fsync", 1), ("fsync", 3)])
def test_an_interrupted_directory_is_absent(small: Path, out: Path, number: int, where: str, count: int) -> None:
    """A directory of shards that was begun is taken away whole."""
    small.with_name("two.safetensors").write_bytes(small.read_bytes().replace(b"fc.w", b"gc.w"))

    ran = killed(number, where, count, ["threshold", str(small.parent), "--thr", "0.5", "-o", str(out), "-q"])

    assert CODES[signal.Signals(number)] == ran.returncode
    assert left(out.parent) == set()


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="without paths of descriptors temporaries have names")
def test_a_killed_pipe_leaves_no_temporary_copy(small: Path, tmp_path: Path) -> None:
    """SIGKILL while a checkpoint goes from pipe to pipe leaves nothing in the temporary directory."""
    (tmp_path / "tmp").mkdir()
    arguments = [sys.executable, "-c", CHILD, "write", "2", str(int(signal.SIGKILL)), "global", "-", "--amount", "0.5"]
    environment = {**os.environ, "TMPDIR": str(tmp_path / "tmp")}

    ran = subprocess.run(
        [*arguments, "-o", "-"], input=small.read_bytes(), env=environment, capture_output=True, check=False
    )

    assert (ran.returncode, ran.stdout) == (-signal.SIGKILL, b"")
    assert left(tmp_path / "tmp") == set()


def test_a_hangup_is_ignored_under_nohup(small: Path, out: Path) -> None:
    """Where SIGHUP is ignored, as nohup does, the run goes on to the end."""
    script = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n" + CHILD
    arguments = [sys.executable, "-c", script, "fsync", "1", str(int(signal.SIGHUP)), *command(small, out)]

    assert subprocess.run(arguments, check=False, timeout=60).returncode == 0
    assert out.exists()


# --- system calls that fail


def failing(real: Callable[..., Any], number: int, after: int) -> Callable[..., Any]:
    """Return `real` as it is for `after` calls, and then failing with `number`."""
    calls = 0

    def call(*args: object, **kwargs: object) -> object:
        nonlocal calls
        calls += 1
        if calls > after:
            raise OSError(number, os.strerror(number))
        return real(*args, **kwargs)

    return call


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize(
    "fault",
    [
        ("posix_fallocate", errno.ENOSPC, 0),
        ("pwrite", errno.ENOSPC, 0),
        ("pwrite", errno.ENOSPC, 2),
        ("pwrite", errno.EIO, 1),
        ("preadv", errno.EIO, 1),
        ("fchmod", errno.EPERM, 0),
        ("fsync", errno.EIO, 0),
        ("link", errno.EIO, 0),
        ("link", errno.ENOSPC, 0),
    ],
)
def test_a_failing_call_is_told_and_nothing_changes(
    small: Path,
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    fault: tuple[str, int, int],
    force: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    """A full disk, a broken one and a refused publication end in a sentence, and leave what was there."""
    call, number, after = fault
    if force:
        out.write_bytes(OLD)
    monkeypatch.setattr(os, call, failing(getattr(os, call), number, after))

    code = main(command(small, out, *(["--force"] if force else [])))

    monkeypatch.undo()
    said = capfd.readouterr().err
    assert code == 2
    assert said.startswith("error: ")
    assert os.strerror(number) in said
    assert str(small if call == "preadv" else out.parent) in said
    assert left(out.parent) == ({out.name} if force else set())
    assert not force or out.read_bytes() == OLD


def test_a_report_that_cannot_be_written_is_told_apart(
    small: Path, out: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """When the checkpoint is published and its report fails, the message says both."""
    monkeypatch.setattr(os, "fsync", failing(os.fsync, errno.EIO, 2))

    code = main(command(small, out))

    monkeypatch.undo()
    assert code == 2
    assert capfd.readouterr().err.startswith(f"error: {out} is written, but not its report: ")
    assert left(out.parent) == {out.name}


# --- others at work on the same files


@pytest.mark.parametrize("change", ["append", "rewrite", "truncate"])
def test_an_input_that_changes_is_refused(
    small: Path, out: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], change: str
) -> None:
    """Somebody writes to the input while it is read: the run ends without an output."""
    real = splice.Sink.write
    size = small.stat().st_size

    def write(self: splice.Sink, data: memoryview, offset: int) -> None:
        if change == "truncate":
            os.truncate(small, size // 2)
        else:
            with small.open("ab" if change == "append" else "r+b") as file:
                file.write(b"\0")
        real(self, data, offset)

    monkeypatch.setattr(splice.Sink, "write", write)

    assert main(command(small, out)) == 2
    assert "changed while it was being read" in capfd.readouterr().err
    assert left(out.parent) == set()


@pytest.mark.parametrize("force", [False, True])
def test_two_runs_at_once_leave_one_whole_output(
    big: Path,
    out: Path,
    expected: bytes,
    force: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    """Of two runs on one output one is refused, or with --force the later one stays; never a mixture."""
    arguments = [sys.executable, "-m", "prunecli", *command(big, out), *(["--force"] if force else [])]

    pair = [subprocess.Popen(arguments, stderr=subprocess.PIPE) for _ in range(2)]
    said = [run.communicate(timeout=120)[1] for run in pair]

    assert [0, 0 if force else 2] == sorted(run.returncode for run in pair)
    assert force or any(b"exists" in text for text in said)
    assert out.read_bytes() == expected
    assert left(out.parent) == {out.name, "pruned.report.json"}


def test_an_output_that_appears_meanwhile_is_kept(small: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without --force, a file that somebody else makes under the output's name during the run stays."""
    real = os.fsync

    def fsync(fd: int) -> None:
        if not out.exists():
            out.write_bytes(OLD)
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)

    assert main(command(small, out)) == 2
    assert out.read_bytes() == OLD
    assert left(out.parent) == {out.name}
