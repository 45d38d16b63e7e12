"""Interpret the calls in a pickle that rebuild torch tensors: dtype, shape, strides and position in a storage.

Works on symbolic values and returns metadata. Nothing is called, and no file is read.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from prunecli.checkpoint import MAX_SIZE, Span, TensorInfo, self_overlap
from prunecli.dtypes import BITS, TORCH_DTYPES
from prunecli.errors import CheckpointError
from prunecli.formats.pickle.leaves import MODULES, STRIDED, wrappers
from prunecli.formats.pickle.reader import Call, Global, Persistent
from prunecli.formats.pickle.tensors import check_size, dimensions, usual_strides
from prunecli.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Collection, Container, Iterable

    from prunecli.formats.pickle.reader import Pickle

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


@dataclass(frozen=True, slots=True)
class View:
    """A part of a storage that the legacy format treats as a storage of its own, with a key of its own.

    It has `count` elements from element `first` on.
    """

    key: str
    first: int
    count: int


@dataclass(frozen=True, slots=True)
class StorageClaim:
    """The description of a storage in a persistent id: its key, and `length` elements of `dtype`.

    `view` is the part of the storage that is meant, or None. `quantized` is whether only quantized tensors use it.
    """

    key: str
    dtype: str
    length: int
    view: View | None = None
    quantized: bool = False

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
        case ("storage", Global() as type_, str(key), str(location), int(length), *rest) if _possible(key, length):
            dtype = _STORAGES.get(type_.name)
            if dtype is None or type_.module.partition(".")[0] != "torch":
                raise ValueError(f"storage {key!r} has the unknown type {f'{type_.module}.{type_.name}'!r}")
            if location == "meta":
                raise ValueError(f"storage {key!r} is on the meta device, which has no values")
            return StorageClaim(key, dtype, length, _view(rest, length), type_.name.startswith("Q"))
        case ("storage", _, str(key), *_):
            raise ValueError(f"storage {key!r} has an impossible type or size")
        case _:
            raise ValueError("a persistent id does not describe a storage")


def storage_claims(pickle: Pickle) -> dict[Persistent, StorageClaim]:
    """Return the claim of each persistent id of `pickle`; ValueError if one is damaged.

    torch's loader gives a storage the dtype of its first claim, even if nothing refers to that claim. So all claims
    must agree, unless the storage is empty.
    """
    claims = {
        persistent: storage_claim(persistent)
        for persistent in pickle.persistent
        # A pickled module stores its class and source code under a persistent id too.
        if not (isinstance(persistent.pid, tuple) and persistent.pid[:1] == ("module",))
    }
    first: dict[str, StorageClaim] = {}
    for claim in claims.values():
        if claim.length and first.setdefault(claim.key, claim).dtype != claim.dtype:
            raise ValueError(f"storage {claim.key!r} has two dtypes: {first[claim.key].dtype} and {claim.dtype}")
    _check_views(claims.values())
    return claims


def _check_views(claims: Collection[StorageClaim]) -> None:
    """Check that the key of each view stands for one view only: torch's loader takes the first one of each key."""
    storages = {claim.key for claim in claims}
    views: dict[str, StorageClaim] = {}
    for claim in claims:
        if claim.view and (claim.view.key in storages or views.setdefault(claim.view.key, claim) != claim):
            raise ValueError(f"two views of storages have the key {claim.view.key!r}")


def _possible(key: str, length: int) -> bool:
    # Zip readers do not agree on names that are not ASCII. torch writes numbers as keys.
    return bool(key) and key.isascii() and type(length) is int and 0 <= length <= MAX_SIZE


def _view(rest: list[object], length: int) -> View | None:
    match rest:
        case [] | [None]:
            return None
        case [(str(key), int(first), int(count))] if first >= 0 and count >= 0 and first + count <= length:
            if bool in {type(first), type(count)}:
                raise ValueError("a view of a storage has a bool as its size")
            return View(key, first, count)
        case _:
            raise ValueError("a view of a storage reaches outside it")


def is_strided(value: object) -> bool:
    """Return whether `value`, already unwrapped, rebuilds an ordinary tensor: a view of a storage with strides."""
    match value:
        case Call(func=Global(module=module, name=name)):
            return module in MODULES and name in STRIDED
        case _:
            return False


def unknown_dtype(value: object) -> str | None:
    """Return the dtype of a strided tensor if it is one of torch that this package cannot read, such as bits8."""
    match value:
        case Call(
            func=Global(name="_rebuild_tensor_v3"), args=(_, _, _, _, _, _, Global(module="torch", name=name), *_)
        ):
            return None if name in TORCH_DTYPES else name
        case _:
            return None


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
        ) if key in storages and type(offset) is int:
            storage, shape, strides = storages[key], dimensions(size), dimensions(stride)
        case _:
            raise ValueError("its rebuild call has no usable arguments")
    dtype, first, elements = _window(storage.claim, rest if func == "_rebuild_tensor_v3" else None)
    if len(shape) != len(strides) or not 0 <= offset <= MAX_SIZE:
        raise ValueError(f"its size {shape}, strides {strides} and offset {_short(offset)} do not fit together")
    if storages[key].big_endian and BITS[dtype] != BITS[storage.claim.dtype]:
        raise ValueError("its elements have another size than those of its big-endian storage")
    strides = usual_strides(shape, strides)
    start = first + offset if prod(shape) else 0  # An empty slice may have any offset.
    reason = _unprunable_reason(shape, strides, rest)
    info = TensorInfo(name, dtype, shape, strides, 0, storage.span, start, storage.big_endian, reason)
    if info.numel and offset + info.extent > elements:
        raise ValueError(f"it reaches to element {offset + info.extent:,}, but its storage has {elements:,} elements")
    check_size(shape)
    return info


def _short(number: int) -> str:
    return str(number) if abs(number) <= MAX_SIZE else f"of {number.bit_length():,} bits"


def _window(claim: StorageClaim, typed: list[object] | None) -> tuple[str, int, int]:
    """Return the dtype of a tensor, and the first element and number of elements of its storage that it may use.

    `typed` are the arguments of `_rebuild_tensor_v3`, which contain a dtype, or None for the storage's own dtype.
    """
    first, count = (claim.view.first, claim.view.count) if claim.view else (0, claim.length)
    if typed is None:
        if claim.quantized:
            raise ValueError("its storage is that of a quantized tensor")
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


def conversion(value: object, dtype: str) -> str | None:
    """Return the kind of a leaf whose elements torch converts when it loads them, or None.

    `value` is the leaf with its wrappers, and `dtype` is that of the tensor inside.
    """
    for wrapper in wrappers(value):
        match wrapper:
            case Call(func=Global(name="_rebuild_device_tensor_from_cpu_tensor"), args=(_, wanted, device, *_)):
                name = wanted.name if isinstance(wanted, Global) else ""
                if TORCH_DTYPES.get(name) != dtype or not isinstance(device, str) or device == "meta":
                    return "tensor that torch converts when it is loaded"
            case _:
                continue
    return None


def storages_below(values: Iterable[object], known: Container[Persistent]) -> set[Persistent]:
    """Return the storages of calls that rebuild other kinds of tensors; storages themselves are not meant."""
    found: set[Persistent] = set()
    pending = [value.args for value in values if isinstance(value, Call)]
    seen: dict[int, object] = {}
    while pending:
        for item in pending.pop():
            if isinstance(item, Persistent) and item in known:
                found.add(item)
            elif isinstance(item, (tuple, list, Call)) and id(item) not in seen:
                seen[id(item)] = item
                pending.append(item.args if isinstance(item, Call) else tuple(item))
    return found
