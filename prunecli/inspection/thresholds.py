"""Exact thresholds for given sparsities, for each tensor and for all tensors together.

A first pass counts magnitudes by their 15 leading bits, which is exact for 8- and 16-bit dtypes. For wider dtypes, each
further pass counts only inside the bins that hold a requested rank, by 16 more bits. Memory is constant: a few bins for
each rank.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import isfinite
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from prunecli.dtypes import FLOATS, Float, cast
from prunecli.io.scan import magnitudes, scan_tensors
from prunecli.kernels.arrays import UINTS
from prunecli.kernels.histograms import HistogramBuilder
from prunecli.kernels.next_bits import NextBits
from prunecli.progress import start
from prunecli.ranking.kth_smallest import Keys

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from prunecli.checkpoint import TensorInfo
    from prunecli.inspection.passes import Passes
    from prunecli.io.threads import Worker
    from prunecli.kernels.ops import Read

    BinCounts = tuple[NDArray[np.int64], NDArray[np.int64]]  # ascending bins without duplicates, and their counts

SPARSITIES = (10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 99)
"""The sparsities of threshold tables and sensitivity curves, in percent."""

LEVEL = 16
"""Bits of a pattern that one pass resolves."""

HELD_LIMIT = 1 << 20
"""The weights inside the bins are held and sorted; those of more than so many are counted in a table."""


RANKING = "ranking"
"""The phase of `threshold_tables`, a word for the user."""


@dataclass(frozen=True, slots=True)
class ThresholdStep:
    """A threshold for a sparsity.

    Attributes:
        percent: The sparsity in percent.
        threshold: The shortest number T such that |w| <= T holds for at least `percent` % of the weights.
        zeroed: The number of weights for which it holds, each compared in its own dtype as the strategy `Threshold`
            does. `threshold` and `zeroed` are None if infinities or NaNs, which no threshold prunes, are among the
            smallest `percent` % of the magnitudes.
    """

    percent: int
    threshold: float | None
    zeroed: int | None


@dataclass(frozen=True, slots=True)
class ThresholdTable:
    """The steps of the tensor `name`, or of all tensors together (""); `numel` is the number of weights."""

    name: str
    numel: int
    steps: tuple[ThresholdStep, ...]


class TensorRanks:
    """The search for ranks (from 1) in a group of magnitudes that compare as patterns of `dtype`."""

    def __init__(self, dtype: Float, ranks: Iterable[int]) -> None:
        """Start with one bin that holds every pattern."""
        self.dtype, self.span, self.shift = dtype, 8 * dtype.itemsize, max(8 * dtype.itemsize - LEVEL, 0)
        self.bins = dict.fromkeys(ranks, (0, 0, 0))
        """Rank -> (first pattern of its bin, number of patterns below the bin, number of patterns in the bin)."""

    @property
    def done(self) -> bool:
        """Whether each bin is one pattern."""
        return not self.span

    def lows(self) -> NDArray[np.int64]:
        """Return the first patterns of the bins that hold a rank, ascending."""
        return np.unique(np.array([low for low, _, _ in self.bins.values()], np.int64))

    def advance(self, bins: NDArray[np.int64], counts: NDArray[np.int64]) -> None:
        """Narrow the bins by counts of the patterns inside them; `bins` are their bits from `shift` up, ascending."""
        ends = np.cumsum(counts)
        for rank, (low, less, _) in self.bins.items():
            first = int(np.searchsorted(bins, low >> self.shift))
            before = int(ends[first - 1]) if first else 0
            index = int(np.searchsorted(ends, rank - less + before))
            size = int(counts[index])
            self.bins[rank] = (int(bins[index]) << self.shift, less + int(ends[index]) - size - before, size)
        self.span, self.shift = self.shift, max(self.shift - LEVEL, 0)


class _CountTable:
    """Counts of the patterns inside some bins, with a slot for each possible value of their next bits."""

    def __init__(self, search: TensorRanks, lows: NDArray[np.int64]) -> None:
        self._width = search.span - search.shift
        self._prefixes = lows >> search.span
        self._table = np.zeros(len(lows) << self._width, np.int64)

    def add(self, bins: NDArray[np.int64], counts: NDArray[np.int64]) -> None:
        """Add counts to the slots of `bins`, which must be inside."""
        slots = np.searchsorted(self._prefixes, bins >> self._width)
        np.add.at(self._table, (slots << self._width) | (bins & ((1 << self._width) - 1)), counts)

    def counts(self) -> BinCounts:
        """Return the slots that are not empty, and their counts."""
        slots = np.flatnonzero(self._table)
        bins = (self._prefixes[slots >> self._width] << self._width) | (slots & ((1 << self._width) - 1))
        return bins, self._table[slots]


class _JointRanks:
    """The search for ranks of all tensors together. Threads add the counts of their tensors."""

    def __init__(self, tensors: Sequence[TensorInfo], percents: Sequence[int]) -> None:
        self.numel = sum(t.numel for t in tensors)
        self.keys = Keys([FLOATS[t.value_dtype] for t in tensors])
        self.ranks = TensorRanks(self.keys.common, ranks_of(self.numel, percents).values())
        self._lock, self._table = Lock(), _CountTable(self.ranks, self.ranks.lows())

    def add(self, bins: NDArray[np.int64], counts: NDArray[np.int64]) -> None:
        """Add the counts of a tensor; bins outside the searched ones are ignored."""
        inside = np.isin(bins >> (self.ranks.span - self.ranks.shift), self.ranks.lows() >> self.ranks.span)
        with self._lock:
            self._table.add(bins[inside], counts[inside])

    def advance(self) -> None:
        """Narrow the bins at the end of a pass."""
        if not self.ranks.done:
            self.ranks.advance(*self._table.counts())
            self._table = _CountTable(self.ranks, self.ranks.lows())


def ranks_of(numel: int, percents: Iterable[int]) -> dict[int, int]:
    """Return, for each percentage, the smallest number of weights that is at least this part of `numel`."""
    # Whole numbers: in floating point, 0.07 * 100 is more than 7.
    return {percent: max(-(-percent * numel // 100), 1) for percent in percents}


def threshold_tables(
    passes: Passes, tensors: Sequence[TensorInfo], percents: Sequence[int], phase: str = RANKING
) -> tuple[ThresholdTable, tuple[ThresholdTable, ...]]:
    """Return the thresholds for sparsities of `percents` (1-100): of all `tensors` together, and of each tensor.

    `tensors` are one or more floating-point tensors that are not empty. Raises CheckpointError if a file cannot be
    read.
    """
    advance = start(passes.progress, phase, bytes_to_rank(tensors))
    own = {id(t): TensorRanks(FLOATS[t.value_dtype], ranks_of(t.numel, percents).values()) for t in tensors}
    joint = _JointRanks(tensors, percents)

    def count(_: Worker, tensor: TensorInfo, read: Read) -> None:
        _count_tensor(tensor, read, own[id(tensor)], joint)

    while unfinished := [t for t in tensors if not (own[id(t)].done and joint.ranks.done)]:
        scan_tensors(passes.checkpoint, unfinished, count, threads=passes.threads, advance=advance)
        joint.advance()
    each = (_steps(own[id(t)], t.numel, percents, {FLOATS[t.value_dtype]}) for t in tensors)
    dtypes = set(joint.keys.dtypes)
    steps = _steps(joint.ranks, joint.numel, percents, dtypes)
    if len(dtypes) > 1:
        steps = _recounted(passes, tensors, steps, dtypes)
    tables = (ThresholdTable(t.name, t.numel, own_steps) for t, own_steps in zip(tensors, each, strict=True))
    return ThresholdTable("", joint.numel, steps), tuple(tables)


def bytes_to_rank(tensors: Sequence[TensorInfo]) -> int:
    """Return the bytes that `threshold_tables` reads: each pass over a tensor resolves LEVEL bits of its patterns.

    If dtypes are mixed, a contiguous tensor is read again to rank its weights in the common dtype.
    """
    common, size = Keys([FLOATS[t.value_dtype] for t in tensors]).common, 0
    for tensor in tensors:
        own, whole = (-(-8 * dtype.itemsize // LEVEL) for dtype in (FLOATS[tensor.value_dtype], common))
        alike = FLOATS[tensor.value_dtype] is common
        size += (tensor.end - tensor.start) * (own if alike else own + whole if tensor.contiguous else max(own, whole))
    return size


def _count_tensor(tensor: TensorInfo, read: Read, own: TensorRanks, joint: _JointRanks) -> None:
    """Count the patterns of one tensor for its own ranks and for the joint ones.

    The tensor is read once if its dtype is the common one, else once for each of the two.
    """
    dtype, common = FLOATS[tensor.value_dtype], joint.ranks
    alike = dtype is common.dtype
    searches = [ranks for ranks, applies in ((own, True), (common, alike)) if applies and not ranks.done]
    if searches:
        counts = _counted(magnitudes(read, tensor), searches)
        if not own.done:
            own.advance(*counts)
        if common in searches:
            joint.add(*counts)
    if not alike and not common.done:
        keys = (joint.keys.of(y, dtype) for y in magnitudes(read, tensor))
        joint.add(*_counted(keys, [common]))


def _counted(patterns: Iterable[NDArray[Any]], searches: Sequence[TensorRanks]) -> BinCounts:
    """Count the patterns inside the bins of any of the searches, which all resolved the same bits."""
    search = searches[0]
    if search.span == 8 * search.dtype.itemsize:
        builder = HistogramBuilder(search.dtype, squares=False)
        for y in patterns:
            builder.add(y)
        histogram = builder.histogram()
        return histogram.bins, histogram.counts
    lows = np.unique(np.concatenate([each.lows() for each in searches]))
    following = NextBits(search.dtype.itemsize, lows, search.span, search.shift)
    held: list[NDArray[Any]] = []
    table: _CountTable | None = None
    for y in patterns:
        held.append(following.of(y))
        if sum(part.size for part in held) > HELD_LIMIT:
            table = _CountTable(search, lows) if table is None else table
            table.add(*_sorted(held))
            held.clear()
    if table is None:
        return _sorted(held)
    if held:
        table.add(*_sorted(held))
    return table.counts()


def _sorted(parts: Sequence[NDArray[Any]]) -> BinCounts:
    """Return the different numbers of one or more arrays, ascending, and how often each is there."""
    numbers, counts = np.unique(np.concatenate(parts), return_counts=True)
    return numbers.astype(np.int64), counts


# --- from patterns to thresholds


def _steps(
    ranks: TensorRanks, numel: int, percents: Iterable[int], dtypes: Collection[Float]
) -> tuple[ThresholdStep, ...]:
    """Return the steps of a search that is done, with thresholds for weights of `dtypes`."""
    steps = []
    for percent, rank in ranks_of(numel, percents).items():
        low, less, equal = ranks.bins[rank]
        if low > ranks.dtype.finite_max:
            steps.append(ThresholdStep(percent, None, None))
        else:
            steps.append(ThresholdStep(percent, shortest(ranks.dtype.decode(low), dtypes), less + equal))
    return tuple(steps)


def _recounted(
    passes: Passes, tensors: Sequence[TensorInfo], steps: Sequence[ThresholdStep], dtypes: Collection[Float]
) -> tuple[ThresholdStep, ...]:
    """Count in one more pass the weights that the thresholds zero: each dtype rounds them, up or down."""
    thresholds = [step.threshold for step in steps if step.threshold is not None]
    cuts = {dtype.name: [cut_of(threshold, dtype) + 1 for threshold in thresholds] for dtype in dtypes}
    zeroed = iter(np.cumsum(count_between(passes, tensors, cuts)).tolist())
    return tuple(step if step.threshold is None else replace(step, zeroed=next(zeroed)) for step in steps)


def count_between(
    passes: Passes, tensors: Sequence[TensorInfo], cuts: Mapping[str, Sequence[int]]
) -> NDArray[np.int64]:
    """Count the weights below the first cut, between neighbouring cuts, and from the last cut on: shape (cuts + 1,).

    `cuts` has ascending patterns for the `value_dtype` of each tensor. Raises CheckpointError if a file cannot be read.
    """

    def count(_: Worker, tensor: TensorInfo, read: Read) -> NDArray[np.int64]:
        edges = cuts[tensor.value_dtype]
        counts = np.zeros(len(edges) + 1, np.int64)
        for y in magnitudes(read, tensor):
            unsigned = UINTS[y.itemsize]
            indices = np.searchsorted(np.array(edges, unsigned), y.view(unsigned), side="right")
            counts += np.bincount(indices, minlength=counts.size)
        return counts

    total: NDArray[np.int64] = np.sum(scan_tensors(passes.checkpoint, tensors, count, threads=passes.threads), axis=0)
    return total


def cut_of(value: float, dtype: Float) -> int:
    """Return the largest pattern that the strategy `Threshold(value)` zeroes in a tensor of `dtype`."""
    return min(cast(value, dtype), dtype.finite_max)


def shortest(value: float, dtypes: Iterable[Float]) -> float:
    """Return the number with the fewest digits that zeroes the same weights as `value` in each of `dtypes`."""
    cuts = [(dtype, cut_of(value, dtype)) for dtype in dtypes]
    for digits in range(1, 18):  # 17 digits identify every float64
        number = float(f"{value:.{digits}g}")
        if isfinite(number) and all(cut_of(number, dtype) == cut for dtype, cut in cuts):
            return number
    return value
