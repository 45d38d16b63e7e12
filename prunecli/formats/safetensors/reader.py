"""Read safetensors files: check the whole header, and return the position of each tensor.

The rules are those of the safetensors library, and three stricter ones: a name occurs only once, the header has at most
`HEADER_LIMIT` bytes, and a shape has at most `MAX_RANK` dimensions. No tensor data is read.
"""

from __future__ import annotations

import os
from operator import attrgetter
from typing import TYPE_CHECKING

from prunecli.checkpoint import MAX_RANK, Span, TensorInfo, row_major
from prunecli.dtypes import BITS
from prunecli.errors import CheckpointError
from prunecli.formats.listing import Listing
from prunecli.formats.safetensors.format import SAFETENSORS
from prunecli.formats.strict_json import HEADER_LIMIT, Json, parse_json_object
from prunecli.text.escape import encodable, quoted

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import BinaryIO

FORMAT_LIMIT = 100_000_000
"""The longest header, in bytes, that the safetensors format allows."""


DTYPES = frozenset(BITS) - {"C128"}
"""The dtypes of the format."""


def read_safetensors(file: BinaryIO, label: str) -> Listing:
    """List the tensors of `file` in name order, and its `__metadata__`.

    Raises CheckpointError, with `label`, unless the header is valid and the tensors fill the file exactly.
    """
    size = file.seek(0, os.SEEK_END)
    header = _header(file, size, label)
    metadata, entries = _split(parse_json_object(header, f"{label}: the header"), label)
    data = Span(8 + len(header), size - 8 - len(header))
    tensors = [_tensor(name, entry, data.start, label) for name, entry in entries.items()]
    _check_regions(tensors, data, label)
    return Listing(SAFETENSORS.name, tuple(sorted(tensors, key=attrgetter("name"))), metadata=metadata)


def _header(file: BinaryIO, size: int, label: str) -> bytes:
    """Return the bytes of the header, without the eight bytes of its length."""
    if size < 8:
        raise CheckpointError(f"{label} is too small for a safetensors file: {size} bytes")
    file.seek(0)
    # The length is checked before the header is read: a false one must not allocate memory.
    length = int.from_bytes(file.read(8), "little")
    if length > FORMAT_LIMIT:
        raise CheckpointError(f"{label}: the header is too large: {length} bytes, at most {FORMAT_LIMIT}")
    if length > size - 8:
        raise CheckpointError(
            f"{label} is truncated: the header has {length} bytes and the file has {size}",
            hint="download or copy the file again",
        )
    if length > HEADER_LIMIT:
        raise CheckpointError(
            f"{label}: the header is too large to read: {length} bytes, at most {HEADER_LIMIT}",
            hint="save the model in shards, for example: model.save_pretrained(DIR, max_shard_size='5GB')",
        )
    header = file.read(length)
    if len(header) < length:
        raise CheckpointError(f"{label} became shorter while it was read")
    return header


def _split(header: Iterable[tuple[str, Json]], label: str) -> tuple[dict[str, str], dict[str, Json]]:
    """Return the metadata and the entries by name; refuse a name that occurs twice."""
    entries: dict[str, Json] = {}
    for name, entry in header:
        # The format forbids equal names. The library keeps the last one, and another reader may keep the first.
        if name in entries:
            raise CheckpointError(f"{label}: the header names {quoted(name)} twice")
        if not encodable(name):
            raise CheckpointError(f"{label}: the tensor name {quoted(name)} is not valid Unicode")
        entries[name] = entry
    return _metadata(entries.pop("__metadata__", None), label), entries


def _metadata(entry: Json, label: str) -> dict[str, str]:
    # The library accepts null as well.
    if entry is None:
        return {}
    if not isinstance(entry, tuple):
        raise CheckpointError(f"{label}: __metadata__ is not a JSON object")
    for key, value in entry:
        if not isinstance(value, str) or not encodable(key + value):
            raise CheckpointError(f"{label}: __metadata__ entry {quoted(key)} is not a string")
    return dict(entry)


def _tensor(name: str, entry: Json, base: int, label: str) -> TensorInfo:
    """Return the metadata of one header entry; `base` is the offset of the data in the file, in bytes."""
    fields = dict(entry) if isinstance(entry, tuple) else {}
    if not isinstance(entry, tuple) or len(fields) != len(entry):
        raise CheckpointError(f"{_where(label, name)} is not described by a JSON object with unique fields")
    dtype = fields.get("dtype")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise CheckpointError(f"{_where(label, name)} has an unknown dtype: {quoted(str(dtype))}")
    shape = _sizes(fields.get("shape"), (label, name, "the shape"))
    offsets = _sizes(fields.get("data_offsets"), (label, name, "data_offsets"))
    if len(offsets) != 2 or offsets[0] > offsets[1]:
        raise CheckpointError(f"{_where(label, name)}: data_offsets {list(offsets)} are not a start and an end")
    span = Span(base + offsets[0], offsets[1] - offsets[0])
    if _bits(shape, dtype, label, name) != 8 * span.length:
        raise CheckpointError(
            f"{_where(label, name)}: {dtype} {list(shape)} does not match the {span.length} bytes of its data_offsets"
        )
    return TensorInfo(name, dtype, shape, row_major(shape), 0, span)


def _where(label: str, name: str) -> str:
    # In messages alone: a file may have very many tensors.
    return f"{label}: tensor {quoted(name)}"


def _sizes(value: Json, what: tuple[str, str, str]) -> tuple[int, ...]:
    # Not isinstance: True is an int, but not a size.
    if not isinstance(value, list) or set(map(type, value)) - {int} or not all(0 <= n < 1 << 64 for n in value):
        raise CheckpointError(f"{_where(*what[:2])}: {what[2]} is missing or not a list of integers from 0 to 2^64 - 1")
    if len(value) > MAX_RANK:
        raise CheckpointError(f"{_where(*what[:2])}: {what[2]} has {len(value)} entries, at most {MAX_RANK}")
    return tuple(value)


def _bits(shape: tuple[int, ...], dtype: str, label: str, name: str) -> int:
    """Return the size in bits. Like the library, multiply from left to right and refuse an overflow of 64 bits."""
    bits = 1
    # So [2^62, 2^62, 0] is refused, and [0, 2^62, 2^62] is an empty tensor.
    for n in (*shape, BITS[dtype]):
        bits *= n
        if bits >> 64:
            raise CheckpointError(f"{_where(label, name)}: the shape has too many elements")
    return bits


def _check_regions(tensors: list[TensorInfo], data: Span, label: str) -> None:
    """Refuse gaps, overlaps, missing and extra bytes: the tensors must fill `data` exactly."""
    end = data.start
    # By length too: an empty tensor belongs before the tensor that starts at the same byte.
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
