"""Sensitivity scan: the part of each tensor's norm that survives pruning by magnitude, without any data.

One pass counts magnitudes in bins and sums their squares. The order of the bins is exact. Weights within the bin of a
cut count as equal: a bin is one pattern of an 8- or 16-bit dtype, and a 128th of an octave of a wider one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf, isfinite
from typing import TYPE_CHECKING

import numpy as np

from prunecli.dtypes import FLOATS
from prunecli.inspection.passes import Passes, name_of, opened
from prunecli.inspection.thresholds import SPARSITIES
from prunecli.io.scan import chunks
from prunecli.kernels.histograms import Histogram, HistogramBuilder
from prunecli.selection.select import Selector, select

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prunecli.checkpoint import Checkpoint, Keys, PathLike, TensorInfo
    from prunecli.io.threads import Worker
    from prunecli.kernels.ops import Read
    from prunecli.progress import Progress

RANKED_AT = 80
"""The sparsity, in percent, at which tensors are compared."""

ENOUGH = 0.9
"""The part of the sum of squares that survives up to the sparsity `SensitivityCurve.bends_at`."""

_MANTISSA_BITS = 7  # bits of a wide dtype's mantissa that separate bins


@dataclass(frozen=True, slots=True)
class SensitivityCurve:
    """The sensitivity of one tensor to pruning its smallest magnitudes, as the strategy `L1` does.

    Attributes:
        name: The tensor's name.
        dtype: The tensor's dtype.
        shape: The tensor's shape.
        numel: The number of weights.
        aliases: Other names of the same weights.
        zeros: The number of weights that are zero now.
        nonfinite: The number of weights that are NaN or infinite; they are in no sum.
        kept: The part of the sum of squares (0-1) that remains at each of SPARSITIES. None if there is no sum: all
            weights are zero, or the sum of squares overflows float64.
        bends_at: The largest sparsity (0-1) at which ENOUGH of the sum remains, or None.
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
        """The part of the sum of squares that remains at RANKED_AT, infinite if unknown."""
        return inf if self.kept is None else self.kept[SPARSITIES.index(RANKED_AT)]


@dataclass(frozen=True, slots=True)
class Scan:
    """The curves of all selected tensors, the most sensitive at RANKED_AT first; equal ones in checkpoint order."""

    path: str
    format: str
    keys: tuple[str, ...]
    curves: tuple[SensitivityCurve, ...]


def scan(  # noqa: PLR0913 - one keyword for each option
    path: PathLike | Checkpoint,
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    min_dim: int | None = None,
    min_numel: int = 0,
    key: Keys = None,
    threads: int = 0,
    label: str | None = None,
    progress: Progress | None = None,
) -> Scan:
    """Measure which tensors lose most of their norm when they are pruned by magnitude.

    Args:
        path: The checkpoint: a file, a directory or index of shards, or an open checkpoint.
        include: Patterns over tensor names, as in `prunecli.prune`.
        exclude: Patterns of tensors to leave out.
        min_dim: The smallest number of dimensions of a selected tensor (None: as in `prunecli.prune`).
        min_numel: The smallest number of elements of a selected tensor.
        key: The dotted path of the state_dict in a nested checkpoint, or several of them, or globs over them.
        threads: The number of threads, 0 for the number that suits the machine.
        label: A name of the checkpoint for messages and the result (None: the path).
        progress: A receiver of progress.

    Returns:
        A curve for each selected tensor, the most sensitive one first.

    Raises:
        SelectionError: If a pattern matches nothing or no tensor is selected.
        CheckpointError: If the checkpoint cannot be read.
    """
    checkpoint = opened(path, key, label)
    targets = select(checkpoint, Selector(include, exclude, min_dim, min_numel)).targets
    passes, tensors = Passes(checkpoint, threads, progress), [target.tensor for target in targets]
    measured = passes.measure("measuring", tensors, _measure, SensitivityCurve, scaled=True)
    curves = [replace(curve, aliases=target.aliases) for curve, target in zip(measured, targets, strict=True)]
    ranked = tuple(sorted(curves, key=lambda curve: curve.strength))
    return Scan(name_of(path, label), checkpoint.format, checkpoint.keys, ranked)


def _measure(_: Worker, tensor: TensorInfo, read: Read) -> SensitivityCurve:
    """Return the curve of a tensor, without aliases."""
    dtype = FLOATS[tensor.value_dtype]
    shift = dtype.mantissa - _MANTISSA_BITS if dtype.itemsize > 2 else 0
    builder = HistogramBuilder(dtype, shift)
    for x in chunks(read, tensor):
        builder.add(x)
    # The histogram is reduced here: those of all tensors together would be large.
    histogram = builder.histogram()
    counts = histogram.zeros, histogram.nonfinite
    return SensitivityCurve(tensor.name, tensor.dtype, tensor.shape, tensor.numel, (), *counts, *_norms(histogram))


def _norms(histogram: Histogram) -> tuple[tuple[float, ...] | None, float | None]:
    """Return `SensitivityCurve.kept` and `SensitivityCurve.bends_at`."""
    with np.errstate(over="ignore"):
        total = float(histogram.squares.sum())
    if not total or not isfinite(total):
        return None, None
    counts = [round(percent / 100 * histogram.total) for percent in SPARSITIES]
    return tuple(kept(histogram, counts)), bends_at(histogram) / histogram.total


def kept(histogram: Histogram, counts: Sequence[int]) -> list[float]:
    """Return the part of the sum of squares (0-1) that remains without so many of the smallest weights.

    The sum goes from the largest weights down, so that a small result is no difference of large numbers.
    """
    above = np.r_[np.cumsum(histogram.squares[::-1])[::-1], 0.0].tolist()
    ends = np.cumsum(histogram.counts)
    parts = []
    for count, index in zip(counts, np.searchsorted(ends, counts).tolist(), strict=True):
        if index == ends.size:
            parts.append(0.0)
            continue
        share = float(ends[index] - count) / float(histogram.counts[index])
        parts.append((above[index + 1] + share * float(histogram.squares[index])) / above[0])
    return parts


def bends_at(histogram: Histogram) -> int:
    """Return the largest number of smallest weights without which ENOUGH of the sum of squares remains."""
    removed = np.cumsum(histogram.squares)
    budget = (1 - ENOUGH) * float(removed[-1])
    index = int(np.searchsorted(removed, budget, side="right"))
    before = float(removed[index - 1]) if index else 0.0
    each = float(histogram.squares[index]) / float(histogram.counts[index])
    return int(histogram.counts[:index].sum()) + int((budget - before) / each)
