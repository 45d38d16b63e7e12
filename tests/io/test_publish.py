"""A new file appears complete, with the right mode and owner, and replaces no file without force."""

from __future__ import annotations

import errno
import os
import stat
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.outputs import failing, listing, put

from prunecli.errors import OutputError
from prunecli.io import publish
from prunecli.io.publish import new_file, publish_text

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("way")


def test_a_new_file_appears_complete(tmp_path: Path) -> None:
    """The published file has the bytes that were written, and no other file remains."""
    put(tmp_path / "a", b"abc")

    assert listing(tmp_path) == {"a": b"abc"}


def test_the_target_does_not_exist_before_the_end(tmp_path: Path) -> None:
    """The target does not exist inside the block."""
    with new_file(tmp_path / "a", size=3):
        assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, OSError])
def test_an_exception_leaves_the_old_file_only(tmp_path: Path, error: type[BaseException]) -> None:
    """After any exception the old file is unchanged and there is no other file."""
    (tmp_path / "a").write_bytes(b"old")

    def interrupted() -> None:
        with new_file(tmp_path / "a", size=3, force=True) as fd:
            os.pwrite(fd, b"n", 0)
            raise error

    with pytest.raises(error):
        interrupted()

    assert listing(tmp_path) == {"a": b"old"}


def test_an_existing_file_is_an_error_without_force(tmp_path: Path) -> None:
    """An existing output is an error before the block runs, and is unchanged."""
    (tmp_path / "a").write_bytes(b"old")

    with pytest.raises(OutputError, match="exists") as caught, new_file(tmp_path / "a", size=3):
        pytest.fail("the block ran")

    assert listing(tmp_path) == {"a": b"old"}
    assert "output=" in str(caught.value.hint)


def test_a_file_that_appears_during_the_run_is_kept(tmp_path: Path) -> None:
    """A file that another program creates during the run is not replaced."""
    with pytest.raises(OutputError, match="exists"), new_file(tmp_path / "a", size=3):
        (tmp_path / "a").write_bytes(b"theirs")

    assert listing(tmp_path) == {"a": b"theirs"}


def test_one_of_many_writers_succeeds(tmp_path: Path) -> None:
    """If eight threads publish the same name at once, one succeeds and its file is complete."""
    barrier, won = threading.Barrier(8), []

    def write(i: int) -> None:
        with new_file(tmp_path / "a", size=4) as fd:
            os.pwrite(fd, bytes([i]) * 4, 0)
            barrier.wait()
        won.append(i)

    def quietly(i: int) -> None:
        try:
            write(i)
        except OutputError:
            return

    threads = [threading.Thread(target=quietly, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(won) == 1
    assert listing(tmp_path) == {"a": bytes(won) * 4}


@pytest.mark.usefixtures("umask")
def test_a_new_file_has_the_mode_minus_the_umask(tmp_path: Path) -> None:
    """A new file has the requested mode minus the umask."""
    put(tmp_path / "a", mode=0o664)

    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


@pytest.mark.usefixtures("umask")
def test_a_replaced_file_keeps_its_mode(tmp_path: Path) -> None:
    """The mode of an existing file is kept, whatever the umask."""
    (tmp_path / "a").write_bytes(b"old")
    (tmp_path / "a").chmod(0o606)

    put(tmp_path / "a", mode=0o600, force=True)

    assert listing(tmp_path) == {"a": b"new"}
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o606


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may change owners")
def test_a_replaced_file_keeps_its_owner(tmp_path: Path) -> None:
    """If root replaces the file of another user, the new file belongs to that user."""
    (tmp_path / "a").write_bytes(b"old")
    os.chown(tmp_path / "a", 1234, 2345)

    put(tmp_path / "a", force=True)

    assert listing(tmp_path) == {"a": b"new"}
    assert ((tmp_path / "a").stat().st_uid, (tmp_path / "a").stat().st_gid) == (1234, 2345)


def test_an_owner_that_cannot_be_kept_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user who may replace the file of another user, but not change owners, owns the new file."""
    (tmp_path / "a").write_bytes(b"old")
    monkeypatch.setattr(os, "fchown", failing(errno.EPERM))
    monkeypatch.setattr(os, "fstat", other_owner(os.fstat))

    put(tmp_path / "a", force=True)

    assert listing(tmp_path) == {"a": b"new"}


def other_owner(real: Callable[[int], os.stat_result]) -> Callable[[int], os.stat_result]:
    """Return an fstat that reports another group."""

    def fstat(fd: int) -> os.stat_result:
        status = real(fd)
        return os.stat_result((*status[:5], status.st_gid + 1, *status[6:]))

    return fstat


def test_a_symbolic_link_keeps_its_target_with_force(tmp_path: Path) -> None:
    """With force a symbolic link stays, and the file it points to is replaced."""
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")

    put(tmp_path / "link", force=True)

    assert (tmp_path / "link").readlink() == Path("real")
    assert listing(tmp_path) == {"real": b"new", "link": b"new"}


def test_another_hard_link_keeps_the_old_bytes(tmp_path: Path) -> None:
    """The other hard links of a replaced file keep the old bytes."""
    (tmp_path / "a").write_bytes(b"old")
    (tmp_path / "b").hardlink_to(tmp_path / "a")

    put(tmp_path / "a", force=True)

    assert listing(tmp_path) == {"a": b"new", "b": b"old"}


@pytest.mark.parametrize("step", ["one step", "two steps"])
def test_without_hard_links_no_file_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """On a filesystem without links, renameat2 or an empty file reserves the name, and an existing file is kept."""
    monkeypatch.setattr(publish, "_open_nameless", lambda _parent: None)
    monkeypatch.setattr(os, "link", failing(errno.EPERM))
    if step == "two steps":
        monkeypatch.setattr(publish, "_renameat2", lambda *_: False)
    else:
        monkeypatch.setattr(publish, "_claim", failing(errno.EIO))

    put(tmp_path / "a", b"first")
    with pytest.raises(OutputError, match="exists"), new_file(tmp_path / "b", size=1):
        (tmp_path / "b").write_bytes(b"theirs")

    assert listing(tmp_path) == {"a": b"first", "b": b"theirs"}


def test_a_name_of_255_bytes_works(tmp_path: Path) -> None:
    """The temporary name does not contain the target name, which may have 255 bytes."""
    name = "n" * 255

    put(tmp_path / name, force=True)

    assert listing(tmp_path) == {name: b"new"}


def test_text_is_published_as_utf8(tmp_path: Path) -> None:
    """A report is written as UTF-8; surrogates are escaped."""
    publish_text(tmp_path / "r.json", "é\udc80\n")

    assert listing(tmp_path) == {"r.json": b"\xc3\xa9\\udc80\n"}


def test_text_needs_force_to_replace(tmp_path: Path) -> None:
    """An existing text file is an error, and with force it is replaced."""
    publish_text(tmp_path / "r", "one")

    with pytest.raises(OutputError, match="exists"):
        publish_text(tmp_path / "r", "two")
    publish_text(tmp_path / "r", "three", force=True)

    assert listing(tmp_path) == {"r": b"three"}
