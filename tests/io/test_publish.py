"""Publish or nothing: faults, races, signals, links, modes and refusals."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest

from prunecli.errors import OutputError
from prunecli.io import publish as output
from prunecli.io import temporary as hidden
from prunecli.io.publish import (
    UnflushedError,
    check_output,
    check_writable_target,
    new_directory,
    new_file,
    publish_text,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(params=["nameless", "named"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a test with O_TMPFILE and with the named temporary that stands in for it."""
    if request.param == "named":
        monkeypatch.setattr(output, "_open_nameless", lambda _parent: None)
    return str(request.param)


@pytest.fixture
def umask() -> Iterator[None]:
    """Fix the umask to 0o027 for a test."""
    old = os.umask(0o027)
    yield
    os.umask(old)


def put(target: Path, data: bytes = b"new", *, mode: int = 0o666, force: bool = False) -> None:
    """Publish `data` at `target`."""
    with new_file(target, size=len(data), mode=mode, force=force) as draft:
        os.pwrite(draft.fd, data, 0)


def failing(number: int) -> Callable[..., NoReturn]:
    """Make a function that fails with the errno `number`."""

    def fail(*_args: object, **_kwargs: object) -> NoReturn:
        raise OSError(number, os.strerror(number))

    return fail


def listing(directory: Path) -> dict[str, bytes]:
    """Read every file below `directory`."""
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


# --- one file


@pytest.mark.usefixtures("way")
def test_new_file_appears_whole(tmp_path: Path) -> None:
    """The bytes written to the draft are the published file, and nothing else is left."""
    put(tmp_path / "a", b"abc")

    assert listing(tmp_path) == {"a": b"abc"}


@pytest.mark.usefixtures("way")
def test_nothing_shows_before_the_end(tmp_path: Path) -> None:
    """The target does not exist while the draft is open."""
    with new_file(tmp_path / "a", size=3):
        assert not (tmp_path / "a").exists()


@pytest.mark.usefixtures("way")
def test_draft_can_be_opened_a_second_time(tmp_path: Path) -> None:
    """Bytes written through `draft.path` reach the same file."""
    with new_file(tmp_path / "a", size=3) as draft:
        fd = os.open(draft.path, os.O_WRONLY)
        os.pwrite(fd, b"xyz", 0)
        os.close(fd)

    assert listing(tmp_path) == {"a": b"xyz"}


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, OSError])
def test_exception_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    """Whatever ends the block early, no file is left and the old one stays."""
    (tmp_path / "a").write_bytes(b"old")

    def interrupted() -> None:
        with new_file(tmp_path / "a", size=3, force=True) as draft:
            os.pwrite(draft.fd, b"n", 0)
            raise error

    with pytest.raises(error):
        interrupted()

    assert listing(tmp_path) == {"a": b"old"}


@pytest.mark.usefixtures("way")
def test_existing_file_is_refused_without_force(tmp_path: Path) -> None:
    """An existing output is refused before the block runs, and stays."""
    (tmp_path / "a").write_bytes(b"old")

    with pytest.raises(OutputError, match="exists") as caught, new_file(tmp_path / "a", size=3):
        pytest.fail("the block ran")

    assert listing(tmp_path) == {"a": b"old"}
    assert "output=" in str(caught.value.hint)


@pytest.mark.usefixtures("way")
def test_file_that_appears_meanwhile_wins(tmp_path: Path) -> None:
    """No-clobber holds at the moment of publishing: a file made during the run is kept."""
    with pytest.raises(OutputError, match="exists"), new_file(tmp_path / "a", size=3):
        (tmp_path / "a").write_bytes(b"theirs")

    assert listing(tmp_path) == {"a": b"theirs"}


@pytest.mark.usefixtures("way")
def test_one_of_many_writers_wins(tmp_path: Path) -> None:
    """Of eight runs that publish one name at once, one succeeds and its file is whole."""
    barrier, won = threading.Barrier(8), []

    def write(i: int) -> None:
        with new_file(tmp_path / "a", size=4) as draft:
            os.pwrite(draft.fd, bytes([i]) * 4, 0)
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


@pytest.mark.usefixtures("way", "umask")
def test_new_file_gets_mode_less_umask(tmp_path: Path) -> None:
    """A new file has the mode asked for, less the umask."""
    put(tmp_path / "a", mode=0o664)

    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


@pytest.mark.usefixtures("way", "umask")
def test_replaced_file_keeps_its_mode(tmp_path: Path) -> None:
    """Over an existing file the mode is the old one's, whatever the umask."""
    (tmp_path / "a").write_bytes(b"old")
    (tmp_path / "a").chmod(0o606)

    put(tmp_path / "a", mode=0o600, force=True)

    assert listing(tmp_path) == {"a": b"new"}
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o606


@pytest.mark.usefixtures("way")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_replaced_file_keeps_its_owner(tmp_path: Path) -> None:
    """Over an existing file of somebody else, root writes a file that is theirs."""
    (tmp_path / "a").write_bytes(b"old")
    os.chown(tmp_path / "a", 1234, 2345)

    put(tmp_path / "a", force=True)

    assert listing(tmp_path) == {"a": b"new"}
    assert ((tmp_path / "a").stat().st_uid, (tmp_path / "a").stat().st_gid) == (1234, 2345)


@pytest.mark.usefixtures("way")
def test_an_owner_that_cannot_be_kept_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who may replace a file of somebody else and not give theirs away owns the new one."""
    (tmp_path / "a").write_bytes(b"old")
    monkeypatch.setattr(os, "fchown", failing(errno.EPERM))
    monkeypatch.setattr(os, "fstat", other_owner(os.fstat))

    put(tmp_path / "a", force=True)

    assert listing(tmp_path) == {"a": b"new"}


def other_owner(real: Callable[[int], os.stat_result]) -> Callable[[int], os.stat_result]:
    """Make an fstat that tells of a group of its own."""

    def fstat(fd: int) -> os.stat_result:
        status = real(fd)
        return os.stat_result((*status[:5], status.st_gid + 1, *status[6:]))

    return fstat


@pytest.mark.usefixtures("way")
def test_forced_link_keeps_pointing(tmp_path: Path) -> None:
    """With force a symbolic link stays a link, and the file it names is replaced."""
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")

    put(tmp_path / "link", force=True)

    assert (tmp_path / "link").readlink() == Path("real")
    assert listing(tmp_path) == {"real": b"new", "link": b"new"}


@pytest.mark.usefixtures("way")
def test_hard_link_is_broken_not_written_through(tmp_path: Path) -> None:
    """Other names of a replaced file keep the old bytes."""
    (tmp_path / "a").write_bytes(b"old")
    (tmp_path / "b").hardlink_to(tmp_path / "a")

    put(tmp_path / "a", force=True)

    assert listing(tmp_path) == {"a": b"new", "b": b"old"}


@pytest.mark.parametrize("step", ["one step", "two steps"])
def test_no_hard_links_still_no_clobber(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """Where the filesystem has no links, the kernel or else an empty file keeps the name, and an existing one wins."""
    monkeypatch.setattr(output, "_open_nameless", lambda _parent: None)
    monkeypatch.setattr(os, "link", failing(errno.EPERM))
    if step == "two steps":
        monkeypatch.setattr(output, "_renameat2", lambda *_: False)
    else:
        monkeypatch.setattr(output, "_claim", failing(errno.EIO))

    put(tmp_path / "a", b"first")
    with pytest.raises(OutputError, match="exists"), new_file(tmp_path / "b", size=1):
        (tmp_path / "b").write_bytes(b"theirs")

    assert listing(tmp_path) == {"a": b"first", "b": b"theirs"}


def test_long_names_work(tmp_path: Path) -> None:
    """A target name of 255 bytes leaves room for the temporary's."""
    name = "n" * 255

    put(tmp_path / name, force=True)

    assert listing(tmp_path) == {name: b"new"}


# --- faults


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize(
    ("owner", "call"), [(os, "fsync"), (os, "fchmod"), (os, "link"), (Path, "replace"), (os, "posix_fallocate")]
)
def test_fault_leaves_the_old_file_or_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str, *, owner: object, call: str, force: bool
) -> None:
    """A system call that publishing needs and that fails is an error, and the directory is as before."""
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
    """Say whether publishing depends on `call`: a reservation that fails for no lack of space does not matter."""
    needed = {"fsync", "fchmod"}
    needed |= {"replace"} if force else {"link"}
    needed |= {"link"} if way == "nameless" else set()
    return call in needed


@pytest.mark.usefixtures("way")
def test_full_disk_fails_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ENOSPC while reserving is an error with the sizes in it, and the block does not run."""
    monkeypatch.setattr(os, "posix_fallocate", failing(errno.ENOSPC))

    with pytest.raises(OutputError, match=r"needs 5\.0 kB, and .* free"), new_file(tmp_path / "a", size=5000):
        pytest.fail("the block ran")

    assert listing(tmp_path) == {}


def test_more_than_the_disk_has_is_refused_without_filling_it(tmp_path: Path) -> None:
    """A size beyond the free space is refused before a byte is allocated."""
    size = shutil.disk_usage(tmp_path).free + 10**12

    with pytest.raises(OutputError, match="no room"), new_file(tmp_path / "a", size=size):
        pytest.fail("the block ran")


def test_full_disk_during_the_work_is_an_output_error(tmp_path: Path) -> None:
    """ENOSPC in the block, where nothing could be reserved, is told as such."""
    with pytest.raises(OutputError, match="no room"), new_file(tmp_path / "a", size=10):
        raise OSError(errno.ENOSPC, "No space left on device")

    assert listing(tmp_path) == {}


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EINVAL])
def test_filesystem_without_fallocate_gets_the_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Where space cannot be reserved, the draft has its size all the same."""
    monkeypatch.setattr(os, "posix_fallocate", failing(number))

    with new_file(tmp_path / "a", size=4096) as draft:
        assert os.fstat(draft.fd).st_size == 4096


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a filesystem of 1 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a tmpfs needs root")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.usefixtures("way")
def test_real_full_disk_keeps_the_old_file(small_disk: Path) -> None:
    """On a full filesystem the old file stays whole, and an output that fits is published."""
    put(small_disk / "a", b"o" * 600_000)

    with pytest.raises(OutputError, match="no room"):
        put(small_disk / "a", b"n" * 600_000, force=True)
    put(small_disk / "b", b"n" * 300_000)

    assert listing(small_disk) == {"a": b"o" * 600_000, "b": b"n" * 300_000}


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("force", [False, True])
def test_an_unflushed_name_is_no_lost_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, force: bool) -> None:
    """When the directory cannot be flushed after publishing, the error says that the file is written."""
    real = os.fsync

    def fsync(fd: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)

    with pytest.raises(UnflushedError, match=r"is written, but a power cut may undo it: .*Input/output error"):
        put(tmp_path / "a", force=force)

    assert listing(tmp_path) == {"a": b"new"}


CHILD = """
import os, signal, sys, time
from pathlib import Path
from prunecli.io import publish as output

def stop(*_):
    raise SystemExit(143)

signal.signal(signal.SIGTERM, stop)
if sys.argv[2] == "named":
    output._open_nameless = lambda parent: None
with output.new_file(Path(sys.argv[1]), size=1 << 20, force=True) as draft:
    os.pwrite(draft.fd, b"n" * 1000, 0)
    print("writing", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize(
    ("number", "temporary"),
    [
        (signal.SIGKILL, "nameless"),
        (signal.SIGTERM, "nameless"),
        (signal.SIGTERM, "named"),
        (signal.SIGINT, "named"),
    ],
)
def test_killed_writer_leaves_the_old_file_only(tmp_path: Path, number: int, temporary: str) -> None:
    """A process killed in mid-write leaves the directory clean and the old file whole."""
    if temporary == "nameless" and not nameless_works(tmp_path):
        pytest.skip("this filesystem has no nameless files")
    (tmp_path / "a").write_bytes(b"old")
    command = [sys.executable, "-c", CHILD, str(tmp_path / "a"), temporary]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"writing\n"
        child.send_signal(number)

    assert child.returncode != 0
    assert listing(tmp_path) == {"a": b"old"}


def nameless_works(directory: Path) -> bool:
    """Say whether O_TMPFILE works in `directory`."""
    fd = output._open_nameless(directory)
    if fd is None:
        return False
    os.close(fd)
    return True


# --- text


def test_text_is_published_as_utf8(tmp_path: Path) -> None:
    """A report is written as UTF-8; what UTF-8 cannot hold is escaped."""
    publish_text(tmp_path / "r.json", "é\udc80\n")

    assert listing(tmp_path) == {"r.json": b"\xc3\xa9\\udc80\n"}


def test_text_needs_force_to_replace(tmp_path: Path) -> None:
    """An existing report stays, or with force is replaced."""
    publish_text(tmp_path / "r", "one")

    with pytest.raises(OutputError, match="exists"):
        publish_text(tmp_path / "r", "two")
    publish_text(tmp_path / "r", "three", force=True)

    assert listing(tmp_path) == {"r": b"three"}


# --- directories


@pytest.fixture(params=["one step", "two steps"])
def exchange(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a test with renameat2 and without it."""
    if request.param == "two steps":
        monkeypatch.setattr(output, "_renameat2", lambda *_: False)


@pytest.mark.usefixtures("exchange")
def test_directory_appears_whole(tmp_path: Path) -> None:
    """A directory is not there before the block ends, and then with all its files."""
    with new_directory(tmp_path / "d") as draft:
        put(draft / "a")
        (draft / "sub").mkdir()
        put(draft / "sub" / "b", b"deep")
        assert not (tmp_path / "d").exists()

    assert listing(tmp_path) == {"d/a": b"new", "d/sub/b": b"deep"}


@pytest.mark.usefixtures("exchange")
def test_directory_replaces_the_old_one_with_force(tmp_path: Path) -> None:
    """With force the old directory gives way, and none of it is left behind."""
    (tmp_path / "d").mkdir(mode=0o750)
    (tmp_path / "d" / "a").write_bytes(b"old")

    with new_directory(tmp_path / "d", force=True) as draft:
        put(draft / "a")
        put(draft / "b")

    assert listing(tmp_path) == {"d/a": b"new", "d/b": b"new"}
    assert [p.name for p in tmp_path.iterdir()] == ["d"]
    assert stat.S_IMODE((tmp_path / "d").stat().st_mode) == 0o750


@pytest.mark.usefixtures("exchange")
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_failed_directory_leaves_the_old_one(tmp_path: Path, error: type[BaseException]) -> None:
    """An exception in the block keeps the old directory and removes the new one."""
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a").write_bytes(b"old")

    def interrupted() -> None:
        with new_directory(tmp_path / "d", force=True) as draft:
            put(draft / "a")
            raise error

    with pytest.raises(error):
        interrupted()

    assert listing(tmp_path) == {"d/a": b"old"}
    assert [p.name for p in tmp_path.iterdir()] == ["d"]


def test_failed_swap_puts_the_old_directory_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where two renames are needed and the second fails, the first is undone."""
    monkeypatch.setattr(output, "_renameat2", lambda *_: False)
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
        new_directory(tmp_path / "d", force=True) as draft,
    ):
        put(draft / "a")

    assert listing(tmp_path) == {"d/a": b"old"}
    assert [p.name for p in tmp_path.iterdir()] == ["d"]


@pytest.mark.usefixtures("exchange")
def test_directory_that_appears_meanwhile_wins(tmp_path: Path) -> None:
    """Without force a directory filled during the run is kept."""

    def raced() -> None:
        with new_directory(tmp_path / "d") as draft:
            put(draft / "a")
            (tmp_path / "d").mkdir()
            put(tmp_path / "d" / "x", b"theirs")

    with pytest.raises(OutputError, match="exists"):
        raced()

    assert listing(tmp_path) == {"d/x": b"theirs"}


@pytest.mark.usefixtures("exchange", "umask")
def test_members_of_a_replaced_directory_keep_their_modes(tmp_path: Path) -> None:
    """With force, files and folders get the modes of those they replace, and new ones the usual."""
    (tmp_path / "d" / "sub").mkdir(parents=True)
    for name, mode in (("a", 0o604), ("sub/b", 0o444)):
        (tmp_path / "d" / name).write_bytes(b"old")
        (tmp_path / "d" / name).chmod(mode)
    (tmp_path / "d" / "sub").chmod(0o711)

    with new_directory(tmp_path / "d", force=True) as draft:
        (draft / "sub").mkdir()
        for name in ("a", "sub/b", "c"):
            put(draft / name)

    modes = {name: stat.S_IMODE((tmp_path / "d" / name).stat().st_mode) for name in ("a", "sub", "sub/b", "c")}
    assert modes == {"a": 0o604, "sub": 0o711, "sub/b": 0o444, "c": 0o640}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_members_of_a_replaced_directory_keep_their_owners(tmp_path: Path) -> None:
    """With force, root leaves a directory and what is in it to whom they belonged."""
    (tmp_path / "d").mkdir()
    put(tmp_path / "d" / "a")
    for path in (tmp_path / "d", tmp_path / "d" / "a"):
        os.chown(path, 1234, 2345)

    with new_directory(tmp_path / "d", force=True) as draft:
        put(draft / "a")

    assert {(p.stat().st_uid, p.stat().st_gid) for p in (tmp_path / "d", tmp_path / "d" / "a")} == {(1234, 2345)}


@pytest.mark.usefixtures("exchange")
def test_an_empty_directory_needs_force(tmp_path: Path) -> None:
    """An existing directory is refused even if there is nothing in it, and replaced with force."""
    (tmp_path / "d").mkdir()

    with pytest.raises(OutputError, match="exists"), new_directory(tmp_path / "d"):
        pytest.fail("the block ran")
    with new_directory(tmp_path / "d", force=True) as draft:
        put(draft / "a")

    assert listing(tmp_path) == {"d/a": b"new"}


def test_a_file_that_appears_where_a_directory_goes_wins(tmp_path: Path) -> None:
    """A file made during the run under the directory's name is kept, force or not."""

    def raced() -> None:
        with new_directory(tmp_path / "d", force=True) as draft:
            put(draft / "a")
            put(tmp_path / "d", b"theirs")

    with pytest.raises(OutputError, match="exists"):
        raced()

    assert listing(tmp_path) == {"d": b"theirs"}


def test_directory_with_other_files_is_not_replaced(tmp_path: Path) -> None:
    """Force replaces a result, not a directory that holds what the result has not."""
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "thesis.txt").write_bytes(b"old")

    with (
        pytest.raises(OutputError, match=r"would lose .*thesis\.txt"),
        new_directory(tmp_path / "d", force=True) as draft,
    ):
        put(draft / "a")

    assert listing(tmp_path) == {"d/thesis.txt": b"old"}


# --- what killed processes left


def name(parent: Path) -> Path:
    """Return a hidden name that a process has used that is gone now."""
    return hidden.temporary_name(parent)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("what", ["file", "directory"])
def test_stale_drafts_are_swept(tmp_path: Path, what: str) -> None:
    """A hidden file and a hidden directory that nobody holds are gone after the next output of either sort."""
    name(tmp_path).write_bytes(b"half")
    (name(tmp_path) / "sub").mkdir(parents=True)
    stale = name(tmp_path)
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
def test_drafts_of_the_living_stay(tmp_path: Path) -> None:
    """Runs at work beside each other do not take each other's drafts."""
    with (
        new_file(tmp_path / "a", size=3) as a,
        new_directory(tmp_path / "d") as d,
        new_file(d / "b", size=3) as b,
    ):
        put(tmp_path / "c")
        with new_directory(tmp_path / "e", force=True):
            pass
        for draft in (a, b):
            os.pwrite(draft.fd, b"abc", 0)

    assert listing(tmp_path) == {"a": b"abc", "c": b"new", "d/b": b"abc"}


def test_a_killed_writer_with_a_hidden_name_is_swept(tmp_path: Path) -> None:
    """Where drafts have names, a run beside a living one leaves its draft, and removes it once it is killed."""
    (tmp_path / "a").write_bytes(b"old")
    command = [sys.executable, "-c", CHILD, str(tmp_path / "a"), "named"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"writing\n"
        put(tmp_path / "b")
        assert len(listing(tmp_path)) == 3
        child.kill()
    assert len(listing(tmp_path)) == 3

    put(tmp_path / "c")

    assert listing(tmp_path) == {"a": b"old", "b": b"new", "c": b"new"}


def test_a_forced_file_is_locked_while_it_has_a_hidden_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another run that comes between link and rename leaves the hidden name alone."""
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
def test_other_names_are_not_swept(tmp_path: Path, other: str) -> None:
    """A directory put aside, a name of somebody's own and a draft of another machine or boot stay."""
    kept = tmp_path / other.format(boot=hidden._boot())
    kept.write_bytes(b"theirs")

    put(tmp_path / "a")

    assert kept.read_bytes() == b"theirs"


@pytest.mark.parametrize("kind", ["symlink", "of somebody else", "unknown boot", "no locks"])
def test_what_is_not_known_for_stale_is_not_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Links, other people's drafts, and all of them where locks tell nothing, stay."""
    (tmp_path / "precious").write_bytes(b"theirs")
    kept = name(tmp_path)
    kept.symlink_to("precious") if kind == "symlink" else kept.write_bytes(b"theirs")
    if kind == "of somebody else":
        monkeypatch.setattr(os, "geteuid", lambda: kept.stat().st_uid + 1)
    if kind == "unknown boot":
        monkeypatch.setattr(hidden, "_BOOT", tmp_path / "none")
    if kind == "no locks":
        monkeypatch.setattr(hidden.fcntl, "flock", failing(errno.ENOLCK))

    put(tmp_path / "a")
    put(tmp_path / "a", force=True)
    with new_directory(tmp_path / "d") as draft:
        put(draft / "b")

    assert listing(tmp_path) == {"precious": b"theirs", kept.name: b"theirs", "a": b"new", "d/b": b"new"}


@pytest.mark.parametrize("make", [hidden.make_file, hidden.make_directory])
@pytest.mark.parametrize("moment", ["before the lock", "after the lock"])
def test_a_draft_swept_at_birth_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], int], moment: str
) -> None:
    """A sweep that comes between the making and the locking of a draft costs nothing but another name."""
    real, seen = hidden.lock, []

    def swept(fd: int) -> bool:
        seen.append(os.fstat(fd).st_ino)
        if len(seen) > 1:
            return real(fd)
        (path,) = tmp_path.iterdir()
        hidden._remove(path)
        return moment == "after the lock"

    monkeypatch.setattr(hidden, "lock", swept)

    with hidden.temporary_next_to(tmp_path / "a", make) as (fd, path):
        assert os.path.samestat(os.fstat(fd), path.stat())

    assert len(seen) == 2
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_while_cleaning_up_does_not_stop_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while the hidden directory is deleted is heard when it is gone."""
    real, calls = shutil.rmtree, []

    def rmtree(path: Path, **options: bool) -> None:
        calls.append(path)
        if len(calls) == 1:
            raise KeyboardInterrupt
        real(path, **options)  # type: ignore[arg-type]

    def fill() -> None:
        with new_directory(tmp_path / "d", force=True) as draft:
            put(draft / "a")

    fill()
    monkeypatch.setattr(shutil, "rmtree", rmtree)
    with pytest.raises(KeyboardInterrupt):
        fill()

    assert [path.name for path in tmp_path.iterdir()] == ["d"]
    assert listing(tmp_path) == {"d/a": b"new"}


# --- refusals before any work


def refused(target: Path, *sources: Path, **options: object) -> OutputError:
    """Return the error check_output raises."""
    arguments = {"force": False, "in_place": False, **options}
    with pytest.raises(OutputError) as caught:
        check_output(target, sources=sources, **arguments)  # type: ignore[arg-type]
    return caught.value


def test_free_path_is_accepted(tmp_path: Path) -> None:
    """A name nobody has, in a directory one can write in, is fine."""
    check_output(tmp_path / "out", sources=[tmp_path / "in"], force=False, in_place=False)
    check_output(tmp_path / "out", sources=[tmp_path / "in"], force=False, in_place=False, names=["a"])


def test_existing_output_is_refused(tmp_path: Path) -> None:
    """An existing file needs force."""
    put(tmp_path / "out")

    assert "exists" in str(refused(tmp_path / "out"))
    check_output(tmp_path / "out", sources=[], force=True, in_place=False)


@pytest.mark.parametrize("kind", ["name", "symlink", "hard link", "dots"])
@pytest.mark.parametrize("force", [False, True])
def test_output_that_is_the_input_is_refused(tmp_path: Path, kind: str, *, force: bool) -> None:
    """The input under any of its names is refused as output, force or not, without in_place."""
    source, other = tmp_path / "in", tmp_path / "other"
    put(source)
    if kind == "symlink":
        other.symlink_to(source)
    elif kind == "hard link":
        other.hardlink_to(source)
    target = {"name": source, "dots": tmp_path / ".." / tmp_path.name / "in"}.get(kind, other)

    error = refused(target, source, force=force)

    assert "is the input itself" in str(error)
    assert "in_place=True" in str(error.hint)
    check_output(target, sources=[source], force=True, in_place=True)


def test_in_place_is_no_force_for_other_files(tmp_path: Path) -> None:
    """in_place allows the input to be replaced, not another file."""
    put(tmp_path / "in")
    put(tmp_path / "other")

    assert "exists" in str(refused(tmp_path / "other", tmp_path / "in", in_place=True))


def test_missing_parent_is_refused(tmp_path: Path) -> None:
    """A directory that does not exist is named, with the command that makes it."""
    error = refused(tmp_path / "no" / "out")

    assert "there is no directory" in str(error)
    assert str(error.hint).startswith("mkdir -p ")


def test_wrong_kinds_are_refused(tmp_path: Path) -> None:
    """A directory in the place of a file, and a file in the place of a directory, are refused even with force."""
    put(tmp_path / "file")
    (tmp_path / "directory").mkdir()

    assert "is a directory" in str(refused(tmp_path / "directory", force=True))
    assert "is a file" in str(refused(tmp_path / "file", force=True, names=["a"]))


def test_symlink_needs_force(tmp_path: Path) -> None:
    """A symbolic link, dangling or not, is refused without force; in a circle, always."""
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "circle").symlink_to("circle")

    assert "symbolic link" in str(refused(tmp_path / "link"))
    assert "cannot write" in str(refused(tmp_path / "circle", force=True))
    check_output(tmp_path / "link", sources=[], force=True, in_place=False)


def test_link_into_a_blob_cache_is_never_written(tmp_path: Path) -> None:
    """A link into a `blobs` directory, as a snapshot in a hub's cache has, is refused even with force."""
    (tmp_path / "blobs").mkdir()
    put(tmp_path / "blobs" / "1234")
    (tmp_path / "model").symlink_to("blobs/1234")

    assert "cache" in str(refused(tmp_path / "model", force=True))


@pytest.mark.parametrize("through", [False, True])
def test_fifo_is_untouched(tmp_path: Path, *, through: bool) -> None:
    """A fifo, also behind a link, is refused with the way to stream, and is still a fifo."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    (tmp_path / "link").symlink_to(fifo)
    target = tmp_path / "link" if through else fifo

    error = refused(target, force=True)
    with pytest.raises(OutputError, match="pipe or a device"):
        put(target, force=True)

    assert "output=" in str(error.hint)
    assert stat.S_ISFIFO(fifo.stat().st_mode)


def test_directory_that_holds_the_input_is_refused(tmp_path: Path) -> None:
    """Replacing a directory must not delete the input inside it."""
    (tmp_path / "d").mkdir()
    put(tmp_path / "d" / "in")

    error = refused(tmp_path / "d", tmp_path / "d" / "in", force=True, in_place=True, names=["in"])

    assert "holds the input" in str(error)


def test_directory_in_place_is_accepted(tmp_path: Path) -> None:
    """The input directory itself may be replaced with in_place, if all its files are written again."""
    (tmp_path / "d").mkdir()
    put(tmp_path / "d" / "a")
    sources = [tmp_path / "d", tmp_path / "d" / "a"]

    check_output(tmp_path / "d", sources=sources, force=False, in_place=True, names=["a"])
    error = refused(tmp_path / "d", *sources, in_place=True, names=["b"])

    assert "would lose" in str(error)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_directory_without_permission_is_refused(tmp_path: Path) -> None:
    """A directory one may not write in is refused at once."""
    tmp_path.chmod(0o500)

    assert "permission" in str(refused(tmp_path / "out"))


def test_report_path_is_checked_early(tmp_path: Path) -> None:
    """A report over the run's other files, an existing file or nowhere is refused; a link in the text is escaped."""
    put(tmp_path / "r")

    with pytest.raises(OutputError, match="exists"):
        check_writable_target(tmp_path / "r", force=False)
    with pytest.raises(OutputError, match="this run needs"):
        check_writable_target(tmp_path / "out", force=True, others=[tmp_path / "out"])
    with pytest.raises(OutputError, match=r"no directory .*\\x1b"):
        check_writable_target(tmp_path / "\x1b" / "r", force=False)
    check_writable_target(tmp_path / "r", force=True)
