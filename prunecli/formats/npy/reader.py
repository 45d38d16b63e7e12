"""List the arrays in `.npy` files and `.npz` archives.

Only headers are read. Arrays of Python objects are pickles: they are named, and never unpickled.
"""

from __future__ import annotations

import os
from math import prod
from typing import TYPE_CHECKING, BinaryIO

from prunecli.checkpoint import Checksum, Span, TensorInfo
from prunecli.dtypes import BITS
from prunecli.errors import CheckpointError
from prunecli.formats.fingerprints import shortened
from prunecli.formats.listing import Listing
from prunecli.formats.npy.archive import open_archive
from prunecli.formats.npy.format import MAGIC, NPY, NPZ
from prunecli.formats.npy.header import LIMIT, ArrayHeader, read_header
from prunecli.layouts.reparametrized import BARE
from prunecli.text.escape import quoted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from prunecli.formats.zip.directory import Record


def read_npy(file: BinaryIO, label: str) -> Listing:
    """List the array of a `.npy` file under the name of a bare tensor; CheckpointError if it is damaged."""
    span = Span(0, file.seek(0, os.SEEK_END))
    try:
        header = _header(file, span)
        entry = _entry(BARE, header, Span(header.size, span.length - header.size), offset=0)
    except ValueError as problem:
        raise CheckpointError(f"{label} is damaged: {problem}") from problem
    if isinstance(entry, str):
        return Listing(NPY.name, (), unprunable_entries=((BARE, entry),))
    extra = entry.span.length - entry.nbytes
    notes = (f"{extra:,} bytes after the array are copied unchanged",) if extra else ()
    return Listing(NPY.name, (entry,), notes=(*_notes((entry,)), *notes))


def read_npz(file: BinaryIO, label: str) -> Listing:
    """List the arrays of a `.npz` archive by the names that numpy.load gives them.

    Raises CheckpointError, with `label`, if the zip or an array is damaged.
    """
    tensors: list[TensorInfo] = []
    checksums: list[Checksum] = []
    others: list[tuple[str, str]] = []
    view, records, inflated = open_archive(file, label)
    for name, record in _arrays(view, records, label).items():
        try:
            entry = _in_archive(view, name, record)
        except ValueError as problem:
            raise CheckpointError(f"{label} is damaged: the array {quoted(name)}: {problem}") from problem
        if isinstance(entry, str):
            others.append((name, entry))
        else:
            tensors.append(entry)
            checksums.append(Checksum(record.span, record.crc, record.places))
    notes = tuple(_notes(tensors))
    if inflated is not None:
        notes = (*notes, "its arrays are compressed; a new file has them uncompressed")
    return Listing(
        NPZ.name,
        tuple(tensors),
        tuple(checksums),
        notes=notes,
        unprunable_entries=tuple(others),
        inflated=inflated,
    )


def rest_of_npz(file: BinaryIO, label: str) -> Iterator[tuple[str, str]]:
    """Yield the name and the kind of each array that is no plain tensor, and of each record that is no array."""
    yield from read_npz(file, label).unprunable_entries
    view, records, _ = open_archive(file, label)
    arrays = {record.span for record in _arrays(view, records, label).values()}
    for name, record in records.items():
        if record.span not in arrays:
            yield f"record {shortened(name)}", f"{record.span.length:,} bytes"


def _arrays(file: BinaryIO, records: Mapping[str, Record], label: str) -> dict[str, Record]:
    """Return the records that hold arrays, by the names of the arrays."""
    arrays: dict[str, Record] = {}
    for name, record in records.items():
        file.seek(record.span.start)
        if not name.endswith(".npy") and file.read(len(MAGIC)) != MAGIC:
            continue
        short = name.removesuffix(".npy")
        # versions of NumPy differ in the one that they take, and none reads `a.npy.npy` next to `a.npy`
        if short in arrays or (short != name and short in records):
            raise CheckpointError(f"{label} has two arrays named {quoted(short)}")
        arrays[short] = record
    return arrays


def _in_archive(file: BinaryIO, name: str, record: Record) -> TensorInfo | str:
    """Return the array in a record. Its storage is the whole record, because the checksum covers the header too."""
    header = _header(file, record.span)
    itemsize = BITS[header.dtype] // 8 if header.dtype else 1
    if header.size % itemsize:
        return "array after a header of an unusual length"
    entry = _entry(name, header, record.span, header.size // itemsize)
    extra = 0 if isinstance(entry, str) else record.span.length - header.size - entry.nbytes
    if extra:
        raise ValueError(f"it has {extra:,} bytes more than its shape needs")
    return entry


def _header(file: BinaryIO, span: Span) -> ArrayHeader:
    file.seek(span.start)
    return read_header(file.read(min(LIMIT, span.length)))


def _entry(name: str, header: ArrayHeader, span: Span, offset: int) -> TensorInfo | str:
    """Return the tensor whose elements begin at element `offset` of `span`, or what the array is instead."""
    if header.dtype is None:
        return header.kind
    needed = (offset + prod(header.shape)) * BITS[header.dtype] // 8
    if needed > span.length:
        raise ValueError(f"it is truncated: {needed - span.length:,} bytes are missing")
    return TensorInfo(name, header.dtype, header.shape, header.strides, 0, span, offset, big_endian=header.big_endian)


def _notes(tensors: list[TensorInfo] | tuple[TensorInfo, ...]) -> Iterator[str]:
    if any(tensor.big_endian for tensor in tensors):
        yield "numbers are stored big-endian"
