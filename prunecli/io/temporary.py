"""Hidden names beside an output: removed on every way out, and after a kill by whoever writes there next.

Whoever works under a hidden name holds a lock on it. A process that was killed holds none any more: so is told, without
a guess, what is left over from what is in use. Nothing here knows what is written.
"""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING

from prunecli.errors import OutputError

if TYPE_CHECKING:
    from typing import IO

import errno
import fcntl
import os
import re
import shutil
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from prunecli.io.targets import failed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_HIDDEN = re.compile(r"\.prune-\w+-[0-9a-f]{16}\.tmp")
_NO_SYNC = {errno.EINVAL, errno.EOPNOTSUPP}


def temporary_name(parent: Path) -> Path:
    """Return a name in `parent` that nobody has or will have."""
    return parent / f".prune-{_boot()}-{os.urandom(8).hex()}.tmp"


def _boot() -> str:
    """Name this start of this kernel, whose locks tell the living from the dead; "0" where it cannot be named."""
    try:
        return _BOOT.read_text(encoding="ascii").replace("-", "")[:12]
    except OSError:
        return "0"


@contextmanager
def temporary_next_to(place: Path, make: Callable[[Path], int]) -> Iterator[tuple[int, Path]]:
    """Give what `make` makes and opens under a hidden name beside `place`, locked; the name is gone in the end.

    OutputError where nothing can be made there.
    """
    held = False
    while not held:
        hidden = temporary_name(place.parent)
        with removed_at_end(hidden):
            try:
                fd = make(hidden)
            except OSError as error:
                if isinstance(error, FileNotFoundError) and place.parent.is_dir():
                    continue  # a sweep came between making and opening
                raise failed("write in", place.parent, error) from error
            try:
                held = _hold(fd, hidden)
                if held:
                    yield fd, hidden
            finally:
                os.close(fd)


def make_file(path: Path) -> int:
    """Make an empty file that only its owner may open, and open it; OSError where that cannot be."""
    return os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_CREAT | os.O_EXCL, 0o600)


def make_directory(path: Path) -> int:
    """Make a directory that only its owner may open, and open it; OSError where that cannot be."""
    path.mkdir(0o700)
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _hold(fd: int, hidden: Path) -> bool:
    """Lock the new `hidden`, open as `fd`, until it is closed; False where a sweep was faster."""
    try:
        return lock(fd) and hidden.exists()
    except OSError:  # no locks here: then no sweep takes it either
        return True


def lock(fd: int) -> bool:
    """Lock `fd` until it is closed; False where somebody else has it, OSError where there are no locks."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def remove_stale_temporaries(place: Path) -> None:
    """Remove what killed processes left beside `place`, as far as this kernel's locks prove that they are gone."""
    boot = _boot()
    if boot == "0" or inside_temporary(place):
        return
    with suppress(OSError):
        for path in place.parent.glob(f".prune-{boot}-*.tmp"):
            with suppress(OSError):
                _remove_stale(path)


def _remove_stale(path: Path) -> None:
    with open_descriptor(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK) as fd:
        ours = os.geteuid() in {0, os.fstat(fd).st_uid}
        # a name is used once, so what has it now is what was locked, or what its owner put there to be removed
        if ours and _HIDDEN.fullmatch(path.name) and lock(fd):
            _remove(path)


def inside_temporary(place: Path) -> bool:
    """Whether `place` is in a directory that is not published yet."""
    return any(_HIDDEN.fullmatch(folder.name) for folder in place.parents)


@contextmanager
def removed_at_end(path: Path) -> Iterator[None]:
    """Remove `path` when the block ends, also when an interrupt comes while it is removed."""
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
            os.fchmod(fd, 0o700)  # an old output may be read-only
    shutil.rmtree(path, ignore_errors=True)


def sync(fd: int) -> None:
    """Flush what is open as `fd` to the disk, where the filesystem can; OSError where that fails."""
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in _NO_SYNC:  # a filesystem that cannot, need not
            raise


@contextmanager
def open_descriptor(path: Path, flags: int) -> Iterator[int]:
    """Open `path` for a while; OSError where that cannot be."""
    fd = os.open(path, flags | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


DESCRIPTORS = Path("/proc/self/fd")


@contextmanager
def scratch_file(folder: Path | None) -> Iterator[tuple[int, Path]]:
    """Give a descriptor of a temporary file in `folder` (None: the usual place) and a path to open it by."""
    with temporary_file(folder) as file:
        yield file.fileno(), DESCRIPTORS / str(file.fileno()) if DESCRIPTORS.is_dir() else Path(file.name)


def temporary_file(folder: Path | None) -> IO[bytes]:
    """Open a temporary file, nameless where descriptors have paths: then even a killed process leaves nothing."""
    try:
        if DESCRIPTORS.is_dir():
            return tempfile.TemporaryFile(buffering=0, dir=folder)
        return tempfile.NamedTemporaryFile(buffering=0, prefix=".prune-", dir=folder)
    except OSError as error:
        raise no_space_error(folder, error) from error


def no_space_error(folder: Path | None, error: OSError) -> OutputError:
    """Return the error for a temporary copy that cannot be kept in `folder` (None: the usual folder)."""
    place = folder or Path(tempfile.gettempdir())
    hint = "-o PATH on another filesystem" if folder else "TMPDIR=/path/with/room prune COMMAND ..."
    return OutputError(f"cannot keep a temporary copy in {place}: {error.strerror}", hint=hint)
