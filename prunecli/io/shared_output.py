"""An output file that several processes write, each its own range of bytes.

Machines write whole pages of their caches. So no two processes write to the same block at the same time: a process
holds back what belongs into a block that another one begins, and writes it when the others have closed the file.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from prunecli.errors import OutputError
from prunecli.io.descriptors import Descriptor
from prunecli.io.files import Sink
from prunecli.io.publish import write_failure
from prunecli.io.transfer import read_all
from prunecli.text.escape import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from prunecli.distributed.group import Group
    from prunecli.io.files import Input

BLOCK = 1 << 20
"""The bytes of a block: more than a page of any machine, and than a stripe of most filesystems."""


def turns(ranges: Sequence[tuple[int, int]]) -> list[int]:
    """Return when each process writes what it holds back: in turn 1, 2, ..., or 0 if it holds nothing back.

    `ranges` are the bytes [start, end) of each process in one file, in order.
    """
    starts = [start if start < end else 0 for start, end in ranges]
    return [
        0
        if not start % BLOCK
        else 1 + sum(other % BLOCK > 0 and other // BLOCK == start // BLOCK for other in starts[:rank])
        for rank, start in enumerate(starts)
    ]


class SharedSink(Sink):
    """The part of one process in an output file.

    Attributes:
        turn: When this process writes what it holds back, 0 if it holds nothing back.
        turns: The number of turns of the file.
    """

    def __init__(self, path: Path, ranges: Sequence[tuple[int, int]], rank: int, *, direct: bool) -> None:
        """Write to the file at `path`; `ranges` are the bytes of each process, by rank."""
        super().__init__(Descriptor(partial(os.open, path, os.O_RDWR | os.O_CLOEXEC)), direct=direct)
        every, (start, end) = turns(ranges), ranges[rank]
        self.turn, self.turns, self._used = every[rank], max(every), False
        self._start, held = start, min(-start % BLOCK, end - start) if self.turn else 0
        self._held = bytearray(held)

    def write(self, data: memoryview, offset: int) -> None:
        """Write `data` at the byte `offset`, or hold it back."""
        cut = min(max(self._held_end - offset, 0), len(data))
        self._held[offset - self._start : offset - self._start + cut] = data[:cut]
        if cut < len(data):
            self._used = True
            super().write(data[cut:], offset + cut)

    def copy(self, source: Input, start: int, end: int) -> None:
        """Copy the bytes [start, end) of `source` to the same offset, or hold them back."""
        cut = min(max(self._held_end, start), end)
        if start < cut:
            source.read(memoryview(self._held)[start - self._start : cut - self._start], start)
        if cut < end:
            self._used = True
            super().copy(source, cut, end)

    def read(self, into: memoryview, offset: int) -> None:
        """Fill `into` with what is stored from the byte `offset` on, also if it is held back."""
        cut = min(max(self._held_end - offset, 0), len(into))
        into[:cut] = self._held[offset - self._start : offset - self._start + cut]
        with self.file.opened() as fd:
            read_all(fd, into[cut:], offset + cut)

    @property
    def _held_end(self) -> int:
        return self._start + len(self._held)

    def flush(self) -> None:
        """Write everything but what is held back to the disk, so that other machines see it, and close the file."""
        if self._used:
            with self.file.opened() as fd:
                os.fsync(fd)
        self.close()

    def release(self) -> None:
        """Write what was held back."""
        held, self._held = self._held, bytearray()
        self.write(memoryview(held), self._start)
        self.flush()

    def close(self) -> None:
        """Close the file; it is opened again when it is used."""
        super().close()
        self.file.close()


def finish_shared(group: Group, outputs: Iterable[object]) -> None:
    """Write what is held back of the shared outputs among `outputs`; all processes call this after their last write."""
    sinks = [output for output in outputs if isinstance(output, SharedSink)]
    for sink in sinks:
        sink.flush()
    for turn in range(1, max((sink.turns for sink in sinks), default=0) + 1):
        group.barrier()
        for sink in sinks:
            if sink.turn == turn:
                sink.release()


@contextmanager
def joined(paths: Sequence[Path], output: Path, size: int) -> Iterator[None]:
    """Check that this process sees the files `paths` that rank 0 has made, and convert errors of writing to them.

    `output` is what they become, of `size` bytes. Raises OutputError.
    """
    for path in paths:
        if not path.is_file():
            raise OutputError(
                f"there is no {printable(str(path))}, which rank 0 has made",
                hint="the output must be on a filesystem that all machines share, under the same path",
            )
    try:
        yield
    except OSError as error:
        failure = write_failure(output, size, error)
        if failure is None:
            raise
        raise failure from error
