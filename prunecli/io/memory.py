"""Tensors in memory as a checkpoint: a storage is one of its files, read and written where it is.

Knows nothing about pruning, nor about what the tensors are for. torch is imported when it is needed.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prunecli.checkpoint import Checkpoint, CheckpointFile, Span, TensorInfo, self_overlap
from prunecli.dtypes import TORCH_DTYPES
from prunecli.errors import CheckpointError, UsageError
from prunecli.text.escape import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from prunecli.io.files import Source

NAME = "state_dict"
"""What a report calls the tensors, where a file would have its path."""

_ADDRESSED = {"cpu", "cuda", "xpu"}
"""Devices where a data pointer is an address that bytes can be counted from; elsewhere it is a handle."""


class Region:
    """The bytes of one storage, as what the engine reads from and as what it writes to: the same place.

    `fd` is no descriptor: nothing that needs a file is asked of memory.
    """

    fd = -1

    def __init__(self, data: Tensor) -> None:
        """Look at `data`: uint8, one dimension, on any device."""
        self.data, self.size = data, data.numel()
        # NumPy copies without the threads that torch would start for each of ours.
        self._host: NDArray[np.uint8] | None = data.numpy() if data.device.type == "cpu" else None

    def read(self, into: memoryview, offset: int) -> None:
        """Fill `into` from the byte `offset` on."""
        if self._host is not None:
            np.copyto(np.frombuffer(into, np.uint8), self._host[offset : offset + len(into)])
        elif len(into):
            self._bytes(into).copy_(self.data[offset : offset + len(into)])

    def write(self, data: memoryview, offset: int) -> None:
        """Put all of `data` at the byte `offset`."""
        if self._host is not None:
            np.copyto(self._host[offset : offset + len(data)], np.frombuffer(data, np.uint8))
        elif len(data):
            self.data[offset : offset + len(data)].copy_(self._bytes(data))

    def _bytes(self, data: memoryview) -> Tensor:
        found: Tensor = importlib.import_module("torch").frombuffer(data, dtype=self.data.dtype)
        return found

    def copy(self, source: Source | Region, start: int, end: int) -> None:
        """Leave the bytes [start, end) as they are: they are there already."""

    def check_unchanged(self) -> None:
        """Trust: nobody can tell who else writes to memory."""

    def close(self) -> None:
        """Keep the storage: it is its owner's."""


@dataclass(frozen=True, slots=True)
class TensorsInMemory:
    """The tensors of a state_dict, listed as a checkpoint, with a region of memory for each of its files."""

    checkpoint: Checkpoint
    regions: tuple[Region, ...]
    tensors: Mapping[str, Tensor]

    @property
    def on_device(self) -> bool:
        """Whether some of the bytes have to be fetched from a device."""
        return any(region.data.device.type != "cpu" for region in self.regions)

    def synchronize(self) -> None:
        """Wait until every device has done what was asked of it: our threads have streams of their own."""
        torch = importlib.import_module("torch")
        for device in {region.data.device for region in self.regions if region.data.device.type != "cpu"}:
            module = torch.get_device_module(device)
            module.synchronize(*([] if device.type == "mps" else [device]))

    def mark_changed(self, names: Iterable[str]) -> None:
        """Tell autograd that these tensors were written to, so that it refuses to go back through old values."""
        graph = importlib.import_module("torch.autograd.graph")
        for name in names:
            if not self.tensors[name].is_inference():
                graph.increment_version(self.tensors[name])


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Where a storage lies: `start` bytes into the memory of `device`, `length` bytes; `name` is a tensor of it."""

    device: str
    start: int
    length: int
    name: str
    storage: Any

    @property
    def end(self) -> int:
        return self.start + self.length


def state_dict_checkpoint(state_dict: Mapping[str, object]) -> TensorsInMemory:
    """List the tensors of a flat dict in its order; what is no tensor is passed over.

    Sparse, quantized, meta and other tensors without plain memory become `Checkpoint.unprunable_entries`. Tensors
    that share memory, through one storage or several, share a file. Raises UsageError for what is no dict of named
    tensors, CheckpointError where two storages overlap in part.
    """
    tensors = _tensors(state_dict)
    kinds = {name: _other_kind(t) for name, t in tensors.items()}
    others = tuple((name, kind) for name, kind in kinds.items() if kind is not None)
    tensors = {name: t for name, t in tensors.items() if kinds[name] is None}
    if not tensors:
        raise _nothing(state_dict, others)
    homes, stretches = _merged([_stretch(name, t) for name, t in tensors.items()])
    regions = tuple(Region(_bytes_of(stretch.storage)) for stretch in stretches)
    infos = tuple(_info(name, t, at, stretches[at]) for (name, t), at in zip(tensors.items(), homes, strict=True))
    files = tuple(CheckpointFile(Path(NAME), region.size) for region in regions)
    checkpoint = Checkpoint(Path(NAME), "tensors in memory", files, infos, unprunable_entries=others)
    return TensorsInMemory(checkpoint, regions, tensors)


def _tensors(state_dict: object) -> dict[str, Tensor]:
    if not isinstance(state_dict, Mapping):
        kind = type(state_dict).__name__
        hint = "model.state_dict()" if hasattr(state_dict, "state_dict") else "a path goes to prunecli.prune"
        raise UsageError(f"a state_dict is a dict of tensors by name, not a {kind}", hint=hint)
    kind = importlib.import_module("torch").Tensor
    found = {name: value for name, value in state_dict.items() if isinstance(value, kind)}
    for name in found:
        if not isinstance(name, str):
            raise UsageError(f"the names in a state_dict are strings, and {name!r} is not", hint="model.state_dict()")
    return found


def _nothing(state_dict: Mapping[str, object], others: Sequence[tuple[str, str]]) -> UsageError:
    if others:
        name, what = others[0]
        hint = "load the weights first" if what.startswith(("meta", "parameter")) else None
        return UsageError(f"nothing to prune: {printable(repr(name))} is a {what}, and so on: none is plain", hint=hint)
    nested = next((key for key, value in state_dict.items() if isinstance(value, Mapping) and value), None)
    hint = None if nested is None else f"hand over the inner dict: checkpoint[{printable(repr(nested))}]"
    return UsageError("there are no tensors in the state_dict", hint=hint)


def _other_kind(tensor: Tensor) -> str | None:
    """Say what a tensor is that does not look into plain memory by strides, None where it does."""
    torch = importlib.import_module("torch")
    if torch.nn.parameter.is_lazy(tensor):
        return "parameter that has no values yet"
    kinds = (
        (tensor.is_meta, "meta tensor"),
        (tensor.is_nested, "nested tensor"),
        ("sparse" in str(tensor.layout), "sparse tensor"),
        (tensor.layout is not torch.strided, f"tensor of the layout {tensor.layout}"),
        (tensor.is_quantized, "quantized tensor"),
        (type(tensor).__torch_dispatch__ is not torch.Tensor.__torch_dispatch__, "tensor of a wrapper subclass"),
        (_dtype(tensor) is None, f"tensor of {tensor.dtype}"),
    )
    kind = next((kind for holds, kind in kinds if holds), None)
    return kind if kind is not None or _has_memory(tensor) else "tensor whose memory was given back"


def _dtype(tensor: Tensor) -> str | None:
    return TORCH_DTYPES.get(str(tensor.dtype).removeprefix("torch."))


def _has_memory(tensor: Tensor) -> bool:
    """Tell whether all elements lie in the storage: FSDP, among others, takes storages away."""
    if not tensor.numel():
        return True
    last = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
    end = (int(tensor.storage_offset()) + last + 1) * tensor.element_size()
    storage = tensor.untyped_storage()
    return end <= storage.nbytes() and storage.data_ptr() != 0


def _why_fixed(tensor: Tensor) -> str | None:
    if tensor.is_conj():
        return "conjugate view"
    if tensor.is_neg():
        return "negative view"
    return self_overlap(tuple(tensor.shape), tensor.stride())


def _stretch(name: str, tensor: Tensor) -> _Stretch:
    storage = tensor.untyped_storage()
    return _Stretch(str(tensor.device), storage.data_ptr(), storage.nbytes(), name, storage)


def _merged(stretches: Sequence[_Stretch]) -> tuple[list[int], list[_Stretch]]:
    """Return for each stretch the index of the one that it lies in, and these."""
    homes = [0] * len(stretches)
    found: list[_Stretch] = []
    for at in sorted(range(len(stretches)), key=lambda i: _place(stretches[i])):
        stretch = stretches[at]
        if not found or not _meet(found[-1], stretch):
            found.append(stretch)
        elif stretch.end > found[-1].end:
            names = f"{printable(repr(found[-1].name))} and {printable(repr(stretch.name))}"
            raise CheckpointError(
                f"the storages of {names} overlap in part: pruning one would change the other",
                hint=f"state_dict[{printable(repr(stretch.name))}] = "
                f"state_dict[{printable(repr(stretch.name))}].clone()",
            )
        homes[at] = len(found) - 1
    return homes, found


def _place(stretch: _Stretch) -> tuple[str, int, int]:
    return stretch.device, stretch.start, -stretch.length


def _meet(first: _Stretch, second: _Stretch) -> bool:
    """Tell whether `second`, which begins no earlier, begins inside `first`."""
    if first.device != second.device:
        return False
    counted = first.device.partition(":")[0] in _ADDRESSED
    return second.start < first.end if counted else second.start == first.start


def _info(name: str, tensor: Tensor, file: int, home: _Stretch) -> TensorInfo:
    """Place a tensor in its region; equal elements get equal spans and offsets whatever storage they came by."""
    size, place = tensor.element_size(), 0
    if tensor.numel():
        storage = tensor.untyped_storage()
        place = storage.data_ptr() - home.start + int(tensor.storage_offset()) * size
    span = Span(place % size, home.length - place % size)
    dtype = _dtype(tensor) or ""
    unprunable_reason, shape = _why_fixed(tensor), tuple(tensor.shape)
    return TensorInfo(
        name, dtype, shape, tensor.stride(), file, span, place // size, unprunable_reason=unprunable_reason
    )


def _bytes_of(storage: Any) -> Tensor:  # noqa: ANN401 - torch.UntypedStorage
    """Return all bytes of a storage as a tensor that shares them."""
    torch = importlib.import_module("torch")
    found: Tensor = torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)
    return found
