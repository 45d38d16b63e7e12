"""Atomic output: a file or directory appears under its name complete and flushed, or not at all.

A file is written without a name (O_TMPFILE) where the filesystem supports it, so that even a killed process leaves no
file. Elsewhere, and for directories, it is written under a hidden name next to its destination.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import stat
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from prunecli.errors import Argument, OutputError
from prunecli.io.filesystems import is_in_memory
from prunecli.io.published import record
from prunecli.io.targets import destination_for, exists, failed, refuse_losses
from prunecli.io.temporary import (
    DESCRIPTORS,
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
from prunecli.io.transfer import WriteError, write_all
from prunecli.text.escape import printable
from prunecli.text.numbers import format_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

_NO_TMPFILE = {errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL, errno.ENOSYS}
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
_NO_FLAGS = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}
_TAKEN = {errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR}
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NOREPLACE, _EXCHANGE = 1, 2  # flags of renameat2
_AT_FDCWD = -100


class UnflushedError(OutputError):
    """The output is complete under its name, but its directory was not flushed: a power cut may undo it."""


# --- one file


@contextmanager
def new_file(
    target: Path,
    *,
    size: int,
    mode: int = 0o666,
    force: bool = False,
    announce: Callable[[Path], None] | None = None,
) -> Iterator[int]:
    """Reserve space for a file of `size` bytes, and publish it at `target` when the block ends without an error.

    Yields its descriptor, open for reading and writing. An exception leaves no new file, and an existing file at
    `target` unchanged. A new file gets `mode` minus the umask. With `force` an existing file is replaced; its mode is
    kept, and its owner where that is permitted, and a symbolic link keeps its target. With `announce` the file has a
    hidden name until then, which `announce` gets, so that other processes can write to it. Raises OutputError if the
    file cannot be written or, without `force`, exists; UnflushedError if it is published but its directory cannot be
    flushed.
    """
    destination = destination_for(target, force=force, directory=False)
    with _pending_file(destination, named=announce is not None) as (fd, temporary):
        try:
            _reserve(fd, size)
            if announce is not None and temporary is not None:
                announce(temporary)
            yield fd
        except OSError as error:
            if isinstance(error, WriteError) and error.output != fd:  # an error of another file
                raise
            failure = write_failure(destination, size, error)
            if failure is None:
                raise
            raise failure from error
        _publish_file(fd, temporary, destination, mode=mode, force=force)


def write_failure(destination: Path, size: int, error: OSError) -> OutputError | None:
    """Return the error for an output of `size` bytes that could not be written; None for an error of another file."""
    if error.errno in _FULL:
        return _no_space_error(destination, size, error)
    if error.errno is None or error.filename is not None:
        return None
    return failed("write", destination, error)


def publish_text(target: Path, text: str, *, force: bool = False) -> None:
    """Write `text` as UTF-8 to `target`, atomically. Raises OutputError as `new_file` does."""
    publish_bytes(target, text.encode("utf-8", errors="backslashreplace"), force=force)


def publish_bytes(target: Path, data: bytes, *, force: bool = False) -> None:
    """Write `data` to `target`, atomically. Raises OutputError as `new_file` does."""
    with new_file(target, size=len(data), force=force) as fd:
        write_all(fd, memoryview(data), 0)


@contextmanager
def _pending_file(destination: Path, *, named: bool) -> Iterator[tuple[int, Path | None]]:
    """Open a file without a name, or a hidden one next to `destination` if `named` or the filesystem needs a name."""
    remove_stale_temporaries(destination)
    try:
        fd = None if named else _open_nameless(destination.parent)
    except OSError as error:
        raise failed("write in", destination.parent, error) from error
    if fd is None:
        with temporary_next_to(destination, make_file) as (fd, temporary):
            yield fd, temporary
        return
    try:
        yield fd, None
    finally:
        os.close(fd)


def _open_nameless(parent: Path) -> int | None:
    nameless = getattr(os, "O_TMPFILE", 0)
    if not nameless or not DESCRIPTORS.is_dir():  # without /proc it could not get its name later
        return None
    try:
        return os.open(parent, os.O_RDWR | os.O_CLOEXEC | nameless, 0o600)
    except OSError as error:
        if error.errno not in _NO_TMPFILE:
            raise
    return None


def make_member(path: Path, size: int) -> None:
    """Create the file `path` in a directory that is not published yet, and reserve `size` bytes for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fd = make_file(path)
    try:
        _reserve(fd, size)
    finally:
        os.close(fd)


def finish_member(fd: int, mode: int) -> None:
    """Flush a file of a directory that is not published yet, and give it `mode` minus the umask."""
    os.fchmod(fd, mode & 0o777 & ~_umask())
    os.fsync(fd)


def _reserve(fd: int, size: int) -> None:
    """Allocate `size` bytes, so that a full disk is an OSError now and not after the work."""
    space = os.fstatvfs(fd)
    if space.f_blocks and size > space.f_bavail * space.f_frsize:
        # Checked before the allocation, which would fill the disk for other programs until it fails.
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if size:
        _allocate(fd, size)


def _allocate(fd: int, size: int) -> None:
    try:
        if hasattr(os, "posix_fallocate") and not is_in_memory(fd):
            os.posix_fallocate(fd, 0, size)
            return
    except OSError as error:
        if error.errno in _FULL:
            raise
    os.ftruncate(fd, size)


def _no_space_error(destination: Path, size: int, error: OSError) -> OutputError:
    free = shutil.disk_usage(destination.parent).free
    return OutputError(
        f"not enough space for {printable(str(destination))}: it needs {format_bytes(size)}, and {format_bytes(free)} "
        f"are free ({error.strerror})",
        hint=("write to another filesystem: ", Argument("output", "PATH")),
    )


def _set_mode(fd: int, destination: Path, mode: int) -> None:
    """Give `fd` the mode and owner of the file at `destination`, or `mode` minus the umask if there is none."""
    try:
        old = destination.stat()
    except FileNotFoundError:
        os.fchmod(fd, mode & 0o777 & ~_umask())
        return
    _copy_mode(fd, old)


def _copy_mode(fd: int, old: os.stat_result) -> None:
    new = os.fstat(fd)
    if (new.st_uid, new.st_gid) != (old.st_uid, old.st_gid):
        with suppress(OSError):  # only root may change the owner
            os.fchown(fd, old.st_uid, old.st_gid)
    os.fchmod(fd, stat.S_IMODE(old.st_mode) & 0o777)


def _umask() -> int:
    mask = os.umask(0o077)  # the only portable way to read it is to set it
    os.umask(mask)
    return mask


def _publish_file(fd: int, temporary: Path | None, destination: Path, *, mode: int, force: bool) -> None:
    try:
        _set_mode(fd, destination, mode)
        os.fsync(fd)  # before the file gets its name: after a power cut no name leads to missing bytes
        if temporary is None:
            _publish_nameless(fd, destination, force=force)
        else:
            _publish_named(temporary, destination, force=force)
    except FileExistsError:
        raise exists(destination) from None
    except OSError as error:
        raise failed("publish", destination, error) from error
    record(destination)
    _flush_parent(destination)


def _publish_nameless(fd: int, destination: Path, *, force: bool) -> None:
    if not force:
        _link(fd, destination)
        return
    with suppress(OSError):  # the filesystem has no locks; then no run deletes stale files
        lock(fd)
    # linkat cannot replace a file. So the new one gets a hidden name first, and is renamed over the old one.
    temporary = temporary_name(destination.parent)
    with removed_at_end(temporary):
        _link(fd, temporary)
        temporary.replace(destination)


def _link(fd: int, path: Path) -> None:
    """Give an open file without a name the name `path`; FileExistsError where it exists."""
    # linkat relative to a descriptor of the directory: with a plain path under /proc, Python 3.11 gets EXDEV.
    descriptors = os.open(DESCRIPTORS, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.link(str(fd), path, src_dir_fd=descriptors, follow_symlinks=True)
    finally:
        os.close(descriptors)


def _publish_named(temporary: Path, destination: Path, *, force: bool) -> None:
    if force:
        temporary.replace(destination)
        return
    try:
        os.link(temporary, destination)  # unlike a rename, this fails if the destination exists
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if not _renameat2(temporary, destination, _NOREPLACE):
            _claim(temporary, destination)


def _claim(temporary: Path, destination: Path) -> None:
    """Publish without links and renameat2: create an empty file, which fails if there is one, and rename over it."""
    os.close(os.open(destination, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC))
    try:
        temporary.replace(destination)
    except BaseException:
        destination.unlink(missing_ok=True)
        raise


# --- a directory


@contextmanager
def new_directory(
    target: Path, *, mode: int = 0o777, force: bool = False, replaced: Collection[str] = ()
) -> Iterator[Path]:
    """Create an empty directory to fill with `new_file`, and rename it to `target` when the block ends.

    An exception leaves no new directory, and an existing one at `target` unchanged. With `force` an existing
    directory is exchanged for the new one in one step where the kernel supports it, and then deleted; it is not
    replaced if it has files that the new one has not, besides those with the relative paths `replaced`. `mode` loses
    the umask; the modes of an existing directory and of its files are kept. Raises errors as `new_file` does.
    """
    destination = destination_for(target, force=force, directory=True)
    remove_stale_temporaries(destination)
    with temporary_next_to(destination, make_directory) as (fd, temporary):
        yield temporary
        if force:
            names = {path.relative_to(temporary).as_posix() for path in temporary.rglob("*")}
            refuse_losses(destination, names.union(replaced))
        _publish_directory(fd, temporary, destination, mode=mode, force=force)


def _publish_directory(fd: int, temporary: Path, destination: Path, *, mode: int, force: bool) -> None:
    try:
        for path in temporary.rglob("*"):
            _finish_member(path, destination / path.relative_to(temporary) if force else None)
        _set_mode(fd, destination, mode)
        sync(fd)
        _rename(temporary, destination, force=force)
    except OSError as error:
        if error.errno in _TAKEN:
            raise exists(destination) from None
        raise failed("publish", destination, error) from error
    record(destination)
    _flush_parent(destination)


def _finish_member(path: Path, old: Path | None) -> None:
    """Flush the directory `path`, or give a member the mode and owner of `old`, which it replaces."""
    if old is None and not path.is_dir():
        return  # new_file has flushed it
    with open_descriptor(path, os.O_RDONLY) as fd:
        if old is not None:
            with suppress(FileNotFoundError, NotADirectoryError):
                _copy_mode(fd, old.stat())
        sync(fd)


def _rename(temporary: Path, destination: Path, *, force: bool) -> None:
    try:
        # A plain rename fails too if the destination is a directory that is not empty, but it replaces an empty one.
        if not _renameat2(temporary, destination, _NOREPLACE):
            temporary.rename(destination)
    except OSError as error:
        if not force or error.errno not in _TAKEN or not destination.is_dir():
            raise
        _exchange(temporary, destination)


def _exchange(temporary: Path, destination: Path) -> None:
    """Exchange the two directories, so that the old one has the temporary name and is deleted."""
    if _renameat2(temporary, destination, _EXCHANGE):
        return
    aside = temporary.with_suffix(".old")  # not a stale temporary: for a moment it is the only copy
    try:
        destination.rename(aside)
        temporary.rename(destination)
        aside.rename(temporary)
    except BaseException:
        if aside.exists():
            aside.rename(temporary if destination.exists() else destination)
        raise


def _renameat2(source: Path, target: Path, flags: int) -> bool:
    """Call Linux's renameat2; False if the C library, the kernel or the filesystem does not have it."""
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


def _flush_parent(destination: Path) -> None:
    """Flush the directory of the published `destination`; a directory that is not published is flushed later."""
    if inside_temporary(destination):
        return
    # A new name is an entry of its directory, which fsync of the file does not write.
    try:
        with open_descriptor(destination.parent, os.O_RDONLY | os.O_DIRECTORY) as fd:
            sync(fd)
    except OSError as error:
        raise UnflushedError(
            f"{printable(str(destination))} is written, but a power cut may undo it: its directory could not be "
            f"flushed ({error.strerror})",
            hint="sync",
        ) from error
