"""Checkpoints through pipes: the same bytes as through files, and no temporary file remains."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from support import CONTAINERS, make_checkpoint
from support.children import run_python, start_python
from support.disks import small_disk

from prunecli.cli import pipes
from prunecli.cli.main import main

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import IO

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs POSIX pipes and descriptors")

FILES = [n for n, one in CONTAINERS.items() if "shards" not in n and one.library in {"torch", "safetensors"}] + ["npz"]
"""The containers that are one file, and one of another library."""

LARGE = 192 << 20  # bytes: more than the process may use

ALL_PIPES = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}

needs_descriptors = pytest.mark.skipif(
    not Path("/proc/self/fd").is_dir(), reason="temporary files have names where descriptors have no paths"
)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Keep NumPy from starting its threads of linear algebra in each child."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENBLAS_NUM_THREADS", "1")
        yield


@pytest.fixture
def ckpt(tmp_path: Path) -> Path:
    """Write 3 MiB of weights into a directory of its own."""
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "ckpt.safetensors"
    save_file({"fc.weight": np.random.default_rng(0).standard_normal((768, 1024), dtype=np.float32)}, path)
    return path


@pytest.fixture
def spooled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a new directory that the command line takes for the temporary one."""
    path = tmp_path / "tmp"
    path.mkdir()
    monkeypatch.setenv("TMPDIR", str(path))
    return path


def piped(*args: str, stdin: IO[bytes] | bytes = b"", **options: Any) -> subprocess.CompletedProcess[bytes]:  # noqa: ANN401
    """Run the command line with `stdin`, bytes through a pipe or a file, and its output into a pipe."""
    source = {"input": stdin} if isinstance(stdin, bytes) else {"stdin": stdin}
    return run_python("-m", "prunecli", *args, **source, **options)


def start(*args: str, **streams: Any) -> subprocess.Popen[bytes]:  # noqa: ANN401 - those of Popen
    """Start the command line."""
    return start_python("-m", "prunecli", *args, **streams)


def by_file(source: Path, output: Path, *args: str) -> bytes:
    """Return the bytes that the command line writes for a file."""
    command, *options = args
    assert main([command, str(source), *options, "-o", str(output), "-q", "-f"]) == 0
    return output.read_bytes()


@pytest.mark.parametrize("container", FILES)
def test_a_pipe_gives_the_bytes_of_a_file(container: str, tmp_path: Path, spooled: Path) -> None:
    """Every container of one file gives the same bytes through pipes, and no temporary file remains."""
    source = make_checkpoint(container, tmp_path)
    expected = by_file(source, tmp_path / "out", "threshold", "--thr", "0.1")

    ran = piped("threshold", "-", "--thr", "0.1", "-o", "-", "-q", stdin=source.read_bytes())

    assert (ran.returncode, ran.stderr) == (0, b"")
    assert ran.stdout == expected
    assert list(spooled.iterdir()) == []


@pytest.mark.parametrize("container", ["safetensors", "nested", "legacy"])
def test_pipes_chain(container: str, tmp_path: Path) -> None:
    """`cat x | prune ... -o - | prune ... -o - | cat` equals one run after the other."""
    source = make_checkpoint(container, tmp_path)
    by_file(source, tmp_path / "one", "threshold", "--thr", "0.05")
    expected = by_file(tmp_path / "one", tmp_path / "two", "topk", "--pattern", "2:4")
    prune = f"{sys.executable} -m prunecli"
    line = f"cat {source.name} | {prune} threshold - --thr 0.05 -o - -q | {prune} topk - --pattern 2:4 -o - -q | cat"

    ran = subprocess.run(line, shell=True, cwd=tmp_path, capture_output=True, check=True)  # noqa: S602

    assert ran.stdout == expected


@needs_descriptors
def test_a_hint_about_a_pipe_has_no_path_of_a_copy() -> None:
    """A command that a hint proposes reads standard input too."""
    buffer = io.BytesIO()
    torch.save({"w_orig": torch.ones(2, 2), "w_mask": torch.ones(2, 2)}, buffer)

    assert piped("l1", "-", "--amount", "50%", "-n", stdin=buffer.getvalue()).stderr.endswith(b"hint: prune bake -\n")


def test_a_pipe_into_a_file_and_a_file_into_a_pipe(ckpt: Path, tmp_path: Path) -> None:
    """Either end can be a file, by name or by redirection."""
    expected = by_file(ckpt, tmp_path / "expected", "global", "--amount", "0.5")
    half = ("--amount", "0.5", "-q")

    assert piped("global", "-", *half, "-o", str(tmp_path / "a"), stdin=ckpt.read_bytes()).returncode == 0
    with ckpt.open("rb") as source, (tmp_path / "b").open("wb") as target:
        assert start("global", "-", *half, "-o", "-", stdin=source, stdout=target).wait(timeout=600) == 0

    assert piped("global", str(ckpt), *half, "-o", "-").stdout == expected
    assert [(tmp_path / name).read_bytes() for name in "ab"] == [expected, expected]


@needs_descriptors
def test_a_redirected_file_is_not_copied(
    ckpt: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """`< ckpt` needs no space for a copy: the file itself is read."""
    monkeypatch.setattr(pipes, "temporary_file", lambda _folder: pytest.fail("a copy is made"))
    with ckpt.open("rb") as source:
        monkeypatch.setattr(sys, "stdin", source)
        code = main(["global", "-", "--amount", "0.5", "-n", "--json"])

    assert code == 0
    assert '"path": "standard input"' in capfd.readouterr().out


def test_a_redirected_file_cannot_be_the_output(ckpt: Path) -> None:
    """`-o ckpt < ckpt` is refused as input and output with one name are, and the file does not change."""
    before = ckpt.read_bytes()

    with ckpt.open("rb") as source:
        ran = piped("global", "-", "--amount", "0.5", "-o", str(ckpt), "-f", stdin=source)

    assert ran.returncode == 2
    assert b"is the input itself" in ran.stderr
    assert ckpt.read_bytes() == before


def test_a_partly_read_file_is_read_from_its_position(ckpt: Path, tmp_path: Path) -> None:
    """If another process has read a header from a redirected file, the checkpoint is the rest."""
    expected = by_file(ckpt, tmp_path / "expected", "global", "--amount", "0.5")
    (tmp_path / "with a header").write_bytes(b"header\n" + ckpt.read_bytes())

    with (tmp_path / "with a header").open("rb", buffering=0) as source:
        source.read(7)
        ran = piped("global", "-", "--amount", "0.5", "-o", "-", "-q", stdin=source)

    assert ran.stdout == expected


def test_non_blocking_pipes_lose_no_bytes(ckpt: Path, tmp_path: Path) -> None:
    """The run waits for a non-blocking pipe, for input as well as for output."""
    expected = by_file(ckpt, tmp_path / "expected", "global", "--amount", "0.5")
    (theirs_in, ours_in), (ours_out, theirs_out) = os.pipe(), os.pipe()
    for fd in (theirs_in, theirs_out):
        os.set_blocking(fd, False)

    with start("global", "-", "--amount", "0.5", "-o", "-", "-q", stdin=theirs_in, stdout=theirs_out) as child:
        os.close(theirs_in)
        os.close(theirs_out)
        with open(ours_in, "wb") as source, open(ours_out, "rb") as result:  # noqa: PTH123 - descriptors
            source.write(ckpt.read_bytes())
            source.close()
            output = result.read()

    assert child.returncode == 0
    assert output == expected


# --- errors


@pytest.mark.parametrize("cut", [0, 7, 1000, -1])
def test_a_pipe_that_ends_early_is_refused(ckpt: Path, cut: int) -> None:
    """A truncated download gives one sentence and no byte of output."""
    ran = piped("global", "-", "--amount", "0.5", "-o", "-", stdin=ckpt.read_bytes()[:cut])

    assert (ran.returncode, ran.stdout) == (2, b"")
    assert ran.stderr.startswith(b"error: standard input ")
    assert b"Traceback" not in ran.stderr


@needs_descriptors
@pytest.mark.parametrize("moment", ["receiving", "working", "sending"])
def test_a_killed_pipe_leaves_no_temporary(ckpt: Path, spooled: Path, moment: str) -> None:
    """SIGKILL while bytes are received, pruned or sent leaves nothing in the temporary directory."""
    script = f"""
import os, signal, sys, threading
from prunecli.cli import pipes
from prunecli.io import files
from prunecli.cli.main import main

first = threading.Lock()

def kill(*args, **kwargs):
    first.acquire()  # two threads write at once
    print(os.listdir({str(spooled)!r}), file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

places = dict(receiving=(pipes, "_write_copy"), working=(files.Sink, "write"), sending=(pipes, "_write"))
setattr(*places[{moment!r}], kill)
main(["global", "-", "--amount", "0.5", "-o", "-"])
"""
    ran = run_python("-c", script, input=ckpt.read_bytes())

    assert (ran.returncode, ran.stdout) == (-signal.SIGKILL, b"")
    assert ran.stderr == b"[]\n"  # the file has no name during the run either
    assert list(spooled.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_pipe_leaves_no_temporary(ckpt: Path, spooled: Path, number: int) -> None:
    """Ctrl-C while the run waits for more bytes ends it at once."""
    with start("global", "-", "--amount", "0.5", "-o", "-", **ALL_PIPES) as child:
        assert child.stdin is not None
        child.stdin.write(ckpt.read_bytes()[: 1 << 20])
        child.stdin.flush()  # more than a pipe holds, so the run is reading now
        child.send_signal(number)
        assert child.wait(timeout=600) == 128 + number

    assert list(spooled.iterdir()) == []


@pytest.fixture
def small_tmp(spooled: Path) -> Iterator[Path]:
    """Make the temporary directory a filesystem of 4 MiB."""
    with small_disk(spooled, 4) as disk:
        yield disk


def test_missing_space_for_a_copy_is_reported(ckpt: Path, small_tmp: Path, tmp_path: Path) -> None:
    """If the copy of the input or of the output does not fit, the message says where, and the hint what to type."""
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


def test_a_full_target_of_standard_output_is_reported(ckpt: Path, tmp_path: Path) -> None:
    """If the target of standard output is full, the run ends with 2 and one sentence."""
    node = tmp_path / "full"
    try:
        os.mknod(node, 0o020666, os.makedev(1, 7))
    except OSError:
        pytest.skip("making a device node needs root")

    with node.open("wb") as full:
        arguments = ("global", str(ckpt), "--amount", "0.5", "-o", "-", "-q")
        with start(*arguments, stdout=full, stderr=subprocess.PIPE) as child:
            _, errors = child.communicate(timeout=600)

    assert child.returncode == 2
    assert errors.startswith(b"error: standard output did not take the whole checkpoint: No space left")


def test_a_closed_reader_ends_the_run_quietly(ckpt: Path, spooled: Path) -> None:
    """`| head -c 10` ends the run with 141 and without a message."""
    arguments = ("global", str(ckpt), "--amount", "0.5", "-o", "-", "-q")
    with start(*arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.read(10)
        child.stdout.close()
        errors = child.stderr.read()

    assert (child.returncode, errors) == (141, b"")
    assert list(spooled.iterdir()) == []


def test_an_error_of_standard_input_is_reported(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """An error while standard input is read is not reported as one of the copy."""
    ours, theirs = os.pipe()
    os.close(theirs)

    def fail(_fd: int, _size: int) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(pipes.os, "read", fail)
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
"""Run the command line, and print its peak memory in KiB."""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from /proc")
def test_the_memory_of_a_run_does_not_grow_with_its_pipes(spooled: Path) -> None:
    """A run that pipes more than its memory limit stays below half of that size."""
    header = f'{{"fc.weight":{{"dtype":"F32","shape":[{LARGE // 4096},1024],"data_offsets":[0,{LARGE}]}}}}'.encode()
    header += b" " * (-len(header) % 8)
    arguments = ("threshold", "-", "--thr", "0.5", "-o", "-", "-q")

    with start_python("-c", MEASURED, *arguments, **ALL_PIPES) as child:
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
