"""Counting for a `RankSearch` over tensors that lie on devices: nothing but counts and ends of brackets is fetched.

Weights are flat, or in the shape of a tensor with gaps, which is copied in runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial, reduce
from math import sqrt
from operator import add
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np

from prunecli.dtypes import FLOATS
from prunecli.io.memory_reader import copied
from prunecli.kernels.arrays import INTS
from prunecli.kernels.bit_patterns import widen
from prunecli.kernels.key_arrays import COUNTED
from prunecli.kernels.torch_many import many_tensors
from prunecli.kernels.torch_tally import fetch
from prunecli.kernels.transfers import to_device
from prunecli.ranking.device_tables import BITS, TableCounts, sample_size, samples_of_tables
from prunecli.ranking.kth_smallest import MARGIN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from prunecli.dtypes import Float
    from prunecli.engine.scored_ranks import HeldScores
    from prunecli.kernels.torch_ops import TorchOps
    from prunecli.ranking.device_tables import Together
    from prunecli.ranking.kth_smallest import RankSearch, Sample

SAMPLE_BLOCK = 1 << 10
"""Neighbours of a sample that lie together."""

RUN = 1 << 24
"""Elements that are copied, or converted to another format, at once."""


@dataclass(frozen=True, slots=True)
class OnDevice:
    """A member of a group: integers on the device of `ops`, weights or with `marked` patterns (-1: pruned)."""

    ops: TorchOps
    values: Any
    dtype: Float
    marked: bool = False

    def runs(self) -> Iterator[Any]:
        """Yield all values, flat: those of a tensor with gaps in runs."""
        if self.values.dim() == 1 and self.values.is_contiguous():
            yield self.values
            return
        count = self.values.numel()
        yield from (copied(self.values, first, min(first + RUN, count)) for first in range(0, count, RUN))

    def blocks(self, length: int, number: int) -> Any:  # noqa: ANN401 - a tensor
        """Return `number` blocks of `length` neighbours at even distances, one in each row."""
        values, torch = self.values, self.ops.torch
        step = (values.numel() - length) // max(number - 1, 1)
        if values.dim() == 1 and values.is_contiguous():
            return values.as_strided((number, length), (step, 1), values.storage_offset())
        index = torch.arange(number, device=values.device)[:, None] * step
        index = index + torch.arange(length, device=values.device)
        places = []
        for size in reversed(values.shape):
            places.append(index % size)
            index = index // size
        return values[tuple(reversed(places))]

    def keys(self, values: Any, common: Float) -> Any:  # noqa: ANN401 - tensors
        """Return the keys of `values`, a part of the member's."""
        torch = self.ops.torch
        y = values if self.marked else self.ops.magnitudes(values, self.dtype)
        if self.dtype is common:
            return y
        if self.dtype.itemsize <= 2:
            patterns = np.arange(self.dtype.top + 1, dtype=np.int32)
            table = torch.from_numpy(widen(patterns, self.dtype, common).astype(np.int64)).to(y.device)
            return torch.where(y < 0, -1, table[y.clamp(min=0).to(torch.int32)])
        single, double = FLOATS["F32"], FLOATS["F64"]
        exact = y.view(torch.float32).to(torch.float64).view(torch.int64)
        above = y.to(torch.int64) - single.finite_max - 1 << (double.mantissa - single.mantissa)
        return torch.where(y < 0, -1, torch.where(y <= single.finite_max, exact, double.finite_max + 1 + above))


@dataclass(frozen=True, slots=True)
class Held:
    """Members of a group that are counted together: weights of one dtype on the device of `ops`."""

    ops: TorchOps
    members: tuple[int, ...]
    parts: Sequence[Any]
    dtype: Float
    there: Together | None = None
    """Where the members are `parts` of a table, from its tensor `first` on."""
    first: int = 0

    @property
    def length(self) -> int:
        """The number of weights."""
        return sum(part.numel() for part in self.parts)

    def pieces(self) -> list[OnDevice]:
        """Return all weights: tensors of a table alone, others as one piece."""
        if self.there is None:
            return [self.joined()]
        return [OnDevice(self.ops, part, self.dtype) for part in self.parts]

    def joined(self) -> OnDevice:
        """Return all weights; those of several members are copied."""
        parts = self.parts
        values = parts[0] if len(parts) == 1 else self.ops.torch.cat([part.reshape(-1) for part in parts])
        return OnDevice(self.ops, values, self.dtype)

    def equals(self, bits: int) -> Any:  # noqa: ANN401 - a tensor
        """Return how many magnitudes of each member are smaller than `bits` and equal to it, shape (2, members)."""
        return many_tensors(self.ops, self.parts, self.dtype).equals(bits)


Searches: TypeAlias = "Sequence[tuple[RankSearch, Sequence[Held | HeldScores]]]"
"""Searches, each with the members of its group that lie on devices."""


class Others(Protocol):
    """The members of groups that lie on the host."""

    def samples(self, search: RankSearch, size: int) -> list[Sample]:
        """Return samples of such members, their shares of one with `size` elements of all members."""

    def count(self, searches: Sequence[RankSearch]) -> None:
        """Count what searches ask for in such members."""


def find_on_devices(searches: Searches, others: Others | None = None) -> None:
    """Find all ranks. Nothing but ends of brackets and counts is fetched, with one copy for each step and device.

    `others` counts the other members while the devices compute.
    """
    _narrow(searches, others)
    while searches:
        _count(searches, others)
        searches = [each for each in searches if not each[0].advance()]


def _narrow(searches: Searches, others: Others | None) -> None:
    """Bracket the ranks of searches by samples, as `RankSearch.narrow_to` does."""
    together: dict[Any, list[tuple[RankSearch, list[Any]]]] = {}
    taken = samples_of_tables(
        [(search, [each for each in held if isinstance(each, Held)]) for search, held in searches]
    )
    for search, held in searches:
        samples = _samples(search, held, taken, others)
        kind = (tuple((str(s.device), s.dtype, s.shape) for s in samples), search.keys.common)
        together.setdefault(kind, []).append((search, samples))
    vectors = [_brackets(held_by) for held_by in together.values()]
    for ends, members in zip(fetch(vectors), together.values(), strict=True):
        for index, (search, _) in enumerate(members):
            search.low = ends[index]
            search.high = max(ends[len(members) + index], search.low) + 1


def _samples(
    search: RankSearch, held: Sequence[Held | HeldScores], taken: Mapping[int, Any], others: Others | None
) -> list[Any]:
    """Return the keys of blocks of neighbours at even distances, (blocks, length) of each, on the first device.

    Some samples are `taken` already.
    """
    total = search.total
    size = sample_size(total)
    samples = []
    for each in held:
        if id(each) in taken:
            y = taken[id(each)]
            samples.append(OnDevice(each.ops, y, each.dtype, marked=True).keys(y, search.keys.common))
            continue
        member, count = each.joined(), each.length
        share = min(-(-size * count // total), count)
        length = min(SAMPLE_BLOCK, share)
        values = member.blocks(length, share // length)
        samples.append(member.keys(values.reshape(-1), search.keys.common).reshape(-1, length))
    for sample in others.samples(search, size) if others is not None else ():
        keys = np.asarray(search.keys_of(sample.member, sample.patterns), np.int64)
        samples.append(held[0].ops.torch.from_numpy(keys.reshape(-1, sample.length)))
    return [sample.to(samples[0].device) for sample in samples]


def _brackets(searches: Sequence[tuple[RankSearch, Sequence[Any]]]) -> Any:  # noqa: ANN401 - a tensor
    """Return the lowest keys of the brackets of searches with samples of the same shapes, and then the highest."""
    import torch  # noqa: PLC0415 - there are tensors, so it is loaded

    parts = [torch.stack(same) for same in zip(*(samples for _, samples in searches), strict=True)]
    keys = torch.cat([part.flatten(1) for part in parts], 1).sort(1).values
    size, top = keys.shape[1], searches[0][0].keys.common.top
    shares = [[(rank - 0.5) / search.total for rank in (search.ranks[0], search.ranks[-1])] for search, _ in searches]
    wanted = to_device(np.array(shares, np.float32), keys.device)
    least = (wanted * (1 - wanted) / size).sqrt()
    pivots = keys.gather(1, (wanted * size).to(torch.int64).clamp(max=size - 1))
    ends = []
    for end, sign in ((0, -1), (1, 1)):
        pivot = pivots[:, end, None, None]
        below = torch.cat([(part <= pivot).sum(2).to(torch.float32) / part.shape[2] for part in parts], 1)
        error = torch.maximum(below.std(1, correction=0) / sqrt(below.shape[1]), least[:, end])
        ends.append((wanted[:, end] * size + sign * (MARGIN * error * size + 2)).to(torch.int64))
    first, last = ends[0][:, None], ends[1][:, None] + 1
    low = torch.where(first > 0, keys.gather(1, first.clamp(0, size - 1)), 0).clamp(min=0)
    high = torch.where(last < size, keys.gather(1, last.clamp(0, size - 1)), top)
    return torch.cat([low, high]).flatten().to(torch.int64)


_Queued: TypeAlias = "tuple[Any, Callable[[list[int]], None]]"
"""Counts on a device, and what adds them to a search once they are fetched."""


def _count(searches: Searches, others: Others | None) -> None:
    """Count what searches ask for in all members: kernels are queued first, and their results are fetched last."""
    queued: list[_Queued] = []
    in_tables = TableCounts()
    for search, held in searches:
        queued += _count_members(search, held, in_tables)
    queued += in_tables.queue()
    if others is not None:
        others.count([search for search, _ in searches])
    for (_, keep), numbers in zip(queued, fetch([vector for vector, _ in queued]), strict=True):
        keep(numbers)


def _count_members(search: RankSearch, held: Sequence[Held | HeldScores], in_tables: TableCounts) -> Iterator[_Queued]:
    """Start the kernels for members of a search, but for those that `in_tables` takes."""
    asked = {index: (low, width) for index, low, width in search.brackets()}
    tables: dict[str, Any] = {}
    for each in held:
        low, width = asked[each.members[0]]
        if low > each.dtype.top:  # in mixed dtypes, the bracket may lie above all of one
            search.add(each.members[0], each.length, None, [])
        elif isinstance(each, Held) and in_tables.take(search, each, low, width):
            continue
        elif not isinstance(each, Held) and width > COUNTED and each.lists(search.inside):
            yield each.listed(low, width, search.inside or 0), partial(_add_listed, search, each, low)
        elif width <= (1 if len(each.members) > 1 else COUNTED):
            yield _counts_of(each, low, width), partial(_add_counts, search, each.members, width)
        else:
            for table in (table_of(search, piece, search.shift(BITS)) for piece in each.pieces()):
                device = str(table.device)
                tables[device] = tables[device] + table if device in tables else table
    for table in tables.values():
        yield table, partial(_add_table, search, search.shift(BITS))


def _counts_of(held: Held | HeldScores, low: int, width: int) -> Any:  # noqa: ANN401 - a tensor
    """Return for each member the number of magnitudes below `low`, and those of each of `width` patterns from it."""
    if len(held.members) > 1:
        return held.equals(low).T.flatten()
    member, high = held.joined(), low + max(width, 1)
    tables = (held.ops.bracket(run, held.dtype, low, high, 0, marked=member.marked) for run in member.runs())
    return reduce(add, tables)


def _add_counts(search: RankSearch, members: Sequence[int], width: int, numbers: Sequence[int]) -> None:
    size = len(numbers) // len(members)
    for index, first in zip(members, range(0, len(numbers), size), strict=True):
        search.add(index, numbers[first], None, numbers[first + 1 : first + 1 + width])


def _add_listed(search: RankSearch, held: HeldScores, low: int, numbers: Sequence[int]) -> None:
    rows = len(held.members)
    places, row_of = np.array(numbers[rows:], np.int64).reshape(2, -1)
    integer = INTS[max(held.dtype.itemsize, 2)]
    for row, member in enumerate(held.members):
        own = places[(places > 0) & (row_of == row)] - 1 + low
        search.add(member, numbers[row], own.astype(integer), None)


def _add_table(search: RankSearch, shift: int, numbers: Sequence[int]) -> None:
    search.add_bins(numbers[0], numbers[1:], shift)


def table_of(search: RankSearch, member: OnDevice | HeldScores, shift: int) -> Any:  # noqa: ANN401 - a tensor
    """Return the number of keys below the bracket, and those of each bin of it."""
    common, ops = search.keys.common, member.ops
    ends = search.low, search.high, shift
    if member.dtype is common:
        return reduce(add, (ops.bracket(run, common, *ends, marked=member.marked) for run in member.runs()))
    parts = (run[first : first + RUN] for run in member.runs() for first in range(0, len(run), RUN))
    keys = (member.keys(part, common) for part in parts)
    return reduce(add, (ops.bracket(each, FLOATS["F64"], *ends, marked=True) for each in keys))
