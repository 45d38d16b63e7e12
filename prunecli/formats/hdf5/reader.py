"""List the datasets of an HDF5 file by their places, if their numbers lie in one run.

Only structures are read, no numbers and no attributes. Datasets in chunks, which may be compressed, are named.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from struct import error, unpack_from
from typing import TYPE_CHECKING, BinaryIO

from prunecli.checkpoint import OUTSIDE, Span, TensorInfo, row_major
from prunecli.dtypes import BITS, FLOATS
from prunecli.errors import CheckpointError
from prunecli.formats.hdf5.format import HDF5
from prunecli.formats.hdf5.objects import (
    DATASPACE,
    DATATYPE,
    EXTERNAL_FILES,
    FILTERS,
    LAYOUT,
    UNDEFINED,
    Structures,
    links,
    messages,
    root_address,
)
from prunecli.formats.listing import Listing
from prunecli.formats.pickle.tensors import dimensions
from prunecli.text.escape import quoted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from prunecli.formats.hdf5.objects import Message

_OPTIMIZERS = ("optimizer/", "optimizer_weights/")  # of Keras 3, and of Keras before
_CLASSES = {
    2: "times",
    3: "texts",
    4: "bits",
    5: "opaque bytes",
    6: "compound values",
    7: "references",
    8: "named values",
    9: "lists of any length",
    10: "arrays",
}
"""The classes of datatypes that are no plain numbers."""

_LONGEST_NAME = 1 << 16  # characters of a whole path
_MOST_NAMED = 1 << 26  # characters of all of them


@dataclass(frozen=True, slots=True)
class _Numbers:
    """A datatype: its name in safetensors, or in words what it is instead."""

    dtype: str | None
    kind: str = ""
    big_endian: bool = False


def read_hdf5(file: BinaryIO, label: str) -> Listing:
    """List the datasets of `file` by their paths; CheckpointError, with `label`, if it is damaged."""
    structures = Structures(file)
    tensors: list[TensorInfo] = []
    others: list[tuple[str, str]] = []
    try:
        for name, found in _datasets(structures, root_address(structures, label), label):
            entry = _dataset(name, found, structures)
            if isinstance(entry, str):
                others.append((name, entry))
            else:
                tensors.append(entry)
        _check_places(tensors, structures)
    except (ValueError, error, IndexError, OverflowError) as problem:
        what = problem if isinstance(problem, ValueError) else "one of its structures is cut short"
        raise CheckpointError(
            f"{label} is a damaged or truncated HDF5 file: {what}", hint="download or copy the file again"
        ) from problem
    notes = ("numbers are stored big-endian",) if any(tensor.big_endian for tensor in tensors) else ()
    return Listing(HDF5.name, tuple(tensors), notes=notes, unprunable_entries=tuple(others))


def _datasets(structures: Structures, root: int, label: str) -> Iterator[tuple[str, list[Message]]]:
    """Yield the path and the messages of every dataset below the group at `root`, group by group."""
    headers: dict[int, list[Message]] = {}
    named = 0
    groups, entered, names = [("", messages(structures, root))], {root}, set()
    while groups:
        path, own = groups.pop(0)
        for name, target in links(structures, own, label):
            full = f"{path}{name}"
            named += len(full)
            if full in names or len(full) > _LONGEST_NAME or named > _MOST_NAMED:
                raise ValueError(f"the name {quoted(full)} is given twice, or too long")
            names.add(full)
            if target in entered:  # a path could be of any length
                raise ValueError(f"the group {quoted(full)} has two names")
            found = headers.get(target) or messages(structures, target)
            kinds = {message.kind for message in found}
            if LAYOUT in kinds:
                headers[target] = found
                yield full, found
            elif DATATYPE not in kinds:
                entered.add(target)
                groups.append((f"{full}/", found))


def _dataset(name: str, found: list[Message], structures: Structures) -> TensorInfo | str:
    """Return a dataset as a tensor, or what it is instead."""
    by_kind = {message.kind: message for message in found}
    if not by_kind.keys() >= {DATASPACE, DATATYPE}:
        raise ValueError(f"the dataset {quoted(name)} has no shape or no datatype")
    if FILTERS in by_kind:
        return "compressed HDF5 dataset"
    if EXTERNAL_FILES in by_kind or any(by_kind[kind].shared for kind in (DATASPACE, DATATYPE)):
        return "HDF5 dataset with a part elsewhere"
    numbers = _numbers(by_kind[DATATYPE].data)
    if numbers.dtype is None:
        return f"HDF5 dataset of {numbers.kind}"
    shape = _shape(by_kind[DATASPACE].data)
    if shape is None:
        return "empty HDF5 dataset"
    place = _place(by_kind[LAYOUT].data)
    if isinstance(place, str):
        return place
    nbytes = prod(shape) * BITS[numbers.dtype] // 8
    if place.length not in {nbytes, -1} or (nbytes and place.start + nbytes > structures.size):
        raise ValueError(f"the dataset {quoted(name)} of {nbytes:,} bytes does not fit its place")
    span = Span(place.start if nbytes else 0, nbytes)
    reason = OUTSIDE if name.startswith(_OPTIMIZERS) else None
    return TensorInfo(name, numbers.dtype, shape, row_major(shape), 0, span, 0, numbers.big_endian, reason)


def _shape(data: bytes) -> tuple[int, ...] | None:
    """Return the shape of a dataspace, None if it has no elements."""
    version, rank = data[0], data[1]
    if version not in {1, 2} or (version == 2 and data[3] == 2):
        return None
    return dimensions(unpack_from(f"<{rank}Q", data, 8 if version == 1 else 4))


def _place(data: bytes) -> Span | str:
    """Return the place of a dataset's numbers, with the length -1 if it is not stored; or how they are stored."""
    version = data[0]
    if version not in {1, 2, 3, 4}:
        return "HDF5 dataset of an unknown layout"
    kind = data[2] if version < 3 else data[1]
    if kind != 1:
        return {0: "compact HDF5 dataset", 2: "chunked HDF5 dataset"}.get(kind, "virtual HDF5 dataset")
    address, length = (unpack_from("<Q", data, 8)[0], -1) if version < 3 else unpack_from("<2Q", data, 2)
    if address == UNDEFINED and length:
        return "HDF5 dataset without numbers"
    return Span(0 if address == UNDEFINED else address, length)


def _numbers(data: bytes) -> _Numbers:
    """Return what the elements of a datatype are."""
    kind, bits, size = data[0] & 15, int.from_bytes(data[1:4], "little"), int.from_bytes(data[4:8], "little")
    if kind > 1:
        return _Numbers(None, _CLASSES.get(kind, "an unknown datatype"))
    offset, precision = unpack_from("<2H", data, 8)
    plain = not offset and precision == 8 * size
    if kind == 0:
        name = f"{'I' if bits & 8 else 'U'}{8 * size}"
        return _Numbers(name if plain and name in BITS else None, "integers of an unusual size", bool(bits & 1))
    dtype = _float(data, bits, size) if plain else None
    return _Numbers(dtype, "floats of an unusual form", bool(bits & 1))


def _float(data: bytes, bits: int, size: int) -> str | None:
    """Return the name of a floating-point datatype by its fields, None for one that has no name here."""
    fields = unpack_from("<4BI", data, 12)
    sign, normal, vax = bits >> 8 & 255, bits >> 4 & 3, bits & 64
    if vax or normal != 2 or sign != 8 * size - 1:  # 2: the first bit of the mantissa is implied
        return None
    known = {(f.itemsize, f.mantissa, f.exponent, 0, f.mantissa, f.bias): f.name for f in FLOATS.values()}
    return known.get((size, *fields))


def _check_places(tensors: Sequence[TensorInfo], structures: Structures) -> None:
    """Refuse datasets that overlap each other or the structures; one dataset may have several names."""
    places = {(t.span.start, t.span.end): t.name for t in tensors if t.span.length}
    places |= {(s.start, s.end): "" for s in structures.places if s.length and (s.start, s.end) not in places}
    # Structures may lie in each other, because a part of one is read first.
    end, before = 0, ""
    for (start, stop), name in sorted(places.items()):
        if start < end and (name or before):
            raise ValueError(f"the dataset {quoted(name or before)} overlaps other parts of the file")
        if stop > end:
            end, before = stop, name
