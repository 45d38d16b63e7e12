"""Put the chunks of tensors into the columns of an assembly, after checking that they tile their tensors."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, NamedTuple

from prunecli.assembly import PAGE, Assembly, Box, CutTensor
from prunecli.checkpoint import Span, TensorInfo, row_major
from prunecli.dtypes import BITS
from prunecli.formats.dcp.tiles import check_tiles

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prunecli.assembly import Locate, Shape


class StoredChunk(NamedTuple):
    """A chunk, and the item in which it is stored: the number of the file, its first byte and its length."""

    offsets: Shape
    sizes: Shape
    file: int
    start: int
    length: int


@dataclass(frozen=True, slots=True)
class Described:
    """A tensor without a name yet, or the kind of an entry that is no plain tensor.

    With `copied`, every rank has stored a copy of its own. `problem` says why its chunks make no tensor.
    """

    tensor: TensorInfo | None
    kind: str = ""
    copied: bool = False
    problem: str = ""


class AssemblyBuilder:
    """Collects tensors and their chunks, after checking that they fit; the stream is file `file`."""

    def __init__(self, file: int) -> None:
        """Start without tensors."""
        self._file = file
        self._tensors: list[CutTensor] = []
        self._files, self._starts, self._lengths = array("i"), array("q"), array("q")
        self._numbers = array("q")
        self._end = 0

    def add(self, name: str, dtype: str, shape: Shape, chunks: Sequence[StoredChunk]) -> Described:
        """Add a tensor, unless its chunks make none."""
        bits = BITS.get(dtype, 0)
        if bits % 8 or not bits:
            return Described(None, f"tensor of {dtype}")
        kept, copied = _distinct([chunk for chunk in chunks if 0 not in chunk.sizes])
        start, numbers, strides = -(-self._end // PAGE) * PAGE, len(self._numbers), row_major(shape)
        if problem := _problem(shape, bits // 8, kept):
            return Described(TensorInfo(name, dtype, shape, strides, self._file, Span(start, 0)), problem=problem)
        size = prod(shape) * bits // 8
        if size:
            self._append(CutTensor(name, dtype, shape, bits // 8, start, len(self._files), len(kept), numbers), kept)
        return Described(TensorInfo(name, dtype, shape, strides, self._file, Span(start, size)), copied=copied)

    def _append(self, tensor: CutTensor, chunks: Sequence[StoredChunk]) -> None:
        for chunk in chunks:
            self._files.append(chunk.file)
            self._starts.append(chunk.start)
            self._lengths.append(chunk.length)
            self._numbers.extend(chunk.offsets)
            self._numbers.extend(chunk.sizes)
        self._tensors.append(tensor)
        self._end = tensor.end

    def finished(self, locate: Locate) -> Assembly:
        """Return the assembly of all tensors."""
        return Assembly(tuple(self._tensors), self._files, self._starts, self._lengths, self._numbers, locate)


def _problem(shape: Shape, itemsize: int, chunks: Sequence[StoredChunk]) -> str:
    """Return why chunks make no tensor, after its name in a sentence; "" if they do."""
    try:
        check_tiles(shape, [Box(number, chunk.offsets, chunk.sizes) for number, chunk in enumerate(chunks)])
    except ValueError as problem:
        return f"cannot be put together: {problem}"
    sizes = ((prod(chunk.sizes) * itemsize, chunk.length) for chunk in chunks)
    return next((f"has a chunk of {n:,} bytes, of which {got:,} bytes are stored" for n, got in sizes if n > got), "")


def _distinct(chunks: Sequence[StoredChunk]) -> tuple[list[StoredChunk], bool]:
    """Return the chunks in the order of their offsets, those of several ranks once, and whether there were such."""
    ordered = sorted(chunks)
    kept = [
        chunk
        for number, chunk in enumerate(ordered)
        if not number or ordered[number - 1][:2] != chunk[:2] or ordered[number - 1].file == chunk.file
    ]
    return kept, len(kept) < len(ordered)
