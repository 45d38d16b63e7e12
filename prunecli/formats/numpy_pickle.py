"""Pickles of NumPy arrays, as Paddle's .pdparams: arrays whose bytes lie in the pickle as they are.

Nothing is unpickled and no array is read. A pickle of protocol 2 spells bytes as text, in which a zero has another
length than another number: such arrays cannot be pruned where they lie.
"""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass, replace
from math import prod
from typing import BinaryIO

from prunecli.checkpoint import OUTSIDE, Span, TensorInfo, row_major
from prunecli.dtypes import BITS
from prunecli.errors import CheckpointError
from prunecli.formats.pickle.leaves import is_array, other_kind, unwrapped
from prunecli.formats.pickle.opcodes import Blob, bounded
from prunecli.formats.pickle.reader import Call, Global, read_pickle
from prunecli.formats.pickle.state_dict import Names, find_leaves

_PADDLE = "StructuredToParameterName@@"
_READ_LIMIT = 1 << 28  # bytes of the pickle beside the arrays
_RANK_LIMIT = 64
_INT64 = 1 << 63

_DTYPES = {
    "f8": "F64",
    "f4": "F32",
    "f2": "F16",
    "i8": "I64",
    "i4": "I32",
    "i2": "I16",
    "i1": "I8",
    "u8": "U64",
    "u4": "U32",
    "u2": "U16",
    "u1": "U8",
    "b1": "BOOL",
    "c8": "C64",
    "c16": "C128",
}


@dataclass(frozen=True, slots=True)
class ArrayListing:
    """What a pickle of arrays holds; the fields are those of a torch file's listing, without checksums."""

    tensors: tuple[TensorInfo, ...]
    key: str
    format: str
    facts: tuple[str, ...]
    others: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class _Array:
    """The arguments of one array: `order` is C, F, or the permutation of axes that follows a reshape."""

    data: object
    dtype: Call
    shape: tuple[object, ...]
    order: str | tuple[object, ...]


def is_pickle(head: bytes) -> bool:
    """Whether a file that begins with `head` may be a pickle of protocol 2 to 5."""
    return head[:1] == b"\x80" and head[1:2] in {b"\2", b"\3", b"\4", b"\5"}


def read_array_pickle(file: BinaryIO, label: str, *, key: str | None = None) -> ArrayListing:
    """List the NumPy arrays in the pickle `file`, which the user calls `label`.

    `key` is the dotted path of the state_dict, as in torch files. Raises CheckpointError where the pickle is
    damaged, where an array is stored as text, and where there is none that can be listed.
    """
    size = file.seek(0, os.SEEK_END)
    stream = bounded(file, _READ_LIMIT)
    root = read_pickle(stream, label).value
    facts = [f"{behind:,} bytes behind the pickle are passed through"] if (behind := size - stream.tell()) else []
    paddle = isinstance(root, dict) and _PADDLE in root
    found = find_leaves(root, label, key)
    names = Names()
    tensors: list[TensorInfo] = []
    others: list[tuple[str, str]] = []
    for leaves, why in ((found.inside, None), (found.outside, OUTSIDE)):
        for leaf in leaves:
            value, name = unwrapped(leaf.value), names.unique(leaf)
            listed = _listed(name, value, label, paddle=paddle)
            if isinstance(listed, str):
                others.append((name, listed))
            else:
                tensors.append(replace(listed, unprunable_reason=why or listed.unprunable_reason))
    if not tensors:
        raise _no_arrays(label, others)
    form = "Paddle" if paddle else "pickle of NumPy arrays"
    return ArrayListing(tuple(tensors), found.key, form, (*facts, *names.facts()), tuple(others))


def _no_arrays(label: str, others: list[tuple[str, str]]) -> CheckpointError:
    what = f"{others[0][0]!r} is a {others[0][1]}" if others else "it holds no NumPy arrays"
    return CheckpointError(
        f"{label} is not a checkpoint: it is a pickle, not written by torch.save, and {what}",
        hint="save its weights as safetensors with the program that wrote it",
    )


def _listed(name: str, value: object, label: str, *, paddle: bool) -> TensorInfo | str:
    """Describe an array, or say in a few words what else it is; raises CheckpointError where it is damaged."""
    if not is_array(value) or not isinstance(value, Call):
        return other_kind(value) if value is not None else "object"
    array = _array(value)
    if array is None:
        return "NumPy array of an unusual kind"
    kind, big_endian = _dtype(array.dtype)
    if kind not in _DTYPES:
        return "NumPy array of an unusual dtype"
    if not isinstance(array.data, Blob):
        raise _spelled_as_text(name, label, paddle=paddle)
    # Paddle keeps bfloat16 in NumPy's uint16, and has no such integers of its own
    dtype = "BF16" if paddle and kind == "u2" else _DTYPES[kind]
    try:
        return _tensor(name, dtype, array, array.data, big_endian=big_endian)
    except ValueError as problem:
        raise CheckpointError(f"{label} is damaged: the array {name!r} {problem}") from problem


def _spelled_as_text(name: str, label: str, *, paddle: bool) -> CheckpointError:
    code = f"import paddle; paddle.save(paddle.load({label!r}), {label + '.resaved.pdparams'!r}, protocol=4)"
    return CheckpointError(
        f"{label} cannot be pruned in place: its pickle of protocol 2 spells the array {name!r} as text",
        hint=f"python -c {shlex.quote(code)}" if paddle else "save it again with pickle protocol 4",
    )


def _array(call: Call) -> _Array | None:
    """Read the two calls that NumPy rebuilds arrays with: the old one gets a state, protocol 5 has another."""
    match call:
        case Call(args=(Global(name="ndarray"), _, _), state=(1, tuple(shape), Call() as dtype, bool(fortran), data)):
            return _Array(data, dtype, shape, "F" if fortran else "C")
        case Call(args=(data, Call() as dtype, tuple(shape), "K", tuple(axes))):
            return _Array(data, dtype, shape, axes)
        case Call(args=(data, Call() as dtype, tuple(shape), "C" | "F" as order, *_)):
            return _Array(data, dtype, shape, order)
        case _:
            return None


def _dtype(call: Call) -> tuple[str, bool]:
    """Return NumPy's letter and size of an element, and whether it is stored big end first."""
    match call:
        case Call(func=Global(module="numpy", name="dtype"), args=(str(kind), *_), state=(_, str(order), *_)):
            return kind, order == ">"
        case _:
            return "", False


def _dims(numbers: tuple[object, ...]) -> tuple[int, ...]:
    dims = tuple(n for n in numbers if isinstance(n, int) and 0 <= n < _INT64)
    if len(dims) != len(numbers) or len(dims) > _RANK_LIMIT:
        raise ValueError("has a size that is negative, too large or no number")
    return dims


def _tensor(name: str, dtype: str, array: _Array, data: Blob, *, big_endian: bool) -> TensorInfo:
    shape = _dims(array.shape)
    nbytes = prod(shape) * BITS[dtype] // 8
    if nbytes != data.length:
        raise ValueError(f"has {data.length:,} bytes where {nbytes:,} belong")
    strides = row_major(shape)
    if array.order == "F":
        strides = tuple(reversed(row_major(shape[::-1])))
    if isinstance(array.order, tuple):
        axes = _dims(array.order)
        if sorted(axes) != list(range(len(shape))):
            raise ValueError("has its axes in no order")
        shape, strides = tuple(shape[axis] for axis in axes), tuple(strides[axis] for axis in axes)
    unprunable_reason = "its bytes are used twice in the pickle" if data.reused else None
    return TensorInfo(name, dtype, shape, strides, 0, Span(data.start, data.length), 0, big_endian, unprunable_reason)
