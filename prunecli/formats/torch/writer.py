"""Arrange a file of torch.save: the records in torch's order, aligned as torch aligns them.

The bytes are those that torch.save writes for the same object and path, but for the id that is a digest of the rest.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from prunecli.formats.torch.records import ALIGNMENT
from prunecli.formats.zip.aligned import placed, total_size, trailing
from prunecli.io.arrangement import Move, OutputFile, Record
from prunecli.io.crc32 import crc32
from prunecli.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from prunecli.checkpoint import Span, TensorInfo
    from prunecli.io.arrangement import Literal

_ID = ".data/serialization_id"
_ID_SIZE = 40  # digits
_DIGITS = 20
_PLAIN = re.compile(r"[A-Za-z0-9_.+ -]+")


@dataclass(frozen=True, slots=True)
class NewStorage:
    """A storage of the new file: the elements of the input that it consists of, and their dtype there.

    `crc` is the CRC-32 of its bytes if it is a copy of the record `span` of the input.
    """

    tensor: TensorInfo
    dtype: str
    nbytes: int
    name: str = ""
    crc: int | None = None
    span: Span | None = None


def folder_of(path: Path | None) -> str:
    """Return the name of the folder in the zip for a file at `path`: its stem, as torch names it."""
    stem = "" if path is None else path.name.rpartition(".")[0] or path.name
    return stem if _PLAIN.fullmatch(stem) else "archive"


def arrange_torch(
    pickle: bytes, storages: Sequence[NewStorage], *, name: str, folder: str, output: int, byteorder: str = "little"
) -> tuple[OutputFile, list[Move]]:
    """Return the file number `output` with this pickle and these storages, whose keys are 0, 1 and so on."""
    before = {"data.pkl": pickle, ".format_version": b"1", ".storage_alignment": b"64", "byteorder": byteorder.encode()}
    keys = [f"data/{key}" for key in range(len(storages))]
    lengths = [
        *((record, len(data)) for record, data in before.items()),
        *((key, storage.nbytes) for key, storage in zip(keys, storages, strict=True)),
        ("version", 2),
        (_ID, _ID_SIZE),
    ]
    records = placed([(f"{folder}/{record}", length) for record, length in lengths], ALIGNMENT)
    texts = {**before, "version": b"3\n"}
    places = dict(zip((record for record, _ in lengths), records, strict=True))
    literals = [(place.start, place.header()) for place in records]
    literals += [(places[record].data, data) for record, data in texts.items()]
    first = len(before)

    def finish(crcs: Sequence[int]) -> Iterator[Literal]:
        small = [crc32(data) for data in before.values()]
        every = [*small, *crcs, crc32(texts["version"])]
        # As torch does it, without the records that are empty.
        counted = [crc for crc, (_, length) in zip(every, lengths, strict=False) if length]
        identity = _serialization_id([record for record, _ in lengths[:-1]], counted)
        yield places[_ID].data, identity
        yield from trailing(records, [*every, crc32(identity)])

    moves = [
        Move(storage.tensor, output, records[first + key].data, storage.dtype, key, storage.name)
        for key, storage in enumerate(storages)
    ]
    sums = tuple(
        Record(one.nbytes, one.crc, None if one.span is None else (one.tensor.file, one.span)) for one in storages
    )
    return OutputFile(name, total_size(records), tuple(literals), sums, finish), moves


def _serialization_id(names: Sequence[str], crcs: Sequence[int]) -> bytes:
    """Return 20 digits of the names and 20 of the checksums of the records, as torch combines the latter."""
    named = _combined(crc32(name.encode()) for name in names)
    return f"{named:0{_DIGITS}d}{_combined(crcs):0{_DIGITS}d}".encode()


def _combined(values: Sequence[int] | Iterator[int]) -> int:
    seed = 0
    for value in values:
        # c10::hash_combine, in 64 bits.
        seed ^= value + 0x9E3779B9 + (seed << 6) + (seed >> 2)
        seed &= (1 << 64) - 1
    return seed
