"""The records whose checksums change: the parts of them that windows process, and their CRC-32 before and after."""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_right
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from prunecli.checkpoint import Span
from prunecli.io.assembled import run_bytes
from prunecli.io.crc32 import combine
from prunecli.io.threads import results

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from prunecli.checkpoint import Checksum
    from prunecli.io.assembled import AssembledSource
    from prunecli.io.layout import Window
    from prunecli.io.threads import Pool, Worker

_LOCATED = 64  # chunks that one task finds


class Part(NamedTuple):
    """Bytes of record number `record`, from the byte `start` of it on."""

    record: int
    start: int
    data: memoryview


class Record(NamedTuple):
    """A record: the number of its file, its bytes there, its CRC-32, and the places of the CRC-32 in the file."""

    file: int
    start: int
    length: int
    crc: int
    places: tuple[int, ...]


_Sums: TypeAlias = list[tuple[int, int, int, int]]
"""The CRC-32 of the parts of a record: (start, length, before, after)."""


def _combined(sums: _Sums) -> tuple[int, int]:
    before = after = 0
    for _, length, old, new in sorted(sums):
        before, after = combine(before, old, length), combine(after, new, length)
    return before, after


class Records(ABC):
    """The records of one stream. Several threads may add parts at the same time."""

    def __init__(self) -> None:
        """Start without parts."""
        self._sums: dict[int, _Sums] = {}
        self._lock = Lock()

    @abstractmethod
    def parts(self, own: memoryview, window: Window) -> Iterator[Part]:
        """Yield the parts of records in `own`, the bytes of a window."""

    @abstractmethod
    def record(self, number: int) -> Record:
        """Return a record."""

    def add(self, part: Part, before: int, after: int) -> None:
        """Keep the CRC-32 of a part, before and after its weights were pruned."""
        with self._lock:
            self._sums.setdefault(part.record, []).append((part.start, len(part.data), before, after))

    def own_sums(self) -> list[tuple[int, int, int, int, int]]:
        """Return (number, start, length, before, after) of each record: of the parts of it that were added as one."""
        return [
            (number, min(sums)[0], sum(part[1] for part in sums), *_combined(sums))
            for number, sums in sorted(self._sums.items())
        ]

    def add_sums(self, number: int, *part: int) -> None:
        """Keep the CRC-32 of a part (start, length, before, after) of record `number`."""
        start, length, before, after = part
        self._sums.setdefault(number, []).append((start, length, before, after))

    def forget(self) -> None:
        """Start without parts again."""
        self._sums = {}

    def sums(self) -> Iterator[tuple[Record, int, int]]:
        """Yield each record with its CRC-32 before and after; all of its parts were added."""
        for number, sums in sorted(self._sums.items()):
            yield self.record(number), *_combined(sums)


class FileRecords(Records):
    """The records of a file, which do not overlap."""

    def __init__(self, file: int, checksums: Sequence[Checksum]) -> None:
        """Take the checksums of file number `file` that change."""
        super().__init__()
        self._file, self._checksums = file, sorted(checksums, key=lambda checksum: checksum.span.start)

    def spans_in(self, start: int, end: int) -> list[Span]:
        """Return those of the bytes [start, end) of the file that are in records."""
        spans = [checksum.span for checksum in self._checksums]
        clipped = ((max(span.start, start), min(span.end, end)) for span in spans)
        return [Span(low, high - low) for low, high in clipped if low < high]

    def parts(self, own: memoryview, window: Window) -> Iterator[Part]:
        """Yield the parts of records in `own`, the bytes of a window."""
        first = bisect_right(self._checksums, window.start, key=lambda checksum: checksum.span.end)
        for number in range(first, len(self._checksums)):
            span = self._checksums[number].span
            if span.start >= window.end:
                return
            low, high = max(window.start, span.start), min(window.end, span.end)
            yield Part(number, low - span.start, own[low - window.start : high - window.start])

    def record(self, number: int) -> Record:
        """Return a record."""
        checksum = self._checksums[number]
        return Record(self._file, checksum.span.start, checksum.span.length, checksum.value, checksum.places)


class ChunkRecords(Records):
    """The chunks of targets; their numbers are those of the chunks."""

    def __init__(self, source: AssembledSource, targets: Sequence[tuple[int, int]]) -> None:
        """Take the chunks of the tensors at these bytes of the stream."""
        super().__init__()
        self._source = source
        self._chunks = [chunk for start, end in targets for chunk in source.assembly.chunks_in(start, end)]

    def locate(self, pool: Pool) -> None:
        """Find all chunks in their files; CheckpointError for one that is damaged."""

        def find(_: Worker, first: int) -> None:
            self._source.locate(self._chunks[first : first + _LOCATED])

        results([pool.submit(find, first) for first in range(0, len(self._chunks), _LOCATED)])

    def spans_by_file(self, count: int) -> list[list[Span]]:
        """Return the bytes of the chunks in each of `count` files."""
        assembly = self._source.assembly
        spans: list[list[Span]] = [[] for _ in range(count)]
        for chunk in self._chunks:
            spans[assembly.files[chunk]].append(Span(self._source.place(chunk).start, assembly.chunk_bytes(chunk)))
        return spans

    def parts(self, own: memoryview, window: Window) -> Iterator[Part]:
        """Yield the parts of chunks with a checksum in `own`, the bytes of a window."""
        for run in self._source.assembly.runs(window.start, window.end):
            if self._source.place(run.chunk).places:
                yield Part(run.chunk, run.offset, run_bytes(run, own, window.start))

    def record(self, number: int) -> Record:
        """Return the chunk `number`."""
        place, assembly = self._source.place(number), self._source.assembly
        return Record(assembly.files[number], place.start, assembly.chunk_bytes(number), place.crc, place.places)
