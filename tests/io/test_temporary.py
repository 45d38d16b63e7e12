"""Temporary files are removed on every way out; those of killed processes are removed by the next run."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.outputs import failing, listing, put, writer

from prunecli.io import temporary
from prunecli.io.publish import new_directory, new_file

if TYPE_CHECKING:
    from collections.abc import Callable


def stale_name(parent: Path) -> Path:
    """Return the temporary name of a process that has ended."""
    return temporary.temporary_name(parent)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("what", ["file", "directory"])
def test_stale_temporaries_are_removed(tmp_path: Path, what: str) -> None:
    """The next output, file or directory, removes temporary files and directories that are not locked."""
    stale_name(tmp_path).write_bytes(b"half")
    (stale_name(tmp_path) / "sub").mkdir(parents=True)
    stale = stale_name(tmp_path)
    stale.mkdir()
    (stale / "a").write_bytes(b"half")
    stale.chmod(0o500)

    if what == "file":
        put(tmp_path / "new")
    else:
        with new_directory(tmp_path / "new"):
            pass

    assert [path.name for path in tmp_path.iterdir()] == ["new"]


@pytest.mark.usefixtures("way")
def test_temporaries_of_other_runs_are_kept(tmp_path: Path) -> None:
    """Runs in the same directory do not remove each other's temporary files."""
    with (
        new_file(tmp_path / "a", size=3) as a,
        new_directory(tmp_path / "d") as d,
        new_file(d / "b", size=3) as b,
    ):
        put(tmp_path / "c")
        with new_directory(tmp_path / "e", force=True):
            pass
        for fd in (a, b):
            os.pwrite(fd, b"abc", 0)

    assert listing(tmp_path) == {"a": b"abc", "c": b"new", "d/b": b"abc"}


def test_the_file_of_a_killed_writer_is_removed(tmp_path: Path) -> None:
    """A run keeps the temporary file of a running process, and removes it after that process was killed."""
    (tmp_path / "a").write_bytes(b"old")
    with writer(tmp_path / "a", "named") as child:
        put(tmp_path / "b")
        assert len(listing(tmp_path)) == 3
        child.kill()
    assert len(listing(tmp_path)) == 3

    put(tmp_path / "c")

    assert listing(tmp_path) == {"a": b"old", "b": b"new", "c": b"new"}


def test_a_temporary_name_is_locked_until_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that starts between link and rename does not remove the temporary name."""
    (tmp_path / "a").write_bytes(b"old")
    real = Path.replace

    def replace(path: Path, target: Path) -> Path:
        monkeypatch.undo()
        put(tmp_path / "b")
        return real(path, target)

    monkeypatch.setattr(Path, "replace", replace)

    put(tmp_path / "a", force=True)

    assert listing(tmp_path) == {"a": b"new", "b": b"new"}


@pytest.mark.parametrize(
    "other", [".prune-{boot}-0123456789abcdef.old", ".prune-{boot}-mine.tmp", ".prune-0-0123456789abcdef.tmp"]
)
def test_other_names_are_kept(tmp_path: Path, other: str) -> None:
    """An old directory, a name of another form and a temporary file of another boot are not removed."""
    kept = tmp_path / other.format(boot=temporary._boot())
    kept.write_bytes(b"theirs")

    put(tmp_path / "a")

    assert kept.read_bytes() == b"theirs"


@pytest.mark.parametrize("kind", ["symlink", "another owner", "unknown boot", "no locks"])
def test_a_file_that_may_be_in_use_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Links and files of other users are not removed, nor any file where locks prove nothing."""
    (tmp_path / "precious").write_bytes(b"theirs")
    kept = stale_name(tmp_path)
    kept.symlink_to("precious") if kind == "symlink" else kept.write_bytes(b"theirs")
    if kind == "another owner":
        monkeypatch.setattr(os, "geteuid", lambda: kept.stat().st_uid + 1)
    if kind == "unknown boot":
        monkeypatch.setattr(temporary, "_BOOT", tmp_path / "none")
    if kind == "no locks":
        monkeypatch.setattr(fcntl, "flock", failing(errno.ENOLCK))

    put(tmp_path / "a")
    put(tmp_path / "a", force=True)
    with new_directory(tmp_path / "d") as pending:
        put(pending / "b")

    assert listing(tmp_path) == {"precious": b"theirs", kept.name: b"theirs", "a": b"new", "d/b": b"new"}


@pytest.mark.parametrize("make", [temporary.make_file, temporary.make_directory])
@pytest.mark.parametrize("moment", ["before the lock", "after the lock"])
def test_a_temporary_that_is_removed_at_once_is_created_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], int], moment: str
) -> None:
    """If another run removes a new temporary before it is locked, a second one is created."""
    real, seen = temporary.lock, []

    def removed_by_another_run(fd: int) -> bool:
        seen.append(os.fstat(fd).st_ino)
        if len(seen) > 1:
            return real(fd)
        (path,) = tmp_path.iterdir()
        temporary._remove(path)
        return moment == "after the lock"

    monkeypatch.setattr(temporary, "lock", removed_by_another_run)

    with temporary.temporary_next_to(tmp_path / "a", make) as (fd, path):
        assert os.path.samestat(os.fstat(fd), path.stat())

    assert len(seen) == 2
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_while_cleaning_up_does_not_stop_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupt during the removal of a temporary directory is raised after the removal."""
    real, calls = shutil.rmtree, []

    def rmtree(path: Path, **options: bool) -> None:
        calls.append(path)
        if len(calls) == 1:
            raise KeyboardInterrupt
        real(path, **options)  # type: ignore[arg-type]

    def fill() -> None:
        with new_directory(tmp_path / "d", force=True) as pending:
            put(pending / "a")

    fill()
    monkeypatch.setattr(shutil, "rmtree", rmtree)
    with pytest.raises(KeyboardInterrupt):
        fill()

    assert [path.name for path in tmp_path.iterdir()] == ["d"]
    assert listing(tmp_path) == {"d/a": b"new"}
