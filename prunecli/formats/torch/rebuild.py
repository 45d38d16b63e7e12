"""What torch's own globals in a pickle mean: which calls rebuild a tensor, and where in a storage it looks.

Takes symbolic values and gives metadata; calls nothing, and knows nothing about names or files.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from prunecli.checkpoint import Span, TensorInfo
from prunecli.dtypes import BITS
from prunecli.errors import CheckpointError
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

DTYPES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "float8_e4m3fnuz": "F8_E4M3FNUZ",
    "float8_e5m2fnuz": "F8_E5M2FNUZ",
    "float8_e8m0fnu": "F8_E8M0",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint64": "U64",
    "uint32": "U32",
    "uint16": "U16",
    "uint8": "U8",
    "bool": "BOOL",
    "complex64": "C64",
    "complex128": "C128",
}
"""safetensors' name for each of torch's dtypes that has one."""

_STRIDED = {"_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3"}
_WRAPPERS = {
    "_rebuild_parameter",
    "_rebuild_parameter_with_state",
    "_rebuild_device_tensor_from_cpu_tensor",
}
_SUBCLASSES = {"_rebuild_from_type", "_rebuild_from_type_v2"}
_MODULES = {"torch._utils", "torch._tensor", "torch.tensor"}
_OTHERS = {
    "_rebuild_sparse_tensor": "sparse tensor",
    "_rebuild_sparse_csr_tensor": "sparse tensor",
    "_rebuild_qtensor": "quantized tensor",
    "_rebuild_nested_tensor": "nested tensor",
    "_rebuild_meta_tensor_no_storage": "meta tensor",
    "_rebuild_wrapper_subclass": "tensor of a wrapper subclass",
}
_ARRAYS = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy.core.numeric", "_frombuffer"),
    ("numpy._core.numeric", "_frombuffer"),
}


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


def is_leaf(value: object) -> bool:
    """Whether `value` is a storage or what some tensor or array library rebuilds: nothing to look for inside."""
    if isinstance(value, Persistent) or is_array(value):
        return True
    if isinstance(value, tuple):
        return _is_named_array(value)
    if not isinstance(value, Call) or not isinstance(value.func, Global):
        return False
    return value.func.name.startswith("_rebuild_") and value.func.module.partition(".")[0] == "torch"


def is_array(value: object) -> bool:
    """Whether `value` is what NumPy rebuilds an array from."""
    if not isinstance(value, Call) or not isinstance(value.func, Global):
        return False
    return (value.func.module, value.func.name) in _ARRAYS


def _is_named_array(value: tuple[object, ...]) -> bool:
    # Paddle pickles a parameter as the tuple of its own name and its array
    return len(value) == 2 and isinstance(value[0], str) and is_array(value[1])


def unwrapped(value: object) -> object:
    """Return the call inside a Parameter's, a subclass's or Paddle's pair; any other value as it is."""
    if isinstance(value, tuple):
        return value[1]
    for _ in range(8):  # a Parameter of a subclass has two wrappings; a hostile file has any number
        match value:
            case Call(func=Global(module=module, name=name), args=(inner, *_)) if (
                module in _MODULES and name in _WRAPPERS
            ):
                value = inner
            case Call(func=Global(module=module, name=name), args=(func, _, tuple(args), *_)) if (
                module in _MODULES and name in _SUBCLASSES
            ):
                value = Call(func, args)
            case _:
                return value
    return value


def is_strided(value: object) -> bool:
    """Whether `value`, already unwrapped, rebuilds an ordinary tensor: one that looks into a storage by strides."""
    match value:
        case Call(func=Global(module=module, name=name)):
            return module in _MODULES and name in _STRIDED
        case _:
            return False


def other_kind(value: object) -> str:
    """Say in a few words what a leaf, already unwrapped, is when it is no ordinary tensor."""
    match value:
        case Persistent():
            return "bare storage"
        case Call(func=Global(module=module, name=name)) if (module, name) in _ARRAYS:
            return "NumPy array"
        case Call(func=Global(module=module, name=name)):
            return _OTHERS.get(name, f"tensor that {module}.{name} rebuilds")
        case _:
            return "tensor of an unknown kind"


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
    fixed = outside or _why_fixed(shape, strides, rest)
    info = TensorInfo(name, dtype, shape, strides, 0, storage.span, start, storage.big_endian, fixed)
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
        case [_, _, Global(module="torch", name=name), *_] if name in DTYPES:
            dtype = DTYPES[name]
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
    return why_view(shape, strides)


def why_view(shape: tuple[int, ...], strides: tuple[int, ...]) -> str | None:
    """Say why a view of `shape` and `strides` cannot be pruned, or None where each position is a number of its own."""
    if not prod(shape):
        return None
    reach = 0  # the last element the narrower dimensions touch
    for stride, n in sorted((stride, n) for n, stride in zip(shape, strides, strict=True) if n > 1):
        if not stride:
            return "expanded view"
        if stride <= reach:
            return "view that overlaps itself"
        reach += stride * (n - 1)
    return None
