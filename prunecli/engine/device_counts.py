"""Counting for a `NormalizedCutSearch` over tensors that lie on devices: only counts that are not 0 are fetched."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from prunecli.kernels.torch_squares import square_tables, sum_of_table, table_shape
from prunecli.kernels.torch_tables import Table
from prunecli.kernels.transfers import to_device
from prunecli.ranking.normalized_cut import CountResult

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

    from numpy.typing import NDArray

    from prunecli.engine.device_rows import DeviceRows
    from prunecli.kernels.ops import Array
    from prunecli.ranking.normalized_cut import CountRequest, NormalizedCutSearch

AT_ONCE = 1 << 22
"""The places of tables that are fetched together, of 8 bytes each."""


def bits_of_table(numel: int) -> int:
    """Return the most bits that a first pass counts by: few tables take more than a small part of the weights."""
    return max(numel.bit_length() - 6, 1)


class _Counted:
    """What is counted for a request, on the device: a table of `bins`, and one of squares if `squares`.

    With `listed` there are the bins of single weights in place of counts, where these are fewer. `first` is the number
    of the first bin, `places` the number of places of counts, and `above` the smallest pattern whose square is added
    up, which may be above all of them. The table of squares has `shape`, and both tables have `size` places. With
    `halves` sums of squares are in two halves, in place of pieces.
    """

    __slots__ = ("above", "bins", "first", "halves", "listed", "places", "request", "shape", "size", "squares")

    def __init__(self, request: CountRequest, *, listed: bool, halves: bool = False) -> None:
        """Count nothing yet."""
        self.halves = halves
        self.request, self.listed, self.first = request, listed, request.low >> request.shift
        self.bins = _bins(request)
        self.places = (request.inside or 0) if listed else self.bins
        self.squares = request.above is not None and not request.counts_have_squares
        self.above = min(request.above or 0, request.dtype.finite_max + 1)
        pieces, exponents = table_shape(request.dtype) if self.squares else (0, 0)
        self.shape = (2 if halves and pieces else pieces), exponents
        self.size = self.places + self.shape[0] * self.shape[1]

    def result(self, bins: NDArray[Any], counts: NDArray[Any], table: NDArray[Any]) -> CountResult:
        """Return the counts from the bins that are not empty, and the table of squares."""
        if self.listed:  # as numbers from 1
            bins, counts = np.unique(counts - 1, return_counts=True)
        found = self.request.result(bins + self.first, counts)
        if not self.squares:
            return found
        table = table.reshape(self.shape)
        squares = sum_of_table(table, self.request.dtype, halves=self.halves)
        return CountResult(found.bins, found.counts, squares)


def _bins(request: CountRequest) -> int:
    """Return the number of bins that a request asks for."""
    return ((request.high - 1) >> request.shift) - (request.low >> request.shift) + 1


def _counted(requests: Sequence[CountRequest]) -> list[_Counted]:
    """Return how the requests of a stack are counted: all of them in the same way."""
    inside = [request.inside for request in requests if request.inside is not None]
    listed = len(inside) == len(requests) and sum(inside) < sum(map(_bins, requests))
    return [_Counted(request, listed=listed) for request in requests]


def _of_table(request: CountRequest) -> _Counted:
    """Return how a request is counted by kernels that find tensors by their addresses."""
    listed = request.inside is not None and request.inside < _bins(request)
    return _Counted(request, listed=listed, halves=True)


class _Places:
    """The places of counts of a stack: a table of bins for each row, one after the other, or lists of bins."""

    def __init__(self, torch: Any, counted: Sequence[_Counted]) -> None:  # noqa: ANN401 - the module
        """Start without a place."""
        self._torch, self._counted = torch, counted
        self._size = sum(each.places for each in counted)
        self._table: Array = None
        self._done: Array = 0

    def above(self, y: Array) -> Array:
        """Return the smallest pattern of each row whose square is added up."""
        return to_device([[each.above] for each in self._counted], y.device)

    def join(self, table: Array) -> None:
        """Add a table of bins."""
        self._table = table if self._table is None else self._table + table

    def add(self, y: Array) -> None:
        """Add rows of patterns."""
        torch, counted, size = self._torch, self._counted, self._size
        if self._table is None:  # the last place has no meaning
            self._table = torch.zeros(size + 1, dtype=torch.int64, device=y.device)
        firsts = accumulate((each.places for each in counted), initial=0)
        ends = [(each.request.low, each.request.high - 1, each.request.shift, each.first) for each in counted]
        asked = [(*each, first) for each, first in zip(ends, firsts, strict=False)]
        low, last, shift, bin_, first = to_device(asked, y.device).T[:, :, None]
        inside = (y >= low) & (y <= last)
        number = (y.to(torch.int64) >> shift) - bin_
        if not counted[0].listed:
            places = torch.where(inside, number + first, size).flatten()
            self._table.index_add_(0, places, torch.ones_like(places))
            return
        ends_of = inside.flatten().cumsum(0) + self._done
        places = torch.where(inside.flatten(), ends_of - 1, size).clamp_(max=size)
        self._table.scatter_(0, places, number.flatten() + 1)
        self._done = ends_of[-1]

    @property
    def table(self) -> Array:
        """All places."""
        return self._table[: self._size]


_InTable: TypeAlias = "tuple[int, _Counted, Any]"
"""A target, what is counted of it, and its weights."""


class CountsOnDevices:
    """Counts what a search asks for."""

    def __init__(self, there: DeviceRows, search: NormalizedCutSearch) -> None:
        """Count nothing yet."""
        self._there, self._search = there, search
        self._waiting: list[tuple[list[_Counted], Array]] = []

    def count(self, requests: Mapping[int, CountRequest]) -> None:
        """Count for the requests of these targets."""
        in_tables = self._in_tables(requests)
        for part in in_tables:
            self._wait_for(*self._in_table(part))
        done = {member for part in in_tables for member, _, _ in part}
        for members in self._there.stacks([member for member in requests if member not in done]):
            stack = _counted([requests[member] for member in members])
            # The tables of a part of the stack have no more than AT_ONCE places.
            step = max(AT_ONCE // max(each.size for each in stack), 1)
            for first in range(0, len(members), step):
                own, counted = members[first : first + step], stack[first : first + step]
                table = self._alone(own[0], counted[0]) if len(own) == 1 else self._stack(own, counted)
                self._wait_for(counted, table)
        self._fetch()

    def _wait_for(self, counted: list[_Counted], table: Array) -> None:
        """Fetch a table later, together with others."""
        self._waiting.append((counted, table))
        if sum(len(table) for _, table in self._waiting) > AT_ONCE:
            self._fetch()

    def _in_tables(self, requests: Mapping[int, CountRequest]) -> list[list[_InTable]]:
        """Return the targets that kernels find by their addresses, in parts that are counted together."""
        kinds: dict[Hashable, list[_InTable]] = {}
        sizes: dict[Hashable, int] = {}
        parts = []
        reader, targets = self._there.tensors.reader, self._there.tensors.targets
        for member, request in requests.items() if self._there.tensors.scorer is None else ():
            if not targets[member].contiguous:
                continue
            weights, counted = reader.on_a_device(targets[member]), _of_table(request)
            ops: Any = self._there.worker.ops_of(weights)
            if ops.fused is None or (counted.squares and request.dtype.itemsize > 4):
                continue
            kind = request.dtype, ops, counted.listed, counted.squares
            kinds.setdefault(kind, []).append((member, counted, weights))
            sizes[kind] = sizes.get(kind, 0) + counted.size
            if sizes[kind] >= AT_ONCE:
                parts.append(kinds.pop(kind))
                del sizes[kind]
        return [*parts, *kinds.values()]

    def _in_table(self, part: Sequence[_InTable]) -> tuple[list[_Counted], Array]:
        """Return the tables of places of targets, one after the other, and then those of squares."""
        counted = [each for _, each, _ in part]
        ops: Any = self._there.worker.ops_of(part[0][2])
        dtype, torch, kernels = counted[0].request.dtype, ops.torch, ops.fused.ranks
        table = Table(torch, [weights.reshape(-1) for _, _, weights in part])
        firsts = [*accumulate((each.places for each in counted), initial=0)]
        ends = [(each.request.low, each.request.high - 1, each.request.shift) for each in counted]
        columns = [*zip(*ends, strict=True), firsts[:-1]]
        if counted[0].listed:
            places = kernels.listed(table, [*columns, [each.places for each in counted]], firsts[-1], dtype)
        else:
            places = kernels.bins(table, columns, firsts[-1], dtype, below=False)
        if not counted[0].squares:
            return counted, places
        squares = kernels.squares(table, [each.above for each in counted], dtype)
        return counted, torch.cat([places, squares.flatten()])

    def _alone(self, member: int, counted: _Counted) -> Array:
        """Return the tables of one target, one after the other."""
        there, request, ops = self._there, counted.request, self._there.ops(member)
        marked, ends = there.tensors.scorer is not None, (request.low, request.high, request.shift)
        places = _Places(ops.torch, [counted])
        squares: Array = 0
        above: Array = None
        for rows in there.runs(member):
            y = there.patterns(rows) if marked or counted.listed or counted.squares else rows.weights
            if counted.listed:
                places.add(y)
            else:
                places.join(ops.bracket(y[0], request.dtype, *ends, marked=y is not rows.weights)[1:])
            if counted.squares:
                above = places.above(y) if above is None else above
                squares = squares + square_tables(ops.torch, y, above, request.dtype)
        return ops.torch.cat([places.table, squares.flatten()]) if counted.squares else places.table

    def _stack(self, members: tuple[int, ...], counted: Sequence[_Counted]) -> Array:
        """Return the tables of places of a stack, one after the other, and then those of squares."""
        there, torch = self._there, self._there.ops(members[0]).torch
        y, places = there.patterns(there.rows(members)), _Places(torch, counted)
        places.add(y)
        if not counted[0].squares:
            return places.table
        squares = square_tables(torch, y, places.above(y), counted[0].request.dtype)
        return torch.cat([places.table, squares.flatten()])

    def _fetch(self) -> None:
        """Fetch the tables, and give what they say to the search."""
        by_device: dict[str, list[tuple[list[_Counted], Array]]] = {}
        for each in self._waiting:
            by_device.setdefault(str(each[1].device), []).append(each)
        self._waiting = []
        for waiting in by_device.values():
            places, numbers = _sparse([table for _, table in waiting])
            first = 0
            for counted, table in waiting:
                low, high = np.searchsorted(places, (first, first + len(table)))
                self._add(counted, places[low:high] - first, numbers[low:high])
                first += len(table)

    def _add(self, counted: Sequence[_Counted], places: NDArray[Any], numbers: NDArray[Any]) -> None:
        """Add the counts in the tables of a stack."""
        count, sizes = len(counted), [each.places for each in counted]
        firsts = list(accumulate((*sizes, *(each.size - each.places for each in counted)), initial=0))
        ends = np.searchsorted(places, firsts).tolist()
        for index, each in enumerate(counted):
            own, squares = slice(ends[index], ends[index + 1]), slice(ends[count + index], ends[count + index + 1])
            table = np.zeros(each.size - each.places, np.int64)
            table[places[squares] - firsts[count + index]] = numbers[squares]
            self._search.add(each.request, each.result(places[own] - firsts[index], numbers[own], table))


def _sparse(tables: Sequence[Array]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the places of tables of one device, seen as one, that are not 0, and the numbers there."""
    import torch  # noqa: PLC0415 - there are tensors, so it is loaded

    joined = torch.cat(list(tables))
    places = joined.nonzero().flatten()
    found = torch.stack([places, joined[places]]).cpu().numpy()
    return found[0], found[1]
