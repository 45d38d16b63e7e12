"""Exact thresholds for given sparsities, for each tensor and for all tensors together.

A first pass counts magnitudes by their 15 leading bits, which is exact for 8- and 16-bit dtypes. For wider dtypes, each
further pass counts only inside the bins that hold a requested rank, by 16 more bits.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from math import inf
from typing import TYPE_CHECKING, Any

import numpy as np

from prunecli.dtypes import FLOATS, Float, cast
from prunecli.inspection.ranks import LEVEL, JointRanks, RankBins, Sorted, count_inside, is_narrow
from prunecli.io.scan import chunks, scan_tensors
from prunecli.kernels import below as kernels
from prunecli.kernels.histograms import Histogram, HistogramBuilder
from prunecli.kernels.numpy_ops import NumpyOps
from prunecli.progress import start
from prunecli.ranking.kth_smallest import Keys

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from numpy.typing import NDArray

    from prunecli.checkpoint import TensorInfo
    from prunecli.inspection.passes import Passes
    from prunecli.inspection.ranks import Inside, Whole
    from prunecli.io.threads import Worker
    from prunecli.kernels.ops import Read

SPARSITIES = (10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 99)
"""The sparsities of threshold tables and sensitivity curves, in percent."""

RANKING = "ranking"
"""The phase of `rank`, a word for the user."""


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


def ranks_of(numel: int, percents: Iterable[int]) -> dict[int, int]:
    """Return, for each percentage, the smallest number of weights that is at least this part of `numel`."""
    # Whole numbers: in floating point, 0.07 * 100 is more than 7.
    return {percent: max(-(-percent * numel // 100), 1) for percent in percents}


@dataclass(frozen=True, slots=True)
class Ranking:
    """The ranked magnitudes of some tensors.

    Attributes:
        together: The thresholds of all tensors together.
        each: The thresholds of each tensor.
        counts: The zeros and the weights that are not finite of each tensor.
        whole: The counts of every pattern, of all tensors of a narrow dtype together.
    """

    together: ThresholdTable
    each: tuple[ThresholdTable, ...]
    counts: tuple[tuple[int, int], ...]
    whole: Whole


def rank(passes: Passes, tensors: Sequence[TensorInfo], percents: Sequence[int], phase: str = RANKING) -> Ranking:
    """Rank the magnitudes of one or more floating-point tensors that are not empty, for sparsities `percents` (1-100).

    Raises CheckpointError if a file cannot be read.
    """
    advance, numel = start(passes.progress, phase, bytes_to_rank(tensors)), sum(t.numel for t in tensors)
    own = {id(t): RankBins(FLOATS[t.value_dtype], ranks_of(t.numel, percents).values()) for t in tensors}
    joint = JointRanks(tensors, ranks_of(numel, percents).values())
    counts: dict[int, tuple[int, int]] = {}

    def count(_: Worker, tensor: TensorInfo, read: Read) -> None:
        histogram = _count_tensor(tensor, read, own[id(tensor)], joint)
        if histogram is not None:
            counts[id(tensor)] = histogram.zeros, histogram.nonfinite

    while not (joint.search.done and all(ranks.done for ranks in own.values())):
        unread = [t for t in tensors if not own[id(t)].done or joint.reads(FLOATS[t.value_dtype])]
        if unread:
            scan_tensors(passes.checkpoint, unread, count, threads=passes.threads, advance=advance)
        joint.advance()
    each = (_steps(own[id(t)], t.numel, percents, {FLOATS[t.value_dtype]}) for t in tensors)
    tables = (ThresholdTable(t.name, t.numel, steps) for t, steps in zip(tensors, each, strict=True))
    together = ThresholdTable("", numel, _joint_steps(passes, tensors, joint, numel, percents))
    return Ranking(together, tuple(tables), tuple(counts[id(t)] for t in tensors), joint.whole)


def bytes_to_rank(tensors: Sequence[TensorInfo]) -> int:
    """Return the bytes that `rank` reads: each pass over a tensor resolves LEVEL bits of its patterns.

    If dtypes are mixed, a contiguous tensor of a dtype that is not narrow is read again to rank its weights in the
    common dtype.
    """
    common, size = Keys([FLOATS[t.value_dtype] for t in tensors]).common, 0
    for tensor in tensors:
        dtype = FLOATS[tensor.value_dtype]
        own, whole = (-(-8 * d.itemsize // LEVEL) for d in (dtype, common))
        if dtype is not common and not is_narrow(dtype):
            own = own + whole if tensor.contiguous else max(own, whole)
        size += (tensor.end - tensor.start) * own
    return size


def _count_tensor(tensor: TensorInfo, read: Read, own: RankBins, joint: JointRanks) -> Histogram | None:
    """Count the patterns of a tensor for its own ranks and for the joint ones; return their histogram in a first pass.

    A tensor whose dtype is neither narrow nor the common one is read for each of the two.
    """
    dtype, histogram = own.dtype, None
    alike, reads = dtype is joint.keys.common, joint.reads(dtype)
    searches = [ranks for ranks, applies in ((own, not own.done), (joint.search, alike and reads)) if applies]
    if searches:
        counts, histogram = _counted(chunks(read, tensor), searches)
        if histogram is not None and is_narrow(dtype):
            joint.whole.add(dtype, histogram.bins, histogram.counts)
        if not own.done:
            own.advance(counts)
        if joint.search in searches:
            joint.add(counts)
    if reads and not alike:
        keys = (joint.keys.of(NumpyOps().magnitudes(x, dtype), dtype) for x in chunks(read, tensor))
        joint.add(_counted(keys, [joint.search])[0])
    return histogram


def _counted(weights: Iterable[NDArray[Any]], searches: Sequence[RankBins]) -> tuple[Inside, Histogram | None]:
    """Count the weights inside the bins of searches; return their histogram if nothing is resolved yet."""
    search = searches[0]
    if search.span < 8 * search.dtype.itemsize:
        return count_inside(weights, searches), None
    builder = HistogramBuilder(search.dtype, squares=False)
    for x in weights:
        builder.add(x)
    histogram = builder.histogram()
    return Sorted(histogram.bins, histogram.counts, search.span, search.shift), histogram


# --- from patterns to thresholds


def _steps(
    ranks: RankBins, numel: int, percents: Iterable[int], dtypes: Collection[Float]
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


def _joint_steps(
    passes: Passes, tensors: Sequence[TensorInfo], joint: JointRanks, numel: int, percents: Sequence[int]
) -> tuple[ThresholdStep, ...]:
    """Return the steps of all tensors together: each dtype rounds the thresholds, up or down."""
    dtypes, bins = set(joint.keys.dtypes), joint.search.bins
    steps = _steps(joint.search, numel, percents, dtypes)
    ranks = ranks_of(numel, percents)
    found = [step for step in steps if step.threshold is not None]
    for dtype in dtypes - {joint.keys.common}:
        zeroed = [cut_of(step.threshold or 0.0, dtype) + 1 for step in found]
        counted = [joint.keys.first_pattern(bins[ranks[step.percent]][0] + 1, dtype) for step in found]
        below = count_below(passes, tensors, dtype, zeroed + counted, joint.whole)
        found = [
            replace(step, zeroed=(step.zeroed or 0) + below[index] - below[len(found) + index])
            for index, step in enumerate(found)
        ]
    return tuple({step.percent: step for step in (*steps, *found)}.values())


def count_below(
    passes: Passes, tensors: Sequence[TensorInfo], dtype: Float, cuts: Sequence[int], whole: Whole
) -> list[int]:
    """Count the weights with a pattern below each cut, of the tensors whose `value_dtype` is `dtype`.

    Only those of a dtype that is not narrow are read. Raises CheckpointError if a file cannot be read.
    """
    if is_narrow(dtype):
        return whole.below(dtype, cuts)

    patterns = np.array(cuts, np.uint64)

    def count(_: Worker, tensor: TensorInfo, read: Read) -> NDArray[np.int64]:
        return kernels.count_below(chunks(read, tensor), patterns, dtype)

    own = [tensor for tensor in tensors if tensor.value_dtype == dtype.name]
    below: list[int] = np.sum(scan_tensors(passes.checkpoint, own, count, threads=passes.threads), axis=0).tolist()
    return below


def cut_of(value: float, dtype: Float) -> int:
    """Return the largest pattern that the strategy `Threshold(value)` zeroes in a tensor of `dtype`."""
    return min(cast(value, dtype), dtype.finite_max)


def shortest(value: float, dtypes: Iterable[Float]) -> float:
    """Return the number with the fewest digits that zeroes the same weights as `value` in each of `dtypes`."""
    return _shortest(value, tuple(sorted(dtype.name for dtype in dtypes)))


@lru_cache(maxsize=1 << 12)  # tensors of narrow dtypes often have the same thresholds
def _shortest(value: float, names: tuple[str, ...]) -> float:
    cuts = [(FLOATS[name], cut_of(value, FLOATS[name])) for name in names]
    # A number beyond a neighbour of the cut has another one, which is quicker to see than to round it.
    low = max(dtype.decode(cut - 1) if cut else -1.0 for dtype, cut in cuts)
    high = min(dtype.decode(cut + 1) if cut < dtype.finite_max else inf for dtype, cut in cuts)
    for digits in range(1, 18):  # 17 digits identify every float64
        number = float(f"{value:.{digits}g}")
        if low < number < high and all(cut_of(number, dtype) == cut for dtype, cut in cuts):
            return number
    return value
