"""List the tensors of a GGUF file, by their places in its header (docs/gguf.md of ggml).

The dimensions of a tensor are stored innermost first. They are listed in the order of torch, outermost first.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, BinaryIO

from prunecli.checkpoint import PackedWeights, Span, TensorInfo, row_major
from prunecli.dtypes import BITS
from prunecli.errors import CheckpointError
from prunecli.formats.fingerprints import shortened
from prunecli.formats.gguf.format import GGUF, MAGIC
from prunecli.formats.gguf.types import ARRAY, DTYPES, QUANTIZED, SCALARS, STRING
from prunecli.formats.listing import Listing
from prunecli.formats.pickle.tensors import dimensions
from prunecli.layouts.packed import unprunable_as
from prunecli.text.escape import quoted

if TYPE_CHECKING:
    from collections.abc import Sequence

MOST_TENSORS = 300_000
MOST_ITEMS = 1 << 23
"""The most tensors, and the most entries and texts of the metadata, that are read; vocabularies have fewer."""

_LONGEST_TEXT = 1 << 16  # bytes of a key or a name
_MOST_TEXT = 1 << 26  # bytes of all keys and names
_DEEPEST = 8  # levels of arrays in arrays
_ALIGNMENT = 32  # bytes; that of the data if the metadata states no other


@dataclass(frozen=True, slots=True)
class Value:
    """An entry of the metadata: its bytes in the file, and a text that shows it; None for arrays and long texts."""

    span: Span
    text: str | None
    number: int | None = None


class _Cursor:
    """Reads numbers and texts of the header in the byte order of the file."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.order, self.items, self.named = file, "<", 0, 0
        self.size = file.seek(0, os.SEEK_END)
        self.place = file.seek(0)

    def take(self, count: int) -> bytes:
        """Return the next bytes; ValueError if the file has fewer."""
        self.skip(count)
        self.file.seek(self.place - count)
        return self.file.read(count)

    def skip(self, count: int) -> None:
        """Pass over bytes; ValueError if the file has fewer."""
        if count > self.size - self.place:
            raise ValueError("its header is cut short")
        self.place += count

    def number(self, code: str) -> int:
        """Return the next number of a struct code."""
        (value,) = struct.unpack(self.order + code, self.take(struct.calcsize("<" + code)))
        return int(value)

    def text(self) -> str:
        """Return a key or a name."""
        length = self.number("Q")
        self.named += length
        if length > _LONGEST_TEXT or self.named > _MOST_TEXT:
            raise ValueError(f"one of its names has {length:,} bytes, at most {_LONGEST_TEXT:,}, or all are too long")
        try:
            return self.take(length).decode("utf-8")
        except UnicodeDecodeError:
            raise ValueError("one of its names is not UTF-8 text") from None

    def count(self, items: int) -> None:
        """Count entries of the metadata; ValueError if there are too many."""
        self.items += items
        if self.items > MOST_ITEMS:
            raise ValueError(f"its metadata has more than {MOST_ITEMS:,} entries")


def read_gguf(file: BinaryIO, label: str) -> Listing:
    """List the tensors of `file` in file order; CheckpointError, with `label`, if it is damaged."""
    cursor = _Cursor(file)
    try:
        count = _start(cursor, label)
        metadata = _metadata(cursor)
        entries = [_entry(cursor) for _ in range(count)]
        start = _aligned(cursor.place, _alignment(metadata))
        tensors = tuple(tensor for entry in entries if (tensor := _tensor(entry, start, cursor)) is not None)
        _check_places(tensors)
    except (ValueError, struct.error) as problem:
        raise CheckpointError(
            f"{label} is a damaged or truncated GGUF file: {problem}", hint="download or copy the file again"
        ) from problem
    _check_names([entry.name for entry in entries], label)
    others = tuple((e.name, f"tensor of GGML type {e.kind}") for e in entries if e.kind not in {*DTYPES, *QUANTIZED})
    return Listing(GGUF.name, tensors, notes=_notes(metadata, cursor), unprunable_entries=others)


def read_metadata(file: BinaryIO, label: str) -> dict[str, Value]:
    """Return the metadata of a file that `read_gguf` accepts."""
    cursor = _Cursor(file)
    _start(cursor, label)
    return _metadata(cursor)


def _start(cursor: _Cursor, label: str) -> int:
    """Read the start of the header; return the number of tensors, and leave the number of entries to be read."""
    if cursor.take(4) != MAGIC:
        raise ValueError("it does not begin as one")
    version = cursor.take(4)
    cursor.order = "<" if version[2:] == b"\0\0" else ">"
    number = int.from_bytes(version, "little" if cursor.order == "<" else "big")
    if number not in {2, 3}:
        raise CheckpointError(
            f"{label} is a GGUF file of version {number}, and only 2 and 3 are known",
            hint="convert the model again with a new llama.cpp",
        )
    tensors = cursor.number("Q")
    if tensors > MOST_TENSORS:
        raise ValueError(f"it says that it has {tensors:,} tensors, at most {MOST_TENSORS:,}")
    return tensors


def _metadata(cursor: _Cursor) -> dict[str, Value]:
    metadata: dict[str, Value] = {}
    entries = cursor.number("Q")
    cursor.count(entries)
    for _ in range(entries):
        key = cursor.text()
        if key in metadata:  # readers differ in the one that they take
            raise ValueError(f"its metadata has {quoted(key)} twice")
        metadata[key] = _value(cursor)
    return metadata


def _value(cursor: _Cursor) -> Value:
    kind, start = cursor.number("I"), cursor.place
    if kind in SCALARS:
        (value,) = struct.unpack(cursor.order + SCALARS[kind], cursor.take(struct.calcsize("<" + SCALARS[kind])))
        number = value if type(value) is int else None
        return Value(Span(start, cursor.place - start), repr(value), number)
    _skip(cursor, kind, 0)
    span = Span(start, cursor.place - start)
    if kind != STRING or span.length > _LONGEST_TEXT:
        return Value(span, None)
    cursor.file.seek(start + 8)
    return Value(span, shortened(repr(cursor.file.read(span.length - 8).decode("utf-8", "replace"))))


def _skip(cursor: _Cursor, kind: int, depth: int) -> None:
    """Pass over a value of the metadata."""
    if kind in SCALARS:
        cursor.skip(struct.calcsize("<" + SCALARS[kind]))
    elif kind == STRING:
        cursor.skip(cursor.number("Q"))
    elif kind == ARRAY and depth < _DEEPEST:
        inner, count = cursor.number("I"), cursor.number("Q")
        if inner in SCALARS:
            cursor.skip(count * struct.calcsize("<" + SCALARS[inner]))
            return
        cursor.count(count)
        for _ in range(count):
            _skip(cursor, inner, depth + 1)
    else:
        raise ValueError(f"its metadata has a value of the unknown type {kind}")


@dataclass(frozen=True, slots=True)
class _Entry:
    """The description of a tensor in the header; `offset` counts from the start of the data."""

    name: str
    shape: tuple[int, ...]
    kind: int
    offset: int


def _entry(cursor: _Cursor) -> _Entry:
    name, dims = cursor.text(), cursor.number("I")
    shape = dimensions([cursor.number("Q") for _ in range(min(dims, 65))])
    return _Entry(name, shape[::-1], cursor.number("I"), cursor.number("Q"))


def _alignment(metadata: dict[str, Value]) -> int:
    value = metadata.get("general.alignment")
    if value is None:
        return _ALIGNMENT
    if value.number is None or not 0 < value.number <= 1 << 20 or value.number % 8:
        raise ValueError(f"its alignment of {value.text} bytes is impossible")
    return value.number


def _aligned(place: int, alignment: int) -> int:
    return place + -place % alignment


def _tensor(entry: _Entry, start: int, cursor: _Cursor) -> TensorInfo | None:
    """Return the tensor of an entry whose data begins at `start`, None for an unknown type.

    Blocks of quantized weights are listed as bytes.
    """
    dtype, shape = DTYPES.get(entry.kind), entry.shape
    if dtype is None and entry.kind not in QUANTIZED:
        return None
    if dtype is None:
        _, weights, size = QUANTIZED[entry.kind]
        if not shape or shape[-1] % weights:
            raise ValueError(f"the rows of {quoted(entry.name)} are not a multiple of {weights} weights")
        dtype, shape = "U8", (*shape[:-1], shape[-1] // weights * size)
    span = Span(start + entry.offset, prod(shape) * BITS[dtype] // 8)
    if span.end > cursor.size:
        raise ValueError(f"the tensor {quoted(entry.name)} ends at byte {span.end}, and the file at {cursor.size}")
    info = TensorInfo(entry.name, dtype, shape, row_major(shape), 0, span, big_endian=cursor.order == ">")
    if entry.kind in DTYPES:
        return info
    return unprunable_as(PackedWeights(f"GGUF {QUANTIZED[entry.kind][0]}", prod(entry.shape)), info)


def _check_places(tensors: Sequence[TensorInfo]) -> None:
    end, before = 0, ""
    for tensor in sorted(tensors, key=lambda t: (t.span.start, t.span.length)):
        if tensor.span.start < end:
            raise ValueError(f"the tensors {quoted(before)} and {quoted(tensor.name)} overlap")
        end, before = tensor.span.end, tensor.name


def _check_names(names: Sequence[str], label: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise CheckpointError(f"{label} has two tensors named {quoted(name)}")
        seen.add(name)


def _notes(metadata: dict[str, Value], cursor: _Cursor) -> tuple[str, ...]:
    notes = ["the numbers are stored big-endian"] if cursor.order == ">" else []
    parts = metadata.get("split.count")
    if parts is not None and (parts.number or 0) > 1:
        notes.append("the model is split into several files; their folder stands for all of them")
    return tuple(notes)
