"""Many small tensors of one dtype and device in one buffer: a few kernels rank, prune and count all of them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any, TypeAlias

from prunecli.kernels.tally import BLOCK
from prunecli.kernels.torch_blocks import (
    LARGEST_PRUNED,
    OVERFULL,
    RUN,
    ZEROS_AFTER,
    Blocks,
    Groups,
    prune_blocks,
)
from prunecli.kernels.torch_sums import exact_bins
from prunecli.kernels.torch_tally import counts_from, fetch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prunecli.dtypes import Float
    from prunecli.kernels.tally import Counts, Statistics
    from prunecli.kernels.torch_ops import TorchOps

Tensor: TypeAlias = Any

ALIVE_RUN = 1 << 12
"""Blocks of which the slices of all elements are computed at once, in 8 bytes for each element."""


def fits(statistics: Statistics) -> bool:
    """Return whether a tensor can be counted in a buffer of many: its groups of 4 follow each other, and no bins."""
    groups = statistics.groups
    return statistics.bins is None and (groups is None or (groups[1] == 1 and groups[0] % 4 == 0))


@dataclass(frozen=True, slots=True)
class Ranked:
    """The magnitude at a rank of one tensor, and how many of its magnitudes are smaller and equal."""

    bits: int
    less: int
    equal: int


class ManyTensors:
    """Small tensors, each in whole blocks of one buffer with zeros behind its end."""

    def __init__(self, ops: TorchOps, tensors: Sequence[Tensor], statistics: Sequence[Statistics]) -> None:
        """Copy flat integer tensors, all of one dtype, one device and not empty, into a buffer."""
        self._ops, self._torch, self._tensors, self._statistics = ops, ops.torch, tensors, statistics
        self.dtype: Float = statistics[0].dtype
        torch, device = ops.torch, tensors[0].device
        blocks = [-(-len(tensor) // BLOCK) for tensor in tensors]
        firsts = [0, *accumulate(blocks)]
        self._buffer = torch.zeros(firsts[-1] * BLOCK, dtype=tensors[0].dtype, device=device)
        self._parts = [
            self._buffer[first * BLOCK : first * BLOCK + len(tensor)]
            for first, tensor in zip(firsts, tensors, strict=False)
        ]
        torch._foreach_copy_(self._parts, list(tensors))
        # One copy from the host for everything that depends on the tensors.
        lengths = [len(tensor) for tensor in tensors]
        self._blocks, self._firsts, self._lengths = torch.tensor([blocks, firsts[:-1], lengths], device=device)
        self._tensor_of = torch.repeat_interleave(
            torch.arange(len(tensors), device=device), self._blocks, output_size=firsts[-1]
        )
        self._counted: Tensor = None

    def ranked(self, ranks: Sequence[int]) -> list[Ranked]:
        """Return the magnitude at the rank (1-based) of each tensor, with one copy to the host."""
        found = self.find(self._torch.tensor(list(ranks), device=self._buffer.device))
        numbers = fetch([found.flatten()])[0]
        count = len(ranks)
        return [Ranked(*numbers[index::count]) for index in range(count)]

    def find(self, ranks: Tensor) -> Tensor:
        """Return (magnitude, less, equal) at the rank of each tensor, shape (3, tensors), on the device."""
        torch, padding = self._torch, self._blocks * BLOCK - self._lengths
        bits = torch.zeros_like(ranks)
        for bit in range(self.dtype.top.bit_length() - 1, -1, -1):
            candidate = bits | (1 << bit)
            # The zeros behind the end are below every candidate.
            below = self._count(candidate, less=True) - padding
            bits = torch.where(below < ranks, candidate, bits)
        less = self._count(bits, less=True) - padding
        less = torch.where(bits > 0, less, 0)
        equal = self._count(bits, less=False)
        equal = torch.where(bits > 0, equal, equal - padding)
        return torch.stack([bits, less, equal])

    def _count(self, cuts: Tensor, *, less: bool) -> Tensor:
        """Return how many entries of each tensor, padding included, are below or equal to its cut."""
        counts = self._count_in_blocks(cuts, less=less)
        return self._per_tensor(counts[None].to(self._torch.int64))[0]

    def _count_in_blocks(self, cuts: Tensor, *, less: bool) -> Tensor:
        ops = self._ops
        if ops.fused is not None:
            return ops.fused.count_many(self._buffer, cuts, self._tensor_of, self.dtype, less=less)
        counts = []
        for first in range(0, len(self._buffer), RUN):
            y = ops.magnitudes(self._buffer[first : first + RUN], self.dtype).reshape(-1, BLOCK)
            of_block = self._tensor_of[first // BLOCK : first // BLOCK + len(y)]
            cut = cuts[of_block][:, None]
            counts.append(((y < cut) if less else (y == cut)).sum(1))
        return self._torch.cat(counts)

    def _per_tensor(self, numbers: Tensor) -> Tensor:
        """Return the sums over the blocks of each tensor of (rows, blocks)."""
        sums = numbers.new_zeros((len(numbers), len(self._tensors)))
        return sums.index_add_(1, self._tensor_of, numbers)

    def limits(self, cuts: Tensor, ties: Tensor) -> Tensor:
        """Return the position in the buffer of the last of the first `ties` entries of each tensor at its cut."""
        torch = self._torch
        counts = self._count_in_blocks(cuts, less=False).to(torch.int64)
        ends = counts.cumsum(0)
        before = torch.where(self._firsts > 0, ends[(self._firsts - 1).clamp(min=0)], 0)
        wanted = before + ties
        block = torch.searchsorted(ends, wanted).clamp_(max=len(ends) - 1)
        rows = self._ops.magnitudes(self._buffer.reshape(-1, BLOCK)[block].flatten(), self.dtype).reshape(-1, BLOCK)
        up_to = (ends[block] - counts[block])[:, None] + (rows == cuts[:, None]).cumsum(1)
        limit = block * BLOCK + (up_to < wanted[:, None]).sum(1)
        return torch.where(ties > 0, limit, -1)

    def prune(self, cuts: Sequence[int], ties: Sequence[int]) -> None:
        """Prune what is below the cut of each tensor, and the first `ties` entries equal to it."""
        torch, device = self._torch, self._buffer.device
        cut, tie = torch.tensor([list(cuts), list(ties)], dtype=torch.int64, device=device)
        limit = self.limits(cut, tie) if any(ties) else torch.full_like(cut, -1)
        if self._ops.fused is not None:
            blocks = self._ops.fused.prune_many(self._buffer, cut, limit, self._tensor_of, self.dtype)
        else:
            blocks = self._prune(cut, limit)
        self._counted = self._numbers(blocks)

    def _prune(self, cuts: Tensor, limits: Tensor) -> Blocks:
        """Prune run by run with plain torch."""
        torch, runs = self._torch, []
        for first in range(0, len(self._buffer), RUN):
            run = self._buffer[first : first + RUN]
            of_block = self._tensor_of[first // BLOCK : first // BLOCK + len(run) // BLOCK]
            y = self._ops.magnitudes(run, self.dtype).reshape(-1, BLOCK)
            cut, index = cuts[of_block][:, None], first + torch.arange(len(run), device=run.device).reshape(-1, BLOCK)
            kept = (y > cut - 1) & ((y != cut) | (index > limits[of_block][:, None]))
            runs.append(prune_blocks(torch, run, kept.flatten(), self.dtype))
        return Blocks(*(torch.cat([getattr(run, name) for run in runs], 1) for name in ("counts", "extremes", "sums")))

    def prune_groups(self, groups: Groups) -> None:
        """Keep the largest of each group; `groups` fits each tensor as `TorchOps.groups` says."""
        self._counted = self._numbers(self._ops.prune_blocks(self._buffer, groups, self.dtype))

    def _numbers(self, blocks: Blocks) -> Tensor:
        """Return a row of numbers for each tensor, as `TorchTally.numbers` orders them, with both numbers of dead."""
        torch, count = self._torch, len(self._tensors)
        counts = self._per_tensor(blocks.counts.to(torch.int64))
        counts[: ZEROS_AFTER + 1] -= self._blocks * BLOCK - self._lengths
        extremes = torch.full((2, count), -1, dtype=torch.int64, device=self._buffer.device)
        extremes[LARGEST_PRUNED] = 0
        extremes.scatter_reduce_(1, self._tensor_of.expand(2, -1), blocks.extremes.to(torch.int64), "amax")
        device = blocks.sums.device
        tables = exact_bins(torch, blocks.sums, self.dtype, self._tensor_of.to(device), count)
        dead = torch.stack([self._dead(0), self._dead(1)])
        columns = [counts, extremes, dead, tables.to(self._buffer.device).reshape(count, -1).T]
        return torch.cat(columns).T.contiguous()

    def _dead(self, which: int) -> Tensor:
        """Return the number of outputs (0) or inputs (1) of each tensor without a non-zero."""
        torch, device = self._torch, self._buffer.device
        views = [(s.outputs, s.inputs)[which] for s in self._statistics]
        shapes = [(1, 1, 1, 0) if v is None else (v.after, v.slices, v.before, v.total) for v in views]
        after, slices, before, totals = torch.tensor(shapes, device=device).T
        total = sum(shape[3] for shape in shapes)
        bases = totals.cumsum(0) - totals
        alive = torch.zeros(total + 1, dtype=torch.int64, device=device)
        for first in range(0, len(self._tensor_of), ALIVE_RUN):
            tensor = self._tensor_of[first : first + ALIVE_RUN, None]
            block = first + torch.arange(len(tensor), device=device)[:, None] - self._firsts[tensor]
            index = block * BLOCK + torch.arange(BLOCK, device=device)
            weights = self._buffer[first * BLOCK : (first + len(tensor)) * BLOCK].reshape(-1, BLOCK)
            runs = index // after[tensor]
            number = bases[tensor] + runs % slices[tensor] + runs // (slices * before)[tensor] * slices[tensor]
            nonzero = self._nonzero(weights) & (totals[tensor] > 0)
            # Zeros set the flag behind the end: every write to a place is the same.
            alive.index_fill_(0, number.where(nonzero, total).flatten(), 1)
        owner = torch.repeat_interleave(torch.arange(len(views), device=device), totals, output_size=total)
        return torch.zeros_like(totals).index_add_(0, owner, 1 - alive[:total])

    def _nonzero(self, weights: Tensor) -> Tensor:
        return weights != 0 if self.dtype.negative_zero_is_nan else (weights << 1) != 0

    def store(self) -> None:
        """Copy the pruned weights back to the tensors."""
        self._torch._foreach_copy_(list(self._tensors), self._parts)

    def numbers(self) -> Tensor:
        """Return everything that is counted as one vector on the device, for `counts_of_many`."""
        return self._counted.flatten()

    def counts_in(self, numbers: Sequence[int]) -> list[Counts]:
        """Return the counts of the tensors from the fetched vector `numbers`."""
        size = len(numbers) // len(self._tensors)
        rows = [list(numbers[first : first + size]) for first in range(0, len(numbers), size)]
        counts = []
        for row, statistics in zip(rows, self._statistics, strict=True):
            if statistics.groups is None:
                row[OVERFULL] = 0
            dead = [row[6 + at] for at, view in enumerate((statistics.outputs, statistics.inputs)) if view is not None]
            counts.append(counts_from(statistics, [*row[:6], *dead, *row[8:]]))
        return counts

    def counts(self) -> list[Counts]:
        """Return the numbers of each tensor, with one copy to the host."""
        return self.counts_in(fetch([self.numbers()])[0])
