"""Read programs of torch.export (.pt2): each weight is a record, and a JSON table gives its dtype, shape and strides.

No pickle is read. Weights that are pickled one by one, and constants, are not listed as tensors.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, BinaryIO

from prunecli.checkpoint import MAX_RANK, MAX_SIZE, TensorInfo, self_overlap
from prunecli.errors import CheckpointError
from prunecli.formats.listing import Listing
from prunecli.formats.pickle.tensors import check_size, usual_strides
from prunecli.formats.strict_json import parse_json_object
from prunecli.formats.torch.format import TORCH_EXPORT
from prunecli.formats.torch.records import Archive, torch_archive
from prunecli.text.escape import quoted

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from prunecli.formats.zip.directory import Record

_CONFIG = "_weights_config.json"
_WEIGHTS = "data/weights/"
_STRIDED = 7  # torch._export.serde.schema.Layout

_DTYPES = {
    1: "U8",
    2: "I8",
    3: "I16",
    4: "I32",
    5: "I64",
    6: "F16",
    7: "F32",
    8: "F64",
    10: "C64",
    11: "C128",
    12: "BOOL",
    13: "BF16",
    28: "U16",
    29: "F8_E4M3",
    30: "F8_E5M2",
    31: "F8_E4M3FNUZ",
    32: "F8_E5M2FNUZ",
    33: "F8_E8M0",
    34: "U32",
    35: "U64",
}  # torch._export.serde.schema.ScalarType


def is_exported(records: Collection[str]) -> bool:
    """Return whether a zip with these record names was written by any version of torch.export.save."""
    return any(name.endswith(("/archive_format", _CONFIG)) or _is_old(name) for name in records)


EXPORT_AGAIN = "where the model is made, export it again with torch 2.8 or newer: torch.export.save(program, path)"
"""The hint for an old program. No command: torch.export.load unpickles it without weights_only, which runs its code."""


def _is_old(name: str) -> bool:
    return name.rpartition("/")[2] == "serialized_exported_program.json"


def read_exported(file: BinaryIO, records: dict[str, Record], label: str) -> Listing:
    """List the weights of all programs in the zip `file`.

    If there are several programs, each name begins with the program's name. Raises CheckpointError, with `label`, if
    a table is damaged, names a missing record, or there is none.
    """
    if any(_is_old(name) for name in records):
        raise CheckpointError(
            f"{label} is an exported program of torch before 2.8, which stores all weights in one pickle",
            hint=EXPORT_AGAIN,
        )
    archive = torch_archive(file, records, label)
    tables = [name for name in archive.records if name.startswith(_WEIGHTS) and name.endswith(_CONFIG)]
    if not tables:
        raise CheckpointError(
            f"{label} is an exported program without a table of weights; compiled code may contain them",
            hint="prune the checkpoint or the torch.export file it was compiled from, then compile again",
        )
    return _read(archive, tables)


def _read(archive: Archive, tables: list[str]) -> Listing:
    label = archive.label
    tensors: list[TensorInfo] = []
    others: list[tuple[str, str]] = []
    for table in tables:
        prefix = f"{table[len(_WEIGHTS) : -len(_CONFIG)]}." if len(tables) > 1 else ""
        for name, entry in _entries(archive.read(table), f"{label}: {quoted(archive.records[table].name)}"):
            try:
                weight = _weight(prefix + name, entry, archive)
            except ValueError as problem:
                raise CheckpointError(f"{label}: the weight {quoted(name)} is damaged: {problem}") from problem
            if isinstance(weight, str):
                others.append((prefix + name, weight))
            else:
                tensors.append(weight)
    sums = archive.checksums(_WEIGHTS)
    return Listing(TORCH_EXPORT.name, tuple(tensors), sums, notes=archive.notes, unprunable_entries=tuple(others))


def _entries(raw: bytes, what: str) -> Iterator[tuple[str, dict[str, object]]]:
    """Yield the name of each weight and its fields; `what` names the table in messages."""
    table = dict(parse_json_object(raw, what)).get("config")
    if not isinstance(table, tuple):
        raise CheckpointError(f"{what} is not a table of weights")
    seen: set[str] = set()
    for name, entry in table:
        if name in seen or not isinstance(entry, tuple):
            raise CheckpointError(f"{what} does not describe the weight {quoted(name)} exactly once")
        seen.add(name)
        yield name, dict(entry)


def _weight(name: str, entry: dict[str, object], archive: Archive) -> TensorInfo | str:
    """Return a weight's position, or the kind of a weight that cannot be pruned; raise ValueError if it is damaged."""
    path, meta = entry.get("path_name"), entry.get("tensor_meta")
    record = archive.records.get(f"{_WEIGHTS}{path}") if isinstance(path, str) else None
    if record is None:
        raise ValueError("its record is missing")
    if entry.get("use_pickle") is not False:
        return "tensor of a subclass, pickled on its own"
    fields = dict(meta) if isinstance(meta, tuple) else {}
    if fields.get("layout") != _STRIDED:
        return "sparse tensor"
    dtype = _DTYPES.get(_integer(fields.get("dtype")))
    if dtype is None:
        return "tensor of an unknown dtype"
    shape, strides = _integers(fields.get("sizes")), _integers(fields.get("strides"))
    if len(shape) != len(strides):
        raise ValueError(f"it has {len(shape)} sizes and {len(strides)} strides")
    strides = usual_strides(shape, strides)
    start = _as_int(fields.get("storage_offset")) if prod(shape) else 0
    reason = self_overlap(shape, strides)
    return _checked(TensorInfo(name, dtype, shape, strides, 0, record.span, start, archive.big_endian, reason))


def _checked(tensor: TensorInfo) -> TensorInfo | str:
    """Return `tensor` if its elements are inside its record."""
    elements, rest = divmod(tensor.span.length, tensor.itemsize)
    if tensor.numel and not tensor.span.length:
        return "tensor whose bytes were not saved"
    if rest or (tensor.numel and tensor.offset + tensor.extent > elements):
        raise ValueError(
            f"it reaches to element {tensor.offset + tensor.extent:,}, but its record has {elements:,} elements"
        )
    check_size(tensor.shape)
    return tensor


def _integers(values: object) -> tuple[int, ...]:
    if not isinstance(values, list) or len(values) > MAX_RANK:
        raise ValueError("its sizes or strides are missing")
    return tuple(_as_int(value) for value in values)


def _as_int(value: object) -> int:
    return _integer(dict(value).get("as_int")) if isinstance(value, tuple) else _integer(None)


def _integer(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_SIZE:
        raise ValueError("one of its numbers is missing, negative or too large")
    return value
