"""The elements of tensors where they lie: views of their memory as integers, on the host or on a device."""

from __future__ import annotations

import importlib
from functools import lru_cache, partial
from math import prod
from typing import TYPE_CHECKING, Any

from prunecli.io.reader import SAMPLE, Reader
from prunecli.io.strided import gather, row_blocks

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from prunecli.checkpoint import TensorInfo
    from prunecli.io.memory import TensorsInMemory
    from prunecli.io.threads import Worker
    from prunecli.kernels.ops import Array, Read

HOST_RUN = 1 << 21
"""The bytes of weights on the host that are computed at once: they stay in the CPU's caches."""

DEVICE_RUN = 1 << 26
"""The bytes of weights on a device that are computed at once; kernels need a few times as many for their results."""

DEVICE_SAMPLE = 1 << 17
"""The most elements of a sample of tensors on a device, which is copied to the host."""


def on_host(tensor: Tensor) -> bool:
    """Return whether NumPy can share the memory of `tensor`."""
    return tensor.device.type == "cpu"


def integers(live: Tensor, size: int, shape: Sequence[int], strides: Sequence[int]) -> Array:
    """Return elements of a storage from the first one of `live` on, as integers of `size` bytes that share it."""
    view = _empty(size)(device=live.device)
    return view.set_(live.untyped_storage(), live.storage_offset(), shape, strides)


@lru_cache
def _empty(size: int) -> Callable[..., Any]:
    """Return the function that makes an empty tensor of integers of `size` bytes."""
    torch: Any = importlib.import_module("torch")
    return partial(torch.empty, 0, dtype=getattr(torch, f"int{8 * size}"))


class MemoryReader(Reader):
    """Reads tensors in memory. What lies on the host is not copied, except where a tensor is not contiguous."""

    def __init__(self, memory: TensorsInMemory, advance: Callable[[int], None] = lambda _: None) -> None:
        """Read the tensors of `memory`; `advance` receives the number of bytes of each read."""
        super().__init__(memory.regions, advance)
        self._memory = memory
        self._arrays: dict[str, Array] = {}

    def lies_on_host(self, tensor: TensorInfo) -> bool:
        """Return whether NumPy can share the memory of a tensor."""
        return on_host(self._memory.tensors[tensor.name])

    def array(self, tensor: TensorInfo) -> Array:
        """Return a tensor as integers that share its memory: flat if it is contiguous, else in its own shape."""
        found = self._arrays.get(tensor.name)
        if found is None:
            live = self._memory.tensors[tensor.name]
            shape, strides = ((tensor.numel,), (1,)) if tensor.contiguous else (tensor.shape, tensor.strides)
            view = integers(live, tensor.itemsize, shape, strides)
            found = self._arrays[tensor.name] = view.numpy() if on_host(live) else view
        return found

    def read_together(self, worker: Worker, tensors: Sequence[TensorInfo]) -> list[Array]:
        """Return tensors where they lie."""
        return [self.array_reader(worker, tensor)(0, tensor.numel) for tensor in tensors]

    def sample(self, tensor: TensorInfo, length: int, count: int) -> bytearray:
        """Return a sample, from a device in one copy."""
        live = self._memory.tensors[tensor.name]
        if on_host(live):
            return super().sample(tensor, length, count)
        step = (tensor.extent - length) // max(count - 1, 1)
        return bytearray(integers(live, tensor.itemsize, (count, length), (step, 1)).contiguous().cpu().numpy())

    def sample_limit(self, tensor: TensorInfo) -> int:
        """Return the most elements of a sample, fewer for a device."""
        return SAMPLE if on_host(self._memory.tensors[tensor.name]) else DEVICE_SAMPLE

    def on_device(self, tensor: TensorInfo) -> bool:
        """Return whether a tensor lies on a device that computes with float64."""
        live = self._memory.tensors[tensor.name]
        return not on_host(live) and live.device.type != "mps"

    def device(self, tensor: TensorInfo) -> str:
        """Return the device that a tensor lies on."""
        return str(self.array(tensor).device)

    def on_a_device(self, tensor: TensorInfo) -> Array | None:
        """Return all elements of a tensor on a device, None on the host: flat, or in its shape if there are gaps."""
        live = self._memory.tensors[tensor.name]
        if on_host(live):
            return None
        if tensor.contiguous or tensor.extent != tensor.numel:
            return self.array(tensor)
        return integers(live, tensor.itemsize, (tensor.numel,), (1,))

    def run_size(self, tensor: TensorInfo) -> int:
        """Return the bytes of a tensor that are computed at once."""
        return HOST_RUN if on_host(self._memory.tensors[tensor.name]) else DEVICE_RUN

    def range_reader(self, worker: Worker, tensor: TensorInfo) -> Read:
        """Return a function that reads elements into host memory, or shows them where they lie in it."""
        if on_host(self._memory.tensors[tensor.name]):
            return self.array_reader(worker, tensor)
        return super().range_reader(worker, tensor)

    def array_reader(self, worker: Worker, tensor: TensorInfo) -> Callable[[int, int], Array]:  # noqa: ARG002 - as the base
        """Return a function that shows the row-major elements [first, stop) of a tensor where they lie."""
        array, itemsize = self.array(tensor), tensor.itemsize

        def read(first: int, stop: int) -> Array:
            self._advance((stop - first) * itemsize)
            if not tensor.contiguous:
                return copied(array, first, stop)
            return array if stop - first == tensor.numel else array[first:stop]

        return read


def copied(array: Array, first: int, stop: int) -> Array:
    """Return a copy of the row-major elements [first, stop) of a strided array, on its device."""
    if not hasattr(array, "new_empty"):
        return gather(array, first, stop)
    flat = array.new_empty(stop - first)
    for place, block in row_blocks(array, first, stop):
        flat[place : place + block.numel()].view(block.shape).copy_(block)
    return flat


def copy_back(flat: Array, array: Array, first: int) -> None:
    """Store `flat` in the row-major elements of a strided array from `first` on."""
    for place, block in row_blocks(array, first, first + len(flat)):
        block[...] = flat[place : place + prod(block.shape)].reshape(block.shape)
