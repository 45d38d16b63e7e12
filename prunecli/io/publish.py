"""Publish or nothing: a result appears under its name whole and flushed, or not at all.

A file is written nameless (O_TMPFILE) where the filesystem can, so that even a killed process leaves nothing; else,
and for directories, under a hidden name beside the target that is removed on every way out.
Nothing here knows what the bytes mean.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import stat
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from prunecli.errors import OutputError
from prunecli.io.targets import check_output, check_writable_target, destination_for, exists, failed, refuse_losses
from prunecli.io.temporary import (
    inside_temporary,
    lock,
    make_directory,
    make_file,
    open_descriptor,
    remove_stale_temporaries,
    removed_at_end,
    sync,
    temporary_name,
    temporary_next_to,
)
from prunecli.text.escape import printable
from prunecli.text.numbers import format_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "PendingFile",
    "UnflushedError",
    "check_output",
    "check_writable_target",
    "new_directory",
    "new_file",
    "publish_text",
]

_DESCRIPTORS = Path("/proc/self/fd")
_NO_TMPFILE = {errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL, errno.ENOSYS}
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
_NO_FLAGS = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}
_TAKEN = {errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR}
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NOREPLACE, _EXCHANGE = 1, 2  # renameat2's flags
_AT_FDCWD = -100


@dataclass(frozen=True, slots=True)
class PendingFile:
    """A file being written: readable and writable through `fd`, and under `path` until it is published."""

    fd: int
    path: Path


class UnflushedError(OutputError):
    """The output is whole under its name, but its directory could not be flushed: a power cut may undo it."""


# --- one file


@contextmanager
def new_file(target: Path, *, size: int, mode: int = 0o666, force: bool = False) -> Iterator[PendingFile]:
    """Give a draft of `size` bytes to fill, and publish it at `target` when the block ends well.

    The space is reserved first. On any exception nothing is left, and what was at `target` stays. A new file
    gets `mode` less the umask; with `force` an existing file is replaced and its mode kept, its owner where one may,
    and a symbolic link keeps pointing to it. OutputError where the file cannot be written or, without `force`,
    exists; UnflushedError if it is written all the same.
    """
    place = destination_for(target, force=force, directory=False)
    with _draft_beside(place) as (fd, named):
        try:
            _reserve(fd, size)
            yield PendingFile(fd, named or _DESCRIPTORS / str(fd))
        except OSError as error:
            if error.errno in _FULL:
                raise no_space_error(place, size, error) from error
            if error.errno is None or error.filename is not None:  # it tells of something else, or where itself
                raise
            raise failed("write", place, error) from error
        _finish_file(fd, named, place, mode=mode, force=force)


def publish_text(target: Path, text: str, *, force: bool = False) -> None:
    """Write `text` as UTF-8 to `target`, whole or not at all; OutputError as `new_file`."""
    data = text.encode("utf-8", errors="backslashreplace")
    with new_file(target, size=len(data), force=force) as draft:
        done = 0
        while done < len(data):
            done += os.pwrite(draft.fd, data[done:], done)


@contextmanager
def _draft_beside(place: Path) -> Iterator[tuple[int, Path | None]]:
    """Open a file beside `place` that has no name, or a hidden one where the filesystem insists."""
    remove_stale_temporaries(place)
    try:
        fd = _open_nameless(place.parent)
    except OSError as error:
        raise failed("write in", place.parent, error) from error
    if fd is None:
        with temporary_next_to(place, make_file) as (fd, named):
            yield fd, named
        return
    try:
        yield fd, None
    finally:
        os.close(fd)


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


def no_space_error(place: Path, size: int, error: OSError) -> OutputError:
    free = shutil.disk_usage(place.parent).free
    return OutputError(
        f"no room for {printable(str(place))}: it needs {format_bytes(size)}, and {format_bytes(free)} are free"
        f" ({error.strerror})",
        hint="write to another filesystem with -o PATH",
    )


def _settle_mode(fd: int, place: Path, mode: int) -> None:
    """Give what is open as `fd` the mode and the owner of what is at `place`, or else `mode` less the umask."""
    try:
        old = place.stat()
    except FileNotFoundError:
        os.fchmod(fd, mode & 0o777 & ~_umask())
        return
    _inherit(fd, old)


def _inherit(fd: int, old: os.stat_result) -> None:
    new = os.fstat(fd)
    if (new.st_uid, new.st_gid) != (old.st_uid, old.st_gid):
        with suppress(OSError):  # only root may give files away
            os.fchown(fd, old.st_uid, old.st_gid)
    os.fchmod(fd, stat.S_IMODE(old.st_mode) & 0o777)


def _umask() -> int:
    mask = os.umask(0o077)  # the only portable way to read it is to set it
    os.umask(mask)
    return mask


def _finish_file(fd: int, named: Path | None, place: Path, *, mode: int, force: bool) -> None:
    try:
        _settle_mode(fd, place, mode)
        os.fsync(fd)
        if named is None:
            _publish_nameless(fd, place, force=force)
        else:
            _publish_named(named, place, force=force)
    except FileExistsError:
        raise exists(place) from None
    except OSError as error:
        raise failed("publish", place, error) from error
    _flush_name(place)


def _publish_nameless(fd: int, place: Path, *, force: bool) -> None:
    if not force:
        _link(fd, place)
        return
    with suppress(OSError):  # no locks here: then no sweep takes it either
        lock(fd)
    named = temporary_name(place.parent)
    with removed_at_end(named):
        _link(fd, named)
        named.replace(place)


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
        if not _renameat2(named, place, _NOREPLACE):
            _claim(named, place)


def _claim(named: Path, place: Path) -> None:
    """Take the name `place` where nothing does it in one step: reserve it empty, then rename over it."""
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
    new one has not. `mode` loses the umask; an existing directory's, and its files', are kept. Errors as `new_file`.
    """
    place = destination_for(target, force=force, directory=True)
    remove_stale_temporaries(place)
    with temporary_next_to(place, make_directory) as (fd, hidden):
        yield hidden
        if force:
            refuse_losses(place, {p.relative_to(hidden).as_posix() for p in hidden.rglob("*")})
        _finish_directory(fd, hidden, place, mode=mode, force=force)


def _finish_directory(fd: int, hidden: Path, place: Path, *, mode: int, force: bool) -> None:
    try:
        for path in hidden.rglob("*"):
            _finish_member(path, place / path.relative_to(hidden) if force else None)
        _settle_mode(fd, place, mode)
        sync(fd)
        _rename(hidden, place, force=force)
    except OSError as error:
        if error.errno in _TAKEN:
            raise exists(place) from None
        raise failed("publish", place, error) from error
    _flush_name(place)


def _finish_member(path: Path, old: Path | None) -> None:
    """Flush the directory `path`, and give a member the mode and the owner that `old`, its predecessor, had."""
    if old is None and not path.is_dir():
        return  # new_file has flushed it
    with open_descriptor(path, os.O_RDONLY) as fd:
        if old is not None:
            with suppress(FileNotFoundError, NotADirectoryError):
                _inherit(fd, old.stat())
        sync(fd)


def _rename(hidden: Path, place: Path, *, force: bool) -> None:
    try:
        if not _renameat2(hidden, place, _NOREPLACE):
            hidden.rename(place)  # onto a directory with something in it this fails, too
    except OSError as error:
        if not force or error.errno not in _TAKEN or not place.is_dir():
            raise
        _exchange(hidden, place)


def _exchange(hidden: Path, place: Path) -> None:
    """Put `hidden` in the place of the directory `place`, and the old one under the name `hidden`."""
    if _renameat2(hidden, place, _EXCHANGE):
        return
    aside = hidden.with_suffix(".old")  # no name that is swept: for a moment it is all there is
    try:
        place.rename(aside)
        hidden.rename(place)
        aside.rename(hidden)
    except BaseException:
        if aside.exists():
            aside.rename(hidden if place.exists() else place)
        raise


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


# --- flushing


def _flush_name(place: Path) -> None:
    """Flush the directory that holds the published `place`; one that is not published itself is flushed later."""
    if inside_temporary(place):
        return
    try:
        with open_descriptor(place.parent, os.O_RDONLY | os.O_DIRECTORY) as fd:
            sync(fd)
    except OSError as error:
        raise UnflushedError(
            f"{printable(str(place))} is written, but a power cut may undo it: its directory could not be flushed"
            f" ({error.strerror})",
            hint="sync",
        ) from error
