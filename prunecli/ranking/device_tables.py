"""Members of groups that kernels find by a table: one kernel samples, or counts, those of all groups of a step."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from prunecli.kernels.fused_ranks import NARROW, SAMPLED
from prunecli.kernels.key_arrays import COUNTED
from prunecli.kernels.torch_tables import Table
from prunecli.kernels.transfers import to_device

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from prunecli.dtypes import Float
    from prunecli.kernels.torch_ops import TorchOps
    from prunecli.ranking.device_ranks import Held
    from prunecli.ranking.kth_smallest import RankSearch

Tensor: TypeAlias = Any

SAMPLE, SAMPLE_SHARE, SAMPLE_LEAST = 1 << 18, 32, 1 << 14
"""The most elements of a sample, the part of a smaller group, and the least number."""

SAMPLES = 1 << 22
"""The most elements of all samples that are taken together."""

BITS = 12
"""Wide brackets are counted in about 2**BITS bins."""


def sample_size(total: int) -> int:
    """Return the number of elements of a sample of so many elements."""
    return min(SAMPLE, max(total // SAMPLE_SHARE, SAMPLE_LEAST))


class Together:
    """Contiguous tensors of one dtype on one device."""

    def __init__(self, ops: TorchOps, dtype: Float) -> None:
        """Start without tensors; `ops` have kernels for tables."""
        self.ops, self.dtype = ops, dtype
        self._tensors: list[Tensor] = []
        self._rows: tuple[int, ...] = ()
        self._table: Table | None = None

    @property
    def kernels(self) -> Any:  # noqa: ANN401 - FusedRanks
        """The kernels that count."""
        return self.ops.fused.ranks  # type: ignore[union-attr]

    def held(self, members: Sequence[int], parts: Sequence[Tensor]) -> Held:
        """Add flat tensors, members of a group, and return them."""
        from prunecli.ranking.device_ranks import Held  # noqa: PLC0415 - it needs this module

        first = len(self._tensors)
        self._tensors += parts
        return Held(self.ops, tuple(members), parts, self.dtype, self, first)

    def table(self, rows: tuple[int, ...]) -> Table:
        """Return the table of some of the tensors."""
        if self._table is None or rows != self._rows:
            self._rows, self._table = rows, Table(self.ops.torch, [self._tensors[row] for row in rows])
        return self._table

    def samples(self, wanted: Sequence[tuple[Held, int]]) -> list[Tensor]:
        """Return the magnitudes of so many blocks of neighbours, at even distances in all tensors of a group.

        The shape of each is (number, SAMPLED).
        """
        places = np.concatenate([_places(held.parts, number) for held, number in wanted], 1)
        y = self.kernels.sample(wanted[0][0].parts[0], places, self.dtype)
        ends = np.cumsum([number for _, number in wanted]).tolist()
        return [y[end - number : end] for end, (_, number) in zip(ends, wanted, strict=True)]


def _places(parts: Sequence[Tensor], number: int) -> Any:  # noqa: ANN401 - an array
    """Return the addresses of blocks of neighbours, and the last position of each of them, (2, number)."""
    lengths = np.array([part.numel() for part in parts], np.int64)
    addresses = np.array([part.data_ptr() for part in parts], np.int64)
    ends = lengths.cumsum()
    at = np.arange(number, dtype=np.int64) * (max(int(ends[-1]) - SAMPLED, 0) // max(number - 1, 1))
    tensor = np.searchsorted(ends, at, "right")
    first = np.minimum(at - (ends - lengths)[tensor], np.maximum(lengths[tensor] - SAMPLED, 0))
    last = np.minimum(lengths[tensor] - first, SAMPLED) - 1
    return np.stack([addresses[tensor] + first * parts[0].element_size(), last])


def samples_of_tables(searches: Sequence[tuple[RankSearch, Sequence[Held]]]) -> dict[int, Tensor]:
    """Return samples of members in tables, by the `id` of what holds them."""
    wanted: dict[Together, list[tuple[Held, int]]] = {}
    for search, held in searches:
        size = min(sample_size(search.total), SAMPLES // len(searches))
        for each in held:
            if each.there is not None:
                count = each.length
                share = min(-(-size * count // search.total), count)
                wanted.setdefault(each.there, []).append((each, max(share // SAMPLED, 1)))
    found = {}
    for there, own in wanted.items():
        found.update({id(each): y for (each, _), y in zip(own, there.samples(own), strict=True)})
    return found


_Bracket: TypeAlias = "tuple[RankSearch, Held, int, int]"
"""What is counted: a search, some of its members, and the first pattern and the number of patterns."""


class TableCounts:
    """What searches ask for in members in tables, one kernel for brackets of a few patterns and one for others."""

    def __init__(self) -> None:
        """Start with nothing to count."""
        self._narrow: dict[Together, list[_Bracket]] = {}
        self._patterns: dict[Together, list[_Bracket]] = {}
        self._wide: dict[Together, list[_Bracket]] = {}

    def take(self, search: RankSearch, held: Held, low: int, width: int) -> bool:
        """Count members later, if the kernels can: bins are those of keys. Return whether they can."""
        if held.there is None:
            return False
        if width <= NARROW:
            brackets = self._narrow
        elif held.dtype is search.keys.common:
            brackets = self._wide
        elif width <= COUNTED:
            brackets = self._patterns
        else:
            return False
        brackets.setdefault(held.there, []).append((search, held, low, width))
        return True

    def queue(self) -> Iterator[tuple[Tensor, Callable[[list[int]], None]]]:
        """Start the kernels; yield counts on devices, and what adds them to the searches once they are fetched."""
        for there, brackets in self._narrow.items():
            yield _count_narrow(there, brackets)
        for there, brackets in self._patterns.items():
            yield _count_patterns(there, brackets)
        for there, brackets in self._wide.items():
            yield _count_wide(there, brackets)


def _table_of(there: Together, brackets: Sequence[_Bracket]) -> Table:
    """Return the table of what is counted."""
    return there.table(tuple([held.first + at for _, held, _, _ in brackets for at in range(len(held.members))]))


def _count_narrow(there: Together, brackets: Sequence[_Bracket]) -> tuple[Tensor, Callable[[list[int]], None]]:
    """Count the patterns of each tensor one by one."""
    table = _table_of(there, brackets)
    lows = [low for _, held, low, _ in brackets for _ in held.members]
    patterns = max(width for _, _, _, width in brackets)
    on_device = to_device(lows, table.addresses.device)
    counts = there.kernels.narrow(table, on_device, patterns, there.dtype)
    return counts.flatten(), partial(_add_patterns, brackets, patterns + 1)


def _count_patterns(there: Together, brackets: Sequence[_Bracket]) -> tuple[Tensor, Callable[[list[int]], None]]:
    """Count the patterns of each tensor in bins of its own."""
    bounds: list[tuple[int, int, int, int]] = []
    size = 0
    for _, held, low, width in brackets:
        for _ in held.members:
            bounds.append((low, low + width - 1, 0, size))
            size += 1 + width
    counts = there.kernels.bins(_table_of(there, brackets), [*zip(*bounds, strict=True)], size, there.dtype)
    return counts, partial(_add_patterns, brackets, 0)


def _add_patterns(brackets: Sequence[_Bracket], size: int, numbers: Sequence[int]) -> None:
    """Add `numbers`, of which each tensor has `size`, or those of the patterns of its bracket."""
    first = 0
    for search, held, _, width in brackets:
        for member in held.members:
            search.add(member, numbers[first], None, numbers[first + 1 : first + 1 + width])
            first += size or 1 + width


def _count_wide(there: Together, brackets: Sequence[_Bracket]) -> tuple[Tensor, Callable[[list[int]], None]]:
    """Count the keys of each group by bins of its bracket."""
    bounds: list[tuple[int, int, int, int]] = []
    size = 0
    for search, held, _, _ in brackets:
        shift = search.shift(BITS)
        bounds += [(search.low, search.high - 1, shift, size)] * len(held.members)
        size += 2 + ((search.high - 1 - search.low) >> shift)
    counts = there.kernels.bins(_table_of(there, brackets), [*zip(*bounds, strict=True)], size, there.dtype)
    return counts, partial(_add_wide, brackets)


def _add_wide(brackets: Sequence[_Bracket], numbers: Sequence[int]) -> None:
    first = 0
    for search, _, _, _ in brackets:
        shift = search.shift(BITS)
        size = 2 + ((search.high - 1 - search.low) >> shift)
        search.add_bins(numbers[first], numbers[first + 1 : first + size], shift)
        first += size
