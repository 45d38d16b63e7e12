"""Counting for a `RankSearch` over tensors that lie on devices: nothing but counts and ends of brackets is fetched."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from math import sqrt
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from prunecli.dtypes import FLOATS
from prunecli.kernels.bit_patterns import widen
from prunecli.kernels.key_arrays import COUNTED
from prunecli.kernels.torch_many import ManyTensors
from prunecli.kernels.torch_tally import fetch
from prunecli.ranking.kth_smallest import MARGIN

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from prunecli.dtypes import Float
    from prunecli.kernels.torch_ops import TorchOps
    from prunecli.ranking.kth_smallest import RankSearch

SAMPLE, SAMPLE_SHARE, SAMPLE_LEAST, SAMPLE_BLOCK = 1 << 18, 32, 1 << 14, 1 << 10
"""The most elements of a sample, the part of a smaller group, the least number; and neighbours that lie together."""

BITS = 12
"""Wide brackets are counted in about 2**BITS bins."""

RUN = 1 << 24
"""Elements that are converted to another format at once."""


@dataclass(frozen=True, slots=True)
class OnDevice:
    """A member of a group: flat integers on the device of `ops`, weights or with `marked` patterns (-1: pruned)."""

    ops: TorchOps
    values: Any
    dtype: Float
    marked: bool = False

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
    """Members of a group that are counted together: flat weights of one dtype on the device of `ops`."""

    ops: TorchOps
    members: tuple[int, ...]
    parts: Sequence[Any]
    dtype: Float

    @property
    def length(self) -> int:
        """The number of weights."""
        return sum(len(part) for part in self.parts)

    def joined(self) -> OnDevice:
        """Return all weights; those of several members are copied."""
        values = self.parts[0] if len(self.parts) == 1 else self.ops.torch.cat(list(self.parts))
        return OnDevice(self.ops, values, self.dtype)


Searches: TypeAlias = "Sequence[tuple[RankSearch, Sequence[Held]]]"
"""Searches, each with all members of its group."""


def find_on_devices(searches: Searches) -> None:
    """Find all ranks. Nothing but ends of brackets and counts is fetched, with one copy for each step and device."""
    _narrow(searches)
    while searches:
        _count(searches)
        searches = [each for each in searches if not each[0].advance()]


def _narrow(searches: Searches) -> None:
    """Bracket the ranks of searches by samples, as `RankSearch.narrow_to` does."""
    together: dict[Any, list[tuple[RankSearch, list[Any]]]] = {}
    for search, held in searches:
        samples = _samples(search, held)
        kind = (tuple((str(s.device), s.dtype, s.shape) for s in samples), search.keys.common)
        together.setdefault(kind, []).append((search, samples))
    vectors = [_brackets(held_by) for held_by in together.values()]
    for ends, members in zip(fetch(vectors), together.values(), strict=True):
        for index, (search, _) in enumerate(members):
            search.low = ends[index]
            search.high = max(ends[len(members) + index], search.low) + 1


def _samples(search: RankSearch, held: Sequence[Held]) -> list[Any]:
    """Return the keys of blocks of neighbours at even distances, (blocks, length) of each, on the first device."""
    total = search.total
    size = min(SAMPLE, max(total // SAMPLE_SHARE, SAMPLE_LEAST))
    samples = []
    for each in held:
        member, count = each.joined(), each.length
        share = min(-(-size * count // total), count)
        length = min(SAMPLE_BLOCK, share)
        blocks = share // length
        step = (count - length) // max(blocks - 1, 1)
        values = member.values.as_strided((blocks, length), (step, 1), member.values.storage_offset())
        samples.append(member.keys(values.reshape(-1), search.keys.common).reshape(blocks, length))
    return [sample.to(samples[0].device) for sample in samples]


def _brackets(searches: Sequence[tuple[RankSearch, Sequence[Any]]]) -> Any:  # noqa: ANN401 - a tensor
    """Return the lowest keys of the brackets of searches with samples of the same shapes, and then the highest."""
    import torch  # noqa: PLC0415 - there are tensors, so it is loaded

    parts = [torch.stack(same) for same in zip(*(samples for _, samples in searches), strict=True)]
    keys = torch.cat([part.flatten(1) for part in parts], 1).sort(1).values
    size, top = keys.shape[1], searches[0][0].keys.common.top
    shares = [[(rank - 0.5) / search.total for rank in (search.ranks[0], search.ranks[-1])] for search, _ in searches]
    wanted = torch.tensor(shares, device=keys.device)
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


def _count(searches: Searches) -> None:
    """Count what searches ask for in all members."""
    vectors: list[Any] = []
    adding: list[Callable[[list[int]], None]] = []
    for search, held in searches:
        asked = {index: (low, width) for index, low, width in search.brackets()}
        tables: dict[str, Any] = {}
        for each in held:
            low, width = asked[each.members[0]]
            if low > each.dtype.top:  # in mixed dtypes, the bracket may lie above all of one
                search.add(each.members[0], each.length, None, [])
            elif width <= (1 if len(each.members) > 1 else COUNTED):
                vectors.append(_counts_of(each, low, width))
                adding.append(partial(_add_counts, search, each.members, width))
            else:
                table = table_of(search, each.joined(), search.shift(BITS))
                device = str(table.device)
                tables[device] = tables[device] + table if device in tables else table
        for table in tables.values():
            vectors.append(table)
            adding.append(partial(_add_table, search, search.shift(BITS)))
    for add, numbers in zip(adding, fetch(vectors), strict=True):
        add(numbers)


def _counts_of(held: Held, low: int, width: int) -> Any:  # noqa: ANN401 - a tensor
    """Return for each member the number of magnitudes below `low`, and those of each of `width` patterns from it."""
    if len(held.members) > 1:
        return ManyTensors(held.ops, held.parts, held.dtype).equals(low).T.flatten()
    return held.ops.bracket(held.parts[0], held.dtype, low, low + max(width, 1), 0)


def _add_counts(search: RankSearch, members: Sequence[int], width: int, numbers: Sequence[int]) -> None:
    size = len(numbers) // len(members)
    for index, first in zip(members, range(0, len(numbers), size), strict=True):
        search.add(index, numbers[first], None, numbers[first + 1 : first + 1 + width])


def _add_table(search: RankSearch, shift: int, numbers: Sequence[int]) -> None:
    search.add_bins(numbers[0], numbers[1:], shift)


def table_of(search: RankSearch, member: OnDevice, shift: int) -> Any:  # noqa: ANN401 - a tensor
    """Return the number of keys below the bracket, and those of each bin of it."""
    common, ops = search.keys.common, member.ops
    if member.dtype is common:
        return ops.bracket(member.values, common, search.low, search.high, shift, marked=member.marked)
    table = 0
    for first in range(0, len(member.values), RUN):
        keys = member.keys(member.values[first : first + RUN], common)
        table = table + ops.bracket(keys, FLOATS["F64"], search.low, search.high, shift, marked=True)
    return table
