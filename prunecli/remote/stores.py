"""Where models are: the files of a repository, of a bucket or of a web server, by their names in a folder."""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from hashlib import sha256
from threading import Lock
from typing import TYPE_CHECKING

from prunecli.errors import CheckpointError
from prunecli.file_view import FileView
from prunecli.remote.requesters import Requesters
from prunecli.text.closest import closest
from prunecli.text.escape import printable, quoted
from prunecli.text.member_names import leaves_its_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from prunecli.remote.ranges import Remote

BLOCK = 1 << 14
"""Bytes of a file that are fetched and kept together."""

HEAD = 1 << 16
"""The first bytes of a file that are fetched at once: most headers are shorter. Longer reads are not kept."""

KEPT = 1 << 26
"""Bytes of blocks that are kept of a model, because headers are read more than once."""


class Store:
    """The files of a model and what was read of their headers.

    Attributes:
        root: The URL that the names of files are relative to, without secrets.
        files: The files by their names.
        notes: Sentences about the model that a user may want to know.
    """

    def __init__(self, root: str, files: Mapping[str, Remote], notes: Iterable[str] = ()) -> None:
        """Take the files; CheckpointError for a name that leaves the folder."""
        for name in files:
            if leaves_its_folder(name):
                raise CheckpointError(f"{printable(root)} lists a file {quoted(name)}, which is no name inside of it")
        self.root, self.files, self.notes = root, dict(files), tuple(notes)
        self._blocks: OrderedDict[tuple[str, int], bytes] = OrderedDict()
        self._lock = Lock()

    def find(self, name: str) -> Remote | None:
        """Return the file of this name, or None if there is none."""
        return self.files.get(name)

    def below(self, folder: str) -> list[str]:
        """Return the names of all files in a folder and its folders, relative to it, in order."""
        start = f"{folder}/" if folder else ""
        return sorted(name[len(start) :] for name in self.files if name.startswith(start))

    def missing(self, name: str) -> CheckpointError:
        """Return the error for a name that is neither a file nor a folder; the hint has the closest one."""
        near = closest(name, list(self.files))
        hint = f"closest name is {printable(self.root)}/{printable(near[0])}" if near else None
        return CheckpointError(f"there is no {printable(name)} in {printable(self.root)}", hint=hint)

    def kept(self, remote: Remote, index: int) -> bytes | None:
        """Return a block of a file if it is kept."""
        key = remote.name, index
        with self._lock:
            if key in self._blocks:
                self._blocks.move_to_end(key)
            return self._blocks.get(key)

    def block(self, remote: Remote, index: int, end: int) -> bytes:
        """Return a block of a file. If it must be fetched, those before the byte `end` are fetched with it."""
        data = self.kept(remote, index)
        if data is None:
            start = index * BLOCK
            end = max(end, start + BLOCK, 0 if index else HEAD)
            fetched = bytearray(min(-(-end // BLOCK) * BLOCK, remote.known_size) - start)
            remote.read(memoryview(fetched), start)
            self.keep(remote, index, bytes(fetched))
            data = bytes(fetched[:BLOCK])
        return data

    def keep(self, remote: Remote, index: int, data: bytes) -> None:
        """Keep the blocks from `index` on, and forget those that were used longest ago."""
        with self._lock:
            for start in range(0, len(data), BLOCK):
                self._blocks[remote.name, index + start // BLOCK] = data[start : start + BLOCK]
            while len(self._blocks) > KEPT // BLOCK:
                self._blocks.popitem(last=False)

    def fetch_heads(self, names: Iterable[str]) -> None:
        """Fetch the first block of several files at the same time."""
        remotes = [remote for name in names if (remote := self.find(name)) is not None and remote.size]
        if len(remotes) > 1:
            _at_once([partial(self.block, remote, 0, HEAD) for remote in remotes])

    def fetch_blocks(self, remote: Remote, offsets: Iterable[int]) -> None:
        """Fetch the blocks at some offsets of a file at the same time, for short reads there."""
        indexes = sorted({offset // BLOCK for offset in offsets if 0 <= offset < remote.known_size})
        missing = [index for index in indexes[: KEPT // BLOCK] if self.kept(remote, index) is None]
        _at_once([partial(self.block, remote, index, 0) for index in missing])


def _at_once(work: Sequence[Callable[[], object]]) -> None:
    """Do all of `work` with several threads; the first error is raised."""
    requesters: Requesters[object] = Requesters()
    futures = [requesters.submit(one) for one in work]
    try:
        for future in futures:
            future.result()
    finally:
        for future in futures:
            future.cancel()
        requesters.close()


def number_of(version: str) -> int:
    """Return a number that stands for a version, as a time of modification does."""
    return int.from_bytes(sha256(version.encode()).digest()[:7], "big")


class RemoteReader(FileView):
    """Reads and seeks in a file that is elsewhere: block by block, and long parts at once."""

    def __init__(self, store: Store, remote: Remote) -> None:
        """Start at the first byte."""
        super().__init__(self._part, remote.known_size)
        self._store, self._remote = store, remote

    def expect(self, offsets: Iterable[int]) -> None:
        """Fetch the blocks at these offsets at the same time: short reads follow there."""
        self._store.fetch_blocks(self._remote, offsets)

    def _part(self, offset: int, count: int) -> bytes:
        """Return bytes of one block, or if more are wanted than a header has, all of them."""
        index, start = divmod(offset, BLOCK)
        if count < HEAD or self._store.kept(self._remote, index) is not None:
            return self._store.block(self._remote, index, offset + count)[start : start + count]
        data = bytearray(count)
        self._remote.read(memoryview(data), offset)
        return bytes(data)
