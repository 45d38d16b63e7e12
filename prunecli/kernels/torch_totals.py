"""The numbers of tensors from those of their blocks: some kernels add up the blocks of many tensors together."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from prunecli.kernels.torch_blocks import LARGEST_PRUNED, Blocks
from prunecli.kernels.torch_sums import bins_of, exact_bins
from prunecli.kernels.transfers import to_device

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prunecli.dtypes import Float

Tensor: TypeAlias = Any

PLACES, REPLICAS = 1 << 13, 256
"""The places that are added to in parallel, because additions to one place wait for each other; most of one tensor."""

NUMBERS = 6
"""Zeros before and after, not finite, groups that are too full, the largest pruned, and the least kept."""


def row_length(dtype: Float) -> int:
    """Return the number of integers in a row of `totals`."""
    return NUMBERS + 4 * bins_of(dtype)[1]


def totals(torch: Any, blocks: Blocks, tensor_of: Tensor, count: int, dtype: Float) -> Tensor:  # noqa: ANN401 - the module
    """Return a row of integers for each of `count` tensors, of which `tensor_of` is that of each block.

    A row has NUMBERS, and the tables of the exact sums of squares before and after pruning. Entries behind the end of a
    tensor count as zeros.
    """
    copies = max(1, min(REPLICAS, PLACES // count, len(tensor_of)))
    device, places = blocks.counts.device, tensor_of.to(torch.int64)
    if copies > 1:
        places = places * copies + torch.arange(len(tensor_of), device=device) % copies
    counts = torch.zeros((4, count * copies), dtype=torch.int64, device=device)
    counts.index_add_(1, places, blocks.counts.to(torch.int64))
    extremes = torch.full((2, count * copies), -1, dtype=torch.int64, device=device)
    extremes[LARGEST_PRUNED] = 0
    extremes.scatter_reduce_(1, places.expand(2, -1), blocks.extremes.to(torch.int64), "amax")
    tables = exact_bins(torch, blocks.sums, dtype, places.to(blocks.sums.device), count * copies).to(device)
    parts = [
        counts.reshape(4, count, copies).sum(2).T,
        extremes.reshape(2, count, copies).amax(2).T,
        tables.reshape(count, copies, -1).sum(1),
    ]
    return torch.cat(parts, 1)


def joined_rows(torch: Any, a: Tensor, b: Tensor) -> Tensor:  # noqa: ANN401 - the module
    """Return the row of a tensor from those of two of its parts."""
    extremes = torch.maximum(a[NUMBERS - 2 : NUMBERS], b[NUMBERS - 2 : NUMBERS])
    return torch.cat([a[: NUMBERS - 2] + b[: NUMBERS - 2], extremes, a[NUMBERS:] + b[NUMBERS:]])


def joined(torch: Any, parts: Sequence[Blocks]) -> Blocks:  # noqa: ANN401 - the module
    """Return blocks that follow each other."""
    if len(parts) == 1:
        return parts[0]
    return Blocks(*(torch.cat([getattr(part, name) for part in parts], 1) for name in ("counts", "extremes", "sums")))


def owners(torch: Any, lengths: Sequence[int], device: Any) -> Tensor:  # noqa: ANN401 - the module, a torch device
    """Return 0 so often as the first length says, 1 so often as the second one, and so on, in 32 bits.

    There is one for each block of a model, and nothing else is computed in as much memory.
    """
    if len(lengths) == 1:
        return torch.zeros(lengths[0], dtype=torch.int32, device=device)
    return torch.repeat_interleave(to_device(np.array(lengths, np.int32), device), output_size=sum(lengths))


def unset_flags(torch: Any, flags: Sequence[Tensor]) -> Tensor:  # noqa: ANN401 - the module
    """Return how many flags of each vector are not set."""
    if len(flags) == 1:
        return (~flags[0]).sum()[None]
    ends = to_device([0, *accumulate(len(each) for each in flags)], flags[0].device)
    sums = torch.nn.functional.pad((~torch.cat(list(flags))).cumsum(0), (1, 0))[ends]
    return sums[1:] - sums[:-1]
