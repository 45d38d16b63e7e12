"""What torch's own globals in a pickle mean: which calls rebuild a tensor, and where in a storage it looks.

Takes symbolic values and gives metadata; calls nothing, and knows nothing about names or files.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from prunecli.checkpoint import Span, TensorInfo, self_overlap
from prunecli.dtypes import BITS, TORCH_DTYPES
from prunecli.errors import CheckpointError
from prunecli.formats.pickle.leaves import _MODULES
from prunecli.formats.pickle.reader import Call, Global, Persistent

_INT64 = 1 << 63

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
    # only quantized tensors look into these: what counts is the size
    "QInt8Storage": "I8",
    "QUInt8Storage": "U8",
    "QInt32Storage": "I32",
    "QUInt4x2Storage": "U8",
    "QUInt2x4Storage": "U8",
}


_STRIDED = {"_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3"}


@dataclass(frozen=True, slots=True)
class StorageClaim:
    """What a persistent id says about a storage: its key, and `length` elements of `dtype`.

    `view`, where set, is (first element, elements) of the part the old format calls a storage of its own.
    """

    key: str
    dtype: str
    length: int
    view: tuple[int, int] | None = None

    @property
    def nbytes(self) -> int:
        """Bytes the whole storage takes."""
        return self.length * BITS[self.dtype] // 8


@dataclass(frozen=True, slots=True)
class Storage:
    """A claim that holds: its bytes are `span` of the file."""

    claim: StorageClaim
    span: Span
    big_endian: bool = False


def storage_claim(persistent: Persistent) -> StorageClaim:
    """Read ("storage", type, key, location, elements[, view]); raises ValueError saying what is wrong with it."""
    match persistent.pid:
        case ("storage", Global() as kind, str(key), _, int(length), *rest) if 0 <= length < _INT64:
            dtype = _STORAGES.get(kind.name)
            if dtype is None or kind.module.partition(".")[0] != "torch":
                raise ValueError(f"storage {key!r} has the unknown type {f'{kind.module}.{kind.name}'!r}")
            return StorageClaim(key, dtype, length, _view(rest, length))
        case ("storage", _, str(key), *_):
            raise ValueError(f"storage {key!r} has no sensible type or size")
        case _:
            raise ValueError("a persistent id describes no storage")


def _view(rest: list[object], length: int) -> tuple[int, int] | None:
    match rest:
        case [] | [None]:
            return None
        case [(_, int(first), int(count))] if first >= 0 and count >= 0 and first + count <= length:
            return first, count
        case _:
            raise ValueError("a view of a storage reaches outside it")


def is_strided(value: object) -> bool:
    """Whether `value`, already unwrapped, rebuilds an ordinary tensor: one that looks into a storage by strides."""
    match value:
        case Call(func=Global(module=module, name=name)):
            return module in _MODULES and name in _STRIDED
        case _:
            return False


def tensor_info(name: str, value: object, storages: dict[Persistent, Storage], outside: str | None) -> TensorInfo:
    """Describe the tensor `value` (strided) rebuilds; `outside`, where set, is why it must stay as it is.

    Raises CheckpointError, naming the tensor, where the call makes no sense or looks outside its storage.
    """
    try:
        return _tensor_info(name, value, storages, outside)
    except ValueError as problem:
        raise CheckpointError(f"the tensor {name!r} is damaged: {problem}") from problem


def _tensor_info(name: str, value: object, storages: dict[Persistent, Storage], outside: str | None) -> TensorInfo:
    match value:
        case Call(
            func=Global(name=func),
            args=(Persistent() as key, int(offset), tuple() | list() as size, tuple() | list() as stride, *rest),
        ) if key in storages:
            storage, shape, strides = storages[key], _dims(size), _dims(stride)
        case _:
            raise ValueError("its rebuild call has no usable arguments")
    dtype, first, room = _window(storage.claim, rest if func == "_rebuild_tensor_v3" else None)
    if len(shape) != len(strides) or offset < 0:
        raise ValueError(f"its size is {shape}, its strides {strides}, its offset {offset}")
    start = first + offset if prod(shape) else 0  # an empty slice may point anywhere
    unprunable_reason = outside or _why_fixed(shape, strides, rest)
    info = TensorInfo(name, dtype, shape, strides, 0, storage.span, start, storage.big_endian, unprunable_reason)
    if info.numel and offset + info.extent > room:
        raise ValueError(f"it reaches to element {offset + info.extent:,} of a storage of {room:,}")
    return info


def _window(claim: StorageClaim, typed: list[object] | None) -> tuple[str, int, int]:
    """Return the dtype, the first element and the number of elements a tensor on a storage may look at.

    `typed` are the arguments that carry a dtype of the tensor's own, where it has one.
    """
    first, count = claim.view or (0, claim.length)
    if typed is None:
        return claim.dtype, first, count
    match typed:
        case [_, _, Global(module="torch", name=name), *_] if name in TORCH_DTYPES:
            dtype = TORCH_DTYPES[name]
        case _:
            raise ValueError("its dtype is not known here")
    itemsize, unit = BITS[dtype] // 8, BITS[claim.dtype] // 8
    if first * unit % itemsize:
        raise ValueError("it starts in the middle of an element")
    return dtype, first * unit // itemsize, count * unit // itemsize


def _dims(numbers: tuple[object, ...] | list[object]) -> tuple[int, ...]:
    dims = tuple(n for n in numbers if isinstance(n, int) and 0 <= n < _INT64)
    if len(dims) != len(numbers) or len(dims) > 64:
        raise ValueError("a size or stride of it is negative, too large or no number")
    return dims


def _why_fixed(shape: tuple[int, ...], strides: tuple[int, ...], rest: list[object]) -> str | None:
    flags = next((extra for extra in rest[2:] if isinstance(extra, dict)), {})
    if flags.get("conj"):
        return "conjugate view"
    if flags.get("neg"):
        return "negative view"
    return self_overlap(shape, strides)
