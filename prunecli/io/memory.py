"""The tensors of a state_dict as a checkpoint: each storage is one of its files, read and written in place.

torch is imported when a function is called.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from prunecli.checkpoint import IN_MEMORY, Checkpoint, CheckpointFile, Span, TensorInfo, self_overlap
from prunecli.dtypes import TORCH_DTYPES
from prunecli.errors import CheckpointError, UsageError
from prunecli.io.files import SameLayout
from prunecli.text.escape import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray
    from torch import Tensor, UntypedStorage

    from prunecli.io.files import Input

T = TypeVar("T")

NAME = "state_dict"
"""The name of the tensors in a report, in the place of a path."""

_ADDRESSED = {"cpu", "cuda", "xpu"}
"""Devices where a data pointer is an address that bytes can be counted from; elsewhere it is a handle."""


class Region(SameLayout):
    """The bytes of one storage, as input and as output of a run.

    The storage has `size` bytes from the address `start` of its device; `name` is the name of a tensor in it.
    """

    __slots__ = ("_bytes", "_host", "name", "on", "size", "start", "storage")

    def __init__(self, name: str, storage: UntypedStorage) -> None:
        """Use the bytes of `storage`, on any device."""
        self.name, self.storage, self.on = name, storage, str(storage.device)
        self.start, self.size = storage.data_ptr(), storage.nbytes()
        self._bytes: Tensor | None = None
        self._host: NDArray[np.uint8] | None = None

    @property
    def end(self) -> int:
        """The address of the first byte after the storage."""
        return self.start + self.size

    @property
    def data(self) -> Tensor:
        """All bytes, as a tensor that shares them."""
        if self._bytes is None:
            torch = importlib.import_module("torch")
            self._bytes = torch.empty(0, dtype=torch.uint8, device=self.storage.device).set_(self.storage)
        return self._bytes

    @property
    def host(self) -> NDArray[np.uint8] | None:
        """The same as an array, if they lie on the host.

        NumPy copies in the calling thread; torch would start threads of its own for each of ours.
        """
        if self._host is None and self.on == "cpu":
            self._host = self.data.numpy()
        return self._host

    def read(self, into: memoryview, offset: int) -> None:
        """Fill `into` from the byte `offset` on."""
        if (host := self.host) is not None:
            np.copyto(np.frombuffer(into, np.uint8), host[offset : offset + len(into)])
        elif len(into):
            self._as_tensor(into).copy_(self.data[offset : offset + len(into)])

    def write(self, data: memoryview, offset: int) -> None:
        """Write all of `data` at the byte `offset`."""
        if (host := self.host) is not None:
            np.copyto(host[offset : offset + len(data)], np.frombuffer(data, np.uint8))
        elif len(data):
            self.data[offset : offset + len(data)].copy_(self._as_tensor(data))

    def _as_tensor(self, data: memoryview) -> Tensor:
        tensor: Tensor = importlib.import_module("torch").frombuffer(data, dtype=self.data.dtype)
        return tensor

    def copy(self, source: Input, start: int, end: int) -> None:
        """Do nothing: source and sink are the same memory."""

    def check_unchanged(self) -> None:
        """Do nothing: changes of memory cannot be detected."""


@dataclass(frozen=True, slots=True)
class TensorsInMemory:
    """The tensors of a state_dict, listed as a checkpoint, with a region of memory for each of its files."""

    checkpoint: Checkpoint
    regions: tuple[Region, ...]
    tensors: Mapping[str, Tensor]

    def together(self, work: Callable[[], T]) -> T:
        """Return what `work` returns; where several processes have parts of tensors, an error of one is one of all."""
        return work()

    def synchronize(self) -> None:
        """Wait until every device has finished its queued work, because our threads use streams of their own."""
        torch = importlib.import_module("torch")
        devices = {region.on: region.storage.device for region in self.regions}
        for device in (device for device in devices.values() if device.type != "cpu"):
            module = torch.get_device_module(device)
            module.synchronize(*([] if device.type == "mps" else [device]))

    def mark_changed(self, names: Iterable[str]) -> None:
        """Increment the versions of these tensors, so that autograd refuses to use their old values."""
        graph = importlib.import_module("torch.autograd.graph")
        for name in names:
            if not self.tensors[name].is_inference():
                graph.increment_version(self.tensors[name])


def state_dict_checkpoint(state_dict: Mapping[str, object]) -> TensorsInMemory:
    """List the tensors of a flat dict in its order; other values are skipped.

    Sparse, quantized, meta and other tensors without plain memory become `Checkpoint.unprunable_entries`. Tensors
    that share memory, through one storage or several, share a file. Raises UsageError if `state_dict` is not a dict
    of named tensors, and CheckpointError where two storages overlap in part.
    """
    memory = listed(named_tensors(state_dict))
    if not memory.tensors:
        raise nothing_to_prune(state_dict, memory.checkpoint.unprunable_entries)
    return memory


def listed(tensors: Mapping[str, Tensor]) -> TensorsInMemory:
    """List tensors, of which there may be none with plain memory; see `state_dict_checkpoint`."""
    torch = importlib.import_module("torch")
    others, plain, storages = [], {}, []
    for name, tensor in tensors.items():
        kind = _other_kind(torch, tensor)
        if kind is None:
            region = Region(name, tensor.untyped_storage())
            if _lies_in(tensor, region):
                plain[name] = tensor
                storages.append(region)
                continue
            kind = "tensor whose memory has been freed"
        others.append((name, kind))
    homes, regions = _merged(storages)
    infos = tuple(
        _info(name, tensor, file, own.start - regions[file].start, regions[file].size)
        for (name, tensor), own, file in zip(plain.items(), storages, homes, strict=True)
    )
    path = Path(NAME)
    sizes = {region.size: CheckpointFile(path, region.size) for region in regions}
    files = tuple(sizes[region.size] for region in regions)
    checkpoint = Checkpoint(path, IN_MEMORY, files, infos, unprunable_entries=tuple(others))
    return TensorsInMemory(checkpoint, tuple(regions), plain)


def named_tensors(state_dict: object) -> dict[str, Tensor]:
    """Return the tensors of a state_dict; UsageError if it is not a dict of named tensors."""
    if not isinstance(state_dict, Mapping):
        kind = type(state_dict).__name__
        hint = "model.state_dict()" if hasattr(state_dict, "state_dict") else "prunecli.prune takes a path"
        raise UsageError(f"a state_dict is a dict of tensors by name, not a {kind}", hint=hint)
    for name, value in state_dict.items():
        if type(value).__name__ == "ShardedTensor":
            raise UsageError(
                f"{printable(repr(name))} is a ShardedTensor of the first FSDP, which cannot be pruned in parts",
                hint="shard the model with fully_shard, or FSDP(device_mesh=...): its state_dict has DTensors",
            )
    tensor_type = importlib.import_module("torch").Tensor
    tensors = {name: value for name, value in state_dict.items() if isinstance(value, tensor_type)}
    for name in tensors:
        if not isinstance(name, str):
            raise UsageError(f"the names in a state_dict are strings, and {name!r} is not", hint="model.state_dict()")
    return tensors


def nothing_to_prune(state_dict: Mapping[str, object], others: Sequence[tuple[str, str]]) -> UsageError:
    """Return the error for a state_dict without a tensor that has plain memory."""
    if others:
        name, kind = others[0]
        hint = "load the weights first" if kind.startswith(("meta", "parameter")) else None
        message = f"nothing to prune: no tensor has plain memory; {printable(repr(name))} is a {kind}"
        return UsageError(message, hint=hint)
    nested = next((key for key, value in state_dict.items() if isinstance(value, Mapping) and value), None)
    hint = None if nested is None else f"pass the inner dict: checkpoint[{printable(repr(nested))}]"
    return UsageError("there are no tensors in the state_dict", hint=hint)


def _other_kind(torch: Any, tensor: Tensor) -> str | None:  # noqa: ANN401 - the module
    """Return the kind of a tensor without plain strided memory, or None for a plain tensor."""
    if type(tensor) in {torch.Tensor, torch.nn.Parameter} and tensor.layout is torch.strided:
        usual = not (tensor.is_meta or tensor.is_nested or tensor.is_quantized)
        if usual and _dtype(tensor.dtype) is not None:
            return None
    if torch.nn.parameter.is_lazy(tensor):
        return "parameter that has no values yet"
    kinds = (
        (tensor.is_meta, "meta tensor"),
        (tensor.is_nested, "nested tensor"),
        ("sparse" in str(tensor.layout), "sparse tensor"),
        (tensor.layout is not torch.strided, f"tensor of the layout {tensor.layout}"),
        (tensor.is_quantized, "quantized tensor"),
        (type(tensor).__torch_dispatch__ is not torch.Tensor.__torch_dispatch__, "tensor of a wrapper subclass"),
        (_dtype(tensor.dtype) is None, f"tensor of {tensor.dtype}"),
    )
    return next((kind for holds, kind in kinds if holds), None)


@lru_cache
def _dtype(dtype: object) -> str | None:
    """Return the name of a dtype of torch in a checkpoint; None if it has none."""
    return TORCH_DTYPES.get(str(dtype).removeprefix("torch."))


def _lies_in(tensor: Tensor, storage: Region) -> bool:
    """Return whether the storage holds all elements; FSDP, among others, frees storages."""
    count = tensor.numel()
    if not count:
        return True
    last = count - 1
    if not tensor.is_contiguous():
        last = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
    end = (int(tensor.storage_offset()) + last + 1) * tensor.element_size()
    return end <= storage.size and storage.start != 0


def _unprunable_reason(tensor: Tensor, shape: tuple[int, ...], strides: tuple[int, ...]) -> str | None:
    if tensor.is_conj():
        return "conjugate view"
    if tensor.is_neg():
        return "negative view"
    return self_overlap(shape, strides)


def _merged(storages: Sequence[Region]) -> tuple[list[int], list[Region]]:
    """Return the storages that lie in no other one, and for each of `storages` the index of the one that holds it."""
    # Sorted by start, and longer ones first: each storage is inside the last outer one, or starts a new one.
    homes = [0] * len(storages)
    outer: list[Region] = []
    for index in sorted(range(len(storages)), key=lambda index: _address(storages[index])):
        storage = storages[index]
        if not outer or not _starts_inside(outer[-1], storage):
            outer.append(storage)
        elif storage.end > outer[-1].end:
            name = printable(repr(storage.name))
            raise CheckpointError(
                f"the storages of {printable(repr(outer[-1].name))} and {name} overlap in part: pruning one would "
                "change the other",
                hint=f"state_dict[{name}] = state_dict[{name}].clone()",
            )
        homes[index] = len(outer) - 1
    return homes, outer


def _address(storage: Region) -> tuple[str, int, int]:
    return storage.on, storage.start, -storage.size


def _starts_inside(first: Region, second: Region) -> bool:
    """Return whether `second`, which starts no earlier than `first`, starts inside it."""
    if first.on != second.on:
        return False
    has_addresses = first.on.partition(":")[0] in _ADDRESSED
    return second.start < first.end if has_addresses else second.start == first.start


def _info(name: str, tensor: Tensor, file: int, start: int, length: int) -> TensorInfo:
    """Place a tensor in its region: equal elements get equal spans and offsets, through whatever storage.

    Its storage starts at the byte `start` of the region, which has `length` bytes.
    """
    size, shape, strides = tensor.element_size(), _same(tuple(tensor.shape)), _same(tensor.stride())
    offset = start + int(tensor.storage_offset()) * size if tensor.numel() else 0
    return TensorInfo(
        name,
        _dtype(tensor.dtype) or "",
        shape,
        strides,
        file,
        _span(offset % size, length - offset % size),
        offset // size,
        unprunable_reason=_unprunable_reason(tensor, shape, strides),
    )


@lru_cache(maxsize=1024)
def _same(numbers: tuple[int, ...]) -> tuple[int, ...]:
    """Return equal numbers as one object: many small tensors have few shapes."""
    return numbers


@lru_cache(maxsize=1024)  # many small tensors have storages of their own, of few lengths
def _span(start: int, length: int) -> Span:
    return Span(start, length)
