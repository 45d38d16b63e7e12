"""Copies between host memory and a device that go on while the threads read and write files.

Only CUDA copies so, and only from and to page-locked memory; for other devices every copy has ended when its call
returns. All threads queue their work in one stream of the device, in which it is done in order: so a thread may use
what another one has computed. Its copies take less time than the reads and writes of the same bytes.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prunecli.kernels.ops import Array


class Transfers:
    """The host memory of one thread for such copies, and their ends."""

    def __init__(self, device: str) -> None:
        """Copy from and to the torch `device`."""
        self._torch, self._device = importlib.import_module("torch"), device
        # A thread that waits for a blocking event leaves its CPU to the others.
        self._queued = self._torch.cuda.Event(blocking=True) if copies_in_background(device) else None

    def memory(self, size: int) -> memoryview | None:
        """Return page-locked memory; None where no such memory is needed, or the system grants none."""
        if self._queued is None:
            return None
        try:
            with self._torch.cuda.device(self._device):
                locked = self._torch.empty(size, dtype=self._torch.uint8, pin_memory=True)
        except RuntimeError:  # it is limited; copies from and to other memory take longer
            return None
        return memoryview(locked.numpy())

    def wait(self) -> None:
        """Wait until everything that is queued now is done."""
        if self._queued is not None:
            self._queued.record(self._torch.cuda.current_stream(self._device))
            self._queued.synchronize()


def to_device(numbers: Any, device: Any) -> Array:  # noqa: ANN401 - numbers, a torch device
    """Return a copy of numbers on a device: an array of NumPy in its dtype, and others as integers of 64 bits.

    The copy does not wait for kernels before it where memory can be page-locked.
    """
    import numpy as np  # noqa: PLC0415 - runs of files on the host do without it

    torch = importlib.import_module("torch")
    array = numbers if isinstance(numbers, np.ndarray) else np.array(numbers, np.int64)
    if not copies_in_background(str(device)):
        return torch.tensor(array, device=device)
    dtype = getattr(torch, array.dtype.name)
    if array.size == 1:
        return torch.full(array.shape, array.item(), dtype=dtype, device=device)
    locked = torch.empty(array.shape, dtype=dtype, pin_memory=True)
    locked.numpy()[...] = array  # torch would copy a long one with all CPUs, which takes longer
    return locked.to(device, non_blocking=True)


def copies_in_background(device: str) -> bool:
    """Return whether a copy to or from a device may go on after its call has returned."""
    return device.startswith("cuda")
