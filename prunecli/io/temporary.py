"""Temporary files: next to an output, and for data that is needed only during a run.

They are removed on success and on error. A process locks its temporary file next to an output, and the kernel drops
the lock when the process ends: an unlocked file is stale, and the next run in that directory deletes it.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from prunecli.errors import Argument, OutputError
from prunecli.io.targets import failed
from prunecli.io.transfer import WriteError
from prunecli.text.escape import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import IO

DESCRIPTORS = Path("/proc/self/fd")
"""The directory in which each open descriptor has a path, on Linux."""

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_TEMPORARY = re.compile(r"\.prune-\w+-[0-9a-f]{16}\.tmp")
_TRIES = 100  # other runs may delete a new file before it is locked, and /proc takes no new files at all
_NO_SYNC = {errno.EINVAL, errno.EOPNOTSUPP}


# --- next to an output


def temporary_name(parent: Path) -> Path:
    """Return a new, unique path of a hidden file in `parent`."""
    return parent / f".prune-{_boot()}-{os.urandom(8).hex()}.tmp"


def _boot() -> str:
    """Return the id of this boot (12 hex digits), or "0" if it is unknown. Locks do not outlive a boot."""
    try:
        return _BOOT.read_text(encoding="utf-8").replace("-", "")[:12]
    except OSError:
        return "0"


@contextmanager
def temporary_next_to(destination: Path, make: Callable[[Path], int]) -> Iterator[tuple[int, Path]]:
    """Create a hidden file or directory next to `destination`, lock it, and remove it when the block ends.

    Yields its descriptor and its path. `make` creates and opens it. Raises OutputError where it cannot be created.
    """
    for tries_left in reversed(range(_TRIES)):
        path = temporary_name(destination.parent)
        with removed_at_end(path):
            try:
                fd = make(path)
            except OSError as error:
                if isinstance(error, FileNotFoundError) and destination.parent.is_dir() and tries_left:
                    continue  # another run deleted it between its creation and its opening
                raise failed("write in", destination.parent, error) from error
            try:
                if _lock_new(fd, path) or not tries_left:
                    yield fd, path
                    return
            finally:
                os.close(fd)


def make_file(path: Path) -> int:
    """Create an empty file that only its owner may open, and open it."""
    return os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_CREAT | os.O_EXCL, 0o600)


def make_directory(path: Path) -> int:
    """Create a directory that only its owner may open, and open it."""
    path.mkdir(0o700)
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _lock_new(fd: int, path: Path) -> bool:
    """Lock the new `path`, open as `fd`, until it is closed; False if another run has deleted it before."""
    try:
        return lock(fd) and path.exists()
    except OSError:  # the filesystem has no locks; then no run deletes stale files
        return True


def lock(fd: int) -> bool:
    """Lock `fd` until it is closed; False if another process has locked it, OSError where there are no locks."""
    import fcntl  # noqa: PLC0415 - systems without it can import this module

    # flock and not lockf, whose locks end when the process closes any descriptor of the file.
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def remove_stale_temporaries(destination: Path) -> None:
    """Delete the temporary files next to `destination` whose process has ended, as their missing lock proves."""
    # Files of another boot may belong to another machine that shares the filesystem and whose locks are unknown here.
    boot = _boot()
    if boot == "0" or inside_temporary(destination):
        return
    with suppress(OSError):
        for path in destination.parent.glob(f".prune-{boot}-*.tmp"):
            with suppress(OSError):
                _remove_if_stale(path)


def _remove_if_stale(path: Path) -> None:
    # Another program may have put a link or a fifo there: do not follow it, and do not wait for its writer.
    with open_descriptor(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK) as fd:
        ours = os.geteuid() in {0, os.fstat(fd).st_uid}
        # A name is used once: the path is still the file that was locked, unless its owner has replaced it.
        if ours and _TEMPORARY.fullmatch(path.name) and lock(fd):
            _remove(path)


def inside_temporary(path: Path) -> bool:
    """Return whether `path` is in a temporary directory that is not published yet."""
    return any(_TEMPORARY.fullmatch(folder.name) for folder in path.parents)


@contextmanager
def removed_at_end(path: Path) -> Iterator[None]:
    """Remove `path` when the block ends, even if an interrupt arrives during the removal."""
    try:
        yield
    finally:
        try:
            _remove(path)
        except BaseException:
            _remove(path)
            raise


def _remove(path: Path) -> None:
    if path.is_symlink() or not path.is_dir():
        with suppress(OSError):
            path.unlink()
        return
    with suppress(OSError):
        for *_, fd in os.fwalk(path):
            os.fchmod(fd, 0o700)  # a directory of the old output may be read-only
    shutil.rmtree(path, ignore_errors=True)


def sync(fd: int) -> None:
    """Flush `fd` to the disk, where the filesystem supports it."""
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise


@contextmanager
def open_descriptor(path: Path, flags: int) -> Iterator[int]:
    """Open `path` and close it when the block ends."""
    fd = os.open(path, flags | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


# --- during a run


@contextmanager
def scratch_file(folder: Path | None) -> Iterator[tuple[int, Path]]:
    """Create a temporary file in `folder` (None: the system's); yields its descriptor and a path that opens it."""
    with temporary_file(folder) as file:
        try:
            yield file.fileno(), DESCRIPTORS / str(file.fileno()) if DESCRIPTORS.is_dir() else Path(file.name)
        except WriteError as error:
            if error.output != file.fileno():
                raise
            raise no_space_error(folder, error) from error


def temporary_file(folder: Path | None) -> IO[bytes]:
    """Open a temporary file in `folder` (None: the system's).

    It has no name where descriptors have paths, so even a killed process leaves no file. Raises OutputError where it
    cannot be created.
    """
    try:
        if DESCRIPTORS.is_dir():
            return tempfile.TemporaryFile(buffering=0, dir=folder)
        return tempfile.NamedTemporaryFile(buffering=0, prefix=".prune-", dir=folder)
    except OSError as error:
        raise no_space_error(folder, error) from error


def no_space_error(folder: Path | None, error: OSError) -> OutputError:
    """Return the error for a temporary copy that cannot be kept in `folder` (None: the system's)."""
    path = folder or Path(tempfile.gettempdir())
    message = f"cannot keep a temporary copy in {printable(str(path))}: {error.strerror}"
    if folder:
        return OutputError(message, hint=("write to another filesystem: ", Argument("output", "PATH")))
    return OutputError(message, hint="set the environment variable TMPDIR to a directory with enough space")
