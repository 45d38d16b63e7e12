"""layout."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prunecli.io.files import COPY_RUN, PAGE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from prunecli.checkpoint import Span


COPY_MIN = 1 << 18
"""Untouched gaps shorter than this ride along in the windows."""


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
