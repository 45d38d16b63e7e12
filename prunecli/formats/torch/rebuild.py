"""Interpret the calls in a pickle that rebuild torch tensors: dtype, shape, strides and position in a storage.

Works on symbolic values and returns metadata. Nothing is called, and no file is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from prunecli.checkpoint import MAX_SIZE, Span, TensorInfo, self_overlap
from prunecli.dtypes import BITS, TORCH_DTYPES
from prunecli.errors import CheckpointError
from prunecli.formats.pickle.leaves import _MODULES
from prunecli.formats.pickle.reader import Call, Global, Persistent
from prunecli.formats.pickle.tensors import dimensions

_STORAGES = {
    "DoubleStorage": "F64",
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "LongStorage": "I64",
    "IntStorage": "I32",
    "ShortStorage": "I16",
    "CharStorage": "I8",
    "ByteStorage": "U8",
    "BoolStorage": "BOOL",
    "ComplexFloatStorage": "C64",
    "ComplexDoubleStorage": "C128",
    "UntypedStorage": "U8",
    "_UntypedStorage": "U8",
    # Only quantized tensors use these, so only the element size matters.
    "QInt8Storage": "I8",
    "QUInt8Storage": "U8",
    "QInt32Storage": "I32",
    "QUInt4x2Storage": "U8",
    "QUInt2x4Storage": "U8",
}

_STRIDED = {"_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3"}


@dataclass(frozen=True, slots=True)
class StorageClaim:
    """The description of a storage in a persistent id: its key, and `length` elements of `dtype`.

    `view` is the (first element, number of elements) of a part of a storage that the legacy format stores as a storage
    of its own, or None.
    """

    key: str
    dtype: str
    length: int
    view: tuple[int, int] | None = None

    @property
    def nbytes(self) -> int:
        """The size of the whole storage in bytes."""
        return self.length * BITS[self.dtype] // 8


@dataclass(frozen=True, slots=True)
class Storage:
    """A storage whose bytes are `span` of the file; its `claim` is checked."""

    claim: StorageClaim
    span: Span
    big_endian: bool = False


def storage_claim(persistent: Persistent) -> StorageClaim:
    """Return the content of a persistent id ("storage", type, key, location, elements[, view]), or raise ValueError."""
    match persistent.pid:
        case ("storage", Global() as type_, str(key), _, int(length), *rest) if 0 <= length <= MAX_SIZE:
            dtype = _STORAGES.get(type_.name)
            if dtype is None or type_.module.partition(".")[0] != "torch":
                raise ValueError(f"storage {key!r} has the unknown type {f'{type_.module}.{type_.name}'!r}")
            return StorageClaim(key, dtype, length, _view(rest, length))
        case ("storage", _, str(key), *_):
            raise ValueError(f"storage {key!r} has an impossible type or size")
        case _:
            raise ValueError("a persistent id does not describe a storage")


def _view(rest: list[object], length: int) -> tuple[int, int] | None:
    match rest:
        case [] | [None]:
            return None
        case [(_, int(first), int(count))] if first >= 0 and count >= 0 and first + count <= length:
            return first, count
        case _:
            raise ValueError("a view of a storage reaches outside it")


def is_strided(value: object) -> bool:
    """Return whether `value`, already unwrapped, rebuilds an ordinary tensor: a view of a storage with strides."""
    match value:
        case Call(func=Global(module=module, name=name)):
            return module in _MODULES and name in _STRIDED
        case _:
            return False


def tensor_info(name: str, value: object, storages: dict[Persistent, Storage]) -> TensorInfo:
    """Return the metadata of the strided tensor that `value` rebuilds.

    Raises CheckpointError, with the tensor's name, if the call has impossible arguments or the tensor exceeds its
    storage.
    """
    try:
        return _tensor_info(name, value, storages)
    except ValueError as problem:
        raise CheckpointError(f"the tensor {name!r} is damaged: {problem}") from problem


def _tensor_info(name: str, value: object, storages: dict[Persistent, Storage]) -> TensorInfo:
    match value:
        case Call(
            func=Global(name=func),
            args=(Persistent() as key, int(offset), tuple() | list() as size, tuple() | list() as stride, *rest),
        ) if key in storages:
            storage, shape, strides = storages[key], dimensions(size), dimensions(stride)
        case _:
            raise ValueError("its rebuild call has no usable arguments")
    dtype, first, elements = _window(storage.claim, rest if func == "_rebuild_tensor_v3" else None)
    if len(shape) != len(strides) or offset < 0:
        raise ValueError(f"its size {shape}, strides {strides} and offset {offset} do not fit together")
    start = first + offset if prod(shape) else 0  # An empty slice may have any offset.
    reason = _unprunable_reason(shape, strides, rest)
    info = TensorInfo(name, dtype, shape, strides, 0, storage.span, start, storage.big_endian, reason)
    if info.numel and offset + info.extent > elements:
        raise ValueError(f"it reaches to element {offset + info.extent:,}, but its storage has {elements:,} elements")
    return info


def _window(claim: StorageClaim, typed: list[object] | None) -> tuple[str, int, int]:
    """Return the dtype of a tensor, and the first element and number of elements of its storage that it may use.

    `typed` are the arguments of `_rebuild_tensor_v3`, which contain a dtype, or None for the storage's own dtype.
    """
    first, count = claim.view or (0, claim.length)
    if typed is None:
        return claim.dtype, first, count
    match typed:
        case [_, _, Global(module="torch", name=name), *_] if name in TORCH_DTYPES:
            dtype = TORCH_DTYPES[name]
        case _:
            raise ValueError("its dtype is unknown")
    # Newer dtypes are stored untyped: the length of the storage counts bytes, the offset counts elements.
    itemsize, unit = BITS[dtype] // 8, BITS[claim.dtype] // 8
    if first * unit % itemsize:
        raise ValueError("it starts in the middle of an element")
    return dtype, first * unit // itemsize, count * unit // itemsize


def _unprunable_reason(shape: tuple[int, ...], strides: tuple[int, ...], rest: list[object]) -> str | None:
    # The stored numbers are not the values of such a view.
    flags = next((extra for extra in rest[2:] if isinstance(extra, dict)), {})
    if flags.get("conj"):
        return "conjugate view"
    if flags.get("neg"):
        return "negative view"
    return self_overlap(shape, strides)
