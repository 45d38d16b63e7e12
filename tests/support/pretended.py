"""Devices that exist only in the tests: their tensors lie in the memory of the host, and do not mix with others.

Operations on them are computed by torch on the host. As on real devices, an operation on tensors of two devices, or of
a device and the host, is an error, and so is sharing their memory with NumPy.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from prunecli.io import memory_reader

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import pytest
    from torch import Tensor

FIRST, SECOND = "lazy:0", "lazy:1"
"""Two devices. Torch knows the name, and has no code for it here."""

COPIES = ("_to_copy", "copy_", "_foreach_copy_")
"""Operations on tensors of two devices."""


class Pretended(torch.Tensor):
    """A tensor of a device; `host` has its numbers."""

    host: Tensor

    @staticmethod
    def __new__(cls, host: Tensor, device: str) -> Pretended:  # noqa: ANN001, PYI034 - as torch's
        """Make a tensor on `device` that shares the memory of `host`."""
        tensor = torch.Tensor._make_wrapper_subclass(
            cls, host.shape, strides=host.stride(), storage_offset=host.storage_offset(), dtype=host.dtype,
            device=device,
        )  # fmt: skip
        tensor.host = host
        return tensor

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401 - as torch's
        """Compute where no mode is active, such as in another thread."""
        return computed(func, args, kwargs or {})

    def tolist(self) -> Any:  # noqa: ANN401 - as torch's
        """Return the numbers."""
        return self.cpu().tolist()


class Device(TorchDispatchMode):
    """Computes operations of tensors on pretended devices, and counts the bytes that are allocated there.

    Attributes:
        operations: The number of operations up to now.
        fail_at: The number of the operation that fails, with `error`.
        held, peak: The bytes of results that are alive, and the most of them.
        fetched: The bytes that were copied to the host.
    """

    def __init__(self, fail_at: int | None = None, error: Exception | None = None) -> None:
        """Fail at an operation, if it has a number."""
        super().__init__()
        self.operations, self.fail_at = 0, fail_at
        self.error = error or torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        self.held = self.peak = self.fetched = 0
        self._alive: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401 - as torch's
        """Compute an operation."""
        name = func.overloadpacket.__name__
        result = computed(func, args, kwargs or {}, self._begin)
        if isinstance(result, Pretended):
            self._hold(result.host)
        elif isinstance(result, (tuple, list)):
            for each in result:
                if isinstance(each, Pretended):
                    self._hold(each.host)
        elif name == "_to_copy" and isinstance(result, torch.Tensor):
            self.fetched += result.nbytes
        return result

    def _begin(self) -> None:
        self.operations += 1
        if self.operations == self.fail_at:
            raise self.error

    def _hold(self, host: Tensor) -> None:
        """Count the bytes of a storage until it is freed."""
        storage = host.untyped_storage()
        key = storage._cdata
        if key in self._alive:
            return
        self._alive[key] = size = storage.nbytes()
        self.held += size
        self.peak = max(self.peak, self.held)
        weakref.finalize(storage, self._free, key)

    def _free(self, key: int) -> None:
        self.held -= self._alive.pop(key, 0)


def computed(func: Any, args: Any, kwargs: Any, begin: Callable[[], None] = lambda: None) -> Any:  # noqa: ANN401 - as torch's
    """Return the result of an operation, on the device of its arguments; call `begin` if there is one."""
    devices: set[str] = set()
    on_host = []

    def opened(x: Any) -> Any:  # noqa: ANN401 - any argument
        if isinstance(x, Pretended):
            devices.add(str(x.device))
            return x.host
        if isinstance(x, torch.Tensor) and x.dim():
            on_host.append(x)
        return x

    plain, options = tree_map(opened, (tuple(args), dict(kwargs)))
    device = next(iter(devices), "cpu")
    if options.get("device") is not None:
        device = str(torch.device(options["device"]))
        options["device"] = "cpu"
    if device != "cpu" or devices:
        begin()
    name = func.overloadpacket.__name__
    if name not in COPIES and (len(devices) > 1 or (devices and on_host)):
        raise RuntimeError(f"{name}: expected all tensors to be on the same device, but found {devices} and the host")
    result = func(*plain, **{key: value for key, value in options.items() if key != "pin_memory"})
    if device == "cpu":
        return result.clone() if devices and name == "_to_copy" else result
    changed = {id(x.host): x for x in [*args, *kwargs.values()] if isinstance(x, Pretended)}

    def closed(x: Any) -> Any:  # noqa: ANN401 - any result
        if not isinstance(x, torch.Tensor):
            return x
        return changed[id(x)] if id(x) in changed else Pretended(x, device)

    return tree_map(closed, result)


def pretend(monkeypatch: pytest.MonkeyPatch, live: Mapping[str, Tensor], devices: Mapping[str, str]) -> None:
    """Let the tensors named in `devices` lie there; enter a `Device` to compute with them."""
    places = {id(live[name]): device for name, device in devices.items()}
    for module in ("io.memory_reader", "engine.in_memory", "training.masks"):
        monkeypatch.setattr(f"prunecli.{module}.on_host", lambda tensor: id(tensor) not in places)
    real = memory_reader.integers

    def integers(tensor: Tensor, *place: Any) -> Tensor:  # noqa: ANN401 - as the function
        view = real(tensor, *place)
        return Pretended(view, places[id(tensor)]) if id(tensor) in places else view

    monkeypatch.setattr(memory_reader, "integers", integers)
    made = torch.tensor

    def tensor(*args: Any, device: Any = "cpu", pin_memory: bool = False, **options: Any) -> Tensor:  # noqa: ANN401, ARG001 - as torch's
        return made(*args, **options).to(device)

    monkeypatch.setattr(torch, "tensor", tensor)  # it hides from modes what it does
