"""Copies in the background: memory is page-locked where a device copies so, and a thread waits before it goes on."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from support import STRATEGIES

import prunecli
from prunecli import api
from prunecli.io import threads
from prunecli.io.threads import Worker
from prunecli.kernels import transfers
from prunecli.kernels.arrays import as_array
from prunecli.kernels.torch_ops import TorchOps
from prunecli.kernels.transfers import Transfers, copies_in_background, to_device

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray


@pytest.mark.parametrize("background", [True, False])
def test_numbers_are_copied_to_a_device_whatever_holds_them(
    background: bool,  # noqa: FBT001 - a parameter
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Integers, lists, arrays and numbers of NumPy, through page-locked memory if a device copies in the background."""
    real, locked = torch.empty, []

    def empty(*size: Any, pin_memory: bool = False, **options: Any) -> Any:  # noqa: ANN401 - as torch's
        locked.append(pin_memory)
        return real(*size, **options)

    monkeypatch.setattr(transfers, "copies_in_background", lambda _: background)
    monkeypatch.setattr(torch, "empty", empty)
    for numbers in ([3, 4], [np.int64(3), 4], np.array([3, 4]), [[3], [4]], [np.array([3, 4])]):
        made = to_device(numbers, "cpu")
        assert (made.dtype, made.flatten().tolist()) == (torch.int64, [3, 4])
    for array in (np.array([[0.5, 2]], np.float32), np.array([7], np.int8), np.frombuffer(b"\1\2", np.int8)):
        assert (to_device(array, "cpu").numpy() == array).all()
        assert to_device(array, "cpu").numpy().dtype == array.dtype
    assert all(locked)
    assert bool(locked) is background


class LateCopies:
    """A stand-in for the transfers of a device whose copies to the host happen while a thread waits for them."""

    def __init__(self) -> None:
        """Start without a copy."""
        self.queued: list[tuple[Any, NDArray[Any]]] = []

    def memory(self, size: int) -> memoryview | None:
        """Return memory that is not from `mmap`."""
        return memoryview(torch.zeros(size, dtype=torch.uint8).numpy())

    def wait(self) -> None:
        """Do the copies."""
        for x, raw in self.queued:
            as_array(raw)[...] = x.numpy()
        self.queued.clear()


@pytest.fixture
def late_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make "cuda" a device that computes with torch on the host, and copies its results late."""
    workers: list[LateCopies] = []

    class LateOps(TorchOps):
        def unload(self, x: Any, raw: NDArray[Any]) -> None:  # noqa: ANN401 - a tensor
            next(late for late in workers if late is self.late).queued.append((x, raw))

    def make_ops(_: str) -> LateOps:
        ops = LateOps("cpu")
        ops.late = workers[-1]  # type: ignore[attr-defined] # made for the same thread just before
        return ops

    def make_transfers(_: str) -> LateCopies:
        return workers[-1]

    class LateWorker(Worker):
        def __init__(self, *arguments: Any) -> None:  # noqa: ANN401 - those of the base
            workers.append(LateCopies())
            super().__init__(*arguments)

    monkeypatch.setattr(threads, "Worker", LateWorker)
    monkeypatch.setattr(threads, "_device_ops", make_ops)
    monkeypatch.setattr(threads, "Transfers", make_transfers)
    monkeypatch.setattr(api, "resolve", lambda name: None if name == "cpu" else name)


@pytest.mark.usefixtures("late_copies")
@pytest.mark.parametrize("container", ["safetensors", "zip"])
@pytest.mark.parametrize("strategy", ["threshold", "global-amount", "topk-8-of-32"])
def test_nothing_is_written_before_its_copy_has_ended(
    strategy: str, container: str, source: Callable[[str], Path], tmp_path: Path
) -> None:
    """A device that copies late gives the bytes and the checksums of the CPU."""
    path = source(container)
    outputs = []
    for device in ("cpu", "cuda"):
        output = tmp_path / f"{device}{path.suffix}"
        prunecli.prune(path, STRATEGIES[strategy], output=output, reports=(), device=device, threads=1)
        outputs.append(output.read_bytes())

    assert outputs[0] == outputs[1]


def stand_in(log: list[str], *, grants: bool = True) -> Any:  # noqa: ANN401 - a module
    """Return a stand-in for torch with one CUDA device, which notes what is asked of it."""

    def empty(size: int, dtype: torch.dtype, *, pin_memory: bool) -> torch.Tensor:
        log.append(f"memory of {size} bytes, locked: {pin_memory}")
        if not grants:
            raise RuntimeError("CUDA error: out of memory")
        return torch.empty(size, dtype=dtype)

    event = SimpleNamespace(
        record=lambda stream: log.append(f"record {stream}"), synchronize=lambda: log.append("wait")
    )
    cuda = SimpleNamespace(
        Event=lambda blocking: event if blocking else None,
        device=lambda _: nullcontext(),
        current_stream=lambda device: f"stream of {device}",
    )
    return SimpleNamespace(cuda=cuda, empty=empty, uint8=torch.uint8)


def test_cuda_copies_from_locked_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory is page-locked, and waiting covers what the thread has queued."""
    log: list[str] = []
    monkeypatch.setitem(sys.modules, "torch", stand_in(log))
    transfers = Transfers("cuda:1")

    memory = transfers.memory(1000)
    transfers.wait()

    assert memory is not None
    assert (len(memory), memory.readonly, memory.format) == (1000, False, "B")
    assert log == ["memory of 1000 bytes, locked: True", "record stream of cuda:1", "wait"]


def test_memory_that_is_not_granted_is_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system locks no memory, a worker takes other memory."""
    monkeypatch.setitem(sys.modules, "torch", stand_in([], grants=False))
    monkeypatch.setattr(threads, "_device_ops", lambda _: None)

    assert Transfers("cuda:0").memory(1000) is None
    assert len(Worker("cuda:0").buffer(1000)) == 1000


@pytest.mark.parametrize("device", ["cpu", "mps", "xpu:0"])
def test_other_devices_copy_at_once(device: str) -> None:
    """They need no page-locked memory, and there is nothing to wait for."""
    transfers = Transfers(device)
    transfers.wait()

    assert transfers.memory(1000) is None
    assert not copies_in_background(device)
