"""The cut of each slice of a tensor whose slices do not lie in one piece, exactly and in constant memory.

The k weights of a slice to prune are those with the smallest keys (pattern, position in the slice). No two keys are
equal. The k-th smallest key of every slice is found together, some bits per pass over the tensor in the order of the
file: a pass counts the next bits of the keys that can still be the wanted one. When few keys are left they are sorted.
"""

from __future__ import annotations

import importlib
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from prunecli.kernels.backend import has_native

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from prunecli.layout import SliceView

COUNTERS = 1 << 17
"""The counters of a pass, 8 bytes each, for all slices that are searched together; more do not fit the cache."""

FEW = 1 << 18
"""So many keys are sorted instead of counted."""

RUN = 1 << 18
"""The most elements that are read at once."""

TILE = 1 << 15
"""Elements of a row of the file that are searched together; a longer row is cut into tiles of whole slices."""


@dataclass(frozen=True, slots=True)
class Run:
    """Elements in row-major order: `count` from `first`, as an array of shape (rows, slices, width).

    `row` is the first of its rows among those of the tile, and `column` the first column of each row of a slice.
    """

    tile: Tile
    first: int
    count: int
    row: int
    rows: int
    column: int
    width: int

    @property
    def geometry(self) -> array[int]:
        """The run as the compiled kernels take it."""
        view = self.tile.view
        numbers = (self.row, self.rows, self.column, self.width, view.before, self.tile.slices, view.after)
        return array("q", numbers)

    @property
    def numbers(self) -> NDArray[np.int64]:
        """The slices of the elements, from 0 in each tile, of a shape that broadcasts."""
        slices = np.arange(self.tile.slices)[:, None]
        return self._rows() // self.tile.view.before * self.tile.slices + slices

    @property
    def positions(self) -> NDArray[np.int64]:
        """The positions of the elements in their slice, of a shape that broadcasts."""
        view = self.tile.view
        return self._rows() % view.before * view.after + np.arange(self.column, self.column + self.width)

    def _rows(self) -> NDArray[np.int64]:
        return np.arange(self.row, self.row + self.rows)[:, None, None]


@dataclass(frozen=True, slots=True)
class Tile:
    """Slices that are searched together: all of some `stacks` of `view`, or the `slices` of one, from the first."""

    view: SliceView
    first_stack: int
    stacks: int
    first_slice: int
    slices: int

    @property
    def total(self) -> int:
        """The number of slices."""
        return self.stacks * self.slices

    @property
    def start(self) -> int:
        """The number of the first slice among those of all stacks."""
        return self.first_stack * self.view.slices + self.first_slice

    def runs(self) -> Iterator[Run]:
        """Yield the elements in the order of the file."""
        view, origin = self.view, self.first_stack * self.view.before
        row = view.slices * view.after
        if self.slices < view.slices or row > RUN:
            for b in range(view.before):
                yield from self._row(b, (origin + b) * row + self.first_slice * view.after)
            return
        for low, high in _steps(self.stacks * view.before, max(1, RUN // row)):
            yield Run(self, (origin + low) * row, (high - low) * row, low, high - low, 0, view.after)

    def _row(self, b: int, first: int) -> Iterator[Run]:
        """Yield the elements of one row of the file, of which the tile's own begin at `first`."""
        after = self.view.after
        for low, high in _steps(after, RUN if self.slices == 1 else after):
            yield Run(self, first + low, self.slices * (high - low), b, 1, low, high - low)


def tiles(view: SliceView) -> Iterator[Tile]:
    """Yield tiles that together have all slices."""
    if view.slices * view.after > TILE:
        for stack in range(view.stacks):
            for low, high in _steps(view.slices, max(1, TILE // view.after)):
                yield Tile(view, stack, 1, low, high - low)
        return
    for low, high in _steps(view.stacks, max(1, min(TILE // view.slices, RUN // (view.size * view.slices)))):
        yield Tile(view, low, high - low, 0, view.slices)


class SliceSearch:
    """The search for the cuts of the slices of one tile."""

    def __init__(
        self, tile: Tile, patterns: Callable[[int, int], NDArray[Any]], bits: int, wanted: Callable[[int], int]
    ) -> None:
        """Search among `patterns(first, count)`, integers of `bits` bits in which -1 is an already pruned weight.

        `wanted(n)` returns how many of the n remaining weights of a slice are pruned.
        """
        self._tile, self._patterns, self._wanted = tile, patterns, wanted
        self._pattern = _Digits(np.zeros(tile.total, np.int64), bits)
        self._position = _Digits(np.zeros(tile.total, np.int64), max(tile.view.size - 1, 1).bit_length())
        self._ranks = np.ones(tile.total, np.int64)
        self._left = np.zeros(tile.total, np.int64)

    def cuts(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the largest pruned pattern of each slice, and the last pruned position of a weight equal to it.

        Where no weight of a slice is pruned they are 0 and -1.
        """
        counts = self._count()
        sizes, which = np.unique(counts.sum(axis=0), return_inverse=True)
        self._ranks = np.array([self._wanted(size) for size in sizes.tolist()], np.int64)[which.reshape(-1)]
        left = self._narrow(counts)
        while left > max(FEW, self._tile.total):
            left = self._narrow(self._count())
        return self._sort()

    def _next(self) -> tuple[_Digits, int]:
        """Return the digits that are counted next, and how many bits of them."""
        digits = self._pattern if self._pattern.shift else self._position
        spare = COUNTERS.bit_length() - self._tile.total.bit_length()
        return digits, min(max(spare, 1), digits.shift)

    def _count(self) -> NDArray[np.int64]:
        """Return the number of candidates by their next bits and by slice."""
        digits, bits = self._next()
        counts, low = np.zeros((1 << bits, self._tile.total), np.int64), digits.shift - bits
        if native := _native():
            known, of_position = self._known(), digits is self._position
            for run in self._tile.runs():
                y = self._patterns(run.first, run.count)
                native.count_digits(y, run.geometry, known, low, bits, counts, of_position=of_position)
            return counts
        for numbers, patterns, positions in self._candidates():
            keys = (patterns if digits is self._pattern else positions).astype(np.int64)
            np.add.at(counts.reshape(-1), (keys >> low & (1 << bits) - 1) * self._tile.total + numbers, 1)
        return counts

    def _narrow(self, counts: NDArray[np.int64]) -> int:
        """Fix the bits that were counted, and return how many candidates are left."""
        digits, bits = self._next()
        slices, ends = np.arange(self._tile.total), np.cumsum(counts, axis=0)
        number = np.minimum((ends < self._ranks).sum(axis=0), (1 << bits) - 1)
        inside = counts[number, slices]
        self._ranks -= ends[number, slices] - inside
        digits.fix(number, bits)
        self._left = np.where(self._ranks > 0, inside, 0)
        return int(self._left.sum())

    def _known(self) -> tuple[NDArray[np.int64], int, NDArray[np.int64], int]:
        """Return the known bits of patterns and positions, as the compiled kernels take them."""
        pattern, position = self._pattern, self._position
        return pattern.prefixes(self._ranks), pattern.shift, position.prefixes(self._ranks), position.shift

    def _candidates(self) -> Iterator[tuple[NDArray[np.int64], NDArray[Any], NDArray[np.int64]]]:
        """Yield the slices, patterns and positions of the weights that can still be the last pruned one."""
        prefixes, places = self._pattern.prefixes(self._ranks), self._position.prefixes(self._ranks)
        for run in self._tile.runs():
            y = self._patterns(run.first, run.count)
            shaped = y.reshape(-1, run.numbers.shape[1], run.positions.shape[2])
            chosen = shaped >> self._pattern.shift == prefixes.astype(y.dtype)[run.numbers]
            if self._position.fixed:
                chosen &= run.positions >> self._position.shift == places[run.numbers]
            numbers, positions = (np.broadcast_to(a, shaped.shape)[chosen] for a in (run.numbers, run.positions))
            yield numbers, shaped[chosen], positions

    def _sort(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the cuts by sorting the candidates that are left."""
        if native := _native():
            return self._select(native)
        found = [(numbers, patterns.astype(np.int64), positions) for numbers, patterns, positions in self._candidates()]
        numbers, patterns, positions = (np.concatenate(parts) for parts in zip(*found, strict=True))
        order = np.lexsort((positions, patterns, numbers))
        pruned = np.flatnonzero(self._ranks > 0)
        last = order[np.searchsorted(numbers[order], pruned) + self._ranks[pruned] - 1]
        cuts, limits = np.zeros(self._tile.total, np.int64), np.full(self._tile.total, -1)
        cuts[pruned], limits[pruned] = patterns[last], positions[last]
        return cuts, limits

    def _select(self, native: Any) -> tuple[NDArray[np.int64], NDArray[np.int64]]:  # noqa: ANN401 - the module
        """Collect the candidates of each slice, and choose the cut among them."""
        ends = np.cumsum(self._left)
        starts, total, known = ends - self._left, int(ends[-1]), self._known()
        patterns, positions, behind = np.empty(total, np.int64), np.empty(total, np.int64), starts.copy()
        for run in self._tile.runs():
            native.collect(self._patterns(run.first, run.count), run.geometry, known, behind, patterns, positions)
        cuts, limits = np.zeros(self._tile.total, np.int64), np.full(self._tile.total, -1)
        native.cut_slices(self._ranks, starts, ends, patterns, positions, cuts, limits)
        return cuts, limits


class _Digits:
    """The leading bits of one part of the keys that are known, for each slice: those from bit `shift` on."""

    def __init__(self, low: NDArray[np.int64], shift: int) -> None:
        self.low, self.shift, self.fixed = low, shift, False

    def fix(self, number: NDArray[np.int64], bits: int) -> None:
        self.shift -= bits
        self.low |= number << self.shift
        self.fixed = True

    def prefixes(self, ranks: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the known bits of each slice; -2, which no key has, for slices of which nothing is pruned."""
        return np.where(ranks > 0, self.low >> self.shift, -2)


def _native() -> Any:  # noqa: ANN401 - the module
    """Return the compiled kernels of this search, or None."""
    return importlib.import_module("prunecli.kernels.native_slice_cuts") if has_native() else None


def _steps(total: int, step: int) -> Iterator[tuple[int, int]]:
    for low in range(0, total, step):
        yield low, min(low + step, total)
