"""List the arrays in pickles of NumPy arrays, such as Paddle's .pdparams.

Nothing is unpickled and no array data is read. A pickle of protocol 2 stores bytes as text, in which a zero has another
length than other numbers: such arrays cannot be pruned in place.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import TYPE_CHECKING, BinaryIO

from prunecli.checkpoint import Span, TensorInfo, row_major
from prunecli.dtypes import BITS, NUMPY_DTYPES
from prunecli.errors import CheckpointError
from prunecli.formats.listing import Listing
from prunecli.formats.numpy_pickle.format import NUMPY_PICKLE, PADDLE
from prunecli.formats.pickle.leaves import is_array, other_kind, unwrapped
from prunecli.formats.pickle.opcodes import Blob, bounded
from prunecli.formats.pickle.places import Empty
from prunecli.formats.pickle.reader import ODD_KEY, Call, Global, read_pickle
from prunecli.formats.pickle.tensors import dimensions, usual_strides, with_tensors
from prunecli.text.escape import quoted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prunecli.formats.pickle.reader import Pickle

PICKLE_LIMIT = 1 << 28
"""Bytes of a pickle that are read, without its arrays."""

_PADDLE_KEY = "StructuredToParameterName@@"  # paddle.save adds this entry to every state_dict


@dataclass(frozen=True, slots=True)
class _Array:
    """The arguments of one array: `order` is "C", "F", or the permutation of the axes after the reshape."""

    data: object
    dtype: Call
    shape: tuple[object, ...]
    order: str | tuple[object, ...]


def read_numpy_pickle(file: BinaryIO, label: str, keys: Sequence[str] = ()) -> Listing:
    """List the NumPy arrays in the pickle `file`; `Listing.format` is "Paddle" or "pickle of NumPy arrays".

    `keys` are the dotted paths of the state_dicts or globs over them; without any, it is looked for. Raises
    CheckpointError, with `label`, if the pickle is damaged, if an array is stored as text, or if there is no array.
    """
    size = file.seek(0, os.SEEK_END)
    stream = bounded(file, PICKLE_LIMIT)
    pickle = read_pickle(stream, label)
    _check_places(pickle, label)
    root = pickle.value
    extra = size - stream.tell()
    notes = (f"{extra:,} bytes after the pickle are copied unchanged",) if extra else ()
    paddle = isinstance(root, dict) and _PADDLE_KEY in root
    listing = Listing((PADDLE if paddle else NUMPY_PICKLE).name, (), notes=notes)
    describe = partial(_tensor_or_kind, label=label, paddle=paddle)
    listing = with_tensors(listing, root, label, keys, describe, pickle.length)
    if not listing.tensors:
        raise _no_arrays(label, listing.unprunable_entries)
    return listing


def _check_places(pickle: Pickle, label: str) -> None:
    """Refuse arrays where they cannot be listed, and containers that a loader may fill with other values."""
    problem = next((doubt for doubt in pickle.doubts if doubt != ODD_KEY), None)  # NumPy's scalars are usual keys
    if problem is not None:
        raise CheckpointError(f"{label} cannot be read safely: {problem}")
    try:
        Empty().check(pickle.attributes, "an attribute of a dict")
    except ValueError as error:
        raise CheckpointError(f"{label} cannot be read safely: {error}") from error


def _no_arrays(label: str, others: Sequence[tuple[str, str]]) -> CheckpointError:
    what = f"{others[0][0]!r} is a {others[0][1]}" if others else "it holds no NumPy arrays"
    return CheckpointError(
        f"{label} is not a checkpoint: it is a pickle, not written by torch.save, and {what}",
        hint="save its weights as safetensors with the program that wrote it",
    )


def _tensor_or_kind(name: str, value: object, label: str, *, paddle: bool) -> TensorInfo | str:
    """Return the metadata of an array, or the kind of any other value; raise CheckpointError for a damaged array."""
    value = unwrapped(value)
    if not is_array(value) or not isinstance(value, Call):
        return other_kind(value) if value is not None else "object"
    if value.items or value.entries:
        raise CheckpointError(f"{label} cannot be read safely: the array {quoted(name)} is changed after it is made")
    array = _array(value)
    if array is None:
        return "NumPy array of an unusual kind"
    # Arrays of objects and of text store pickles or characters, not numbers.
    letter, big_endian = _dtype(array.dtype)
    if letter not in NUMPY_DTYPES:
        return "NumPy array of an unusual dtype"
    if not isinstance(array.data, Blob):
        raise _stored_as_text(name, label, paddle=paddle)
    # Paddle stores bfloat16 as NumPy's uint16, and has no uint16 of its own.
    dtype = "BF16" if paddle and letter == "u2" else NUMPY_DTYPES[letter]
    try:
        return _tensor(name, dtype, array, array.data, big_endian=big_endian)
    except ValueError as problem:
        raise CheckpointError(f"{label} is damaged: the array {name!r}: {problem}") from problem


PROTOCOL_4 = "where the model is made, save it again: paddle.save(layer.state_dict(), path, protocol=4)"
"""The hint for arrays stored as text. No command: paddle.load unpickles the file, which runs its code."""


def _stored_as_text(name: str, label: str, *, paddle: bool) -> CheckpointError:
    return CheckpointError(
        f"{label} cannot be pruned in place: its pickle of protocol 2 stores the array {name!r} as text",
        hint=PROTOCOL_4 if paddle else "save it again with pickle protocol 4",
    )


def span_of(leaf: object) -> Span | None:
    """Return the bytes of an array's elements, or None for other values and for arrays that are stored as text."""
    value = unwrapped(leaf)
    array = _array(value) if is_array(value) and isinstance(value, Call) else None
    if array is None or not isinstance(array.data, Blob):
        return None
    return Span(array.data.start, array.data.length)


def _array(call: Call) -> _Array | None:
    """Return the arguments of the calls that rebuild NumPy arrays, or None for an unknown form.

    Up to protocol 4 NumPy pickles an empty array with a state; protocol 5 pickles a call with a buffer.
    """
    match call:
        case Call(
            args=(Global("numpy", "ndarray"), _, _), state=(1, tuple(shape), Call() as dtype, bool(fortran), data)
        ):
            return _Array(data, dtype, shape, "F" if fortran else "C")
        case Call(args=(data, Call() as dtype, tuple(shape), "K", tuple(axes)), state=None):
            return _Array(data, dtype, shape, axes)
        case Call(args=(data, Call() as dtype, tuple(shape), "C" | "F" as order, *_), state=None):
            return _Array(data, dtype, shape, order)
        case _:
            return None


def _dtype(call: Call) -> tuple[str, bool]:
    """Return NumPy's letter and size of an element, such as "f4", and whether it is big-endian."""
    match call:
        # The three values after the order make a structured dtype.
        case Call(Global("numpy", "dtype"), (str(letter), *_), state=(_, str(order), None, None, None, *_)):
            return letter, order == ">"
        case _:
            return "", False


def _tensor(name: str, dtype: str, array: _Array, data: Blob, *, big_endian: bool) -> TensorInfo:
    shape = dimensions(array.shape)
    nbytes = prod(shape) * BITS[dtype] // 8
    if nbytes != data.length:
        raise ValueError(f"it has {data.length:,} bytes instead of {nbytes:,}")
    strides = row_major(shape)
    if array.order == "F":
        strides = tuple(reversed(row_major(shape[::-1])))
    if isinstance(array.order, tuple):
        axes = dimensions(array.order)
        if sorted(axes) != list(range(len(shape))):
            raise ValueError("its order of axes is impossible")
        shape, strides = tuple(shape[axis] for axis in axes), tuple(strides[axis] for axis in axes)
    strides = usual_strides(shape, strides)
    reason = "its bytes are used twice in the pickle" if data.reused else None
    return TensorInfo(name, dtype, shape, strides, 0, Span(data.start, data.length), 0, big_endian, reason)
