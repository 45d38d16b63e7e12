"""Many small tensors of one dtype and device in one buffer: a few kernels rank, prune and count all of them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, groupby
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from prunecli.kernels.tally import BLOCK
from prunecli.kernels.torch_tally import counts_from, fetch, fetch_arrays
from prunecli.kernels.torch_totals import owners, totals
from prunecli.kernels.transfers import to_device

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from prunecli.dtypes import Float
    from prunecli.kernels.tally import Counts, Statistics
    from prunecli.kernels.torch_blocks import Blocks, Groups
    from prunecli.kernels.torch_ops import TorchOps
    from prunecli.layout import SliceView

Tensor: TypeAlias = Any


def fits(statistics: Statistics) -> bool:
    """Return whether a tensor can be counted in a buffer of many: its groups of 4 follow each other, and no bins."""
    return statistics.bins is None and follow_each_other(statistics.groups)


def follow_each_other(groups: tuple[int, int] | None) -> bool:
    """Return whether the groups of 4 of a tensor, if there are any, are those of its elements, one after the other."""
    return groups is None or (groups[1] == 1 and groups[0] % 4 == 0)


def many_tensors(
    ops: TorchOps,
    tensors: Sequence[Tensor],
    dtype: Float,
    statistics: Sequence[Statistics] = (),
    *,
    copy: bool = False,
) -> ManyTensors:
    """Return tensors, as `ManyTensors` takes them, where they lie if kernels can prune them there.

    With `copy` nothing is written to the tensors.
    """
    if ops.fused is None:
        return ManyTensors(ops, tensors, dtype, statistics)
    from prunecli.kernels.torch_in_place import TensorsInPlace  # noqa: PLC0415 - it is built from this module

    return TensorsInPlace(ops, tensors, dtype, statistics, copy=copy)


@dataclass(frozen=True, slots=True)
class Ranked:
    """The magnitude at a rank of one tensor, and how many of its magnitudes are smaller and equal."""

    bits: int
    less: int
    equal: int


@dataclass(frozen=True, slots=True)
class ManyCounts:
    """What is counted about many tensors: `numbers` on the device, as many for each; `padding` behind each end."""

    statistics: Sequence[Statistics]
    padding: Sequence[int]
    numbers: Tensor

    def of_each(self, fetched: NDArray[Any]) -> list[Counts]:
        """Return the counts of each tensor from the numbers on the host."""
        return counts_from(self.statistics, fetched.reshape(len(self.statistics), -1), self.padding)


class ManyTensors:
    """Small tensors, each in whole blocks of one buffer with zeros behind its end.

    It is best if tensors of one shape follow each other.
    """

    def __init__(
        self, ops: TorchOps, tensors: Sequence[Tensor], dtype: Float, statistics: Sequence[Statistics] = ()
    ) -> None:
        """Copy integer tensors of any strides, all of one dtype, one device and not empty, into a buffer.

        `statistics` are needed to prune.
        """
        self._ops, self._torch, self._tensors, self._statistics = ops, ops.torch, tensors, statistics
        self.dtype = dtype
        torch, device = ops.torch, tensors[0].device
        lengths = [tensor.numel() for tensor in tensors]
        blocks = [-(-length // BLOCK) for length in lengths]
        firsts = [0, *accumulate(blocks)]
        self._buffer = torch.zeros(firsts[-1] * BLOCK, dtype=tensors[0].dtype, device=device)
        self._parts = [
            self._buffer[first * BLOCK : first * BLOCK + tensor.numel()].view(tensor.shape)
            for first, tensor in zip(firsts, tensors, strict=False)
        ]
        torch._foreach_copy_(self._parts, list(tensors))
        # One copy from the host for everything that depends on the tensors.
        self._firsts, self._lengths = to_device([firsts[:-1], lengths], device)
        self._padding = [size * BLOCK - length for size, length in zip(blocks, lengths, strict=True)]
        self._behind = to_device(self._padding, device)
        self._tensor_of = owners(torch, blocks, device).to(torch.int64)
        self._counted: Tensor = None

    def ranked(self, ranks: Sequence[int]) -> list[Ranked]:
        """Return the magnitude at the rank (1-based) of each tensor, with one copy to the host."""
        numbers = fetch([self._find(to_device(ranks, self._lengths.device)).flatten()])[0]
        return [Ranked(*numbers[index :: len(ranks)]) for index in range(len(ranks))]

    def _find(self, ranks: Tensor) -> Tensor:
        """Return (magnitude, less, equal) at the rank of each tensor, shape (3, tensors), on the device."""
        bits = self._torch.zeros_like(ranks)
        for bit in range(self.dtype.top.bit_length() - 1, -1, -1):
            candidate = bits | (1 << bit)
            bits = self._torch.where(self._below(candidate) < ranks, candidate, bits)
        return self._torch.cat([bits[None], self._less_and_equal(bits)])

    def equals(self, bits: int) -> Tensor:
        """Return how many magnitudes of each tensor are smaller than `bits` and equal to it, shape (2, tensors)."""
        return self._less_and_equal(self._torch.full_like(self._lengths, bits))

    def _below(self, cuts: Tensor) -> Tensor:
        """Return how many magnitudes of each tensor are below its cut, which is above the zeros behind its end."""
        return self._count(cuts, less=True) - self._behind

    def _less_and_equal(self, cuts: Tensor) -> Tensor:
        """Return how many magnitudes of each tensor are below its cut and equal to it."""
        less, equal = (self._count(cuts, less=less) for less in (True, False))
        behind = self._torch.where(cuts > 0, self._behind, 0)
        return self._torch.stack([less - behind, equal - (self._behind - behind)])

    def _count(self, cuts: Tensor, *, less: bool) -> Tensor:
        """Return how many entries of each tensor, padding included, are below or equal to its cut."""
        counts = self._ops.count_many(self._buffer, cuts, self._tensor_of, self.dtype, less=less)
        return self._per_tensor(counts[None].to(self._torch.int64))[0]

    def _equal_in_blocks(self, cuts: Tensor) -> Tensor:
        return self._ops.count_many(self._buffer, cuts, self._tensor_of, self.dtype, less=False)

    def _per_tensor(self, numbers: Tensor) -> Tensor:
        """Return the sums over the blocks of each tensor of (rows, blocks)."""
        sums = numbers.new_zeros((len(numbers), len(self._tensors)))
        return sums.index_add_(1, self._tensor_of, numbers)

    def limits(self, cuts: Tensor, ties: Tensor) -> Tensor:
        """Return the position in the buffer of the last of the first `ties` entries of each tensor at its cut."""
        torch = self._torch
        block, wanted = self._blocks_of_limits(cuts, ties)
        rows = self._ops.magnitudes(self._buffer.reshape(-1, BLOCK)[block].flatten(), self.dtype).reshape(-1, BLOCK)
        up_to = (rows == cuts[:, None]).cumsum(1)
        limit = block * BLOCK + (up_to < wanted[:, None]).sum(1)
        return torch.where(ties > 0, limit, -1)

    def _blocks_of_limits(self, cuts: Tensor, ties: Tensor) -> tuple[Tensor, Tensor]:
        """Return the block with the last of the first `ties` equals of each tensor, and how many of them are in it."""
        torch = self._torch
        counts = self._equal_in_blocks(cuts).to(torch.int64)
        ends = counts.cumsum(0)
        wanted = ties + torch.where(self._firsts > 0, ends[(self._firsts - 1).clamp(min=0)], 0)
        block = torch.searchsorted(ends, wanted).clamp_(max=len(ends) - 1)
        return block, wanted - (ends[block] - counts[block])

    def prune(self, cuts: Sequence[int], ties: Sequence[int]) -> None:
        """Prune what is below the cut of each tensor, and the first `ties` entries equal to it."""
        # A cut may be above the largest integer, as that of a NaN of float64 is: one below it is an integer again.
        cut, tie = to_device(np.array([cuts, ties], np.uint64).view(np.int64), self._lengths.device)
        self._prune(cut, self.limits(cut, tie) if any(ties) else None)

    def _prune(self, cuts: Tensor, limits: Tensor | None) -> None:
        limits = self._torch.full_like(cuts, -1) if limits is None else limits
        self._counted = self._numbers(self._ops.prune_many(self._buffer, cuts, limits, self._tensor_of, self.dtype))

    def magnitudes(self) -> Tensor:
        """Return the magnitudes of tensors of one shape, one after the other."""
        return self._ops.magnitudes(self._whole().reshape(-1), self.dtype)

    def rows(self) -> Tensor:
        """Return tensors of one shape, a row for each."""
        return self._whole().contiguous()

    def _whole(self) -> Tensor:
        """Return tensors of one shape without what lies behind their ends, a row for each."""
        return self._buffer.reshape(len(self._tensors), -1)[:, : self._tensors[0].numel()]

    def prune_flags(self, keep: Tensor) -> None:
        """Prune where `keep`, an array of flags as long as `magnitudes`, has none."""
        if any(self._padding):
            flags = keep.new_zeros((len(self._tensors), len(self._buffer) // len(self._tensors)))
            flags[:, : self._tensors[0].numel()] = keep.reshape(len(self._tensors), -1)
            keep = flags.reshape(-1)
        self._counted = self._numbers(self._ops.prune_blocks(self._buffer, keep, self.dtype))

    def prune_groups(self, groups: Groups) -> None:
        """Keep the largest of each group; `groups` fits each tensor as `TorchOps.groups` says."""
        self._counted = self._numbers(self._ops.prune_blocks(self._buffer, groups, self.dtype))

    def _numbers(self, blocks: Blocks) -> Tensor:
        """Return a row of `totals` for each tensor, and both numbers of slices without a non-zero."""
        torch = self._torch
        rows = totals(torch, blocks, self._tensor_of, len(self._tensors), self.dtype)
        return torch.cat([rows, *(torch.cat(column)[:, None] for column in zip(*self._dead(), strict=True))], 1)

    def _dead(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the numbers of outputs and of inputs without a non-zero, for tensors of one shape together."""
        first = 0
        for (outputs, inputs, numel), same in groupby(self._statistics, lambda s: (s.outputs, s.inputs, s.numel)):
            count, size = len(list(same)), -(-numel // BLOCK) * BLOCK
            part = self._buffer[first : first + count * size].reshape(count, size)[:, :numel]
            nonzero, first = self._nonzero(part), first + count * size
            yield self._dead_slices(nonzero, outputs), self._dead_slices(nonzero, inputs)

    def _dead_slices(self, nonzero: Tensor, view: SliceView | None) -> Tensor:
        """Return the number of slices without a set flag in each row of `nonzero`."""
        if view is None:
            return self._torch.zeros(len(nonzero), dtype=self._torch.int64, device=nonzero.device)
        alive = nonzero.reshape(-1, view.before, view.slices, view.after)
        alive = alive.any(3) if view.after > 1 else alive[..., 0]
        alive = alive.any(1) if view.before > 1 else alive[:, 0]
        return (~alive).reshape(len(nonzero), -1).sum(1)

    def _nonzero(self, weights: Tensor) -> Tensor:
        return weights != 0 if self.dtype.negative_zero_is_nan else (weights << 1) != 0

    def store(self) -> None:
        """Copy the pruned weights back to the tensors."""
        self._torch._foreach_copy_(list(self._tensors), self._parts)

    def counted(self) -> ManyCounts:
        """Return what is counted about the tensors after they are pruned; it keeps no weights."""
        return ManyCounts(self._statistics, self._padding, self._counted.flatten())

    def counts(self) -> list[Counts]:
        """Return the numbers of each tensor, with one copy to the host."""
        counted = self.counted()
        return counted.of_each(fetch_arrays([counted.numbers])[0])
