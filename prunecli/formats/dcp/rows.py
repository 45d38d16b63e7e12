"""The lists of chunks and of their places in columns of integers: a chunk takes about 100 bytes of memory."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


@dataclass(slots=True)
class ChunkRows:
    """Chunks: the offsets and then the sizes of each, one behind the other in `numbers`."""

    numbers: array[int] = field(default_factory=lambda: array("q"))

    def add(self, offsets: Sequence[int], sizes: Sequence[int]) -> Rows:
        """Add a chunk and return where it is."""
        start = len(self.numbers)
        self.numbers.extend(offsets)
        self.numbers.extend(sizes)
        return Rows(start, len(self.numbers), len(offsets))

    def chunks(self, rows: Rows) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
        """Yield the offsets and the sizes of each chunk of `rows`."""
        rank = rows.rank
        for start in range(rows.start, rows.end, 2 * rank) if rank else ((rows.start,) * rows.empty):
            yield tuple(self.numbers[start : start + rank]), tuple(self.numbers[start + rank : start + 2 * rank])


@dataclass(slots=True)
class Rows:
    """Chunks that follow each other: the numbers [start, end), `rank` offsets and `rank` sizes for each.

    Chunks of scalars have no numbers; `empty` counts them.
    """

    start: int
    end: int
    rank: int
    empty: int = 1

    def joins(self, start: int, rank: int) -> bool:
        """Return whether a chunk whose numbers begin at `start` continues these."""
        return self.end == start and self.rank == rank > 0


class PlaceRows:
    """Places of items: the name, the offsets in the tensor, the file, and the first byte and the length there.

    An object, which is no tensor, has no offsets: its `ranks` entry is -1.
    """

    def __init__(self) -> None:
        """Start without places."""
        self.names: dict[str, int] = {}
        self.paths: dict[str, int] = {}
        self.extensions: dict[int, str] = {}  # by number of a place
        self.name, self.file = array("i"), array("i")
        self.rank, self.first = array("b"), array("q")
        self.offsets, self.start, self.length = array("q"), array("q"), array("q")

    def __len__(self) -> int:
        """Return the number of places."""
        return len(self.name)

    def name_number(self, name: str) -> int:
        """Return the number of a name."""
        return self.names.setdefault(name, len(self.names))

    def path_number(self, path: str) -> int:
        """Return the number of a file."""
        return self.paths.setdefault(path, len(self.paths))

    def add(self, name: int, offsets: Sequence[int] | None, file: int, start: int, length: int) -> None:
        """Add a place; ValueError where it is impossible."""
        if start < 0 or length < 0:
            raise ValueError("a place in a file is negative")
        self.name.append(name)
        self.file.append(file)
        self.rank.append(-1 if offsets is None else len(offsets))
        self.first.append(len(self.offsets))
        self.offsets.extend(offsets or ())
        self.start.append(start)
        self.length.append(length)

    def offsets_of(self, place: int) -> tuple[int, ...] | None:
        """Return the offsets of a place in its tensor, None for an object."""
        rank, first = self.rank[place], self.first[place]
        return None if rank < 0 else tuple(self.offsets[first : first + rank])


def grouped(column: array[int], count: int) -> tuple[array[int], array[int]]:
    """Return the positions in `column` in the order of its numbers, which are below `count`.

    The second column has where the positions of each number begin, and a last entry.
    """
    begins = array("i", bytes(4 * (count + 1)))
    for number in column:
        begins[number + 1] += 1
    for number in range(count):
        begins[number + 1] += begins[number]
    order, filled = array("i", bytes(4 * len(column))), array("i", begins)
    for position, number in enumerate(column):
        order[filled[number]] = position
        filled[number] += 1
    return order, begins
