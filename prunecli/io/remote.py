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
from typing import TYPE_CHECKING, NoReturn

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

_RUNS = 256
"""The parts of which is known how long the run of parts before them is."""


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
            part = _finished(_ahead.part(self, index))
            count = min(len(part) - start, len(into) - done)
            into[done : done + count] = part[start : start + count]
            done += count

    def fetch(self, index: int) -> memoryview:
        """Return a part from the server."""
        start = index * PART
        part = memoryview(bytearray(min(PART, self.size - start)))
        self._remote.read(part, start, lambda: self.closed)
        return part


def _finished(part: Future[memoryview]) -> memoryview:
    """Wait for a part; Stopped where the work of this thread is not wanted any more."""
    while not part.done() and not is_stopped():
        wait([part], PATIENCE)
    if not part.done():
        raise Stopped
    return part.result()


class _Ahead:
    """The parts that are being read or were read last, of all files of the process."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Begin without parts and without threads."""
        self._lock = threading.Lock()
        self._parts: OrderedDict[tuple[RemoteSource, int], Future[memoryview]] = OrderedDict()
        self._runs: OrderedDict[tuple[RemoteSource, int], int] = OrderedDict()
        self._readers: set[int] = set()
        self._requesters: Requesters[memoryview] | None = None

    def part(self, source: RemoteSource, index: int) -> Future[memoryview]:
        """Return a part, and begin to read those after it if the ones before it were read in order."""
        with self._lock:
            self._readers.add(threading.get_ident())
            part = self._begun(source, index)
            run = self._runs.get((source, index))
            if run is None:
                run = self._runs[source, index] = min(2 * self._runs.get((source, index - 1), 0) + 1, AT_ONCE)
                last = -(-source.size // PART)
                for following in range(index + 1, min(index + run, last)):
                    self._begun(source, following)
            self._forget_oldest()
        return part

    def _begun(self, source: RemoteSource, index: int) -> Future[memoryview]:
        part = self._parts.get((source, index))
        if part is None or (part.done() and (part.cancelled() or part.exception())):
            if self._requesters is None:
                self._requesters = Requesters()
            part = self._parts[source, index] = self._requesters.submit(partial(source.fetch, index))
        self._parts.move_to_end((source, index))
        return part

    def _forget_oldest(self) -> None:
        """Forget the parts that were used longest ago: a thread needs two, and those ahead are shared."""
        while len(self._parts) > AT_ONCE + 2 * len(self._readers):
            self._parts.popitem(last=False)
        while len(self._runs) > _RUNS:
            self._runs.popitem(last=False)

    def forget(self, source: RemoteSource) -> None:
        """Forget the parts of a file, and end the process's readers with the last one."""
        with self._lock:
            for key in [key for key in self._parts if key[0] is source]:
                self._parts.pop(key).cancel()
            for key in [key for key in self._runs if key[0] is source]:
                del self._runs[key]
            if not self._parts:
                self._readers.clear()
                requesters, self._requesters = self._requesters, None
                if requesters is not None:
                    requesters.close()


_ahead = _Ahead()
os.register_at_fork(after_in_child=_ahead.clear)  # threads do not survive a fork
