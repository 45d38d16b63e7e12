"""Checkpoints that torch.save wrote: which tensors they hold, and where the bytes and the checksums lie.

Nothing is unpickled and no tensor data is read.
"""

from __future__ import annotations

import io
import shlex
import zlib
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, BinaryIO

from prunecli.errors import CheckpointError
from prunecli.pickle_reader import read_pickle
from prunecli.tensors import Checksum, TensorInfo
from prunecli.torch_legacy import is_legacy, read_legacy
from prunecli.torch_tensors import Storage, is_strided, other_kind, storage_claim, tensor_info, unwrapped
from prunecli.torch_walk import find_leaves
from prunecli.zip_directory import read_records

if TYPE_CHECKING:
    from prunecli.pickle_reader import Persistent
    from prunecli.tensors import Span
    from prunecli.torch_walk import Leaf
    from prunecli.zip_directory import Record

_MAX_PICKLE = 1 << 28  # bytes


@dataclass(frozen=True, slots=True)
class TorchListing:
    """What a torch file holds.

    `tensors` are those of the state_dict in its order, then those outside it; all have file = 0. `checksums` has
    one for each storage record of a zip. `key` is the dotted path of the state_dict ("" for the top). `others`
    are (name, what it is) of what looks like a tensor and is none of ours. `facts` are sentences worth telling.
    """

    tensors: tuple[TensorInfo, ...]
    checksums: tuple[Checksum, ...]
    key: str
    format: str
    facts: tuple[str, ...] = ()
    others: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class _Contents:
    root: object
    storages: dict[Persistent, Storage]
    checksums: tuple[Checksum, ...]
    format: str
    facts: tuple[str, ...]


def is_torch(head: bytes) -> bool:
    """Whether a file that begins with `head` (32 bytes or more) may be for `read_torch`: any zip, or the old format."""
    return head[:4] == b"PK\3\4" or is_legacy(head)


def read_torch(file: BinaryIO, label: str, *, key: str | None = None) -> TorchListing:
    """List the tensors of the seekable `file`, which the user calls `label`.

    `key` is the dotted path of the state_dict; without one it is looked for at the usual places. Raises
    CheckpointError where the file is no torch checkpoint, is damaged, or has nothing at `key`.
    """
    file.seek(0)
    head = file.read(64)
    if not is_torch(head):
        raise CheckpointError(f"{label} is no file that torch.save wrote")
    contents = _legacy(file, label) if is_legacy(head) else _zip(file, label)
    found = find_leaves(contents.root, label, key)
    names = _Names()
    tensors: list[TensorInfo] = []
    others: list[tuple[str, str]] = []
    for leaves, why in ((found.inside, None), (found.outside, "outside the state_dict")):
        for leaf in leaves:
            value, name = unwrapped(leaf.value), names.unique(leaf)
            if is_strided(value):
                tensors.append(tensor_info(name, value, contents.storages, why))
            else:
                others.append((name, other_kind(value)))
    return TorchListing(
        _fix_disputed(tensors),
        contents.checksums,
        found.key,
        contents.format,
        (*contents.facts, *names.facts()),
        tuple(others),
    )


class _Names:
    """The names given so far."""

    def __init__(self) -> None:
        self._times: dict[str, int] = {}
        self._repeated: list[str] = []

    def unique(self, leaf: Leaf) -> str:
        """Return the leaf's name, with a number where another path gave the same name before."""
        name = leaf.name
        while name in self._times:
            self._times[leaf.name] += 1
            name = f"{leaf.name}#{self._times[leaf.name]}"
        self._times[name] = 1
        if name != leaf.name:
            self._repeated.append(name)
        return name

    def facts(self) -> tuple[str, ...]:
        """Say which names had to be numbered."""
        if not self._repeated:
            return ()
        more = f" and {len(self._repeated) - 1:,} more" if self._repeated[1:] else ""
        return (f"two places have the same name: the later one is listed as {self._repeated[0]!r}{more}",)


def _fix_disputed(tensors: list[TensorInfo]) -> tuple[TensorInfo, ...]:
    """Fix the tensors whose storage is read with more than one dtype."""
    dtypes: dict[Span, set[str]] = defaultdict(set)
    for tensor in tensors:
        dtypes[tensor.span].add(tensor.dtype)
    return tuple(
        replace(tensor, fixed=f"its storage is read as {' and as '.join(sorted(dtypes[tensor.span]))}")
        if len(dtypes[tensor.span]) > 1 and tensor.span.length
        else tensor
        for tensor in tensors
    )


def _legacy(file: BinaryIO, label: str) -> _Contents:
    root, storages, facts = read_legacy(file, label)
    return _Contents(root, storages, (), "torch legacy", facts)


def _zip(file: BinaryIO, label: str) -> _Contents:
    records = read_records(file, label)
    folder = _folder(records, label)
    big_endian = _is_big_endian(file, records.get(f"{folder}/byteorder"), label)
    data = _read(file, records[f"{folder}/data.pkl"], label)
    stream = io.BytesIO(data)
    pickle = read_pickle(stream, label)
    if behind := len(data) - stream.tell():
        raise CheckpointError(f"{label} is damaged: {behind:,} bytes stand behind the pickle in data.pkl")
    storages = {
        persistent: _storage(persistent, records, folder, label, big_endian=big_endian)
        for persistent in pickle.persistent
    }
    checksums = tuple(
        Checksum(record.span, record.crc, record.places)
        for record in records.values()
        if record.name.startswith(f"{folder}/data/") and not record.compressed
    )
    facts = ("the numbers are stored big-endian",) if big_endian else ()
    return _Contents(pickle.value, storages, checksums, "torch zip", facts)


def _folder(records: dict[str, Record], label: str) -> str:
    """Return the one folder all records are in; refuse the zips that are something else than torch.save's."""
    folders = {name.partition("/")[0] if "/" in name else "" for name in records}
    if any(name.endswith(("/constants.pkl", "/code/")) or "/code/" in name for name in records):
        raise CheckpointError(
            f"{label} is a TorchScript archive, not a checkpoint",
            hint=_resave(label, "torch.jit.load", ".state_dict()"),
        )
    if any(name.endswith(("/archive_format", "model_weights_config.json")) for name in records):
        raise CheckpointError(
            f"{label} is an exported program (.pt2), not a checkpoint",
            hint=_resave(label, "torch.export.load", ".state_dict"),
        )
    if len(folders) != 1 or "" in folders:
        raise CheckpointError(f"{label} is a zip, but not torch's: its records are not all in one folder")
    (folder,) = folders
    if f"{folder}/data.pkl" not in records:
        raise CheckpointError(f"{label} is a zip, but not torch's: it has no data.pkl in {folder!r}")
    return folder


def _resave(label: str, load: str = "torch.load", of: str = "") -> str:
    code = f"import torch; torch.save({load}({label!r}){of}, {label + '.resaved.pth'!r})"
    return f"python -c {shlex.quote(code)}"


def _read(file: BinaryIO, record: Record, label: str) -> bytes:
    """Return the content of a small record, checked."""
    if record.compressed:
        raise _compressed(record, label)
    if record.span.length > _MAX_PICKLE:
        raise CheckpointError(f"{label} is no checkpoint of ours: {record.name!r} has {record.span.length:,} bytes")
    file.seek(record.span.start)
    data = file.read(record.span.length)
    if zlib.crc32(data) != record.crc:
        raise CheckpointError(f"{label} is damaged: the checksum of {record.name!r} is wrong")
    return data


def _compressed(record: Record, label: str) -> CheckpointError:
    return CheckpointError(
        f"{label} cannot be pruned in place: its record {record.name!r} is compressed", hint=_resave(label)
    )


def _is_big_endian(file: BinaryIO, record: Record | None, label: str) -> bool:
    order = _read(file, record, label) if record else b"little"
    if order not in {b"little", b"big"}:
        raise CheckpointError(f"{label} has the unknown byte order {order[:16]!r}")
    return order == b"big"


def _storage(
    persistent: Persistent, records: dict[str, Record], folder: str, label: str, *, big_endian: bool
) -> Storage:
    try:
        claim = storage_claim(persistent)
    except ValueError as problem:
        raise CheckpointError(f"{label} is damaged: {problem}") from problem
    record = records.get(f"{folder}/data/{claim.key}")
    if record is None or "/" in claim.key or claim.view:
        raise CheckpointError(f"{label} is damaged: it has no record for the storage {claim.key!r}")
    if record.compressed:
        raise _compressed(record, label)
    if record.span.length != claim.nbytes:
        raise CheckpointError(
            f"{label} is damaged: {record.name!r} has {record.span.length:,} bytes where {claim.nbytes:,} belong"
        )
    return Storage(claim, record.span, big_endian)
