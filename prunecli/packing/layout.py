"""The order of the records of a packed zip: with it torch.load(mmap=True) raises, and never loads compressed bytes.

torch.load(mmap=True) maps as many bytes as a storage has from the offset of its record on, whether the record is
compressed or not. Where the file ends before, the storage is cut short, and a tensor that needs more of it raises. So
the last record is a compressed one, and one of its tensors ends behind the end of the file.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, TypeAlias

from prunecli.checkpoint import Span
from prunecli.errors import CheckpointError
from prunecli.formats.torch.packed import OMITTED, RESTORE
from prunecli.formats.zip.structs import UTF8, central_header
from prunecli.formats.zip.writer import DEFLATED, Entry, ZipLayout, entry_like, lay_out
from prunecli.io.crc32 import crc32
from prunecli.text.numbers import format_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from prunecli.formats.zip.directory import Record
    from prunecli.packing.deflate import Deflation

RESTORE_LEVEL = 9
"""The level of the record that restores the original, which is small."""


@dataclass(frozen=True, slots=True)
class Scratch:
    """A range of the temporary file with the compressed records."""

    span: Span


Data: TypeAlias = "bytes | Span | Scratch"
"""The data of a record of the packed zip: bytes, a range of the input, or one of the temporary file."""


def packed_layout(
    records: Sequence[Record], deflations: Sequence[Deflation], restore: bytes, extents: Mapping[Span, int]
) -> ZipLayout[Data]:
    """Return the layout of the packed zip.

    `restore` is the content of the record that restores the original. `extents` has the bytes of a storage, by its
    place in the input, that the tensor which reaches farthest needs. Raises CheckpointError if the packed zip would
    not be safe to load.
    """
    last = max(deflations, key=lambda one: _reach(one, extents), default=None)
    if last is None:
        raise CheckpointError("no storage becomes smaller", hint=_OTHERS)
    ordered = [one for one in deflations if one is not last]
    ordered.append(last)
    layout = lay_out([*_others(records, deflations, restore), *map(_entry, ordered)])
    if layout.starts[-1] + extents.get(last.record.span, 0) <= layout.size:
        raise CheckpointError(
            f"its storages are too small to be packed safely: torch.load(mmap=True) could read compressed bytes as "
            f"weights, because no storage shrinks by more than the list of records takes"
            f" ({format_bytes(layout.size - layout.starts[-1] - last.span.length)})",
            hint=_OTHERS,
        )
    return layout


_OTHERS = "zstd and gzip compress any file"


def _reach(deflation: Deflation, extents: Mapping[Span, int]) -> int:
    """Return by how many bytes the mapped tensors of a record reach beyond its compressed bytes."""
    return extents.get(deflation.record.span, 0) - deflation.span.length


def _others(records: Sequence[Record], deflations: Sequence[Deflation], restore: bytes) -> list[Entry[Data]]:
    """Return the records that are copied, and the one that restores the original."""
    moved = {one.record.name for one in deflations}
    folder = records[0].name.partition("/")[0]
    kept = (r for r in records if r.name not in moved and r.name.partition("/")[2] != OMITTED)
    entries: list[Entry[Data]] = []
    for record in sorted(kept, key=attrgetter("offset")):
        method = central_header(record.central).method
        entries.append(entry_like(record, record.span, method=method, packed=record.span.length))
    compressor = zlib.compressobj(RESTORE_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
    data = compressor.compress(restore) + compressor.flush()
    name = f"{folder}/{RESTORE}".encode()
    flags = 0 if folder.isascii() else UTF8
    entries.append(Entry(name, DEFLATED, crc32(restore), len(data), len(restore), data, flags))
    return entries


def _entry(deflation: Deflation) -> Entry[Data]:
    data = Scratch(deflation.span)
    return entry_like(deflation.record, data, method=DEFLATED, packed=deflation.span.length)
