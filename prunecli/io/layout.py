"""The layout of a file in windows, which are read and pruned, and untouched ranges, which are copied.

Windows start at pages, or before a small tensor, where the tensors allow it, and always end between elements. A tensor
that must be processed as a whole is in one window.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING, NamedTuple

from prunecli.io.files import PAGE
from prunecli.io.transfer import COPY_RUN
from prunecli.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from prunecli.checkpoint import Span


COPY_MIN = 1 << 18
"""Untouched gaps shorter than this are part of the windows, in bytes."""

SMALL = 8
"""A range that takes less than this part of a window is not divided: to count two parts of it takes longer."""


class TargetRange(NamedTuple):
    """The bytes [start, end) of target number `target` in a file; `whole` if they must be in one window."""

    start: int
    end: int
    target: int
    itemsize: int
    whole: bool


class Piece(NamedTuple):
    """The elements [first, stop) of a target that a window prunes, and [low, high) that it must read for them.

    `ordinal` numbers the target's pieces in the order of the windows.
    """

    target: int
    first: int
    stop: int
    low: int
    high: int
    ordinal: int


@dataclass(frozen=True, slots=True)
class Window:
    """The bytes [start, end) of a file to write, [read_start, read_end) to read for them, and the pieces inside."""

    start: int
    end: int
    read_start: int
    read_end: int
    pieces: tuple[Piece, ...]


@dataclass(frozen=True, slots=True)
class UntouchedRange:
    """The bytes [start, end) of a file that are copied unchanged."""

    start: int
    end: int

    def steps(self) -> Iterator[UntouchedRange]:
        """Yield the range in parts of at most COPY_RUN bytes."""
        for start in range(self.start, self.end, COPY_RUN):
            yield UntouchedRange(start, min(start + COPY_RUN, self.end))


class Around:
    """The untouched ranges of a file of `size` bytes around `spans`, which do not overlap."""

    def __init__(self, size: int, spans: Sequence[Span]) -> None:
        """Sort the spans."""
        self._size, self._spans = size, sorted(spans, key=lambda span: span.start)

    def __iter__(self) -> Iterator[UntouchedRange]:
        """Yield the ranges in file order."""
        position = 0
        for span in self._spans:
            if position < span.start:
                yield UntouchedRange(position, span.start)
            position = span.end
        if position < self._size:
            yield UntouchedRange(position, self._size)


class Layout:
    """The windows and untouched ranges of one file of `size` bytes, or of its bytes from `start` to `size`.

    `ranges` are the bytes of its targets. The bytes [start, end) of `reads` must be read as well, for checksums and by
    the output; those of `wholes` must also be in one window. `reach` widens a range of elements of a target, of which a
    window has only a part, to the elements that must be read with it.
    """

    def __init__(  # noqa: PLR0913 - what a window depends on
        self,
        size: int,
        ranges: Sequence[TargetRange],
        reads: Sequence[tuple[int, int]] = (),
        wholes: Sequence[tuple[int, int]] = (),
        *,
        reach: Callable[[int, int, int], tuple[int, int]] = lambda _, first, stop: (first, stop),
        window: int = 1 << 20,
        gap: int = COPY_MIN,
        start: int = 0,
    ) -> None:
        """Sort and merge the ranges; `window` is the usual length of a window in bytes, a multiple of the page.

        Ranges that are less than `gap` bytes apart are in common windows, with the bytes between them.
        """
        self.size, self.window, self.start, self._reach = size, window, start, reach
        self.ranges = sorted(ranges)
        self._starts = [r.start for r in self.ranges]
        self._busy = merged([*((r.start, r.end) for r in self.ranges), *reads, *wholes], gap)
        self._solid = merged([*((r.start, r.end) for r in self.ranges if r.whole), *wholes], 0)
        self._solid_starts = [start for start, _ in self._solid]

    def __iter__(self) -> Iterator[Window | UntouchedRange]:
        """Yield the windows and untouched ranges in file order; together they cover the file."""
        ordinals: dict[int, int] = {}
        position = self.start
        for start, end in self._busy:
            low, high = max(position, start - start % PAGE), min(end + -end % PAGE, self.size)
            if position < low:
                yield UntouchedRange(position, low)
                position = low
            while position < high:
                stop = self._settle(position, min(position + self.window, high))
                yield self._window(position, stop, ordinals)
                position = stop
        if position < self.size:
            yield UntouchedRange(position, self.size)

    def windows(self) -> Iterator[Window]:
        """Yield the windows alone."""
        return (part for part in self if isinstance(part, Window))

    def _settle(self, start: int, stop: int) -> int:
        """Move the end `stop` of a window before a small range, and out of elements and ranges that must stay whole."""
        stop = self._before_small(start, stop)
        while True:  # a move out of one range may end inside another
            solid = bisect_left(self._solid_starts, stop) - 1
            if solid >= 0 and self._solid[solid][1] > stop:
                end = self._solid[solid][1]
                stop = min(end + -end % PAGE, self.size)
                continue
            moved = self._to_element(start, stop)
            if moved == stop:
                return stop
            stop = moved

    def _before_small(self, start: int, stop: int) -> int:
        last = bisect_left(self._starts, stop) - 1
        if last < 0 or self.ranges[last].end <= stop:
            return stop
        first, end = self.ranges[last][:2]
        return first if start < first and end - first <= self.window // SMALL else stop

    def _to_element(self, start: int, stop: int) -> int:
        last = bisect_left(self._starts, stop) - 1
        if last < 0 or self.ranges[last].end <= stop or self.ranges[last].whole:
            return stop
        target_range = self.ranges[last]
        moved = stop - (stop - target_range.start) % target_range.itemsize
        return moved if moved > start else target_range.end

    def _window(self, start: int, end: int, ordinals: dict[int, int]) -> Window:
        pieces: list[Piece] = []
        read_start, read_end = start, end
        for r in self._overlapping(start, end):
            if start <= r.start and r.end <= end:
                numel = (r.end - r.start) // r.itemsize
                pieces.append(Piece(r.target, 0, numel, 0, numel, 0))
                continue
            first = (max(start, r.start) - r.start) // r.itemsize
            stop = (min(end, r.end) - r.start) // r.itemsize
            low, high = self._reach(r.target, first, stop)
            read_start = min(read_start, r.start + low * r.itemsize)
            read_end = max(read_end, r.start + high * r.itemsize)
            ordinal = ordinals[r.target] = ordinals.get(r.target, -1) + 1
            pieces.append(Piece(r.target, first, stop, low, high, ordinal))
        return Window(start, end, read_start - read_start % PAGE, read_end, tuple(pieces))

    def _overlapping(self, start: int, end: int) -> Iterator[TargetRange]:
        """Yield the ranges with bytes in [start, end); whole ranges may overlap each other, others do not."""
        first = bisect_right(self._starts, start) - 1
        solid = bisect_right(self._solid_starts, start) - 1
        if solid >= 0 and self._solid[solid][1] > start:
            first = bisect_left(self._starts, self._solid[solid][0])
        for target_range in self.ranges[max(first, 0) : bisect_left(self._starts, end)]:
            if target_range.end > start:
                yield target_range


def merged(ranges: Sequence[tuple[int, int]], gap: int) -> list[tuple[int, int]]:
    """Return `ranges` sorted; ranges that overlap or are less than `gap` bytes apart are joined, empty ones dropped."""
    joined: list[tuple[int, int]] = []
    for start, end in sorted(r for r in ranges if r[0] < r[1]):
        if joined and start < joined[-1][1] + gap:
            joined[-1] = (joined[-1][0], max(joined[-1][1], end))
        else:
            joined.append((start, end))
    return joined
