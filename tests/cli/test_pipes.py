"""Pipes: a checkpoint goes from pipe to pipe as it goes from file to file, and nothing stays in between."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from support import CONTAINERS, make_checkpoint

from prunecli.cli import pipes as spool
from prunecli.cli.main import main

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import IO

pytestmark = pytest.mark.skipif(os.name != "posix", reason="pipes and descriptors are POSIX's")

PRUNE = [sys.executable, "-m", "prunecli"]
FILES = [name for name in CONTAINERS if "shards" not in name]
"""The containers that are one file."""

LARGE = 192 << 20  # bytes: more than the process may have

needs_descriptors = pytest.mark.skipif(
    not Path("/proc/self/fd").is_dir(), reason="without paths of descriptors temporaries have names"
)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Spare every child the threads of NumPy's linear algebra."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENBLAS_NUM_THREADS", "1")
        yield


@pytest.fixture
def ckpt(tmp_path: Path) -> Path:
    """Write 3 MiB of weights into a directory of their own."""
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "ckpt.safetensors"
    save_file({"fc.weight": np.random.default_rng(0).standard_normal((768, 1024), dtype=np.float32)}, path)
    return path


@pytest.fixture
def spooled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a directory of our own to those who ask for the temporary one."""
    path = tmp_path / "tmp"
    path.mkdir()
    monkeypatch.setenv("TMPDIR", str(path))
    return path


def piped(*args: str, stdin: IO[bytes] | bytes = b"", **options: Any) -> subprocess.CompletedProcess[bytes]:  # noqa: ANN401
    """Run the command line with `stdin`, bytes through a pipe or a file, and its output into a pipe."""
    source = {"input": stdin} if isinstance(stdin, bytes) else {"stdin": stdin}
    return subprocess.run([*PRUNE, *args], capture_output=True, check=False, timeout=120, **source, **options)


def by_file(source: Path, output: Path, *args: str) -> bytes:
    """Return what the command line makes of a file."""
    command, *options = args
    assert main([command, str(source), *options, "-o", str(output), "-q", "-f"]) == 0
    return output.read_bytes()


@pytest.mark.parametrize("container", FILES)
def test_a_pipe_gives_the_bytes_of_a_file(container: str, tmp_path: Path, spooled: Path) -> None:
    """Every format that is one file is the same through pipes, and no temporary stays."""
    source = make_checkpoint(container, tmp_path)
    expected = by_file(source, tmp_path / "out", "threshold", "--thr", "0.1")

    ran = piped("threshold", "-", "--thr", "0.1", "-o", "-", "-q", stdin=source.read_bytes())

    assert (ran.returncode, ran.stderr) == (0, b"")
    assert ran.stdout == expected
    assert list(spooled.iterdir()) == []


@pytest.mark.parametrize("container", ["safetensors", "nested", "legacy"])
def test_pipes_chain(container: str, tmp_path: Path) -> None:
    """`cat x | prune ... -o - | prune ... -o - | cat` is one run after the other."""
    source = make_checkpoint(container, tmp_path)
    by_file(source, tmp_path / "one", "threshold", "--thr", "0.05")
    expected = by_file(tmp_path / "one", tmp_path / "two", "topk", "--pattern", "2:4")
    prune = f"{sys.executable} -m prunecli"
    line = f"cat {source.name} | {prune} threshold - --thr 0.05 -o - -q | {prune} topk - --pattern 2:4 -o - -q | cat"

    ran = subprocess.run(line, shell=True, cwd=tmp_path, capture_output=True, check=True)  # noqa: S602

    assert ran.stdout == expected


def test_a_pipe_into_a_file_and_a_file_into_a_pipe(ckpt: Path, tmp_path: Path) -> None:
    """Either end may be a file, named or redirected."""
    expected = by_file(ckpt, tmp_path / "expected", "global", "--amount", "0.5")
    half = ("--amount", "0.5", "-q")

    assert piped("global", "-", *half, "-o", str(tmp_path / "a"), stdin=ckpt.read_bytes()).returncode == 0
    with ckpt.open("rb") as source, (tmp_path / "b").open("wb") as target:
        subprocess.run([*PRUNE, "global", "-", *half, "-o", "-"], stdin=source, stdout=target, check=True)

    assert piped("global", str(ckpt), *half, "-o", "-").stdout == expected
    assert [(tmp_path / name).read_bytes() for name in "ab"] == [expected, expected]


@needs_descriptors
def test_a_redirected_file_is_not_copied(
    ckpt: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """`< ckpt` needs no room for a copy: the file itself is read."""
    monkeypatch.setattr(spool, "temporary_file", lambda _folder: pytest.fail("a copy is made"))
    with ckpt.open("rb") as source:
        monkeypatch.setattr(sys, "stdin", source)
        code = main(["global", "-", "--amount", "0.5", "-n", "--json"])

    assert code == 0
    assert '"path": "standard input"' in capfd.readouterr().out


def test_a_redirected_file_is_no_output(ckpt: Path) -> None:
    """`-o ckpt < ckpt` is refused as the same two names are, and the file stays."""
    before = ckpt.read_bytes()

    with ckpt.open("rb") as source:
        ran = piped("global", "-", "--amount", "0.5", "-o", str(ckpt), "-f", stdin=source)

    assert ran.returncode == 2
    assert b"is the input itself" in ran.stderr
    assert ckpt.read_bytes() == before


def test_a_file_that_was_begun_is_read_on(ckpt: Path, tmp_path: Path) -> None:
    """Where somebody has read a header from a redirected file, the checkpoint is what follows."""
    expected = by_file(ckpt, tmp_path / "expected", "global", "--amount", "0.5")
    (tmp_path / "with a header").write_bytes(b"header\n" + ckpt.read_bytes())

    with (tmp_path / "with a header").open("rb", buffering=0) as source:
        source.read(7)
        ran = piped("global", "-", "--amount", "0.5", "-o", "-", "-q", stdin=source)

    assert ran.stdout == expected


def test_pipes_that_do_not_block_lose_nothing(ckpt: Path, tmp_path: Path) -> None:
    """A pipe that its maker has set not to block is waited for, on either side."""
    expected = by_file(ckpt, tmp_path / "expected", "global", "--amount", "0.5")
    (theirs_in, ours_in), (ours_out, theirs_out) = os.pipe(), os.pipe()
    for fd in (theirs_in, theirs_out):
        os.set_blocking(fd, False)
    command = [*PRUNE, "global", "-", "--amount", "0.5", "-o", "-", "-q"]

    with subprocess.Popen(command, stdin=theirs_in, stdout=theirs_out) as child:
        os.close(theirs_in)
        os.close(theirs_out)
        with open(ours_in, "wb") as source, open(ours_out, "rb") as result:  # noqa: PTH123 - descriptors
            source.write(ckpt.read_bytes())
            source.close()
            found = result.read()

    assert child.returncode == 0
    assert found == expected


# --- what goes wrong


@pytest.mark.parametrize("cut", [0, 7, 1000, -1])
def test_a_pipe_that_ends_early_is_refused(ckpt: Path, cut: int) -> None:
    """A download that breaks off gives one sentence and not a byte."""
    ran = piped("global", "-", "--amount", "0.5", "-o", "-", stdin=ckpt.read_bytes()[:cut])

    assert (ran.returncode, ran.stdout) == (2, b"")
    assert ran.stderr.startswith(b"error: standard input ")
    assert b"Traceback" not in ran.stderr


@needs_descriptors
@pytest.mark.parametrize("moment", ["receiving", "working", "sending"])
def test_a_killed_pipe_leaves_no_temporary(ckpt: Path, spooled: Path, moment: str) -> None:
    """SIGKILL, whether bytes come, are pruned or go, leaves nothing in the temporary directory."""
    script = f"""
import os, signal, sys, threading
from prunecli.cli import pipes as spool
from prunecli.io import files as splice
from prunecli.cli.main import main

first = threading.Lock()

def killed(*args, **kwargs):
    first.acquire()  # two threads write at once
    print(os.listdir({str(spooled)!r}), file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

owner, name = dict(receiving=(spool, "_keep"), working=(splice.Sink, "write"), sending=(spool, "_write"))[{moment!r}]
setattr(owner, name, killed)
main(["global", "-", "--amount", "0.5", "-o", "-"])
"""
    ran = subprocess.run(
        [sys.executable, "-c", script], input=ckpt.read_bytes(), capture_output=True, check=False, timeout=60
    )

    assert (ran.returncode, ran.stdout) == (-signal.SIGKILL, b"")
    assert ran.stderr == b"[]\n"  # not even a name while it works
    assert list(spooled.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_pipe_leaves_no_temporary(ckpt: Path, spooled: Path, number: int) -> None:
    """Ctrl-C while the run waits for more bytes ends it at once."""
    command = [*PRUNE, "global", "-", "--amount", "0.5", "-o", "-"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdin is not None
        child.stdin.write(ckpt.read_bytes()[: 1 << 20])
        child.stdin.flush()  # it is reading when this has fit into the pipe
        child.send_signal(number)
        assert child.wait(timeout=60) == 128 + number

    assert list(spooled.iterdir()) == []


@pytest.fixture
def small_tmp(spooled: Path) -> Iterator[Path]:
    """Make the temporary directory a filesystem of 4 MiB."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(spooled)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a tmpfs needs root")
    yield spooled
    subprocess.run(["umount", str(spooled)], check=True)


def test_no_room_for_the_copies_is_told(ckpt: Path, small_tmp: Path, tmp_path: Path) -> None:
    """When the copy of the input or of the output does not fit, the message says where and what to type."""
    data = ckpt.read_bytes()
    (small_tmp / "ballast").write_bytes(bytes(2 << 20))
    for arguments in (("-",), (str(ckpt),)):
        ran = piped("global", *arguments, "--amount", "0.5", "-o", "-", stdin=data)

        assert (ran.returncode, ran.stdout) == (2, b"")
        said = ran.stderr.decode().splitlines()
        assert said == [
            f"error: cannot keep a temporary copy in {small_tmp}: No space left on device",
            "hint: set the environment variable TMPDIR to a directory with enough space",
        ]

    assert piped("global", "-", "--amount", "0.5", "-o", str(tmp_path / "out"), stdin=data).returncode == 0
    assert [path.name for path in small_tmp.iterdir()] == ["ballast"]


def test_a_full_target_of_standard_output_is_told(ckpt: Path, tmp_path: Path) -> None:
    """When whoever takes standard output is full, the run ends with 2 and a sentence."""
    node = tmp_path / "full"
    try:
        os.mknod(node, 0o020666, os.makedev(1, 7))
    except OSError:
        pytest.skip("making a device node needs root")

    with node.open("wb") as full:
        command = [*PRUNE, "global", str(ckpt), "--amount", "0.5", "-o", "-", "-q"]
        ran = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False, timeout=60)

    assert ran.returncode == 2
    assert ran.stderr.startswith(b"error: standard output did not take the whole checkpoint: No space left")


def test_a_reader_that_goes_away_ends_the_run_quietly(ckpt: Path, spooled: Path) -> None:
    """`| head -c 10` ends the run with 141 and without a word."""
    command = [*PRUNE, "global", str(ckpt), "--amount", "0.5", "-o", "-", "-q"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.read(10)
        child.stdout.close()
        said = child.stderr.read()

    assert (child.returncode, said) == (141, b"")
    assert list(spooled.iterdir()) == []


def test_a_failing_pipe_is_told(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """An error while standard input is read is told as such, and not as one of the copy."""
    ours, theirs = os.pipe()
    os.close(theirs)

    def fails(_fd: int, _size: int) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(spool.os, "read", fails)
    with open(ours, "rb") as source:  # noqa: PTH123 - a descriptor
        monkeypatch.setattr(sys, "stdin", source)
        code = main(["global", "-", "--amount", "0.5", "-n"])
    monkeypatch.undo()

    assert code == 2
    assert capfd.readouterr().err.startswith("error: cannot read standard input: Input/output error\n")


# --- size

MEASURED = """
import sys
from prunecli.cli.main import main

assert main() == 0
sys.stderr.write(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
"""
"""Run the command line, and print the most memory it had, in KiB."""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from /proc")
def test_a_large_pipe_takes_no_more_memory(spooled: Path) -> None:
    """The memory of a run does not grow with what goes through its pipes."""
    header = f'{{"fc.weight":{{"dtype":"F32","shape":[{LARGE // 4096},1024],"data_offsets":[0,{LARGE}]}}}}'.encode()
    header += b" " * (-len(header) % 8)
    command = [sys.executable, "-c", MEASURED, "threshold", "-", "--thr", "0.5", "-o", "-", "-q"]

    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdin.write(len(header).to_bytes(8, "little") + header)
        for _ in range(LARGE >> 20):
            child.stdin.write(b"\0\0\x80\x3e\0\0\x80\x3f" * (1 << 17))  # 0.25 and 1.0
        child.stdin.close()
        size = 0
        while data := child.stdout.read(1 << 20):
            size += len(data)
        peak = int(child.stderr.read())

    assert child.returncode == 0
    assert size == 8 + len(header) + LARGE
    assert peak << 10 < LARGE // 2
    assert list(spooled.iterdir()) == []
