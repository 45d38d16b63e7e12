"""Checkpoints that torch.save wrote: which tensors they hold, and where the bytes and the checksums lie.

Nothing is unpickled and no tensor data is read.
"""

from __future__ import annotations

import io
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, BinaryIO

from prunecli.errors import CheckpointError
from prunecli.formats.pickle.leaves import other_kind, unwrapped
from prunecli.formats.pickle.reader import read_pickle
from prunecli.formats.pickle.state_dict import Names, find_leaves
from prunecli.formats.torch.export import is_exported, read_exported
from prunecli.formats.torch.legacy import is_legacy, read_legacy
from prunecli.formats.torch.rebuild import Storage, is_strided, storage_claim, tensor_info
from prunecli.formats.torch.records import checksums, compressed, is_big_endian, only_folder, read_record
from prunecli.formats.torch.torchscript import is_script, read_classes, sort_attributes
from prunecli.formats.zip.directory import read_records

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prunecli.checkpoint import Checksum, Span, TensorInfo
    from prunecli.formats.pickle.reader import Persistent
    from prunecli.formats.zip.directory import Record


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
    if not is_legacy(head):
        return _zip(file, label, key)
    root, storages, facts = read_legacy(file, label)
    return _listing(_Contents(root, storages, (), "torch legacy", facts), label, key)


def _listing(contents: _Contents, label: str, key: str | None) -> TorchListing:
    found = find_leaves(contents.root, label, key)
    names = Names()
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


def _fix_disputed(tensors: Sequence[TensorInfo]) -> tuple[TensorInfo, ...]:
    """Fix the tensors whose storage is read with more than one dtype."""
    dtypes: dict[Span, set[str]] = defaultdict(set)
    for tensor in tensors:
        dtypes[tensor.span].add(tensor.dtype)
    return tuple(
        replace(tensor, unprunable_reason=f"its storage is read as {' and as '.join(sorted(dtypes[tensor.span]))}")
        if len(dtypes[tensor.span]) > 1 and tensor.span.length
        else tensor
        for tensor in tensors
    )


def _zip(file: BinaryIO, label: str, key: str | None) -> TorchListing:
    records = read_records(file, label)
    if is_exported(records):
        return _exported(file, records, label, key)
    folder = only_folder(records, label)
    if f"{folder}/data.pkl" not in records:
        raise CheckpointError(f"{label} is a zip, but not torch's: it has no data.pkl in {folder!r}")
    contents = _pickled(file, records, folder, label)
    if not is_script(records):
        return _listing(contents, label, key)
    sort_attributes(contents.root, read_classes(file, records, folder))
    listing = _listing(contents, label, key)
    if not listing.tensors and not listing.others:
        raise CheckpointError(
            f"{label} is a TorchScript archive that holds no named weights: a frozen module's are constants",
            hint="prune the file from before torch.jit.freeze, then freeze again",
        )
    return replace(listing, format="TorchScript")


def _exported(file: BinaryIO, records: dict[str, Record], label: str, key: str | None) -> TorchListing:
    if key:
        raise CheckpointError(f"{label} is an exported program, which has no key {key!r}", hint="leave --key out")
    found = read_exported(file, records, label)
    return TorchListing(_fix_disputed(found.tensors), found.checksums, "", "torch.export", found.facts, found.others)


def _pickled(file: BinaryIO, records: dict[str, Record], folder: str, label: str) -> _Contents:
    big_endian = is_big_endian(file, records, folder, label)
    data = read_record(file, records[f"{folder}/data.pkl"], label)
    stream = io.BytesIO(data)
    pickle = read_pickle(stream, label)
    if behind := len(data) - stream.tell():
        raise CheckpointError(f"{label} is damaged: {behind:,} bytes stand behind the pickle in data.pkl")
    storages = {
        persistent: _storage(persistent, records, folder, label, big_endian=big_endian)
        for persistent in pickle.persistent
    }
    facts = ("the numbers are stored big-endian",) if big_endian else ()
    return _Contents(pickle.value, storages, checksums(records, f"{folder}/data/"), "torch zip", facts)


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
        raise compressed(record, label)
    if record.span.length != claim.nbytes:
        raise CheckpointError(
            f"{label} is damaged: {record.name!r} has {record.span.length:,} bytes where {claim.nbytes:,} belong"
        )
    return Storage(claim, record.span, big_endian)
