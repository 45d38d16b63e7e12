"""Files that are elsewhere as inputs of a run: read in large parts, several at the same time, ahead of their use.

Parts are shared by all threads of a run and forgotten after their use, so the memory is a number of them.
"""

from __future__ import annotations

import os
import stat
import threading
from collections import OrderedDict
from concurrent.futures import wait
from functools import partial
from typing import TYPE_CHECKING, NoReturn, TypeAlias

from prunecli.io.descriptors import Descriptor
from prunecli.io.files import Source
from prunecli.io.threads import Stopped, is_stopped
from prunecli.remote.errors import changed, local_only
from prunecli.remote.requesters import AT_ONCE, Requesters

if TYPE_CHECKING:
    from concurrent.futures import Future

    from prunecli.remote.path import RemotePath

PART = 1 << 22
"""Bytes that one request asks for."""

PATIENCE = 0.25
"""Seconds after which a thread that waits for a server looks whether the run was interrupted."""

_RUNS = 1 << 14
"""The parts of which is known that they were used, and how long the run of parts before them was."""


class RemoteSource(Source):
    """An input file that is elsewhere. Reads are complete or raise an error, and a change of the file is detected."""

    is_local = False

    def __init__(self, path: RemotePath, size: int, modified: int | None = None) -> None:
        """Read the file that had `size` bytes and the version `modified` when it was listed."""
        Descriptor.__init__(self, self._no_descriptor)
        self.path, self.size, self.mode = path, size, stat.S_IFREG | 0o644
        self._remote, self.closed = path.remote, False
        if self._remote.size != size or (modified is not None and modified != path.version):
            raise changed(str(path))

    def _no_descriptor(self) -> NoReturn:
        raise local_only(str(self.path))

    def keep_open(self) -> None:
        """Do nothing: connections are kept by the threads that read."""

    def close(self) -> None:
        """Give up what is being read, and forget the rest."""
        self.closed = True
        _ahead.forget(self)

    def check_unchanged(self) -> None:
        """Raise CheckpointError if the server has another content now."""
        self._remote.check_unchanged()

    def read(self, into: memoryview, offset: int) -> None:
        """Fill `into` from the byte `offset` on; CheckpointError if the server fails or the file has changed."""
        if offset + len(into) > self.size:
            raise changed(str(self.path))
        done = 0
        while done < len(into):
            index, start = divmod(offset + done, PART)
            count = min(PART - start, len(into) - done)
            part = _ahead.part(self, index)
            if part is None:  # it was read before, and only these bytes of it are wanted again
                data = _finished(_ahead.again(self, offset + done, count))
            else:
                data = _finished(part)[start : start + count]
            into[done : done + count] = data
            done += count

    def fetch(self, start: int, length: int) -> memoryview:
        """Return bytes from the server."""
        data = memoryview(bytearray(min(length, self.size - start)))
        self._remote.read(data, start, lambda: self.closed)
        return data


def _finished(part: Future[memoryview]) -> memoryview:
    """Wait for a part; Stopped where the work of this thread is not wanted any more."""
    while not part.done() and not is_stopped():
        wait([part], PATIENCE)
    if not part.done():
        raise Stopped
    return part.result()


_Key: TypeAlias = tuple[RemoteSource, int]
"""A file and the number of a part of it."""


class _Ahead:
    """The parts that are being read, that were read ahead, or that were used last, of all files of the process."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Begin without parts and without threads."""
        self._lock = threading.Lock()
        self._used: OrderedDict[_Key, Future[memoryview]] = OrderedDict()
        self._unused: OrderedDict[_Key, tuple[Future[memoryview], int]] = OrderedDict()
        self._runs: OrderedDict[_Key, int] = OrderedDict()
        self._readers: set[int] = set()
        self._requesters: Requesters[memoryview] | None = None
        self._begun = 0

    @property
    def held(self) -> int:
        """The number of parts."""
        return len(self._used) + len(self._unused)

    def again(self, source: RemoteSource, start: int, length: int) -> Future[memoryview]:
        """Return bytes of a part that was forgotten."""
        with self._lock:
            return self._begin(source, start, length)

    def part(self, source: RemoteSource, index: int) -> Future[memoryview] | None:
        """Return a part, and begin to read those after it if the ones before it were read in order.

        None for a part that was used before and is forgotten.
        """
        with self._lock:
            self._readers.add(threading.get_ident())
            part = self._used.get((source, index)) or self._unused.pop((source, index), (None, 0))[0]
            if part is None:
                if (source, index) in self._runs:
                    return None
                part = self._begin(source, index * PART, PART)
            self._used[source, index] = part
            self._used.move_to_end((source, index))
            self._read_ahead(source, index)
            self._forget_oldest()
        return part

    def _begin(self, source: RemoteSource, start: int, length: int) -> Future[memoryview]:
        if self._requesters is None:
            self._requesters = Requesters()
        self._begun += 1
        return self._requesters.submit(partial(source.fetch, start, length))

    def _read_ahead(self, source: RemoteSource, index: int) -> None:
        """Begin to read the next parts: more of them, the more were read in order. Those not used yet are limited."""
        if (source, index) in self._runs:
            return
        run = self._runs[source, index] = min(2 * self._runs.get((source, index - 1), 0) + 1, AT_ONCE)
        for key in ((source, following) for following in range(index + 1, index + run)):
            if len(self._unused) >= AT_ONCE or key[1] * PART >= source.size:
                return
            if key not in self._runs and key not in self._unused:
                self._unused[key] = self._begin(source, key[1] * PART, PART), self._begun

    def _forget_oldest(self) -> None:
        """Forget the parts that were used longest ago, of which a thread needs two, and those that nothing asks for."""
        while len(self._used) > 2 * len(self._readers):
            self._used.popitem(last=False)
        while self._unused and next(iter(self._unused.values()))[1] < self._begun - 4 * AT_ONCE:
            self._unused.popitem(last=False)[1][0].cancel()
        while len(self._runs) > _RUNS:
            self._runs.popitem(last=False)

    def forget(self, source: RemoteSource) -> None:
        """Forget the parts of a file, and end the process's readers with the last one."""
        with self._lock:
            for key in [key for key in self._unused if key[0] is source]:
                self._unused.pop(key)[0].cancel()
            for parts in (self._used, self._runs):
                for key in [key for key in parts if key[0] is source]:
                    del parts[key]
            if self.held:
                return
            self._readers.clear()
            requesters, self._requesters = self._requesters, None
            if requesters is not None:
                requesters.close()


_ahead = _Ahead()
if hasattr(os, "register_at_fork"):  # Windows has no forks
    os.register_at_fork(after_in_child=_ahead.clear)  # threads do not survive a fork
