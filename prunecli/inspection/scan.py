"""How much of each tensor's norm survives pruning by magnitude: which layers break first, without any data.

One pass counts magnitudes and sums their squares by bin. The order is exact; inside the bin that a cut goes through
(one pattern of an 8- or 16-bit type, a 128th of an octave of a wider one) weights count as equal. Nothing here
writes or prints.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, isfinite
from typing import TYPE_CHECKING

import numpy as np

from prunecli.dtypes import FLOATS
from prunecli.io.scan import bytes_to_read, magnitudes, scan_tensors
from prunecli.kernels.histograms import Histogram, HistogramBuilder
from prunecli.progress import start
from prunecli.selection.select import Selector, select

if TYPE_CHECKING:
    from prunecli.checkpoint import Checkpoint, TensorInfo
    from prunecli.io.threads import Worker
    from prunecli.kernels.ops import Read
    from prunecli.progress import Progress
    from prunecli.selection.select import Target

LADDER = (10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 99)
"""The sparsities, in percent, that the norm kept is told for."""

RANKED_AT = 80
"""The sparsity, in percent, at which tensors are compared."""

ENOUGH = 0.9
"""`Curve.bends_at` is the sparsity up to which this part of the norm survives."""


_BITS = 7  # of a wide type's mantissa that bins tell apart


@dataclass(frozen=True, slots=True)
class SensitivityCurve:
    """What one tensor keeps. `kept[i]` is the part of its sum of squares (0-1) left at a sparsity of LADDER[i] %.

    As `prune l1` would prune: the smallest magnitudes of this tensor. `bends_at` is the largest sparsity (0-1) that
    keeps ENOUGH of it. Both are None where there is no sum: all weights are zero, or their squares leave float64.
    Weights that are not finite are counted in `nonfinite` and are part of no sum.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    numel: int
    aliases: tuple[str, ...]
    zeros: int
    nonfinite: int
    kept: tuple[float, ...] | None
    bends_at: float | None

    @property
    def strength(self) -> float:
        """What is left at RANKED_AT; infinite where that is unknown."""
        return inf if self.kept is None else self.kept[LADDER.index(RANKED_AT)]


@dataclass(frozen=True, slots=True)
class Scan:
    """The curves of all selected tensors, those that break first at RANKED_AT % in front; equals as in the file."""

    path: str
    format: str
    key: str
    curves: tuple[SensitivityCurve, ...]


def scan(
    checkpoint: Checkpoint,
    rules: Selector | None = None,
    *,
    label: str | None = None,
    progress: Progress | None = None,
) -> Scan:
    """Return the curves of the tensors of `checkpoint` that a pruning command would take under `rules`.

    `label` stands for the path; `progress` receives the progress. Raises SelectionError where nothing is selected,
    CheckpointError where a file cannot be read.
    """
    targets = select(checkpoint, rules or Selector()).targets
    tensors = [target.tensor for target in targets]
    advance = start(progress, "measuring", bytes_to_read(tensors))
    found = scan_tensors(checkpoint, tensors, _count, advance=advance)
    curves = [_curve(target, zeros, counted) for target, (zeros, counted) in zip(targets, found, strict=True)]
    ranked = tuple(sorted(curves, key=lambda curve: curve.strength))
    return Scan(label or str(checkpoint.path), checkpoint.format, checkpoint.key, ranked)


@dataclass(frozen=True, slots=True)
class _Sums:
    """The curve of a tensor and how many of its weights are not finite."""

    kept: tuple[float, ...] | None
    bends_at: float | None
    nonfinite: int


def _count(_: Worker, tensor: TensorInfo, read: Read) -> tuple[int, _Sums]:
    """Count the zeros and reduce the histogram to the curve at once: many histograms would take much memory."""
    dtype = FLOATS[tensor.dtype]
    table, alive = HistogramBuilder(dtype, shift=dtype.mantissa - _BITS if dtype.itemsize > 2 else 0), 0
    for y in magnitudes(read, tensor):
        alive += int(np.count_nonzero(y))
        table.add(y)
    return tensor.numel - alive, _reduced(table.histogram())


def _reduced(found: Histogram) -> _Sums:
    odd = int(found.counts[found.bins > found.dtype.finite_max >> found.shift].sum())
    with np.errstate(over="ignore"):
        total = float(found.squares.sum())
    if not total or not isfinite(total):
        return _Sums(None, None, odd)
    counts = [round(percent / 100 * found.total) for percent in LADDER]
    return _Sums(tuple(kept(found, count) for count in counts), bends_at(found) / found.total, odd)


def kept(found: Histogram, count: int) -> float:
    """Return the part of the sum of squares (0-1) that is left without the `count` smallest weights.

    Added up from the largest down, so that little is not the difference of much.
    """
    above = np.r_[np.cumsum(found.squares[::-1])[::-1], 0.0]
    ends = np.cumsum(found.counts)
    at = int(np.searchsorted(ends, count))
    if at == found.counts.size:
        return 0.0
    share = float(ends[at] - count) / float(found.counts[at])
    return float(above[at + 1] + share * found.squares[at]) / float(above[0])


def bends_at(found: Histogram) -> int:
    """Return the largest number of weights without which ENOUGH of the sum of squares is left."""
    removed = np.cumsum(found.squares)
    budget = (1 - ENOUGH) * float(removed[-1])
    at = int(np.searchsorted(removed, budget, side="right"))
    before = float(removed[at - 1]) if at else 0.0
    each = float(found.squares[at]) / float(found.counts[at])
    return int(found.counts[:at].sum()) + int((budget - before) / each)


def _curve(target: Target, zeros: int, sums: _Sums) -> SensitivityCurve:
    tensor = target.tensor
    return SensitivityCurve(
        name=tensor.name,
        dtype=tensor.dtype,
        shape=tensor.shape,
        numel=tensor.numel,
        aliases=target.aliases,
        zeros=zeros,
        nonfinite=sums.nonfinite,
        kept=sums.kept,
        bends_at=sums.bends_at,
    )
