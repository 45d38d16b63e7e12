"""Pruning and counting of whole blocks with torch: one call reads, prunes and measures a run of a tensor.

What survives is an array of flags (not 0: survives), or a rule that needs no memory: `Cut` or `Groups`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

from prunecli.kernels.tally import BLOCK
from prunecli.kernels.torch_groups import largest_of_rows
from prunecli.kernels.torch_sums import block_sums, whole_blocks

if TYPE_CHECKING:
    from prunecli.dtypes import Float

Tensor: TypeAlias = Any
"""A torch tensor; torch is not imported before it is needed."""

RUN = 1 << 24
"""Elements that plain torch processes at once."""

ZEROS_BEFORE, ZEROS_AFTER, NONFINITE, OVERFULL = range(4)
"""The rows of `Blocks.counts`."""

LARGEST_PRUNED, LEAST_KEPT = range(2)
"""The rows of `Blocks.extremes`."""


@dataclass(frozen=True, slots=True)
class Cut:
    """Magnitudes below the pattern `bits` are pruned, and those equal to it up to the position `limit` of the run.

    `limit` is an integer on the device; None for no equals.
    """

    bits: int
    limit: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Groups:
    """The `keep` largest of each `group` consecutive weights survive, of equals the first; runs have whole groups."""

    keep: int
    group: int


@dataclass(frozen=True, slots=True)
class Blocks:
    """What is counted about each block of a run, on the device.

    `counts` (4, blocks) are numbers of zeros before and after pruning, of weights that are not finite, and whether a
    flat group of 4 has more than 2 non-zeros after pruning. `extremes` (2, blocks) are the pattern of the largest
    pruned magnitude, and how far the smallest one that is kept and not zero is below the top pattern (-1: none).
    `sums` (2, blocks) are the sums of squares, in float64. Entries behind the end of a run count as zeros.
    """

    counts: Tensor
    extremes: Tensor
    sums: Tensor


def part_of(keep: Tensor, first: int, stop: int) -> Tensor:
    """Return what survives of the elements [first, stop) of a run."""
    if isinstance(keep, Cut):
        return keep if keep.limit is None or not first else replace(keep, limit=keep.limit - first)
    return keep if isinstance(keep, Groups) else keep[first:stop]


def magnitudes(torch: Any, x: Tensor, dtype: Float) -> Tensor:  # noqa: ANN401 - the module
    """Return the sign-cleared patterns, in 16 bits or more. The NaN of fnuz formats becomes the largest."""
    if dtype.itemsize > 1:
        return x & dtype.mask
    y = x.to(torch.int16) & dtype.mask
    return y.masked_fill_(x == -128, dtype.top) if dtype.negative_zero_is_nan else y


def flags_of(torch: Any, keep: Tensor, y: Tensor) -> Tensor:  # noqa: ANN401 - the module
    """Return which of the magnitudes `y` of a run survive, as booleans."""
    if isinstance(keep, Groups):
        return largest_of_rows(torch, y.reshape(-1, keep.group, 1), keep.keep).flatten()
    if not isinstance(keep, Cut):
        return keep if keep.dtype == torch.bool else keep != 0
    kept = y > keep.bits - 1
    if keep.limit is not None:
        kept &= (y != keep.bits) | (torch.arange(len(y), device=y.device) > keep.limit)
    return kept


def prune_blocks(torch: Any, x: Tensor, keep: Tensor, dtype: Float, *, patterns: bool = False) -> Blocks:  # noqa: ANN401
    """Prune the run `x` in place and return what is counted about its blocks, of which the last may be short.

    With `patterns` `x` are magnitudes, which are not changed.
    """
    runs = []
    for first in range(0, len(x), RUN):
        run = x[first : first + RUN]
        y = run if patterns else magnitudes(torch, run, dtype)
        kept = flags_of(torch, part_of(keep, first, first + len(run)), y)
        after = y * kept
        runs.append(_blocks_of(torch, whole_blocks(torch, y), whole_blocks(torch, after), dtype))
        if not patterns:
            run.masked_fill_(~kept.logical_or_(y == 0), 0)
    if len(runs) == 1:
        return runs[0]
    return Blocks(*(torch.cat([getattr(run, name) for run in runs], 1) for name in ("counts", "extremes", "sums")))


def _blocks_of(torch: Any, y: Tensor, after: Tensor, dtype: Float) -> Blocks:  # noqa: ANN401 - the module
    alive = after != 0
    zeros_before, zeros_after = (y == 0).sum(1), BLOCK - alive.sum(1)
    nonfinite = (y > dtype.finite_max).sum(1)
    overfull = alive.reshape(len(y), -1, 4).sum(2).amax(1) > 2
    pruned = (y - after).amax(1)
    # Zeros are turned into the largest distance from the top, which is replaced by -1.
    kept = torch.where(alive, dtype.top - after, -1).amax(1)
    sums = [block_sums(torch, y, dtype, zeros_before < BLOCK), block_sums(torch, after, dtype, zeros_after < BLOCK)]
    counts = torch.stack([zeros_before, zeros_after, nonfinite, overfull.to(zeros_before.dtype)])
    return Blocks(counts.to(torch.int32), torch.stack([pruned, kept]), torch.stack(sums))
