"""Never lost: whatever stops a run, the old output is there or none, whole or absent, and nothing else is left.

PRUNECLI_FAULT_ROUNDS=100 sends a hundred signals of each sort at random moments of each sort of run, instead of two.
"""

from __future__ import annotations

import ast
import errno
import json
import os
import random
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from prunecli.cli.main import main
from prunecli.engine import prepare as asking
from prunecli.io import files as splice

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals and descriptors are POSIX's")

MATRICES, SIDE = 32, 1024  # 128 MiB: half as many windows
OLD = b"what was there before"
ROUNDS = int(os.environ.get("PRUNECLI_FAULT_ROUNDS", "2"))

CHILD = """
import os, signal, sys, time
from prunecli.io import files as splice
from prunecli.cli.main import main

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
    """Write 128 MiB of weights to a directory of their own."""
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
    """Write 6 MiB of weights into a directory of their own."""
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "small.safetensors"
    save_file({"fc.weight": np.random.default_rng(0).standard_normal((1536, 1024), dtype=np.float32)}, path)
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


def test_a_hangup_is_ignored_under_nohup(small: Path, out: Path) -> None:
    """Where SIGHUP is ignored, as nohup does, the run goes on to the end."""
    script = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n" + CHILD
    arguments = [sys.executable, "-c", script, "fsync", "1", str(int(signal.SIGHUP)), *command(small, out)]

    assert subprocess.run(arguments, check=False, timeout=60).returncode == 0
    assert out.exists()


# --- signals at random moments

FORKS = """
import json, os, signal, sys, time
import numpy
from prunecli import __main__
from prunecli import api
from prunecli.cli import main as cli
from prunecli.engine import files as engine

for line in sys.stdin:
    args, number, seconds = json.loads(line)
    began = time.monotonic()
    if (pid := os.fork()) == 0:
        sys.argv[1:] = args
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            __main__.main()
        except SystemExit as done:
            os._exit(done.code)  # Python's own farewell would take most of the signals
        except KeyboardInterrupt:
            os._exit(130)
    if number:
        time.sleep(seconds)
        os.kill(pid, number)
    status = os.waitpid(pid, 0)[1]
    print(json.dumps([os.waitstatus_to_exitcode(status), time.monotonic() - began]), flush=True)
"""
"""Run one command line per line of input in a fork, and send it a signal after so many seconds."""

KINDS = [f"{what}{how}" for what in ("file", "directory") for how in ("", " --force", " --in-place")]


class Forks:
    """Runs of the command line that need not start Python each time."""

    def __init__(self, child: subprocess.Popen[str]) -> None:
        """Talk to `child`, which runs FORKS."""
        self.child = child

    def run(self, args: list[str], number: int = 0, seconds: float = 0) -> tuple[int, float]:
        """Return the exit code and the seconds of a run that gets the signal `number` after `seconds`."""
        assert self.child.stdin is not None
        assert self.child.stdout is not None
        print(json.dumps([args, number, seconds]), file=self.child.stdin, flush=True)
        code, took = json.loads(self.child.stdout.readline())
        return int(code), float(took)


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    """Start the process that forks."""
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", FORKS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    ) as child:
        yield Forks(child)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a file of 8 MiB and a directory of two such shards and a configuration."""
    folder = tmp_path_factory.mktemp("inputs")
    generator = np.random.default_rng(0)
    (folder / "directory").mkdir()
    for name in ("file", "directory/one.safetensors", "directory/two.safetensors"):
        names = [f"{name}.{i}.weight" for i in range(2)]
        save_file({n: generator.standard_normal((1024, 1024), dtype=np.float32) for n in names}, folder / name)
    (folder / "directory" / "config.json").write_text("{}")
    return folder


def state(path: Path) -> dict[str, bytes]:
    """Return the bytes of a file, or of every file in a directory, and nothing where there is nothing."""
    found = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    return {p.relative_to(path).as_posix(): p.read_bytes() for p in found}


def prepared(kind: str, inputs: Path, folder: Path) -> tuple[Path, list[str]]:
    """Make `folder` anew with what a run of `kind` finds there; return its target and its command line."""
    what, _, option = kind.partition(" ")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    source, target = inputs / what, folder / "out"
    if option:
        copy = shutil.copytree if what == "directory" else shutil.copyfile
        copy(source, target)
    where = [str(target), option] if option == "--in-place" else [str(source), "-o", str(target), *option.split()]
    return target, ["threshold", *where, "--thr", "0.5", "-q", "--report", str(folder / "report.json"), "-f"]


@pytest.mark.parametrize("number", CODES, ids=lambda number: number.name)
@pytest.mark.parametrize("kind", KINDS)
def test_a_signal_at_any_moment_leaves_old_or_new(
    forks: Forks, inputs: Path, tmp_path: Path, kind: str, number: signal.Signals
) -> None:
    """Files and directories, new, replaced and in place: the old state or the new one, and nothing left over.

    After SIGKILL the next run removes what is left over.
    """
    folder, moments = tmp_path / "run", random.Random(f"{kind} {number}")
    target, arguments = prepared(kind, inputs, folder)
    before = state(target)
    assert forks.run(arguments)[0] == 0
    _, seconds = forks.run(prepared(kind, inputs, folder)[1])
    after = state(target)
    assert after != before

    for _ in range(ROUNDS):
        target, arguments = prepared(kind, inputs, folder)
        code, _ = forks.run(arguments, number, moments.uniform(0, 1.1 * seconds))

        assert code in {0, CODES[number], -number}  # the last before main() listens and after
        assert state(target) in (before, after)
        if number == signal.SIGKILL:
            assert forks.run(arguments)[0] == 0
            assert state(target) == after
        assert left(folder) <= {"out", "report.json"}


@pytest.mark.parametrize("option", ["", "--force", "--in-place"])
@pytest.mark.parametrize(("where", "count"), [("write", 3), ("fsync", 1), ("fsync", 3), ("fsync", 4), ("rmdir", 1)])
def test_a_killed_directory_is_whole_or_absent(
    forks: Forks, inputs: Path, tmp_path: Path, option: str, where: str, count: int
) -> None:
    """SIGKILL leaves a directory that is the old, the new or none, and the next run removes the hidden rest."""
    target, arguments = prepared(f"directory {option}".strip(), inputs, tmp_path / "run")
    before = state(target)

    killed(signal.SIGKILL, where, count, arguments)

    found = state(target)
    assert len(left(target.parent) - {"out", "report.json"}) <= 1
    assert forks.run(arguments)[0] == 0
    assert left(target.parent) == {"out", "report.json"}
    assert found in (before, state(target))


def test_a_kill_between_link_and_rename_is_swept(big: Path, out: Path, expected: bytes) -> None:
    """With --force a file has a hidden name for an instant; killed there, it is removed by the next run."""
    out.write_bytes(OLD)

    assert killed(signal.SIGKILL, "replace", 1, command(big, out, "--force")).returncode == -signal.SIGKILL
    assert out.read_bytes() == OLD
    assert len(left(out.parent)) == 2

    assert main(command(big, out, "--force")) == 0
    assert out.read_bytes() == expected
    assert left(out.parent) == {out.name, "pruned.report.json"}


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


def test_an_input_exchanged_after_its_header_was_read_is_refused(
    small: Path, out: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Somebody puts another file of the same size in the input's place before its weights are read."""
    other = small.with_name("other")
    other.write_bytes(small.read_bytes().replace(b"fc.weight", b"weight.fc"))
    real = asking.select

    def select(*args: Any) -> object:  # noqa: ANN401 - whatever it takes
        other.replace(small)
        return real(*args)

    monkeypatch.setattr(asking, "select", select)

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


@pytest.mark.parametrize("force", [False, True])
def test_two_runs_at_once_leave_one_whole_directory(
    inputs: Path,
    tmp_path: Path,
    force: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    """Of two runs on one directory one is refused, or with --force the later one stays; never a mixture."""
    target, arguments = prepared("directory", inputs, tmp_path / "run")
    arguments = [*arguments[:-1], *(["--force"] if force else [])]
    assert main([*arguments[:3], str(tmp_path / "expected"), *arguments[4:]]) == 0
    (tmp_path / "run" / "report.json").unlink()
    started = [sys.executable, "-m", "prunecli", *arguments]

    pair = [subprocess.Popen(started, stderr=subprocess.PIPE) for _ in range(2)]
    for run in pair:
        run.communicate(timeout=120)

    assert [0, 0 if force else 2] == sorted(run.returncode for run in pair)
    assert state(target) == state(tmp_path / "expected")
    assert left(target.parent) == {"out", "report.json"}


# --- what an output may be


@pytest.fixture
def node(tmp_path: Path) -> Path:
    """Make a device of our own that takes everything, as /dev/null does."""
    path = tmp_path / "node"
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    except OSError:
        pytest.skip("making a device node needs root")
    return path


@pytest.mark.parametrize("option", ["-o", "--report"])
def test_a_device_as_output_survives(
    small: Path, node: Path, out: Path, capfd: pytest.CaptureFixture[str], option: str
) -> None:
    """A device is refused with the way to stream to it, also with --force, and is a device after."""
    report = node.rename(node.with_suffix(".json"))
    where = ["-o", str(report)] if option == "-o" else ["-o", str(out), "--report", str(report)]

    code = main(["threshold", str(small), "--thr", "0.5", *where, "-f", "-q"])

    said = capfd.readouterr().err
    assert code == 2
    assert "is a pipe or a device, not a file" in said
    assert "-o - >" in said
    assert stat.S_ISCHR(report.lstat().st_mode)
    assert left(out.parent) == set()


def test_a_fifo_as_output_survives(small: Path, out: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A fifo is refused, nobody waits for its reader, and it is a fifo after."""
    os.mkfifo(out)

    assert main(command(small, out, "--force")) == 2
    assert "is a pipe or a device" in capfd.readouterr().err
    assert stat.S_ISFIFO(out.lstat().st_mode)


def test_links_as_output(small: Path, out: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A symbolic link is refused, and with --force its file is replaced; a hard link's other name keeps the old."""
    real, other = out.with_name("real"), out.with_name("other")
    real.write_bytes(OLD)
    other.hardlink_to(real)
    out.symlink_to("real")

    assert main(command(small, out)) == 2
    assert "is a symbolic link" in capfd.readouterr().err
    assert main(command(small, out, "--force")) == 0

    assert out.readlink() == Path("real")
    assert real.stat().st_size == small.stat().st_size
    assert other.read_bytes() == OLD


# --- no room


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a filesystem of 8 MiB."""
    path = tmp_path / "disk"
    path.mkdir()
    if not mounted(path, "-t", "tmpfs", "-o", "size=8m", "tmpfs"):
        pytest.skip("mounting a tmpfs needs root")
    yield path
    subprocess.run(["umount", str(path)], check=True)


def mounted(path: Path, *options: str) -> bool:
    """Mount something at `path`, or say that it cannot be."""
    if shutil.which("mount") is None:
        return False
    return subprocess.run(["mount", *options, str(path)], capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_full_disk_is_told_before_any_work(
    inputs: Path, disk: Path, capfd: pytest.CaptureFixture[str], kind: str
) -> None:
    """Where the output does not fit, what was there stays, the message has the sizes, and nothing is left."""
    target, arguments = disk / "out", prepared(kind.split(maxsplit=1)[0], inputs, disk.with_name("unused"))[1]
    arguments[3] = str(target)
    if "-" in kind:
        target.write_bytes(OLD) if kind.startswith("file") else target.mkdir()
    if kind.endswith("--in-place"):
        small_input(target)
        arguments = ["threshold", str(target), "--thr", "0.5", "--in-place", "-q"]
        (disk / "ballast").write_bytes(bytes(3 << 20))
    before, names = state(target), left(disk)

    code = main(arguments)

    said = capfd.readouterr().err
    assert code == 2
    assert re.search(r"^error: no room for .*: it needs [\d.]+ MB, and [\d.]+ [kM]B are free", said)
    assert state(target) == before
    assert left(disk) == names


def small_input(target: Path) -> None:
    """Write 4 MiB of weights to `target`, a file, or to a file in it."""
    path = target / "model.safetensors" if target.is_dir() else target
    save_file({"fc.weight": np.ones((1024, 1024), np.float32)}, path)


def test_a_stale_rest_makes_room_again(small: Path, disk: Path) -> None:
    """What a killed run left is removed before the room for the next is looked at."""
    output = disk / "out.safetensors"
    output.write_bytes(OLD)
    for _ in range(3):
        killed(signal.SIGKILL, "replace", 1, command(small, output, "--force"))

    assert len(left(disk)) == 2
    assert main(command(small, output, "--force")) == 0


def test_a_read_only_filesystem_is_told(small: Path, disk: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Where nothing can be written, that is the message, at once."""
    (disk / "out").write_bytes(OLD)
    assert mounted(disk, "-o", "remount,ro")

    code = main(command(small, disk / "out", "--force"))

    assert code == 2
    assert str(disk) in capfd.readouterr().err
    assert (disk / "out").read_bytes() == OLD


# --- no permission


@pytest.fixture
def plain() -> Iterator[Path]:
    """Make a directory for a user who is not root: for tests that root's permissions would defeat."""
    folder = Path(tempfile.mkdtemp(prefix="prunecli-"))
    if os.geteuid() == 0:
        os.chown(folder, 65534, 65534)
    yield folder
    shutil.rmtree(folder)


PLAIN = """
import os, sys
from prunecli.cli.main import main

args = sys.argv[1:]
main([*args, "--dry-run"])  # imports what only root may be able to read
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
sys.exit(main(args))
"""
"""Run the command line as a user who is not root."""


def as_plain(*args: str) -> subprocess.CompletedProcess[bytes]:
    """Run the command line as a user who is not root."""
    return subprocess.run([sys.executable, "-c", PLAIN, *args, "-q"], capture_output=True, check=False, timeout=60)


def given(folder: Path, source: Path) -> Path:
    """Copy `source` into `folder` for the user who owns it."""
    copy = shutil.copyfile(source, folder / source.name)
    if os.geteuid() == 0:
        os.chown(copy, 65534, 65534)
    return copy


def test_a_read_only_directory_is_told(small: Path, plain: Path) -> None:
    """Without the permission to write in it, nothing happens to what is in a directory."""
    source = given(plain, small)
    plain.chmod(0o555)

    for options in (["-o", str(plain / "out")], ["--in-place"]):
        ran = as_plain("threshold", str(source), "--thr", "0.5", *options)
        assert ran.returncode == 2
        assert f"no permission to write in {plain}".encode() in ran.stderr

    assert source.read_bytes() == small.read_bytes()
    assert left(plain) == {source.name}


def test_an_unreadable_input_is_told(small: Path, plain: Path) -> None:
    """An input that one may not read is named in one sentence."""
    source = given(plain, small)
    if os.geteuid():
        pytest.skip("the dry run before it needs root to read the file")
    source.chmod(0o200)

    ran = as_plain("threshold", str(source), "--thr", "0.5", "-o", str(plain / "out"))

    assert ran.returncode == 2
    assert ran.stderr.decode().startswith(f"error: cannot read {source}: Permission denied\n")
    assert left(plain) == {source.name}


def test_a_read_only_directory_of_shards_is_replaced_whole(small: Path, plain: Path) -> None:
    """A read-only directory gives way to --in-place, keeps its mode, and the old one does not stay behind."""
    (plain / "model").mkdir()
    source = given(plain / "model", small)
    source.chmod(0o444)
    if os.geteuid() == 0:
        os.chown(plain / "model", 65534, 65534)
    (plain / "model").chmod(0o555)

    ran = as_plain("threshold", str(plain / "model"), "--thr", "0.5", "--in-place")

    assert (ran.returncode, ran.stderr) == (0, b"")
    assert source.read_bytes() != small.read_bytes()
    assert [stat.S_IMODE(p.stat().st_mode) for p in (plain / "model", source)] == [0o555, 0o444]
    assert left(plain) == {"model", "model.report.json"}


# --- after publishing


@pytest.mark.parametrize("kind", KINDS)
def test_an_unflushed_directory_is_no_lost_output(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], kind: str
) -> None:
    """When only the last flush fails, the message says that the output is written, and so it is."""
    target, arguments = prepared(kind, inputs, tmp_path / "run")
    real, before = os.fsync, state(target)

    def fsync(fd: int) -> None:
        if os.path.samestat(os.fstat(fd), target.parent.stat()):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)

    assert main(arguments) == 2
    assert capfd.readouterr().err.startswith(f"error: {target} is written, but a power cut may undo it: ")
    assert state(target) != before
    assert left(target.parent) == {"out"}


# --- the page that promises all this


def test_every_test_in_the_table_of_guarantees_exists() -> None:
    """Each promise in docs/guarantees.md names tests that are there."""
    root = Path(__file__).parents[2]
    named = re.findall(r"`(tests/[\w/.]+)::(\w+)`", (root / "docs" / "guarantees.md").read_text(encoding="utf-8"))
    defined = {path: functions(root / path) for path, _ in named}

    assert named
    assert [(path, name) for path, name in named if name not in defined[path]] == []


def functions(path: Path) -> set[str]:
    """Return the names of the functions in a file of tests."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_every_row_of_the_table_of_guarantees_has_a_test() -> None:
    """A promise without a test is none."""
    text = (Path(__file__).parents[2] / "docs" / "guarantees.md").read_text(encoding="utf-8")
    rows = [line for line in text.split("## Not promised")[0].splitlines() if line.startswith("| ")]

    assert [row for row in rows[1:] if not re.search(r"`tests/[\w/.]+::\w+`", row)] == []
