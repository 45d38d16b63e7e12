"""Tensors that are cut into chunks, which lie in several files, as one stream of whole tensors.

The stream has the tensors one behind the other, each in row-major order. It exists in no file: a range of it is put
together from runs of bytes of chunks. A chunk is a hyper-rectangle of a tensor, stored in row-major order itself.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate
from math import prod
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from prunecli import values

if TYPE_CHECKING:
    from array import array
    from collections.abc import Callable, Iterator, Sequence

PAGE = 4096
"""Every tensor begins at a multiple of this many bytes of the stream, so that no page has bytes of two tensors."""

_CACHED = 32  # tensors whose chunks are kept as tuples

Shape: TypeAlias = tuple[int, ...]


class Place(NamedTuple):
    """Where a chunk is: the first byte of its elements in the file, and the CRC-32 over them with its places.

    Without a checksum there are no places.
    """

    start: int
    crc: int = 0
    places: tuple[int, ...] = ()


Locate: TypeAlias = "Callable[[Callable[[int, int], bytes], Assembly, int], Place]"
"""Finds a chunk in its item; the arguments are a function that reads bytes at an offset of the file, the assembly, and
the number of the chunk."""


class Box(NamedTuple):
    """A chunk: its number, and its offsets and sizes in its tensor."""

    number: int
    offsets: Shape
    sizes: Shape


class Block(NamedTuple):
    """An array of `shape` in the stream, of which the elements `part` are those of a run."""

    shape: Shape
    part: tuple[slice, ...]
    itemsize: int


class Run(NamedTuple):
    """Bytes that follow each other in a chunk: `length` of them, `offset` bytes after the first of the chunk.

    In the stream they begin at the byte `at`. If `block` is not None, they are spread there: over an array that begins
    at that byte.
    """

    chunk: int
    offset: int
    length: int
    at: int
    block: Block | None


@values.dataclass(frozen=True, slots=True)
class CutTensor:
    """A tensor of the stream.

    Attributes:
        name: Its name in the files.
        dtype: Its dtype.
        shape: Its shape.
        itemsize: The bytes of an element.
        start: Its first byte in the stream.
        first: The number of its first chunk.
        count: How many chunks it has.
        numbers: Where the offsets and sizes of its chunks begin in `Assembly.numbers`.
    """

    name: str
    dtype: str
    shape: Shape
    itemsize: int
    start: int
    first: int
    count: int
    numbers: int

    @property
    def end(self) -> int:
        """The byte of the stream after its last one."""
        return self.start + prod(self.shape) * self.itemsize


@dataclass(frozen=True, slots=True, eq=False)
class Assembly:
    """Tensors in the order of the stream, and their chunks in columns.

    Chunks are numbered by tensor, and in the order of their offsets. A chunk is stored in an item of a file: `files`
    has its number, `starts` and `lengths` its bytes. `locate` finds the elements in the item.
    """

    tensors: tuple[CutTensor, ...]
    files: array[int]
    starts: array[int]
    lengths: array[int]
    numbers: array[int]
    locate: Locate
    _chunks: Callable[[int], _Chunks] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Keep the chunks of the tensors that were used last."""
        object.__setattr__(self, "_chunks", lru_cache(maxsize=_CACHED)(self._chunks_of))

    @property
    def size(self) -> int:
        """The bytes of the stream."""
        return next((tensor.end for tensor in reversed(self.tensors)), 0)

    def tensor_of(self, chunk: int) -> CutTensor:
        """Return the tensor of a chunk."""
        return self.tensors[bisect_right(self.tensors, chunk, key=lambda tensor: tensor.first) - 1]

    def box(self, chunk: int) -> Box:
        """Return the offsets and sizes of a chunk."""
        tensor = self.tensor_of(chunk)
        rank = len(tensor.shape)
        start = tensor.numbers + (chunk - tensor.first) * 2 * rank
        return Box(
            chunk, tuple(self.numbers[start : start + rank]), tuple(self.numbers[start + rank : start + 2 * rank])
        )

    def chunk_bytes(self, chunk: int) -> int:
        """Return the bytes of the elements of a chunk."""
        return prod(self.box(chunk).sizes) * self.tensor_of(chunk).itemsize

    def chunks_in(self, start: int, end: int) -> Iterator[int]:
        """Yield the numbers of all chunks of the tensors with bytes in [start, end) of the stream."""
        for index in self._overlapping(start, end):
            tensor = self.tensors[index]
            yield from range(tensor.first, tensor.first + tensor.count)

    def runs(self, start: int, end: int) -> Iterator[Run]:
        """Yield the runs of chunks that together are the bytes [start, end) of the stream, which are whole elements.

        Bytes between two tensors are in no run.
        """
        for index in self._overlapping(start, end):
            tensor, chunks = self.tensors[index], self._chunks(index)
            first = (max(start, tensor.start) - tensor.start) // tensor.itemsize
            stop = (min(end, tensor.end) - tensor.start) // tensor.itemsize
            for rows in blocks(chunks.shape, first, stop):
                yield from chunks.runs(tensor, *rows)

    def _overlapping(self, start: int, end: int) -> range:
        first = bisect_right(self.tensors, start, key=lambda tensor: tensor.end)
        return range(first, bisect_left(self.tensors, end, key=lambda tensor: tensor.start))

    def _chunks_of(self, index: int) -> _Chunks:
        tensor = self.tensors[index]
        boxes = [self.box(chunk) for chunk in range(tensor.first, tensor.first + tensor.count)]
        shape, boxes = collapsed(tensor.shape, boxes)
        return _Chunks(shape, boxes)


class _Chunks:
    """The chunks of one tensor, in the order of their offsets, with as few dimensions as they need."""

    def __init__(self, shape: Shape, boxes: Sequence[Box]) -> None:
        self.shape, self._boxes = shape, boxes
        self._starts = [box.offsets[0] for box in boxes]
        self._ends = list(accumulate((box.offsets[0] + box.sizes[0] for box in boxes), max))
        self._steps = [prod(shape[dim + 1 :]) for dim in range(len(shape))]

    def runs(self, tensor: CutTensor, index: Shape, low: int, high: int) -> Iterator[Run]:
        """Yield the runs of the rows [low, high) of the dimension after those that `index` fixes."""
        dim, size = len(index), tensor.itemsize
        for box in self._boxes[self._candidates((*index, low)[0], (*index, high - 1)[0] + 1)]:
            start, stop = max(low, box.offsets[dim]), min(high, box.offsets[dim] + box.sizes[dim])
            inside = all(0 <= i - o < n for i, o, n in zip(index, box.offsets, box.sizes, strict=False))
            if not inside or start >= stop:
                continue
            row, shape = prod(box.sizes[dim + 1 :]), self.shape[dim + 1 :]
            at = sum(i * step for i, step in zip((*index, start), self._steps, strict=False))
            offset = (self._before(box, index) * box.sizes[dim] + start - box.offsets[dim]) * row
            block = None
            if box.sizes[dim + 1 :] != shape:
                inner = zip(box.offsets[dim + 1 :], box.sizes[dim + 1 :], strict=True)
                part = (slice(None), *(slice(o, o + n) for o, n in inner))
                block = Block((stop - start, *shape), part, size)
            yield Run(box.number, offset * size, (stop - start) * row * size, tensor.start + at * size, block)

    def _candidates(self, low: int, high: int) -> slice:
        """Return the chunks that may have rows [low, high) of the first dimension."""
        return slice(bisect_right(self._ends, low), bisect_left(self._starts, high))

    @staticmethod
    def _before(box: Box, index: Shape) -> int:
        """Return the number of rows of the next dimension in `box` before those at `index`, in units of its size."""
        before = 0
        for i, offset, size in zip(index, box.offsets, box.sizes, strict=False):
            before = before * size + i - offset
        return before


def collapsed(shape: Shape, boxes: Sequence[Box]) -> tuple[Shape, list[Box]]:
    """Return the shape and the chunks with fewer dimensions: one that no chunk cuts is joined to the one before it.

    A tensor that is cut into ranges of rows has one dimension then, and so has a scalar.
    """
    whole = [all(box.sizes[dim] == n for box in boxes) for dim, n in enumerate(shape)]
    groups: list[list[int]] = []
    for dim in range(len(shape)):
        if groups and whole[dim]:
            groups[-1].append(dim)
        else:
            groups.append([dim])
    steps = [prod(shape[dim] for dim in group[1:]) for group in groups]

    def joined(numbers: Shape) -> Shape:
        return tuple(numbers[group[0]] * step for group, step in zip(groups, steps, strict=True))

    if not groups:
        return (1,), [Box(box.number, (0,), (1,)) for box in boxes]
    return joined(shape), [Box(box.number, joined(box.offsets), joined(box.sizes)) for box in boxes]


def blocks(shape: Shape, first: int, stop: int) -> Iterator[tuple[Shape, int, int]]:
    """Yield the row-major elements [first, stop) of an array as (index, low, high).

    Each is the rows [low, high), whole ones, of the dimension after those that `index` fixes.
    """
    if len(shape) == 1:
        if first < stop:
            yield (), first, stop
        return
    size = prod(shape[1:])
    row, start = divmod(first, size)
    last, end = divmod(stop, size)
    if row == last:
        yield from _below(row, shape, start, end)
        return
    if start:
        yield from _below(row, shape, start, size)
        row += 1
    if row < last:
        yield (), row, last
    yield from _below(last, shape, 0, end)


def _below(row: int, shape: Shape, first: int, stop: int) -> Iterator[tuple[Shape, int, int]]:
    for index, low, high in blocks(shape[1:], first, stop) if first < stop else ():
        yield (row, *index), low, high
