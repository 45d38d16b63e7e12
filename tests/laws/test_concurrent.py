"""Other programs that use the same files: changed inputs, outputs that appear, two runs at once, links and devices."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.runs import Forks, command, contents, forking, names_in, prepare

from prunecli.cli.main import main
from prunecli.engine import prepare as engine_prepare
from prunecli.io.files import Sink

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(os.name != "posix", reason="links and devices are those of POSIX")

OLD = b"an older output"


@pytest.mark.parametrize("change", ["append", "rewrite", "truncate"])
def test_an_input_that_changes_is_refused(
    small: Path, out: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], change: str
) -> None:
    """If another program writes to the input during the run, the run ends without an output."""
    real = Sink.write
    size = small.stat().st_size

    def write(self: Sink, data: memoryview, offset: int) -> None:
        if change == "truncate":
            os.truncate(small, size // 2)
        else:
            with small.open("ab" if change == "append" else "r+b") as file:
                file.write(b"\0")
        real(self, data, offset)

    monkeypatch.setattr(Sink, "write", write)

    assert main(command(small, out)) == 2
    assert "changed while it was being read" in capfd.readouterr().err
    assert names_in(out.parent) == set()


def test_an_input_replaced_after_its_header_was_read_is_refused(
    small: Path, out: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """If another file of the same size replaces the input before its weights are read, there is no output."""
    other = small.with_name("other")
    other.write_bytes(small.read_bytes().replace(b"fc.weight", b"weight.fc"))
    real = engine_prepare.select

    def select(*args: Any) -> object:  # noqa: ANN401 - the arguments of the real one
        other.replace(small)
        return real(*args)

    monkeypatch.setattr(engine_prepare, "select", select)

    assert main(command(small, out)) == 2
    assert "changed while it was being read" in capfd.readouterr().err
    assert names_in(out.parent) == set()


@pytest.mark.parametrize("in_place", [False, True])
def test_an_input_replaced_during_the_run_is_refused(
    small: Path, out: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], *, in_place: bool
) -> None:
    """If another file gets the input's name while it is read, there is no output, and the other file stays."""
    other, real = small.with_name("other"), Sink.write
    new = small.read_bytes().replace(b"fc.weight", b"weight.fc")
    other.write_bytes(new)
    target = ["--in-place"] if in_place else ["-o", str(out)]

    def write(self: Sink, data: memoryview, offset: int) -> None:
        with suppress(FileNotFoundError):  # several threads write, and one of them is first
            other.replace(small)
        real(self, data, offset)

    monkeypatch.setattr(Sink, "write", write)

    assert main(["threshold", str(small), "--thr", "0.5", *target, "-q"]) == 2
    assert "changed while it was being read" in capfd.readouterr().err
    assert small.read_bytes() == new
    assert names_in(out.parent) == set()


def test_an_output_that_appears_during_the_run_is_kept(small: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without --force, a file that another program creates under the output's name during the run stays."""
    real = os.fsync

    def fsync(fd: int) -> None:
        if not out.exists():
            out.write_bytes(OLD)
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)

    assert main(command(small, out)) == 2
    assert contents(out.parent) == {out.name: OLD}


# --- two runs at once


@pytest.fixture(scope="module")
def pair(forks: Forks) -> Iterator[tuple[Forks, Forks]]:
    """Return two processes that run at the same time."""
    with forking() as other:
        yield forks, other


@pytest.mark.parametrize("options", [(), ("--force",)], ids=str)
@pytest.mark.parametrize("kind", ["file", "directory"])
def test_two_runs_at_once_leave_one_complete_output(
    pair: tuple[Forks, Forks], inputs: Path, tmp_path: Path, kind: str, options: tuple[str, ...]
) -> None:
    """One of two runs on one output is refused, or with --force the later one stays; never a mixture."""
    target, arguments = prepare(kind, inputs, tmp_path / "run")
    arguments = [*arguments[:-1], *options]
    assert main([*arguments[:3], str(tmp_path / "expected"), *arguments[4:]]) == 0
    (tmp_path / "run" / "report.json").unlink()

    for process in pair:
        process.start(arguments)
    runs = [process.wait() for process in pair]

    assert [0, 0 if options else 2] == sorted(run.code for run in runs)
    assert options or any("exists" in run.err for run in runs)
    assert contents(target) == contents(tmp_path / "expected")
    assert names_in(target.parent) == {"out", "report.json"}


# --- outputs that are no regular file


@pytest.fixture
def device(tmp_path: Path, option: str) -> Path:
    """Make a device that discards every byte, like /dev/null, with a suffix that suits the option."""
    path = tmp_path / ("device.safetensors" if option == "-o" else "device.json")
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    except OSError:
        pytest.skip("making a device node needs root")
    return path


@pytest.mark.parametrize("option", ["-o", "--report"])
def test_a_device_as_output_is_refused(
    small: Path, device: Path, out: Path, capfd: pytest.CaptureFixture[str], option: str
) -> None:
    """A device is refused, also with --force; the hint says how to stream to it, and it stays a device."""
    options = ["-o", str(device)] if option == "-o" else ["-o", str(out), "--report", str(device)]

    code = main(["threshold", str(small), "--thr", "0.5", *options, "-f", "-q"])

    message = capfd.readouterr().err
    assert code == 2
    assert "is a pipe or a device, not a file" in message
    assert "write elsewhere with" in message
    assert stat.S_ISCHR(device.lstat().st_mode)
    assert names_in(out.parent) == set()


def test_a_fifo_as_output_is_refused(small: Path, out: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A fifo is refused without waiting for its reader, and it stays a fifo."""
    os.mkfifo(out)

    assert main(command(small, out, "--force")) == 2
    assert "is a pipe or a device" in capfd.readouterr().err
    assert stat.S_ISFIFO(out.lstat().st_mode)


def test_links_as_output(small: Path, out: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A symbolic link is refused; with --force its file is replaced, and a hard link to that file keeps the old one."""
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
