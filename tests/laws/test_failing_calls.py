"""System calls that fail, full disks and missing permissions: one error message, and no other file changes."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from support.disks import mount, small_disk
from support.runs import KINDS, NOBODY, Forks, command, contents, names_in, prepare

from prunecli.cli.main import main

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the calls are those of POSIX")

OLD = b"an older output"


def failing(real: Callable[..., Any], number: int, after: int) -> Callable[..., Any]:
    """Return a function that calls `real` the first `after` times, and then fails with the errno `number`."""
    calls = 0

    def call(*args: object, **kwargs: object) -> object:
        nonlocal calls
        calls += 1
        if calls > after:
            raise OSError(number, os.strerror(number))
        return real(*args, **kwargs)

    return call


@pytest.mark.parametrize("options", [(), ("--force",)], ids=str)
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
def test_a_failing_call_is_reported_and_changes_no_file(
    small: Path,
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    fault: tuple[str, int, int],
    options: tuple[str, ...],
) -> None:
    """A full disk, a broken disk and a failed publication end in an error message with the path."""
    name, number, after = fault
    if options:
        out.write_bytes(OLD)
    monkeypatch.setattr(os, name, failing(getattr(os, name), number, after))

    code = main(command(small, out, *options))

    monkeypatch.undo()
    message = capfd.readouterr().err
    assert code == 2
    assert message.startswith("error: ")
    assert os.strerror(number) in message
    assert str(small if name == "preadv" else out.parent) in message
    assert contents(out.parent) == ({out.name: OLD} if options else {})


def test_a_failed_report_is_reported_separately(
    small: Path, out: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """If the checkpoint is published and its report fails, the message says both."""
    monkeypatch.setattr(os, "fsync", failing(os.fsync, errno.EIO, 2))

    code = main(command(small, out))

    monkeypatch.undo()
    assert code == 2
    assert capfd.readouterr().err.startswith(f"error: {out} is written, but its report is not: ")
    assert names_in(out.parent) == {out.name}


def test_a_mask_that_cannot_be_written_is_reported_as_the_mask(
    small: Path, out: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A full disk at the first weight of the mask is one sentence with the mask's path, and no file is written."""
    mask = out.with_name("mask")
    monkeypatch.setattr(os, "pwrite", failing(os.pwrite, errno.ENOSPC, 1))  # the first call writes the mask's header

    code = main(command(small, out, "--mask-out", str(mask)))

    monkeypatch.undo()
    assert code == 2
    assert capfd.readouterr().err.startswith(f"error: not enough space for {mask}: ")
    assert names_in(out.parent) == set()


def test_a_mask_that_cannot_be_published_is_reported_after_the_checkpoint(
    small: Path, out: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The checkpoint is published first; the message says that it is there and the mask is not."""
    mask = out.with_name("mask")
    monkeypatch.setattr(os, "link", failing(os.link, errno.EIO, 1))

    code = main(command(small, out, "--mask-out", str(mask)))

    monkeypatch.undo()
    assert code == 2
    assert capfd.readouterr().err.startswith(
        f"error: {out} is written, but its mask is not: cannot publish {mask}: Input/output error"
    )
    assert names_in(out.parent) == {out.name}


@pytest.mark.parametrize("number", [1, 2, 3])
def test_an_unflushed_checkpoint_says_that_the_mask_is_missing(
    small: Path, out: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], number: int
) -> None:
    """Fsync is called for the checkpoint, its folder and the mask: after each the message says what is there."""
    mask = out.with_name("mask")
    monkeypatch.setattr(os, "fsync", failing(os.fsync, errno.EIO, number - 1))

    assert main(command(small, out, "--mask-out", str(mask))) == 2

    monkeypatch.undo()
    err = capfd.readouterr().err
    assert names_in(out.parent) == (set() if number == 1 else {out.name})
    assert (f"error: {out} is written, but" in err) == (number > 1)
    assert (f"the mask {mask} is not written" in err) == (number == 2)
    assert ("its mask is not" in err) == (number == 3)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="there is no /proc here")
@pytest.mark.parametrize("path", ["/dev/fd/99", "/proc/self/new", "/proc/new", "/proc/self/fd/new"])
@pytest.mark.parametrize("option", ["-o", "--report", "--mask-out"])
def test_a_path_that_takes_no_new_files_is_an_error(
    small: Path, out: Path, capfd: pytest.CaptureFixture[str], path: str, option: str
) -> None:
    """In /proc a new file is neither created nor denied; the run ends with an error, also for root."""
    words = ["threshold", str(small), "--thr", "0.5", "-q", option, path + ".json" * (option == "--report")]

    assert main(words if option == "-o" else [*words, "-o", str(out)]) == 2
    assert capfd.readouterr().err.startswith("error: ")


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="there is no /proc here")
def test_a_directory_at_a_path_that_takes_none_is_an_error(inputs: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A directory of shards cannot be made in /proc."""
    assert main(command(inputs / "directory", Path("/proc/self/new"))) == 2
    assert capfd.readouterr().err.startswith("error: ")


@pytest.mark.parametrize("kind", KINDS)
def test_a_failed_last_flush_says_that_the_output_is_written(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], kind: str
) -> None:
    """If only the last flush fails, the output is there, and the message says so."""
    target, arguments = prepare(kind, inputs, tmp_path / "run")
    real, before = os.fsync, contents(target)

    def fsync(fd: int) -> None:
        if os.path.samestat(os.fstat(fd), target.parent.stat()):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)

    assert main(arguments) == 2
    assert capfd.readouterr().err.startswith(f"error: {target} is written, but a power cut may undo it: ")
    assert contents(target) != before
    assert names_in(target.parent) == {"out"}


# --- full disks


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a filesystem of 8 MiB."""
    with small_disk(tmp_path / "disk", 8) as disk:
        yield disk


@pytest.mark.parametrize("kind", KINDS)
def test_a_full_disk_is_reported_before_any_work(
    inputs: Path, disk: Path, capfd: pytest.CaptureFixture[str], kind: str
) -> None:
    """If the output does not fit, the message has both sizes, and no file changes."""
    target, arguments = disk / "out", prepare(kind.split(maxsplit=1)[0], inputs, disk.with_name("unused"))[1]
    arguments[3] = str(target)
    if "-" in kind:
        target.write_bytes(OLD) if kind.startswith("file") else target.mkdir()
    if kind.endswith("--in-place"):
        write_matrix(target)
        arguments = ["threshold", str(target), "--thr", "0.5", "--in-place", "-q"]
        (disk / "ballast").write_bytes(bytes(3 << 20))
    before, names = contents(target), names_in(disk)

    code = main(arguments)

    assert code == 2
    message = capfd.readouterr().err
    assert re.search(r"^error: not enough space for .*: it needs [\d.]+ MB, and [\d.]+ [kM]B are free", message)
    assert contents(target) == before
    assert names_in(disk) == names


def write_matrix(target: Path) -> None:
    """Write 4 MiB of weights to `target`, a file, or to a file in it."""
    path = target / "model.safetensors" if target.is_dir() else target
    save_file({"fc.weight": np.ones((1024, 1024), np.float32)}, path)


def test_temporary_files_of_a_killed_run_are_removed_before_space_is_checked(
    forks: Forks, small: Path, disk: Path
) -> None:
    """A run removes the temporary files of killed runs before it looks at the free space."""
    output = disk / "out.safetensors"
    output.write_bytes(OLD)
    for _ in range(3):
        forks.run(command(small, output, "--force"), signal.SIGKILL, before=("replace", 1))

    assert len(names_in(disk)) == 2
    assert main(command(small, output, "--force")) == 0


# --- permissions


def test_a_read_only_filesystem_is_reported(small: Path, disk: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """If the filesystem cannot be written, the message names it, and the old output stays."""
    (disk / "out").write_bytes(OLD)
    assert mount(disk, "-o", "remount,ro")

    code = main(command(small, disk / "out", "--force"))

    assert code == 2
    assert str(disk) in capfd.readouterr().err
    assert (disk / "out").read_bytes() == OLD


@pytest.fixture
def owned() -> Iterator[Path]:
    """Make a directory for a user who is not root, as root may write anywhere."""
    folder = Path(tempfile.mkdtemp(prefix="prunecli-"))
    give(folder)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


def give(path: Path) -> None:
    """Give a file to a user without privileges, if these tests run as root."""
    if os.geteuid() == 0:
        os.chown(path, NOBODY, NOBODY)


def copied(source: Path, folder: Path) -> Path:
    """Copy `source` into `folder` for the owner of `folder`."""
    copy = shutil.copyfile(source, folder / source.name)
    give(copy)
    return copy


def test_a_read_only_directory_is_reported(forks: Forks, small: Path, owned: Path) -> None:
    """Without the permission to write in a directory, no file in it changes."""
    source = copied(small, owned)
    owned.chmod(0o555)

    for options in (["-o", str(owned / "out")], ["--in-place"]):
        run = forks.run(["threshold", str(source), "--thr", "0.5", "-q", *options], user=NOBODY)
        assert run.code == 2
        assert f"no permission to write in {owned}" in run.err

    assert contents(owned) == {source.name: small.read_bytes()}


def test_an_unreadable_input_is_reported(forks: Forks, small: Path, owned: Path) -> None:
    """The message names an input that the user may not read."""
    source = copied(small, owned)
    source.chmod(0o200)

    run = forks.run(command(source, owned / "out"), user=NOBODY)

    source.chmod(0o600)
    assert run.code == 2
    assert run.err.startswith(f"error: cannot read {source}: Permission denied\n")
    assert names_in(owned) == {source.name}


def test_a_read_only_directory_of_shards_is_replaced(forks: Forks, small: Path, owned: Path) -> None:
    """With --in-place a read-only directory is replaced completely, and the modes stay."""
    folder = owned / "model"
    folder.mkdir()
    source = copied(small, folder)
    source.chmod(0o444)
    give(folder)
    folder.chmod(0o555)

    run = forks.run(["threshold", str(folder), "--thr", "0.5", "--in-place", "-q"], user=NOBODY)

    assert (run.code, run.out, run.err) == (0, "", "")
    assert source.read_bytes() != small.read_bytes()
    assert [stat.S_IMODE(p.stat().st_mode) for p in (folder, source)] == [0o555, 0o444]
    assert names_in(owned) == {"model", "model.report.json"}
    folder.chmod(0o755)
