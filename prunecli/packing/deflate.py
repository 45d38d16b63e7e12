"""Compress records of a file with deflate, in blocks that threads compress side by side.

Each block ends with a full flush, so that the blocks of a record joined are one stream, which any inflater reads.
The bytes do not depend on the number of threads.
"""

from __future__ import annotations

import zlib
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from prunecli.checkpoint import Span
from prunecli.errors import CheckpointError
from prunecli.io.crc32 import combine, crc32
from prunecli.io.transfer import write_all
from prunecli.text.escape import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from prunecli.formats.zip.directory import Record
    from prunecli.io.files import Source

S = TypeVar("S")
T = TypeVar("T")

BLOCK = 1 << 20
"""Bytes of a block. A smaller one would find fewer repetitions, a larger one would keep fewer threads busy."""

SAMPLE = 1 << 16
"""Bytes of a block that are compressed in two ways, of which the smaller one is used for the block."""

AHEAD = 4
"""Blocks per thread that are compressed before they are written."""


@dataclass(frozen=True, slots=True)
class Deflation:
    """A record whose compressed bytes, `span` of a temporary file, are fewer than its own."""

    record: Record
    span: Span


@dataclass(frozen=True, slots=True)
class _Block:
    """The bytes [start, end) of a file, which belong to `record`; `last` ends its stream."""

    record: Record
    start: int
    end: int

    @property
    def last(self) -> bool:
        return self.end == self.record.span.end


def deflate_records(
    source: Source, records: Sequence[Record], level: int, fd: int, *, threads: int, advance: Callable[[int], None]
) -> list[Deflation]:
    """Write the compressed `records` of `source` to `fd`, one after the other, and return those that became smaller.

    `advance` receives the number of bytes after each block. Raises CheckpointError if the checksum of a record is not
    that of its bytes.
    """
    deflations: list[Deflation] = []
    start = offset = crc = 0

    def compress(block: _Block) -> tuple[_Block, bytes, int]:
        data = bytearray(block.end - block.start)
        source.read(memoryview(data), block.start)
        return block, _deflated(data, level, last=block.last), crc32(memoryview(data))

    with ThreadPoolExecutor(threads, thread_name_prefix="prune") as pool:
        for block, data, part in _in_order(pool, compress, _blocks(records), ahead=AHEAD * threads):
            write_all(fd, memoryview(data), offset)
            offset += len(data)
            crc = combine(crc, part, block.end - block.start)
            advance(block.end - block.start)
            if block.last:
                _check(block.record, crc, source)
                crc = 0
                if offset - start < block.record.size:
                    deflations.append(Deflation(block.record, Span(start, offset - start)))
                    start = offset
                offset = start  # what is not smaller is overwritten
    return deflations


def check_stored(source: Source, record: Record) -> None:
    """Raise CheckpointError if the checksum of a record that is stored is not that of its bytes."""
    crc, buffer = 0, memoryview(bytearray(min(BLOCK, record.span.length)))
    for start in range(record.span.start, record.span.end, BLOCK):
        data = buffer[: record.span.end - start]
        source.read(data, start)
        crc = crc32(data, crc)
    _check(record, crc, source)


def _check(record: Record, crc: int, source: Source) -> None:
    if crc != record.crc:
        raise CheckpointError(
            f"{printable(str(source.path))} is damaged: its record {printable(repr(record.name))} has the CRC-32 "
            f"{crc:08x}, and the file says {record.crc:08x}",
            hint="get a fresh copy",
        )


def _blocks(records: Iterable[Record]) -> Iterator[_Block]:
    for record in records:
        for start in range(record.span.start, record.span.end, BLOCK):
            yield _Block(record, start, min(start + BLOCK, record.span.end))


def _deflated(data: bytearray, level: int, *, last: bool) -> bytes:
    # In weights there is little to find but runs of zeros, which Z_RLE finds several times as fast.
    sample = memoryview(data)[:SAMPLE]
    strategies = zlib.Z_RLE, zlib.Z_DEFAULT_STRATEGY
    best = min(strategies, key=lambda strategy: len(_stream(sample, level, strategy, zlib.Z_FINISH)))
    return _stream(data, level, best, zlib.Z_FINISH if last else zlib.Z_FULL_FLUSH)


def _stream(data: bytearray | memoryview, level: int, strategy: int, end: int) -> bytes:
    compressor = zlib.compressobj(level, zlib.DEFLATED, -zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, strategy)
    return compressor.compress(data) + compressor.flush(end)


def _in_order(pool: ThreadPoolExecutor, function: Callable[[S], T], items: Iterable[S], *, ahead: int) -> Iterator[T]:
    """Yield the results of `function` in the order of `items`, of which at most `ahead` are in work."""
    waiting: deque[Future[T]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
