"""Tensors of one dtype on one device, where they lie: kernels find them by a table of their addresses."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any, TypeAlias

from prunecli.kernels.tally import BLOCK
from prunecli.kernels.torch_totals import owners
from prunecli.kernels.transfers import to_device

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prunecli.layout import SliceView

Tensor: TypeAlias = Any


@dataclass(frozen=True, slots=True)
class KernelRule:
    """What `prune_kernel` takes: what survives of each tensor.

    Mode 0: magnitudes above `cuts`, and those one above it behind the position `limits`. Mode 1: weights whose flag, of
    `each` for every tensor, is not 0. Mode 2: the largest of groups. Mode 3: slices whose flag is not 0.

    `groups` are the size of a group and how many of it survive; `slices` are the entries of a slice that follow each
    other, and the number of slices after which the first one follows.
    """

    mode: int
    flags: Tensor = None
    cuts: Tensor = None
    limits: Tensor = None
    groups: tuple[int, int] = (1, 0)
    slices: tuple[int, int] = (1, 1)
    each: int = 0


def takes_slices(view: SliceView) -> bool:
    """Return whether `KernelRule` can have a view: slices of one stack, or that follow each other, of not too many."""
    return (view.before == 1 or view.stacks == 1) and max(view.after, view.total) < LARGEST


MOST_TOGETHER = 1 << 13
"""The most tensors that one launch of a kernel takes: what is counted takes 2 to 8 kB for each, a few times."""

LARGEST = 1 << 30
"""Kernels number slices, and entries of a slice that follow each other, with 32 bits."""

ALIGNED = 16
"""Bytes, and elements, whose multiples addresses and lengths should be: then a thread reads several entries at once."""


class Table:
    """The addresses of contiguous tensors, and which blocks of BLOCK elements are theirs; the last ones may be short.

    Attributes:
        tensors: The tensors, flat integers, which live as long as their table.
        addresses: Their addresses, on the device.
        lengths: Their numbers of elements, on the device.
        firsts: The numbers of their first blocks, on the device.
        tensor_of: The number of the tensor of each block, on the device.
        edges: The number of the first block of each tensor, and the number of blocks, on the host.
        aligned: Whether all addresses and lengths are multiples of ALIGNED.
    """

    def __init__(self, torch: Any, tensors: Sequence[Tensor]) -> None:  # noqa: ANN401 - the module
        """Take tensors that are not empty."""
        self.tensors = tensors
        lengths = [tensor.numel() for tensor in tensors]
        addresses = [tensor.data_ptr() for tensor in tensors]
        blocks = [-(-length // BLOCK) for length in lengths]
        device = tensors[0].device
        self.edges: list[int] = [0, *accumulate(blocks)]
        self.addresses, self.lengths, self.firsts = to_device([addresses, lengths, self.edges[:-1]], device)
        self.tensor_of = owners(torch, blocks, device)
        self.aligned = not any(number % ALIGNED for number in (*addresses, *lengths))

    def __len__(self) -> int:
        """Return the number of tensors."""
        return len(self.tensors)

    @property
    def blocks(self) -> int:
        """The number of blocks."""
        return self.edges[-1]
