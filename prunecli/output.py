"""Publish or nothing: a result appears under its name whole and flushed, or not at all.

A file is written nameless (O_TMPFILE) where the filesystem can, so that even a killed process leaves
nothing; else, and for directories, under a hidden name beside the target that is removed on every way out.
Nothing here knows what the bytes mean.
"""

from __future__ import annotations

import ctypes
import errno
import os
import secrets
import shutil
import stat
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from prunecli.errors import OutputError
from prunecli.escape import shown, shown_bytes
from prunecli.targets import check_output, check_writable_target, exists, failed, place_for, refuse_losses

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Draft", "check_output", "check_writable_target", "new_directory", "new_file", "publish_text"]

_DESCRIPTORS = Path("/proc/self/fd")
_NO_TMPFILE = {errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL, errno.ENOSYS}
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
_NO_FLAGS = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}
_NO_SYNC = {errno.EINVAL, errno.EOPNOTSUPP}
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NOREPLACE, _EXCHANGE = 1, 2  # renameat2's flags
_AT_FDCWD = -100


@dataclass(frozen=True, slots=True)
class Draft:
    """A file being written: readable and writable through `fd`, and under `path` until it is published."""

    fd: int
    path: Path


# --- one file


@contextmanager
def new_file(target: Path, *, size: int, mode: int = 0o666, force: bool = False) -> Iterator[Draft]:
    """Give a draft of `size` bytes to fill, and publish it at `target` when the block ends well.

    The space is reserved first. On any exception nothing is left, and what was at `target` stays. A new file
    gets `mode` less the umask; with `force` an existing file is replaced and its mode kept, and a symbolic
    link keeps pointing to it. OutputError where the file cannot be written or, without `force`, exists.
    """
    place = place_for(target, force=force, directory=False)
    fd, named = _open_draft(place.parent)
    try:
        _reserve(fd, size)
        yield Draft(fd, named or _DESCRIPTORS / str(fd))
        _finish_file(fd, named, place, mode=_final_mode(place, mode), force=force)
    except OSError as error:
        if error.errno in _FULL:
            raise _no_room(place, size, error) from error
        if error.errno is None or error.filename is not None:  # it tells of something else, or where itself
            raise
        raise failed("write", place, error) from error
    finally:
        os.close(fd)
        if named is not None:
            named.unlink(missing_ok=True)


def publish_text(target: Path, text: str, *, force: bool = False) -> None:
    """Write `text` as UTF-8 to `target`, whole or not at all; OutputError as `new_file`."""
    data = text.encode("utf-8", errors="backslashreplace")
    with new_file(target, size=len(data), force=force) as draft:
        done = 0
        while done < len(data):
            done += os.pwrite(draft.fd, data[done:], done)


def _open_draft(parent: Path) -> tuple[int, Path | None]:
    """Open a file in `parent` that has no name, or a hidden one where the filesystem insists."""
    try:
        fd = _open_nameless(parent)
        if fd is not None:
            return fd, None
        named = _hidden(parent)
        return os.open(named, os.O_RDWR | os.O_CLOEXEC | os.O_CREAT | os.O_EXCL, 0o600), named
    except OSError as error:
        raise failed("write in", parent, error) from error


def _open_nameless(parent: Path) -> int | None:
    nameless = getattr(os, "O_TMPFILE", 0)
    if not nameless or not _DESCRIPTORS.is_dir():  # without /proc it could not get its name later
        return None
    try:
        return os.open(parent, os.O_RDWR | os.O_CLOEXEC | nameless, 0o600)
    except OSError as error:
        if error.errno not in _NO_TMPFILE:
            raise
    return None


def _reserve(fd: int, size: int) -> None:
    """Make sure `size` bytes fit, so that a full disk fails now and not after the work: OSError."""
    space = os.fstatvfs(fd)
    if space.f_blocks and size > space.f_bavail * space.f_frsize:
        # asked before allocating: filling the disk to find out would hurt others
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if size:
        _allocate(fd, size)


def _allocate(fd: int, size: int) -> None:
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(fd, 0, size)
            return
    except OSError as error:
        if error.errno in _FULL:
            raise
    os.ftruncate(fd, size)


def _no_room(place: Path, size: int, error: OSError) -> OutputError:
    free = shutil.disk_usage(place.parent).free
    return OutputError(
        f"no room for {shown(str(place))}: it needs {shown_bytes(size)}, and {shown_bytes(free)} are free"
        f" ({error.strerror})",
        hint="write to another filesystem with -o PATH",
    )


def _final_mode(place: Path, mode: int) -> int:
    try:
        return stat.S_IMODE(place.stat().st_mode) & 0o777
    except FileNotFoundError:
        return mode & 0o777 & ~_umask()


def _umask() -> int:
    mask = os.umask(0o077)  # the only portable way to read it is to set it
    os.umask(mask)
    return mask


def _finish_file(fd: int, named: Path | None, place: Path, *, mode: int, force: bool) -> None:
    try:
        os.fchmod(fd, mode)
        os.fsync(fd)
        if named is None:
            _publish_nameless(fd, place, force=force)
        else:
            _publish_named(named, place, force=force)
        _sync_directory(place.parent)
    except FileExistsError:
        raise exists(place) from None
    except OSError as error:
        raise failed("publish", place, error) from error


def _publish_nameless(fd: int, place: Path, *, force: bool) -> None:
    if not force:
        _link(fd, place)
        return
    named = _hidden(place.parent)
    try:
        _link(fd, named)
        named.replace(place)
    finally:
        named.unlink(missing_ok=True)


def _link(fd: int, place: Path) -> None:
    """Give an open file the name `place`; FileExistsError where it is taken."""
    # linkat from a descriptor of the directory: a plain path under /proc ends as EXDEV on Python 3.11
    descriptors = os.open(_DESCRIPTORS, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.link(str(fd), place, src_dir_fd=descriptors, follow_symlinks=True)
    finally:
        os.close(descriptors)


def _publish_named(named: Path, place: Path, *, force: bool) -> None:
    if force:
        named.replace(place)
        return
    try:
        os.link(named, place)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        _claim(named, place)


def _claim(named: Path, place: Path) -> None:
    """Take the name `place` where there are no hard links: reserve it empty, then rename over it."""
    os.close(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC))
    try:
        named.replace(place)
    except BaseException:
        place.unlink(missing_ok=True)
        raise


# --- a directory


@contextmanager
def new_directory(target: Path, *, mode: int = 0o777, force: bool = False) -> Iterator[Path]:
    """Give an empty directory to fill with `new_file`, and rename it to `target` when the block ends well.

    On any exception nothing is left, and what was at `target` stays. With `force` an existing directory is
    exchanged for the new one in one step where the kernel can, and then deleted; not where it holds files the
    new one has not. `mode` loses the umask; an existing directory's is kept. OutputError as `new_file`.
    """
    place = place_for(target, force=force, directory=True)
    hidden = _hidden(place.parent)
    try:
        hidden.mkdir(0o700)
    except OSError as error:
        raise failed("write in", place.parent, error) from error
    try:
        yield hidden
        if force:
            refuse_losses(place, {p.relative_to(hidden).as_posix() for p in hidden.rglob("*")})
        _finish_directory(hidden, place, mode=_final_mode(place, mode), force=force)
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def _finish_directory(hidden: Path, place: Path, *, mode: int, force: bool) -> None:
    try:
        for directory in (*(p for p in hidden.rglob("*") if p.is_dir()), hidden):
            _sync_directory(directory)
        hidden.chmod(mode)
        if force and place.exists():
            _exchange(hidden, place)
        else:
            _rename_new(hidden, place)
        _sync_directory(place.parent)
    except OSError as error:
        if error.errno in {errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR}:
            raise exists(place) from None
        raise failed("publish", place, error) from error


def _exchange(hidden: Path, place: Path) -> None:
    """Put `hidden` in the place of the directory `place`, and the old one under the name `hidden`."""
    if _renameat2(hidden, place, _EXCHANGE):
        return
    aside = _hidden(place.parent)
    try:
        place.rename(aside)
        hidden.rename(place)
    except BaseException:
        if aside.exists() and not place.exists():
            aside.rename(place)
        raise
    aside.rename(hidden)


def _rename_new(hidden: Path, place: Path) -> None:
    if not _renameat2(hidden, place, _NOREPLACE):
        hidden.rename(place)  # onto a directory with something in it this fails, too


def _renameat2(source: Path, target: Path, flags: int) -> bool:
    """Call Linux's renameat2; False where the C library, the kernel or the filesystem has none."""
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return False
    if call(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), ctypes.c_uint(flags)) == 0:
        return True
    number = ctypes.get_errno()
    if number in _NO_FLAGS:
        return False
    raise OSError(number, os.strerror(number), str(target))


# --- shared


def _hidden(parent: Path) -> Path:
    return parent / f".prune-{secrets.token_hex(8)}.tmp"


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in _NO_SYNC:  # a filesystem that cannot, need not
            raise
    finally:
        os.close(fd)
