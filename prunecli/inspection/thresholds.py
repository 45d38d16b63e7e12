"""Exact order statistics of the weights in a checkpoint, for each tensor and for all of them together.

A first pass counts magnitudes by their 15 leading bits; 8- and 16-bit types are then done. For wider ones each further
pass looks only into the bins that hold a wanted rank, and settles 16 bits more. Memory is constant: a few bins per
rank. Nothing here knows about selection or printing.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from prunecli.dtypes import FLOATS, Float, cast
from prunecli.io.scan import magnitudes, scan_tensors
from prunecli.kernels.histograms import HistogramBuilder
from prunecli.kernels.ops import UINTS
from prunecli.ranking.kth_smallest import Keys

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from prunecli.checkpoint import Checkpoint, TensorInfo
    from prunecli.io.threads import Worker
    from prunecli.kernels.ops import Read

    Counted = tuple[NDArray[np.int64], NDArray[np.int64]]  # bins, ascending and once each, and their counts

LEVEL = 16
"""Bits that a pass settles."""

SORTED_LIMIT = 1 << 20
"""A tensor of up to so many weights has those that matter sorted; a larger one has them counted in a table."""


@dataclass(frozen=True, slots=True)
class ThresholdStep:
    """What sparsity costs: `threshold` is the shortest number T for which |w| <= T holds for `percent` % or more.

    `zeroed` counts the weights for which it does, each compared in its own dtype as `prune threshold` does. Both are
    None where the weights up to there are not all finite: no threshold prunes infinities and NaNs.
    """

    percent: int
    threshold: float | None
    zeroed: int | None


@dataclass(frozen=True, slots=True)
class ThresholdTable:
    """The steps of a tensor `name`, or of all tensors ("") together; `numel` counts the weights."""

    name: str
    numel: int
    steps: tuple[ThresholdStep, ...]


class TensorRanks:
    """The search for some ranks (from 1) in one group of magnitudes that compare as patterns of `dtype`."""

    def __init__(self, dtype: Float, ranks: Iterable[int]) -> None:
        """Start with everything possible."""
        self.dtype, self.span, self.shift = dtype, 8 * dtype.itemsize, max(8 * dtype.itemsize - LEVEL, 0)
        self.found = dict.fromkeys(ranks, (0, 0, 0))
        """Rank -> (first pattern of the bin it is in, how many patterns are below the bin, how many are in it)."""

    @property
    def done(self) -> bool:
        """Whether each bin is one pattern."""
        return not self.span

    def lows(self) -> NDArray[np.int64]:
        """Return the first patterns of the bins to look into, ascending."""
        return np.unique(np.array([low for low, _, _ in self.found.values()], np.int64))

    def advance(self, bins: NDArray[np.int64], counts: NDArray[np.int64]) -> None:
        """Take in the counts of the patterns inside the bins, by their bits from `shift` up, ascending."""
        ends = np.cumsum(counts)
        for rank, (low, less, _) in self.found.items():
            first = int(np.searchsorted(bins, low >> self.shift))
            before = int(ends[first - 1]) if first else 0
            at = int(np.searchsorted(ends, rank - less + before))
            size = int(counts[at])
            self.found[rank] = (int(bins[at]) << self.shift, less + int(ends[at]) - size - before, size)
        self.span, self.shift = self.shift, max(self.shift - LEVEL, 0)


class _Bank:
    """Counts of the patterns inside some bins, with a place for each that is possible."""

    def __init__(self, search: TensorRanks, lows: NDArray[np.int64]) -> None:
        self._width = search.span - search.shift
        self._prefixes = lows >> search.span
        self._table = np.zeros(len(lows) << self._width, np.int64)

    def add(self, bins: NDArray[np.int64], counts: NDArray[np.int64] | int) -> None:
        """Add to the places of `bins`, which are inside; where counts is a number, bins may come more than once."""
        slots = np.searchsorted(self._prefixes, bins >> self._width)
        np.add.at(self._table, (slots << self._width) | (bins & ((1 << self._width) - 1)), counts)

    def counted(self) -> Counted:
        held = np.flatnonzero(self._table)
        bins = (self._prefixes[held >> self._width] << self._width) | (held & ((1 << self._width) - 1))
        return bins, self._table[held]


class _Together:
    """The ranks of all tensors together; threads put in what they count."""

    def __init__(self, tensors: Sequence[TensorInfo], percents: Sequence[int]) -> None:
        self.numel = sum(t.numel for t in tensors)
        self.keys = Keys([FLOATS[t.dtype] for t in tensors])
        self.ranks = TensorRanks(self.keys.common, ranks_of(self.numel, percents).values())
        self._lock, self._bank = Lock(), _Bank(self.ranks, self.ranks.lows())

    @property
    def mixed(self) -> bool:
        """Whether the tensors have several dtypes."""
        return len(set(self.keys.dtypes)) > 1

    def add(self, bins: NDArray[np.int64], counts: NDArray[np.int64]) -> None:
        """Take in what a tensor has, inside the bins looked into or not."""
        ours = np.isin(bins >> (self.ranks.span - self.ranks.shift), self.ranks.lows() >> self.ranks.span)
        with self._lock:
            self._bank.add(bins[ours], counts[ours])

    def advance(self) -> None:
        """Conclude a pass."""
        if not self.ranks.done:
            self.ranks.advance(*self._bank.counted())
            self._bank = _Bank(self.ranks, self.ranks.lows())


def ranks_of(numel: int, percents: Iterable[int]) -> dict[int, int]:
    """Return the least number of weights that is each percentage of `numel` or more."""
    return {percent: max(-(-percent * numel // 100), 1) for percent in percents}


def ladders(
    checkpoint: Checkpoint,
    tensors: Sequence[TensorInfo],
    percents: Sequence[int],
    *,
    advance: Callable[[int], None] = lambda _: None,
) -> tuple[ThresholdTable, tuple[ThresholdTable, ...]]:
    """Return the exact thresholds for sparsities of `percents` (1-100): of all `tensors` together, and of each.

    `tensors` are floating-point and not empty, at least one. `advance` is told the bytes read. Raises CheckpointError
    where a file cannot be read.
    """
    own = {id(t): TensorRanks(FLOATS[t.dtype], ranks_of(t.numel, percents).values()) for t in tensors}
    together = _Together(tensors, percents)

    def look(_: Worker, tensor: TensorInfo, read: Read) -> None:
        _count_one(tensor, read, own[id(tensor)], together)

    while waiting := [t for t in tensors if not (own[id(t)].done and together.ranks.done)]:
        scan_tensors(checkpoint, waiting, look, advance=advance)
        together.advance()
    each = tuple(ThresholdTable(t.name, t.numel, _steps(own[id(t)], t.numel, percents)) for t in tensors)
    if together.mixed:
        return _across_dtypes(checkpoint, tensors, together, percents), each
    return ThresholdTable("", together.numel, _steps(together.ranks, together.numel, percents)), each


def bytes_read(tensors: Sequence[TensorInfo]) -> int:
    """Return how many bytes `ladders` reads to rank: each look at a tensor settles LEVEL bits of its patterns.

    What is also ranked in the format of all is looked at for that as well, but for a strided tensor, held whole.
    """
    common, size = Keys([FLOATS[t.dtype] for t in tensors]).common, 0
    for tensor in tensors:
        own, whole = (-(-8 * dtype.itemsize // LEVEL) for dtype in (FLOATS[tensor.dtype], common))
        alike = FLOATS[tensor.dtype] is common
        size += (tensor.end - tensor.start) * (own if alike else own + whole if tensor.contiguous else max(own, whole))
    return size


def _count_one(tensor: TensorInfo, read: Read, own: TensorRanks, together: _Together) -> None:
    """Count what the searches look for in one tensor, in as few looks at it as there are ways to compare."""
    dtype, whole = FLOATS[tensor.dtype], together.ranks
    alike = dtype is whole.dtype
    searches = [r for r, ours in ((own, True), (whole, alike)) if ours and not r.done]
    if searches:
        found = _counted(magnitudes(read, tensor), tensor.numel, searches)
        if not own.done:
            own.advance(*found)
        if whole in searches:
            together.add(*found)
    if not alike and not whole.done:
        keys = (together.keys.of(y, dtype) for y in magnitudes(read, tensor))
        together.add(*_counted(keys, tensor.numel, [whole]))


def _counted(patterns: Iterable[NDArray[Any]], numel: int, searches: Sequence[TensorRanks]) -> Counted:
    """Count the patterns inside the bins that any of `searches`, all of them at one level, looks into."""
    search = searches[0]
    if search.span == 8 * search.dtype.itemsize:
        table = HistogramBuilder(search.dtype)
        for y in patterns:
            table.add(y)
        found = table.histogram()
        return found.bins, found.counts
    lows = np.unique(np.concatenate([each.lows() for each in searches]))
    inside = (_inside(y, search, lows) for y in patterns)
    if numel <= SORTED_LIMIT:
        bins, counts = np.unique(np.concatenate(list(inside)), return_counts=True)
        return bins, counts
    bank = _Bank(search, lows)
    for bins in inside:
        bank.add(bins, 1)
    return bank.counted()


def _inside(y: NDArray[Any], search: TensorRanks, lows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the bins, by their bits from `search.shift` up, of the patterns inside the bins that begin at `lows`."""
    lead = 8 * search.dtype.itemsize - LEVEL
    wanted = np.zeros(1 << LEVEL, bool)
    wanted[lows >> lead] = True
    held = y[wanted[y >> lead]].astype(np.int64, copy=False)
    if search.span != lead:
        held = held[np.isin(held >> search.span, lows >> search.span)]
    bins: NDArray[np.int64] = held >> search.shift
    return bins


# --- from patterns to thresholds


def _steps(ranks: TensorRanks, numel: int, percents: Iterable[int]) -> tuple[ThresholdStep, ...]:
    steps = []
    for percent, rank in ranks_of(numel, percents).items():
        low, less, equal = ranks.found[rank]
        if low > ranks.dtype.finite_max:
            steps.append(ThresholdStep(percent, None, None))
        else:
            steps.append(ThresholdStep(percent, shortest(ranks.dtype.decode(low), [ranks.dtype]), less + equal))
    return tuple(steps)


def _across_dtypes(
    checkpoint: Checkpoint, tensors: Sequence[TensorInfo], together: _Together, percents: Sequence[int]
) -> ThresholdTable:
    """Turn the ranks into steps by one more pass: a threshold is rounded to each dtype, up or down."""
    dtypes = set(together.keys.dtypes)
    steps = _steps(together.ranks, together.numel, percents)
    found = [None if s.threshold is None else _value(together.ranks, s, together.numel) for s in steps]
    typed = [None if value is None else shortest(value, dtypes) for value in found]
    cuts = {d.name: [cut_of(value, d) + 1 for value in typed if value is not None] for d in dtypes}
    below = np.cumsum(tally(checkpoint, tensors, cuts))
    zeroed = iter(below.tolist())
    rows = zip(steps, typed, strict=True)
    return ThresholdTable(
        "",
        together.numel,
        tuple(ThresholdStep(s.percent, t, None if t is None else int(next(zeroed))) for s, t in rows),
    )


def _value(ranks: TensorRanks, step: ThresholdStep, numel: int) -> float:
    return ranks.dtype.decode(ranks.found[ranks_of(numel, [step.percent])[step.percent]][0])


def tally(
    checkpoint: Checkpoint, tensors: Sequence[TensorInfo], cuts: Mapping[str, Sequence[int]]
) -> NDArray[np.int64]:
    """Count the weights below the first cut, from each cut to the next, and from the last one on: (cuts + 1,).

    `cuts` are ascending patterns for each dtype among the tensors'. Raises CheckpointError where a file cannot be read.
    """

    def look(_: Worker, tensor: TensorInfo, read: Read) -> NDArray[np.int64]:
        edges = cuts[tensor.dtype]
        found = np.zeros(len(edges) + 1, np.int64)
        for y in magnitudes(read, tensor):
            kind = UINTS[y.itemsize]
            places = np.searchsorted(np.array(edges, kind), y.view(kind), side="right")
            found += np.bincount(places, minlength=found.size)
        return found

    found: NDArray[np.int64] = np.sum(scan_tensors(checkpoint, tensors, look), axis=0)
    return found


def cut_of(value: float, dtype: Float) -> int:
    """Return the largest pattern that `prune threshold --thr value` zeroes in a tensor of `dtype`."""
    return min(cast(value, dtype), dtype.finite_max)


def shortest(value: float, dtypes: Iterable[Float]) -> float:
    """Return the number with the fewest digits that, as a threshold, zeroes in each of `dtypes` what `value` does."""
    wanted = [(dtype, cut_of(value, dtype)) for dtype in dtypes]
    for digits in range(1, 18):
        number = float(f"{value:.{digits}g}")
        if isfinite(number) and all(cut_of(number, dtype) == cut for dtype, cut in wanted):
            return number
    return value
