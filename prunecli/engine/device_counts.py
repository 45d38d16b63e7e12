"""Counting for a `NormalizedCutSearch` over tensors that lie on devices: only counts that are not 0 are fetched."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np

from prunecli.kernels import torch_values
from prunecli.kernels.torch_squares import square_tables, sum_of_table, table_shape
from prunecli.ranking.normalized_cut import CountResult

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from prunecli.engine.device_rows import DeviceRows
    from prunecli.kernels.ops import Array
    from prunecli.ranking.normalized_cut import CountRequest, NormalizedCutSearch

AT_ONCE = 1 << 22
"""The places of tables that are fetched together, of 8 bytes each."""


def bits_of_table(numel: int) -> int:
    """Return the most bits that a first pass counts by: few tables take more than a small part of the weights."""
    return max(numel.bit_length() - 6, 1)


@dataclass(frozen=True, slots=True)
class _Counted:
    """What is counted for a request, on the device: a table of `bins`, and one of squares if `squares`.

    With `listed` there are the bins of single weights in place of counts, where these are fewer.
    """

    request: CountRequest
    listed: bool

    @property
    def first(self) -> int:
        """The number of the first bin."""
        return self.request.low >> self.request.shift

    @property
    def bins(self) -> int:
        """The number of bins."""
        return ((self.request.high - 1) >> self.request.shift) - self.first + 1

    @property
    def places(self) -> int:
        """The number of places of counts."""
        return (self.request.inside or 0) if self.listed else self.bins

    @property
    def squares(self) -> bool:
        """Whether squares are added up on the device."""
        return self.request.above is not None and not self.request.counts_have_squares

    @property
    def above(self) -> int:
        """The smallest pattern whose square is added up, which may be above all of them."""
        return min(self.request.above or 0, self.request.dtype.finite_max + 1)

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of the table of squares."""
        return table_shape(self.request.dtype) if self.squares else (0, 0)

    @property
    def size(self) -> int:
        """The number of places in both tables."""
        return self.places + self.shape[0] * self.shape[1]

    def result(self, places: NDArray[Any], numbers: NDArray[Any]) -> CountResult:
        """Return the counts from the places of both tables that are not 0, and the numbers there."""
        inside = places < self.places
        bins, counts = places[inside], numbers[inside]
        if self.listed:  # as numbers from 1
            bins, counts = np.unique(counts - 1, return_counts=True)
        found = self.request.result(bins + self.first, counts)
        if not self.squares:
            return found
        table = np.zeros(self.size - self.places, np.int64)
        table[places[~inside] - self.places] = numbers[~inside]
        return CountResult(found.bins, found.counts, sum_of_table(table.reshape(self.shape), self.request.dtype))


def _counted(requests: Sequence[CountRequest]) -> list[_Counted]:
    """Return how the requests of a stack are counted: all of them in the same way."""
    bins = sum(_Counted(request, listed=False).bins for request in requests)
    inside = [request.inside for request in requests if request.inside is not None]
    listed = len(inside) == len(requests) and sum(inside) < bins
    return [_Counted(request, listed) for request in requests]


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
        return torch_values.copied(np.array([[each.above] for each in self._counted]), y)

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
        low, last, shift, bin_, first = torch_values.copied(np.array(asked, np.int64), y).T[:, :, None]
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


class CountsOnDevices:
    """Counts what a search asks for."""

    def __init__(self, there: DeviceRows, search: NormalizedCutSearch) -> None:
        """Count nothing yet."""
        self._there, self._search = there, search
        self._waiting: list[tuple[list[_Counted], Array]] = []

    def count(self, requests: Mapping[int, CountRequest]) -> None:
        """Count for the requests of these targets."""
        for members in self._there.stacks(list(requests)):
            for own in self._fitting(members, requests):
                counted = _counted([requests[member] for member in own])
                table = self._alone(own[0], counted[0]) if len(own) == 1 else self._stack(own, counted)
                self._waiting.append((counted, table))
                if sum(len(table) for _, table in self._waiting) > AT_ONCE:
                    self._fetch()
        self._fetch()

    def _fitting(self, members: tuple[int, ...], requests: Mapping[int, CountRequest]) -> list[tuple[int, ...]]:
        """Divide a stack so that its tables have no more than AT_ONCE places."""
        size = max(each.size for each in _counted([requests[member] for member in members]))
        step = max(AT_ONCE // size, 1)
        return [members[first : first + step] for first in range(0, len(members), step)]

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
        firsts = list(accumulate((each.places for each in counted), initial=0))
        squares = list(accumulate((each.size - each.places for each in counted), initial=firsts[-1]))
        for index, each in enumerate(counted):
            parts = []
            for start, stop, at in (
                (firsts[index], firsts[index + 1], 0),
                (squares[index], squares[index + 1], each.places),
            ):
                low, high = np.searchsorted(places, (start, stop))
                parts.append((places[low:high] - start + at, numbers[low:high]))
            own = (np.concatenate(part) for part in zip(*parts, strict=True))
            self._search.add(each.request, each.result(*own))


def _sparse(tables: Sequence[Array]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the places of tables of one device, seen as one, that are not 0, and the numbers there."""
    import torch  # noqa: PLC0415 - there are tensors, so it is loaded

    joined = torch.cat(list(tables))
    places = joined.nonzero().flatten()
    found = torch.stack([places, joined[places]]).cpu().numpy()
    return found[0], found[1]
