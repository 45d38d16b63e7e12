"""Read and write the stream of tensors that are cut into chunks, whose bytes lie in several files."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Any, Protocol

from prunecli.assembly import Place
from prunecli.errors import CheckpointError
from prunecli.io.files import SameLayout
from prunecli.io.transfer import read_all

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from prunecli.assembly import Assembly, Block, Run
    from prunecli.io.files import Input, Sink

_COPIES = 3  # the most places of a checksum


class Readable(Protocol):
    """Bytes that can be read at any offset."""

    def read(self, into: memoryview, offset: int) -> None:
        """Fill `into` from the byte `offset` on."""


class Places:
    """The places of chunks, as far as they are known, in columns."""

    def __init__(self, count: int) -> None:
        """Know none of `count` places."""
        self._starts = array("q", [-1]) * count
        self._crcs = array("L", [0]) * count
        self._places = array("q", [-1]) * (count * _COPIES)

    def __getitem__(self, chunk: int) -> Place | None:
        """Return the place of a chunk, or None."""
        start = self._starts[chunk]
        places = self._places[chunk * _COPIES : (chunk + 1) * _COPIES]
        return None if start < 0 else Place(start, self._crcs[chunk], tuple(place for place in places if place >= 0))

    def __setitem__(self, chunk: int, place: Place) -> None:
        """Keep the place of a chunk."""
        for number, offset in enumerate(place.places):
            self._places[chunk * _COPIES + number] = offset
        self._crcs[chunk] = place.crc
        self._starts[chunk] = place.start  # last, because other threads look at it


class AssembledSource:
    """The stream of an assembly, read from its open files."""

    def __init__(self, files: Sequence[Readable], assembly: Assembly, places: Places | None = None) -> None:
        """Read from `files`; `places` are those that are known already."""
        self.files, self.assembly = files, assembly
        self.places = places or Places(len(assembly.files))

    def place(self, chunk: int) -> Place:
        """Return the place of a chunk, after finding it in its file; CheckpointError if it is not there."""
        place = self.places[chunk]
        if place is None:
            place = self.places[chunk] = self.assembly.locate(self._reading(chunk), self.assembly, chunk)
        return place

    def _reading(self, chunk: int) -> Callable[[int, int], bytes]:
        file = self.files[self.assembly.files[chunk]]

        def read(offset: int, count: int) -> bytes:
            data = bytearray(count)
            file.read(memoryview(data), offset)
            return bytes(data)

        return read

    def locate(self, chunks: Iterable[int]) -> None:
        """Find chunks in their files."""
        for chunk in chunks:
            self.place(chunk)

    def read(self, into: memoryview, offset: int) -> None:
        """Fill `into` from the byte `offset` of the stream on; bytes of no tensor are left as they are."""
        for run in self.assembly.runs(offset, offset + len(into)):
            file, start = self.files[self.assembly.files[run.chunk]], self.place(run.chunk).start + run.offset
            if run.block is None:
                file.read(into[run.at - offset : run.at - offset + run.length], start)
            else:
                part = memoryview(bytearray(run.length))
                file.read(part, start)
                _spread(part, into, run.at - offset, run.block)

    def check_unchanged(self) -> None:
        """Do nothing: each file is checked by itself."""


class AssembledSink(SameLayout):
    """The stream of an assembly, written to files with the layout of those of `source`."""

    def __init__(self, files: Sequence[Sink], source: AssembledSource) -> None:
        """Write to `files`."""
        self.files, self._source = files, source

    def write(self, data: memoryview, offset: int) -> None:
        """Write `data` at the byte `offset` of the stream, to all chunks with a part of it."""
        assembly = self._source.assembly
        for run in assembly.runs(offset, offset + len(data)):
            file, start = self.files[assembly.files[run.chunk]], self._source.place(run.chunk).start + run.offset
            file.write(run_bytes(run, data, offset), start)

    def copy(self, source: Input, start: int, end: int) -> None:
        """Do nothing: what is not pruned is copied with its file."""

    def close(self) -> None:
        """Do nothing: the caller closes the files."""

    def reopened(self) -> AssembledSource:
        """Return what was written, to read it again."""
        files = [_Written(sink) for sink in self.files]
        return AssembledSource(files, self._source.assembly, self._source.places)


class _Written:
    """A file that was written."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    def read(self, into: memoryview, offset: int) -> None:
        with self._sink.file.opened() as fd:
            if read_all(fd, into, offset) < len(into):
                raise CheckpointError(f"a file ends before the byte {offset + len(into):,}, which was written")


def run_bytes(run: Run, data: memoryview, offset: int) -> memoryview:
    """Return the bytes of a run out of `data`, which begins at the byte `offset` of the stream."""
    at = run.at - offset
    if run.block is None:
        return data[at : at + run.length]
    import numpy as np  # noqa: PLC0415 - most chunks are whole rows

    part: Any = np.ascontiguousarray(_array(data, at, run.block)[run.block.part]).reshape(-1).view(np.uint8)
    return memoryview(part)


def _spread(part: memoryview, into: memoryview, at: int, block: Block) -> None:
    """Store the bytes of a run in the elements of its block, which begins at `at` of `into`."""
    elements = _array(into, at, block)[block.part]
    elements[...] = _array(part, 0, block, elements.shape)


def _array(data: memoryview, at: int, block: Block, shape: tuple[int, ...] | None = None) -> Any:  # noqa: ANN401 - NumPy's
    import numpy as np  # noqa: PLC0415 - most chunks are whole rows

    shape = block.shape if shape is None else shape
    return np.ndarray(shape, np.dtype(f"V{block.itemsize}" if block.itemsize > 8 else f"u{block.itemsize}"), data, at)
