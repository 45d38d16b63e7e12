"""Descriptors of files that are opened when they are used, so that a checkpoint may have more files than the limit.

The descriptors used last stay open. All files of the process share the limit.
"""

from __future__ import annotations

import errno
import os
from collections import OrderedDict
from contextlib import AbstractContextManager, contextmanager
from threading import RLock
from typing import TYPE_CHECKING

from prunecli.io.transfer import WriteError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SPARE = 24
"""Descriptors that are left for other uses: standard streams, reports, modules that are imported, libraries."""

MOST = 256
"""The most descriptors that stay open, also if the limit of the process is higher."""

_EXHAUSTED = {errno.EMFILE, errno.ENFILE}


class Descriptor:
    """An open file. Without `fd` it is opened by `open_file` when it is used, and may be closed between two uses."""

    def __init__(self, open_file: Callable[[], int] | None = None, *, fd: int = -1) -> None:
        """Use `open_file`, or the descriptor `fd`, which the caller closes."""
        self._open_file, self._fd, self._users = open_file, fd, 0
        self._kept = _Kept(fd) if open_file is None else None

    def opened(self) -> AbstractContextManager[int]:
        """Return the descriptor, which stays open until the block ends.

        Errors of writing to a file that is opened here name this object.
        """
        return self._kept or self._opened_for_now()

    def keep_open(self) -> None:
        """Open the file until it is closed: its uses then cost less."""
        if self._kept is None:
            self._kept = _Kept(self._acquire())

    @contextmanager
    def _opened_for_now(self) -> Iterator[int]:
        fd = self._acquire()
        try:
            yield fd
        except WriteError as error:
            if error.output == fd:
                error.output = self
            raise
        finally:
            with _lock:
                self._users -= 1
                _close_unused(_most_open())

    def close(self) -> None:
        """Close the file if it is open."""
        with _lock:
            if _open.pop(self, False):
                self._kept = None
                os.close(self._fd)

    def _acquire(self) -> int:
        open_file = self._open_file
        with _lock:
            if self not in _open and open_file is not None:
                _close_unused(_most_open() - 1)
                self._fd = _opened(open_file)
                _open[self] = True
            _open.move_to_end(self)
            self._users += 1
            return self._fd


class _Kept:
    """The context of a file that stays open."""

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __enter__(self) -> int:
        return self._fd

    def __exit__(self, *_: object) -> None:
        pass


_lock = RLock()  # a file may be opened by way of another one
_open: OrderedDict[Descriptor, bool] = OrderedDict()  # the files that are open, the one used last at the end


def _close_unused(keep: int) -> None:
    """Close files that are not in use, those used longest ago first, until at most `keep` are open."""
    for descriptor in list(_open) if len(_open) > keep else ():
        if len(_open) <= keep:
            return
        if not descriptor._users:  # noqa: SLF001 - of this module's class
            descriptor.close()


def _opened(open_file: Callable[[], int]) -> int:
    try:
        return open_file()
    except OSError as error:
        if error.errno not in _EXHAUSTED:
            raise
        _close_unused(0)
        return open_file()


def _most_open() -> int:
    """Return how many files may stay open."""
    try:
        import resource  # noqa: PLC0415 - systems without it can import this module
    except ImportError:
        return MOST
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST if limit == resource.RLIM_INFINITY else max(1, min(MOST, limit - SPARE))
