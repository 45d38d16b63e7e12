"""A failing system call, a full disk or a signal leaves the old file or none, and no temporary file."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.disks import small_disk
from support.outputs import failing, listing, put, writer

from prunecli.errors import OutputError
from prunecli.io import filesystems, publish
from prunecli.io.publish import UnflushedError, new_file

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize(
    ("owner", "call"), [(os, "fsync"), (os, "fchmod"), (os, "link"), (Path, "replace"), (os, "posix_fallocate")]
)
def test_a_failing_call_leaves_the_old_file_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str, *, owner: object, call: str, force: bool
) -> None:
    """If a system call that publishing needs fails, it is an error, and the directory is unchanged."""
    if force:
        (tmp_path / "a").write_bytes(b"old")
    before = listing(tmp_path)
    monkeypatch.setattr(owner, call, failing(errno.EIO))

    if reached(call, way, force=force):
        with pytest.raises(OutputError, match="cannot publish"):
            put(tmp_path / "a", force=force)
        assert listing(tmp_path) == before
    else:
        put(tmp_path / "a", force=force)
        assert listing(tmp_path) == {"a": b"new"}


def reached(call: str, way: str, *, force: bool) -> bool:
    """Return whether publishing needs `call`; a failed reservation is an error only for lack of space."""
    needed = {"fsync", "fchmod"}
    needed |= {"replace"} if force else {"link"}
    needed |= {"link"} if way == "nameless" else set()
    return call in needed


@pytest.mark.usefixtures("way")
def test_a_full_disk_is_an_error_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ENOSPC during the reservation is an error that names the sizes, and the block does not run."""
    monkeypatch.setattr(filesystems, "MOUNTS", tmp_path / "none")
    monkeypatch.setattr(os, "posix_fallocate", failing(errno.ENOSPC))

    with pytest.raises(OutputError, match=r"needs 5\.0 kB, and .* free"), new_file(tmp_path / "a", size=5000):
        pytest.fail("the block ran")

    assert listing(tmp_path) == {}


def test_a_size_beyond_the_free_space_is_not_allocated(tmp_path: Path) -> None:
    """A size beyond the free space is an error before a byte is allocated."""
    size = shutil.disk_usage(tmp_path).free + 10**12

    with pytest.raises(OutputError, match="not enough space"), new_file(tmp_path / "a", size=size):
        pytest.fail("the block ran")


def test_a_full_disk_during_the_work_is_an_output_error(tmp_path: Path) -> None:
    """ENOSPC inside the block is reported as too little space."""
    with pytest.raises(OutputError, match="not enough space"), new_file(tmp_path / "a", size=10):
        raise OSError(errno.ENOSPC, "No space left on device")

    assert listing(tmp_path) == {}


def test_memory_is_not_reserved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a tmpfs, as the list of mounts says, the pending file gets its size without a reservation."""
    device = tmp_path.stat().st_dev
    line = f"36 35 {os.major(device)}:{os.minor(device)} / /tmp rw - tmpfs tmpfs rw"
    (tmp_path / "mounts").write_text(f"1 0 999:999 / / rw - ext4 /dev/vda rw\n{line}\n")
    monkeypatch.setattr(filesystems, "MOUNTS", tmp_path / "mounts")
    monkeypatch.setattr(os, "posix_fallocate", failing(errno.ENOSPC))

    with new_file(tmp_path / "a", size=4096) as fd:
        assert os.fstat(fd).st_size == 4096


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EINVAL])
def test_a_file_without_reservation_has_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """The pending file has its size also if space cannot be reserved."""
    monkeypatch.setattr(os, "posix_fallocate", failing(number))

    with new_file(tmp_path / "a", size=4096) as fd:
        assert os.fstat(fd).st_size == 4096


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a filesystem of 1 MiB."""
    with small_disk(tmp_path / "disk", 1) as disk:
        yield disk


@pytest.mark.usefixtures("way")
def test_a_full_filesystem_keeps_the_old_file(disk: Path) -> None:
    """On a full filesystem the old file is unchanged, and an output that fits is published."""
    put(disk / "a", b"o" * 600_000)

    with pytest.raises(OutputError, match="not enough space"):
        put(disk / "a", b"n" * 600_000, force=True)
    put(disk / "b", b"n" * 300_000)

    assert listing(disk) == {"a": b"o" * 600_000, "b": b"n" * 300_000}


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("force", [False, True])
def test_a_directory_that_cannot_be_flushed_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, force: bool
) -> None:
    """If the directory cannot be flushed after publishing, the error says that the file is written."""
    real = os.fsync

    def fsync(fd: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)

    with pytest.raises(UnflushedError, match=r"is written, but a power cut may undo it: .*Input/output error"):
        put(tmp_path / "a", force=force)

    assert listing(tmp_path) == {"a": b"new"}


@pytest.mark.parametrize(
    ("number", "way"),
    [
        (signal.SIGKILL, "nameless"),
        (signal.SIGTERM, "nameless"),
        (signal.SIGTERM, "named"),
        (signal.SIGINT, "named"),
    ],
)
def test_a_killed_writer_leaves_the_old_file_only(tmp_path: Path, number: int, way: str) -> None:
    """A process that is killed while it writes leaves the old file unchanged and no other file."""
    if way == "nameless" and not nameless_works(tmp_path):
        pytest.skip("this filesystem has no nameless files")
    (tmp_path / "a").write_bytes(b"old")
    with writer(tmp_path / "a", way) as child:
        child.send_signal(number)

    assert child.returncode != 0
    assert listing(tmp_path) == {"a": b"old"}


def nameless_works(directory: Path) -> bool:
    """Return whether O_TMPFILE works in `directory`."""
    fd = publish._open_nameless(directory)
    if fd is None:
        return False
    os.close(fd)
    return True
