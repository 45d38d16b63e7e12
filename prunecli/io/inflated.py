"""Files of which parts are compressed, read as if nothing was.

Readers of headers get a view that inflates what they read. Runs that read weights get a temporary file with all of
it. The memory is a few buffers: compressed bytes are read, and inflated bytes written, in chunks.
"""

from __future__ import annotations

import errno
import io
import os
import zlib
from bisect import bisect_right
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, BinaryIO

from prunecli.checkpoint import Span
from prunecli.errors import CheckpointError
from prunecli.file_view import FileView
from prunecli.io.crc32 import crc32
from prunecli.io.descriptors import Descriptor
from prunecli.io.files import Source, copy_range
from prunecli.io.temporary import no_space_error, temporary_file
from prunecli.io.transfer import WriteError, write_all
from prunecli.text.escape import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from prunecli.checkpoint import CheckpointFile

CHUNK = 1 << 18
"""Compressed bytes that are read at once."""

STEP = 1 << 20
"""Inflated bytes that are held at once."""

MOST_PER_BYTE = 1032
"""Deflate makes of a byte at most this many."""


@dataclass(frozen=True, slots=True)
class Deflated:
    """Compressed bytes of a file: `span` inflates to `size` bytes with the CRC-32 `crc`. `name` is for messages."""

    span: Span
    size: int
    crc: int
    name: str


@dataclass(frozen=True, slots=True)
class Inflated:
    """A file as it is read: its `parts` in order, and the size in bytes of the file that is stored."""

    parts: tuple[bytes | Span | Deflated, ...]
    stored_size: int

    @property
    def size(self) -> int:
        """The bytes of all parts after they are inflated."""
        return sum(map(_length, self.parts))

    @property
    def deflated(self) -> list[Deflated]:
        """The parts that are compressed."""
        return [part for part in self.parts if isinstance(part, Deflated)]

    def placed(self) -> Iterator[tuple[int, bytes | Span | Deflated]]:
        """Yield each part with its offset in the inflated file."""
        return zip(accumulate(map(_length, self.parts), initial=0), self.parts, strict=False)


def _length(part: bytes | Span | Deflated) -> int:
    if isinstance(part, bytes):
        return len(part)
    return part.length if isinstance(part, Span) else part.size


def inflate(read: Callable[[int, int], bytes], deflated: Deflated, label: str) -> Iterator[bytes]:
    """Yield the inflated bytes in pieces of at most STEP; `read(offset, length)` reads the file `label`.

    Raises CheckpointError unless they are exactly as many as `deflated` says and have its checksum.
    """
    done = crc = 0
    for data in _inflated(read, deflated, label):
        done, crc = done + len(data), crc32(data, crc)
        if done > deflated.size:
            raise _damaged(deflated, label, f"inflates to more than {deflated.size:,} bytes")
        yield data
    if done < deflated.size:
        raise _damaged(deflated, label, f"inflates to {done:,} bytes instead of {deflated.size:,}")
    if crc != deflated.crc:
        raise _damaged(deflated, label, f"has the CRC-32 {crc:08x}, and the file says {deflated.crc:08x}")


def _inflated(read: Callable[[int, int], bytes], deflated: Deflated, label: str) -> Iterator[bytes]:
    inflater, span = zlib.decompressobj(-zlib.MAX_WBITS), deflated.span
    position, pending = span.start, b""
    try:
        while not inflater.eof:
            if not pending and position < span.end:
                pending = read(position, min(CHUNK, span.end - position))
                position += len(pending)
                if not pending:  # the file became shorter while it was being read
                    break
            # The limit stops a small record that would inflate to gigabytes.
            data = inflater.decompress(pending, STEP)
            pending = inflater.unconsumed_tail
            if data:
                yield data
            elif not pending and position >= span.end:
                break
    except zlib.error as error:
        raise _damaged(deflated, label, f"cannot be inflated ({error})") from error
    if inflater.unused_data or position < span.end or not inflater.eof:
        raise _damaged(deflated, label, "is not one stream of compressed bytes")


def _damaged(deflated: Deflated, label: str, problem: str) -> CheckpointError:
    record = printable(repr(deflated.name))
    return CheckpointError(f"{printable(label)} is damaged: its record {record} {problem}", hint="get a fresh copy")


# --- for readers of headers


def inflated_view(file: BinaryIO, inflated: Inflated, label: str) -> BinaryIO:
    """Return a file to read and seek in that has the inflated parts of `file`."""
    return io.BufferedReader(FileView(_Parts(file, inflated, label).read, inflated.size))


class _Parts:
    """The parts of an inflated file. A compressed part is inflated from its start to what is read."""

    def __init__(self, file: BinaryIO, inflated: Inflated, label: str) -> None:
        self._file, self._label = file, label
        placed = [(start, part) for start, part in inflated.placed() if _length(part)]
        self._starts, self._parts = [start for start, _ in placed], [part for _, part in placed]
        self._stream: tuple[int, int, Iterator[bytes], bytes] = -1, 0, iter(()), b""

    def read(self, offset: int, length: int) -> bytes:
        """Return at most `length` bytes of the part at `offset`."""
        index = bisect_right(self._starts, offset) - 1
        return self._in_part(index, offset - self._starts[index], length)

    def _in_part(self, index: int, offset: int, length: int) -> bytes:
        part = self._parts[index]
        if isinstance(part, bytes):
            return part[offset : offset + length]
        if isinstance(part, Span):
            return self._stored(part.start + offset, min(length, part.length - offset))
        return self._from_stream(part, index, offset)[:length]

    def _from_stream(self, part: Deflated, index: int, offset: int) -> bytes:
        """Return the inflated bytes from `offset` to the end of the piece that is inflated then."""
        number, start, pieces, piece = self._stream
        if number != index or offset < start:
            start, pieces, piece = 0, inflate(self._stored, part, self._label), b""
        while offset >= start + len(piece):
            start += len(piece)
            piece = next(pieces)
        self._stream = index, start, pieces, piece
        return piece[offset - start :]

    def _stored(self, start: int, length: int) -> bytes:
        self._file.seek(start)
        return self._file.read(length)


# --- for runs that read weights


def write_inflated(
    source: Source,
    inflated: Inflated,
    fd: int,
    *,
    threads: int,
    label: str | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> None:
    """Write the parts of `source` to `fd`, several compressed ones at a time.

    `label` names the file in messages. `advance` receives numbers of bytes, from any thread. Raises CheckpointError if
    a part is damaged.
    """

    def read(offset: int, length: int) -> bytes:
        data = bytearray(length)
        source.read(memoryview(data), offset)
        return bytes(data)

    def write(start: int, part: Deflated) -> None:
        for data in inflate(read, part, label or str(source.path)):
            write_all(fd, memoryview(data), start)
            start += len(data)
            advance(len(data))

    with ThreadPoolExecutor(threads, thread_name_prefix="prune") as pool:
        tasks = []
        for start, part in inflated.placed():
            if isinstance(part, bytes):
                write_all(fd, memoryview(part), start)
                advance(len(part))
            elif isinstance(part, Span):
                copy_range(source, fd, part.start, part.end, start, advance=advance)
            else:
                tasks.append(pool.submit(write, start, part))
        try:
            for task in tasks:
                task.result()
        finally:
            pool.shutdown(cancel_futures=True)


class InflatedSource(Source):
    """An input file with compressed parts: a temporary file holds the inflated ones."""

    def __init__(self, file: CheckpointFile, inflated: Inflated, threads: int) -> None:
        """Inflate `file` with `threads` threads; CheckpointError if it is damaged, OutputError without space."""
        with closing(Source(file.path, inflated.stored_size, file.modified)) as stored:
            self._fill(stored, inflated, threads)
        self._stored = Source(file.path, inflated.stored_size, file.modified)

    def _fill(self, stored: Source, inflated: Inflated, threads: int) -> None:
        self._copy = temporary_file(None)
        try:
            Descriptor.__init__(self, fd=self._copy.fileno())
            self.path, self.size, self.mode = stored.path, inflated.size, stored.mode
            self._reserve()
            write_inflated(stored, inflated, self._copy.fileno(), threads=threads)
            stored.check_unchanged()
        except WriteError as error:
            self._copy.close()
            raise no_space_error(None, error) from error
        except BaseException:
            self._copy.close()
            raise

    def _reserve(self) -> None:
        """Allocate the space first, so that a full disk is an error before the work."""
        try:
            os.ftruncate(self._copy.fileno(), self.size)
            free = os.fstatvfs(self._copy.fileno())
        except OSError as error:
            raise no_space_error(None, error) from error
        if free.f_blocks and self.size > free.f_bavail * free.f_frsize:
            raise no_space_error(None, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))

    @property
    def stored(self) -> Source:
        """The file as it is stored."""
        return self._stored

    def check_unchanged(self) -> None:
        """Raise CheckpointError if the stored file has changed."""
        self._stored.check_unchanged()

    def close(self) -> None:
        """Close both files; the temporary one disappears."""
        self._stored.close()
        self._copy.close()
