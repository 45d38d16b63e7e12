"""Moving bytes: a new file in one pass, where untouched ranges go through the kernel and the rest in windows.

Windows are page-aligned where the tensors allow it, end on element boundaries always, and hold whole any tensor that
must be seen at once. Nothing here knows what happens to a window's weights.
"""

from __future__ import annotations

import errno
import mmap
import os
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prunecli.errors import CheckpointError, OutputError
from prunecli.text.escape import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from prunecli.checkpoint import Span

PAGE = 4096
COPY_MIN = 1 << 18
"""Untouched gaps shorter than this ride along in the windows."""

COPY_RUN = 1 << 25
"""Bytes the kernel copies in one step, so that progress shows and an interrupt is heard."""

_NO_KERNEL_COPY = {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF, errno.EPERM}


@dataclass(frozen=True, slots=True)
class Run:
    """The bytes [start, end) of target number `target` in a file; `whole` if they must share one window.

    `reach` widens a range of elements to those that must be seen with it.
    """

    start: int
    end: int
    target: int
    itemsize: int
    whole: bool
    reach: Callable[[int, int], tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Piece:
    """The elements [first, stop) of a target that a window owns, and [low, high) that must be seen with them.

    `ordinal` counts the target's pieces in the order of the windows.
    """

    target: int
    first: int
    stop: int
    low: int
    high: int
    ordinal: int


@dataclass(frozen=True, slots=True)
class Window:
    """The bytes [start, end) of a file to write, [read_start, read_end) to read for it, and the pieces inside."""

    start: int
    end: int
    read_start: int
    read_end: int
    pieces: tuple[Piece, ...]


@dataclass(frozen=True, slots=True)
class Untouched:
    """The bytes [start, end) of a file that are copied as they are."""

    start: int
    end: int

    def steps(self) -> Iterator[Untouched]:
        """Yield it in parts that take little time each."""
        for start in range(self.start, self.end, COPY_RUN):
            yield Untouched(start, min(start + COPY_RUN, self.end))


class Layout:
    """How one file of `size` bytes is cut up: `runs` to change, and `spans` that must be read whole besides."""

    def __init__(self, size: int, runs: Sequence[Run], spans: Sequence[Span] = (), *, window: int = 1 << 20) -> None:
        """Sort and merge; `window` is the usual length of a window in bytes, a multiple of the page."""
        self.size, self.window = size, window
        self.runs = sorted(runs, key=lambda run: (run.start, run.end))
        self._starts = [run.start for run in self.runs]
        self._busy = merged([(r.start, r.end) for r in self.runs] + [(s.start, s.end) for s in spans], COPY_MIN)
        self._solid = merged([(r.start, r.end) for r in self.runs if r.whole], 0)
        self._solid_starts = [start for start, _ in self._solid]

    def __iter__(self) -> Iterator[Window | Untouched]:
        """Yield windows and untouched ranges, in file order, that together cover the file."""
        ordinals: dict[int, int] = {}
        at = 0
        for start, end in self._busy:
            low, high = max(at, start - start % PAGE), min(end + -end % PAGE, self.size)
            if at < low:
                yield Untouched(at, low)
                at = low
            while at < high:
                stop = self._settle(at, min(at + self.window, high))
                yield self._window(at, stop, ordinals)
                at = stop
        if at < self.size:
            yield Untouched(at, self.size)

    def _settle(self, at: int, stop: int) -> int:
        """Move the end of a window off tensors that must stay whole and off the middle of elements."""
        while True:
            solid = bisect_left(self._solid_starts, stop) - 1
            if solid >= 0 and self._solid[solid][1] > stop:
                end = self._solid[solid][1]
                stop = min(end + -end % PAGE, self.size)
                continue
            moved = self._to_element(at, stop)
            if moved == stop:
                return stop
            stop = moved

    def _to_element(self, at: int, stop: int) -> int:
        last = bisect_left(self._starts, stop) - 1
        if last < 0 or self.runs[last].end <= stop or self.runs[last].whole:
            return stop
        run = self.runs[last]
        moved = stop - (stop - run.start) % run.itemsize
        return moved if moved > at else run.end

    def _window(self, start: int, end: int, ordinals: dict[int, int]) -> Window:
        pieces: list[Piece] = []
        read_start, read_end = start, end
        for run in self._overlapping(start, end):
            first = (max(start, run.start) - run.start) // run.itemsize
            stop = (min(end, run.end) - run.start) // run.itemsize
            low, high = run.reach(first, stop)
            read_start = min(read_start, run.start + low * run.itemsize)
            read_end = max(read_end, run.start + high * run.itemsize)
            ordinal = ordinals[run.target] = ordinals.get(run.target, -1) + 1
            pieces.append(Piece(run.target, first, stop, low, high, ordinal))
        return Window(start, end, read_start - read_start % PAGE, read_end, tuple(pieces))

    def _overlapping(self, start: int, end: int) -> Iterator[Run]:
        """Yield the runs with bytes in [start, end); whole runs may overlap each other, others do not."""
        first = bisect_right(self._starts, start) - 1
        solid = bisect_right(self._solid_starts, start) - 1
        if solid >= 0 and self._solid[solid][1] > start:
            first = bisect_left(self._starts, self._solid[solid][0])
        for run in self.runs[max(first, 0) : bisect_left(self._starts, end)]:
            if run.end > start:
                yield run


def merged(ranges: Sequence[tuple[int, int]], gap: int) -> list[tuple[int, int]]:
    """Return `ranges` sorted, with those joined that overlap or lie less than `gap` bytes apart."""
    found: list[tuple[int, int]] = []
    for start, end in sorted(r for r in ranges if r[0] < r[1]):
        if found and start < found[-1][1] + gap:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((start, end))
    return found


class Source:
    """An input file held open; reads are whole or an error, and a change while it is read is noticed."""

    def __init__(self, path: Path, size: int, modified: int | None = None) -> None:
        """Open `path` and remember what it was like.

        Raise CheckpointError if it is not `size` bytes long or, where that is known, `modified` at that time (ns).
        """
        self.path, self.size = path, size
        self.fd = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        self._seen = self._state()
        if self._seen != (size, self._seen[1] if modified is None else modified):
            self.close()
            raise self._changed()

    def _state(self) -> tuple[int, int]:
        status = os.fstat(self.fd)
        return status.st_size, status.st_mtime_ns

    def _changed(self) -> CheckpointError:
        return CheckpointError(f"{self.path} changed while it was being read", hint="run it again once nobody writes")

    def check_unchanged(self) -> None:
        """Raise CheckpointError if the file was written to since it was opened."""
        if self._state() != self._seen:
            raise self._changed()

    def read(self, into: memoryview, offset: int) -> None:
        """Fill `into` from the byte `offset` on; raise CheckpointError if the file ends before."""
        done = 0
        while done < len(into):
            try:
                got = os.preadv(self.fd, [into[done:]], offset + done)
            except OSError as error:
                raise CheckpointError(f"cannot read {shown(str(self.path))}: {error.strerror}") from error
            if got <= 0:
                raise self._changed()
            done += got

    def close(self) -> None:
        """Let go of the file."""
        os.close(self.fd)


class Sink:
    """An output file being written at any offset, around the page cache where asked and possible."""

    def __init__(self, fd: int, *, direct: bool) -> None:
        """Write to `fd`; `direct` tries to open it a second time with O_DIRECT."""
        self.fd = fd
        self._direct = _open_direct(fd) if direct else None
        self._goes_direct = self._direct is not None

    def write(self, data: memoryview, offset: int) -> None:
        """Write all of `data` at the byte `offset`; whole pages go direct if memory and file offsets allow."""
        head = min(-offset % PAGE, len(data))
        body = (len(data) - head) // PAGE * PAGE
        if self._direct is None or not self._goes_direct or not body:
            write_all(self.fd, data, offset)
            return
        if head:
            write_all(self.fd, data[:head], offset)
        try:
            write_all(self._direct, data[head : head + body], offset + head)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            # The filesystem took O_DIRECT at open and refuses it at write: go on through the cache.
            self._goes_direct = False
            write_all(self.fd, data[head : head + body], offset + head)
        if head + body < len(data):
            write_all(self.fd, data[head + body :], offset + head + body)

    def copy(self, source: Source, start: int, end: int) -> None:
        """Copy the bytes [start, end) of `source` to the same place, inside the kernel where it can."""
        while start < end:
            try:
                done = os.copy_file_range(source.fd, self.fd, min(COPY_RUN, end - start), start, start)
            except (OSError, AttributeError) as error:
                if isinstance(error, OSError) and error.errno not in _NO_KERNEL_COPY:
                    raise
                self._copy_by_hand(source, start, end)
                return
            if done == 0:
                self._copy_by_hand(source, start, end)
                return
            start += done

    def _copy_by_hand(self, source: Source, start: int, end: int) -> None:
        memory = memoryview(mmap.mmap(-1, min(1 << 20, end - start)))
        while start < end:
            part = memory[: end - start]
            source.read(part, start)
            write_all(self.fd, part, start)
            start += len(part)

    def close(self) -> None:
        """Close the second descriptor; the first is its owner's."""
        if self._direct is not None:
            os.close(self._direct)
            self._direct = None


def write_all(fd: int, data: memoryview, offset: int) -> None:
    """Write all of `data` at `offset`, however often the kernel takes only a part; OutputError if it takes none."""
    done = 0
    while done < len(data):
        wrote = os.pwrite(fd, data[done:], offset + done)
        if wrote <= 0:
            raise OutputError(f"the output took no more bytes at offset {offset + done}")
        done += wrote


def _open_direct(fd: int) -> int | None:
    """Open what `fd` refers to a second time for writing around the page cache, or return None."""
    flag = getattr(os, "O_DIRECT", None)
    if flag is None:
        return None
    try:
        return os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | flag | os.O_CLOEXEC)
    except OSError:
        return None
