"""Counting for a `RankSearch` over tensors that lie on devices: nothing but counts and ends of brackets is fetched."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import TYPE_CHECKING, Any

import numpy as np

from prunecli.dtypes import FLOATS
from prunecli.kernels.bit_patterns import widen
from prunecli.kernels.key_arrays import COUNTED
from prunecli.kernels.torch_tally import fetch
from prunecli.ranking.kth_smallest import MARGIN

if TYPE_CHECKING:
    from collections.abc import Mapping

    from prunecli.dtypes import Float
    from prunecli.kernels.torch_ops import TorchOps
    from prunecli.ranking.kth_smallest import RankSearch

SAMPLE, SAMPLE_SHARE, SAMPLE_LEAST, SAMPLE_BLOCK = 1 << 20, 32, 1 << 14, 1 << 10
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
        """Return the keys of `values`, a part of the member's, as int64."""
        torch = self.ops.torch
        y = values if self.marked else self.ops.magnitudes(values, self.dtype)
        if self.dtype is common:
            return y.to(torch.int64)
        if self.dtype.itemsize <= 2:
            patterns = np.arange(self.dtype.top + 1, dtype=np.int32)
            table = torch.from_numpy(widen(patterns, self.dtype, common).astype(np.int64)).to(y.device)
            return torch.where(y < 0, -1, table[y.clamp(min=0).to(torch.int32)])
        single, double = FLOATS["F32"], FLOATS["F64"]
        exact = y.view(torch.float32).to(torch.float64).view(torch.int64)
        above = y.to(torch.int64) - single.finite_max - 1 << (double.mantissa - single.mantissa)
        return torch.where(y < 0, -1, torch.where(y <= single.finite_max, exact, double.finite_max + 1 + above))


def narrow_on_devices(search: RankSearch, members: Mapping[int, OnDevice]) -> None:
    """Bracket the ranks of a search by samples, as `RankSearch.narrow_to` does, and fetch the ends of the bracket."""
    total = search.total
    size = min(SAMPLE, max(total // SAMPLE_SHARE, SAMPLE_LEAST))
    parts = []
    device = next(iter(members.values())).values.device
    for member in members.values():
        count = len(member.values)
        share = min(-(-size * count // total), count)
        length = min(SAMPLE_BLOCK, share)
        parts.append(_sample(member, length, share // length, search.keys.common).to(device))
    torch = next(iter(members.values())).ops.torch
    keys = torch.cat([part.flatten() for part in parts]).sort().values
    ends = [_end_of(torch, keys, parts, (rank - 0.5) / total) for rank in (search.ranks[0], search.ranks[-1])]
    first, last = (ends[0][0] - ends[0][1]).to(torch.int64), (ends[1][0] + ends[1][1]).to(torch.int64) + 1
    count, top = len(keys), search.keys.common.top
    low = torch.where(first > 0, keys[first.clamp(0, count - 1)], 0).clamp(min=0)
    highest = torch.where(last < count, keys[last.clamp(0, count - 1)], top)
    low_end, high_end = fetch([torch.stack([low, highest])])[0]
    search.low, search.high = low_end, max(high_end, low_end) + 1


def _sample(member: OnDevice, length: int, count: int, common: Float) -> Any:  # noqa: ANN401 - a tensor
    """Return the keys of `count` blocks of `length` neighbours at even distances."""
    torch, values = member.ops.torch, member.values
    step = (len(values) - length) // max(count - 1, 1)
    starts = torch.arange(count, device=values.device) * step
    index = starts[:, None] + torch.arange(length, device=values.device)
    return member.keys(values[index.flatten()], common).reshape(count, length)


def _end_of(torch: Any, keys: Any, parts: Any, share: float) -> tuple[Any, Any]:  # noqa: ANN401 - tensors
    """Return the expected position of a rank in the sample, and half the width of the bracket, on the device."""
    size = len(keys)
    pivot = keys[min(int(share * size), size - 1)]
    shares = torch.cat([(part <= pivot).sum(1).to(torch.float32) / part.shape[1] for part in parts])
    error = shares.std(correction=0) / sqrt(len(shares))
    error = error.clamp(min=sqrt(share * (1 - share) / size))
    return share * size, MARGIN * error * size + 2


def count_on_devices(search: RankSearch, members: Mapping[int, OnDevice]) -> None:
    """Count what a search asks for in all members, and fetch all counts with one copy for each device."""
    shift = search.shift(BITS)
    narrow: dict[tuple[int, int], Any] = {}
    tables: dict[str, Any] = {}
    for index, low, width in search.brackets():
        member = members.get(index)
        if member is None:
            continue
        if low > member.dtype.top:  # in mixed dtypes, the bracket may lie above all of one
            search.add(index, len(member.values), None, [])
        elif width <= COUNTED:
            ops, high = member.ops, low + max(width, 1)
            narrow[index, width] = ops.bracket(member.values, member.dtype, low, high, 0, marked=member.marked)
        else:
            device = str(member.values.device)
            table = table_of(search, member, shift)
            tables[device] = tables[device] + table if device in tables else table
    vectors = fetch([*narrow.values(), *tables.values()])
    for (index, width), counts in zip(narrow, vectors, strict=False):
        search.add(index, counts[0], None, counts[1 : 1 + width])
    for counts in vectors[len(narrow) :]:
        search.add_bins(counts[0], counts[1:], shift)


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
