"""The safetensors container: a total check of the header, and where each tensor's bytes are.

The rules are those of the safetensors library's own reader, and stricter in three: a name occurs once only,
the header takes at most `HEADER_LIMIT` bytes, and a shape has at most `MAX_RANK` dimensions. Nothing here
reads tensor data, nor knows about directories.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING

from prunecli.checkpoint import MAX_RANK, Span, TensorInfo, row_major
from prunecli.dtypes import BITS
from prunecli.errors import CheckpointError
from prunecli.formats.strict_json import HEADER_LIMIT, Json, parse_json_object
from prunecli.text.escape import quoted

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import BinaryIO

FORMAT_LIMIT = 100_000_000
"""The longest header, in bytes, that the safetensors format allows."""


DTYPES = frozenset(BITS) - {"C128"}
"""The dtypes the format has."""


@dataclass(frozen=True, slots=True)
class SafetensorsListing:
    """What one safetensors file holds: its tensors (`file` = 0) in name order, and its `__metadata__`."""

    tensors: tuple[TensorInfo, ...]
    metadata: dict[str, str]


def read_safetensors(file: BinaryIO, label: str) -> SafetensorsListing:
    """List the tensors of `file`, called `label` in messages, without reading their data.

    Raise CheckpointError unless the header is valid and its tensors fill the file exactly.
    """
    size = file.seek(0, os.SEEK_END)
    header = _header(file, size, label)
    metadata, entries = _split(parse_json_object(header, f"{label}: the header"), label)
    data = Span(8 + len(header), size - 8 - len(header))
    tensors = [_tensor(name, entry, data.start, label) for name, entry in entries.items()]
    _check_regions(tensors, data, label)
    return SafetensorsListing(tuple(sorted(tensors, key=attrgetter("name"))), metadata)


def _header(file: BinaryIO, size: int, label: str) -> bytes:
    """Return the header's bytes, without the eight that give its length."""
    if size < 8:
        raise CheckpointError(f"{label} is too small for a safetensors file: {size} bytes")
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    if length > FORMAT_LIMIT:
        raise CheckpointError(f"{label}: the header is too large: {length} bytes, at most {FORMAT_LIMIT}")
    if length > size - 8:
        raise CheckpointError(
            f"{label} is truncated: the header takes {length} bytes and the file has {size}",
            hint="download or copy the file again",
        )
    if length > HEADER_LIMIT:
        raise CheckpointError(
            f"{label}: the header is too large to be read: {length} bytes, at most {HEADER_LIMIT}",
            hint="save the model in shards, for example: model.save_pretrained(DIR, max_shard_size='5GB')",
        )
    header = file.read(length)
    if len(header) < length:
        raise CheckpointError(f"{label} became shorter while it was read")
    return header


def _split(header: Iterable[tuple[str, Json]], label: str) -> tuple[dict[str, str], dict[str, Json]]:
    """Part the header into its metadata and its entries by name; a name that occurs twice is refused."""
    entries: dict[str, Json] = {}
    for name, entry in header:
        if name in entries:
            raise CheckpointError(f"{label}: the header names {quoted(name)} twice")
        if not _encodable(name):
            raise CheckpointError(f"{label}: the tensor name {quoted(name)} is not valid Unicode")
        entries[name] = entry
    return _metadata(entries.pop("__metadata__", None), label), entries


def _metadata(entry: Json, label: str) -> dict[str, str]:
    if entry is None:
        return {}
    if not isinstance(entry, tuple):
        raise CheckpointError(f"{label}: __metadata__ is not a JSON object")
    for key, value in entry:
        if not isinstance(value, str) or not _encodable(key + value):
            raise CheckpointError(f"{label}: __metadata__ entry {quoted(key)} is not a string")
    return dict(entry)


def _encodable(text: str) -> bool:
    """Whether `text` has no half of a surrogate pair, which JSON escapes can spell and UTF-8 cannot."""
    return text.isascii() or not any("\ud800" <= c <= "\udfff" for c in text)


def _tensor(name: str, entry: Json, base: int, label: str) -> TensorInfo:
    """Turn one header entry into a TensorInfo; `base` is where the data starts in the file, in bytes."""
    where = f"{label}: tensor {quoted(name)}"
    fields = dict(entry) if isinstance(entry, tuple) else {}
    if not isinstance(entry, tuple) or len(fields) != len(entry):
        raise CheckpointError(f"{where} is not described by one JSON object with each field once")
    dtype = fields.get("dtype")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise CheckpointError(f"{where} has an unknown dtype: {quoted(str(dtype))}")
    shape = _sizes(fields.get("shape"), f"{where}: the shape")
    offsets = _sizes(fields.get("data_offsets"), f"{where}: data_offsets")
    if len(offsets) != 2 or offsets[0] > offsets[1]:
        raise CheckpointError(f"{where}: data_offsets {list(offsets)} are not a start and an end")
    span = Span(base + offsets[0], offsets[1] - offsets[0])
    if _bits(shape, dtype, where) != 8 * span.length:
        raise CheckpointError(
            f"{where}: {dtype} {list(shape)} does not take the {span.length} bytes of its data_offsets"
        )
    return TensorInfo(name, dtype, shape, row_major(shape), 0, span)


def _sizes(value: Json, what: str) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(type(n) is int and 0 <= n < 1 << 64 for n in value):
        raise CheckpointError(f"{what} is missing or not a list of integers from 0 to 2^64 - 1")
    if len(value) > MAX_RANK:
        raise CheckpointError(f"{what} has {len(value)} entries, at most {MAX_RANK}")
    return tuple(value)


def _bits(shape: tuple[int, ...], dtype: str, where: str) -> int:
    """Multiply left to right and refuse an overflow of 64 bits on the way, as the library does."""
    bits = 1
    for n in (*shape, BITS[dtype]):
        bits *= n
        if bits >> 64:
            raise CheckpointError(f"{where}: the shape has too many elements to exist")
    return bits


def _check_regions(tensors: list[TensorInfo], data: Span, label: str) -> None:
    """Refuse holes, overlaps, missing and surplus bytes: the tensors must fill `data` exactly."""
    end = data.start
    for t in sorted(tensors, key=lambda t: (t.span.start, t.span.length)):
        if t.span.start < end:
            raise CheckpointError(f"{label}: tensor {quoted(t.name)} overlaps the tensor before it")
        if t.span.start > end:
            raise CheckpointError(
                f"{label}: {t.span.start - end} bytes before tensor {quoted(t.name)} belong to no tensor"
            )
        end = t.span.end
    if end > data.end:
        raise CheckpointError(
            f"{label} is truncated: its tensors end at byte {end} and the file at {data.end}",
            hint="download or copy the file again",
        )
    if end < data.end:
        raise CheckpointError(f"{label} has {data.end - end} bytes after its last tensor")
