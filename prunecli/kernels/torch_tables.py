"""Tensors of one dtype on one device, where they lie: kernels find them by a table of their addresses."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING, Any, TypeAlias

from prunecli.kernels.tally import BLOCK
from prunecli.kernels.torch_totals import owners

if TYPE_CHECKING:
    from collections.abc import Sequence

Tensor: TypeAlias = Any

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
        aligned: Whether all addresses and lengths are multiples of ALIGNED.
    """

    def __init__(self, torch: Any, tensors: Sequence[Tensor]) -> None:  # noqa: ANN401 - the module
        """Take tensors that are not empty."""
        self.tensors = tensors
        lengths = [tensor.numel() for tensor in tensors]
        addresses = [tensor.data_ptr() for tensor in tensors]
        blocks = [-(-length // BLOCK) for length in lengths]
        device = tensors[0].device
        ends = list(accumulate(blocks))
        firsts = [0, *ends[:-1]]
        self.addresses, self.lengths, self.firsts = to_device(torch, [addresses, lengths, firsts], device)
        self.tensor_of = owners(torch, blocks, device)
        self.aligned = not any(number % ALIGNED for number in (*addresses, *lengths))

    def __len__(self) -> int:
        """Return the number of tensors."""
        return len(self.tensors)

    @property
    def blocks(self) -> int:
        """The number of blocks."""
        return len(self.tensor_of)


def to_device(torch: Any, numbers: Sequence[Any], device: Any) -> Tensor:  # noqa: ANN401 - the module, a torch device
    """Return integers on a device. From page-locked memory they are copied without waiting for kernels before them."""
    if str(device).startswith("cuda"):
        return torch.tensor(numbers, dtype=torch.int64, pin_memory=True).to(device, non_blocking=True)
    return torch.tensor(numbers, dtype=torch.int64, device=device)
