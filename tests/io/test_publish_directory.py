"""A new directory appears complete; with force it replaces an old one, unless files would be lost."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest
from support.outputs import listing, put

from prunecli.errors import OutputError
from prunecli.io import publish
from prunecli.io.publish import new_directory

pytestmark = pytest.mark.usefixtures("exchange")


@pytest.fixture(params=["one step", "two steps"])
def exchange(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a test with renameat2 and without it."""
    if request.param == "two steps":
        monkeypatch.setattr(publish, "_renameat2", lambda *_: False)


def test_a_directory_appears_complete(tmp_path: Path) -> None:
    """The directory does not exist inside the block; after it, it has all its files."""
    with new_directory(tmp_path / "d") as pending:
        put(pending / "a")
        (pending / "sub").mkdir()
        put(pending / "sub" / "b", b"deep")
        assert not (tmp_path / "d").exists()

    assert listing(tmp_path) == {"d/a": b"new", "d/sub/b": b"deep"}


def test_a_directory_replaces_the_old_one_with_force(tmp_path: Path) -> None:
    """With force the old directory is replaced, and none of its files remain."""
    (tmp_path / "d").mkdir(mode=0o750)
    (tmp_path / "d" / "a").write_bytes(b"old")

    with new_directory(tmp_path / "d", force=True) as pending:
        put(pending / "a")
        put(pending / "b")

    assert listing(tmp_path) == {"d/a": b"new", "d/b": b"new"}
    assert [p.name for p in tmp_path.iterdir()] == ["d"]
    assert stat.S_IMODE((tmp_path / "d").stat().st_mode) == 0o750


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_exception_leaves_the_old_directory_only(tmp_path: Path, error: type[BaseException]) -> None:
    """An exception in the block keeps the old directory and removes the new one."""
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a").write_bytes(b"old")

    def interrupted() -> None:
        with new_directory(tmp_path / "d", force=True) as pending:
            put(pending / "a")
            raise error

    with pytest.raises(error):
        interrupted()

    assert listing(tmp_path) == {"d/a": b"old"}
    assert [p.name for p in tmp_path.iterdir()] == ["d"]


def test_a_failed_exchange_restores_the_old_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If two renames are needed and the second fails, the first is undone."""
    monkeypatch.setattr(publish, "_renameat2", lambda *_: False)
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a").write_bytes(b"old")
    rename, calls = Path.rename, []

    def second_fails(source: Path, target: Path) -> Path:
        calls.append(target)
        if len(calls) == 3:  # the first finds the old directory there
            raise OSError(errno.EIO, "Input/output error")
        return rename(source, target)

    monkeypatch.setattr(Path, "rename", second_fails)
    with (
        pytest.raises(OutputError, match="cannot publish"),
        new_directory(tmp_path / "d", force=True) as pending,
    ):
        put(pending / "a")

    assert listing(tmp_path) == {"d/a": b"old"}
    assert [p.name for p in tmp_path.iterdir()] == ["d"]


def test_a_directory_that_appears_during_the_run_is_kept(tmp_path: Path) -> None:
    """Without force, a directory that another program creates during the run is not replaced."""

    def raced() -> None:
        with new_directory(tmp_path / "d") as pending:
            put(pending / "a")
            (tmp_path / "d").mkdir()
            put(tmp_path / "d" / "x", b"theirs")

    with pytest.raises(OutputError, match="exists"):
        raced()

    assert listing(tmp_path) == {"d/x": b"theirs"}


@pytest.mark.usefixtures("umask")
def test_members_of_a_replaced_directory_keep_their_modes(tmp_path: Path) -> None:
    """With force, files and directories get the modes of those they replace; new ones get the default."""
    (tmp_path / "d" / "sub").mkdir(parents=True)
    for name, mode in (("a", 0o604), ("sub/b", 0o444)):
        (tmp_path / "d" / name).write_bytes(b"old")
        (tmp_path / "d" / name).chmod(mode)
    (tmp_path / "d" / "sub").chmod(0o711)

    with new_directory(tmp_path / "d", force=True) as pending:
        (pending / "sub").mkdir()
        for name in ("a", "sub/b", "c"):
            put(pending / name)

    modes = {name: stat.S_IMODE((tmp_path / "d" / name).stat().st_mode) for name in ("a", "sub", "sub/b", "c")}
    assert modes == {"a": 0o604, "sub": 0o711, "sub/b": 0o444, "c": 0o640}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may change owners")
def test_members_of_a_replaced_directory_keep_their_owners(tmp_path: Path) -> None:
    """If root replaces a directory of another user, the directory and its files keep that owner."""
    (tmp_path / "d").mkdir()
    put(tmp_path / "d" / "a")
    for path in (tmp_path / "d", tmp_path / "d" / "a"):
        os.chown(path, 1234, 2345)

    with new_directory(tmp_path / "d", force=True) as pending:
        put(pending / "a")

    assert {(p.stat().st_uid, p.stat().st_gid) for p in (tmp_path / "d", tmp_path / "d" / "a")} == {(1234, 2345)}


def test_an_empty_directory_needs_force(tmp_path: Path) -> None:
    """An existing directory is an error even if it is empty; with force it is replaced."""
    (tmp_path / "d").mkdir()

    with pytest.raises(OutputError, match="exists"), new_directory(tmp_path / "d"):
        pytest.fail("the block ran")
    with new_directory(tmp_path / "d", force=True) as pending:
        put(pending / "a")

    assert listing(tmp_path) == {"d/a": b"new"}


def test_a_file_with_the_name_of_the_directory_is_kept(tmp_path: Path) -> None:
    """A file that appears under the directory's name during the run is kept, also with force."""

    def raced() -> None:
        with new_directory(tmp_path / "d", force=True) as pending:
            put(pending / "a")
            put(tmp_path / "d", b"theirs")

    with pytest.raises(OutputError, match="exists"):
        raced()

    assert listing(tmp_path) == {"d": b"theirs"}


def test_a_directory_with_other_files_is_not_replaced(tmp_path: Path) -> None:
    """Force does not replace a directory that has files which the new one has not."""
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "thesis.txt").write_bytes(b"old")

    with (
        pytest.raises(OutputError, match=r"would lose .*thesis\.txt"),
        new_directory(tmp_path / "d", force=True) as pending,
    ):
        put(pending / "a")

    assert listing(tmp_path) == {"d/thesis.txt": b"old"}
