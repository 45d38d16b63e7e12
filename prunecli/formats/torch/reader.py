"""List the tensors of files that torch.save, torch.jit.save and torch.export.save wrote.

Nothing is unpickled and no tensor data is read.
"""

from __future__ import annotations

import io
import os
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, BinaryIO

from prunecli.errors import Argument, CheckpointError
from prunecli.formats.listing import Listing
from prunecli.formats.pickle.leaves import other_kind
from prunecli.formats.pickle.reader import read_pickle
from prunecli.formats.pickle.tensors import with_tensors
from prunecli.formats.torch.export import is_exported, read_exported
from prunecli.formats.torch.format import TORCH_LEGACY, TORCH_ZIP, TORCHSCRIPT
from prunecli.formats.torch.legacy import read_legacy
from prunecli.formats.torch.rebuild import Storage, is_strided, storage_claim, tensor_info
from prunecli.formats.torch.records import (
    BIG_ENDIAN_NOTE,
    checksums,
    compressed,
    is_big_endian,
    only_folder,
    read_record,
)
from prunecli.formats.torch.torchscript import is_script, read_classes, sort_attributes
from prunecli.formats.zip.directory import read_records

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prunecli.checkpoint import Span, TensorInfo
    from prunecli.formats.pickle.reader import Persistent
    from prunecli.formats.zip.directory import Record


@dataclass(frozen=True, slots=True)
class _Archive:
    """The records of a zip by name, in the folder that holds all of them; `label` names the zip in messages."""

    file: BinaryIO
    records: dict[str, Record]
    folder: str
    label: str

    def read(self, name: str) -> bytes:
        return read_record(self.file, self.records[f"{self.folder}/{name}"], self.label)


def read_torch_zip(file: BinaryIO, label: str, key: str | None = None) -> Listing:
    """List the tensors of a zip archive; `Listing.format` is "torch zip", "TorchScript" or "torch.export".

    `key` is the dotted path of the state_dict; None looks for it at the usual places. Raises CheckpointError, with
    `label`, if the zip is damaged, is not one of torch, or has no tensors at `key`.
    """
    records = read_records(file, label)
    if is_exported(records):
        return _exported(file, records, label, key)
    archive = _Archive(file, records, only_folder(records, label), label)
    if f"{archive.folder}/data.pkl" not in records:
        raise CheckpointError(f"{label} is a zip, but not one of torch: it has no data.pkl in {archive.folder!r}")
    root, listing = _unpickled(archive)
    if not is_script(records):
        return _with_tensors(listing, root, label, key)
    sort_attributes(root.value, read_classes(file, records, archive.folder))
    listing = _with_tensors(replace(listing, format=TORCHSCRIPT.name), root, label, key)
    if not listing.tensors and not listing.unprunable_entries:
        raise CheckpointError(
            f"{label} is a TorchScript archive without named weights: torch.jit.freeze turns weights into constants",
            hint="prune the file from before torch.jit.freeze, then freeze again",
        )
    return listing


def read_torch_legacy(file: BinaryIO, label: str, key: str | None = None) -> Listing:
    """List the tensors of a file in the format before torch 1.6; see `read_torch_zip` for the arguments."""
    legacy = read_legacy(file, label)
    extra = file.seek(0, os.SEEK_END) - legacy.end
    notes = (f"{extra:,} bytes after the last storage are copied unchanged",) if extra else ()
    root = _Root(legacy.root, legacy.storages)
    return _with_tensors(Listing(TORCH_LEGACY.name, (), notes=notes), root, label, key)


@dataclass(frozen=True, slots=True)
class _Root:
    """The symbolic object in a file, and the storages that its persistent ids stand for."""

    value: object
    storages: dict[Persistent, Storage]


def _with_tensors(listing: Listing, root: _Root, label: str, key: str | None) -> Listing:
    """Return `listing` with the tensors of `root`."""

    def describe(name: str, value: object, reason: str | None) -> TensorInfo | str:
        return tensor_info(name, value, root.storages, reason) if is_strided(value) else other_kind(value)

    listing = with_tensors(listing, root.value, label, key, describe)
    return replace(listing, tensors=_mark_disputed(listing.tensors))


def _mark_disputed(tensors: Sequence[TensorInfo]) -> tuple[TensorInfo, ...]:
    """Make the tensors unprunable whose storage is read with more than one dtype."""
    dtypes: dict[Span, set[str]] = defaultdict(set)
    for tensor in tensors:
        dtypes[tensor.span].add(tensor.dtype)
    return tuple(
        replace(tensor, unprunable_reason=f"its storage is read as {' and as '.join(sorted(dtypes[tensor.span]))}")
        if len(dtypes[tensor.span]) > 1 and tensor.span.length
        else tensor
        for tensor in tensors
    )


def _exported(file: BinaryIO, records: dict[str, Record], label: str, key: str | None) -> Listing:
    if key:
        raise CheckpointError(
            f"{label} is an exported program, which has no key {key!r}", hint=("leave out ", Argument("key", key))
        )
    listing = read_exported(file, records, label)
    return replace(listing, tensors=_mark_disputed(listing.tensors))


def _unpickled(archive: _Archive) -> tuple[_Root, Listing]:
    """Return the object in data.pkl, and a listing without tensors."""
    label = archive.label
    big_endian = is_big_endian(archive.file, archive.records, archive.folder, label)
    data = archive.read("data.pkl")
    stream = io.BytesIO(data)
    pickle = read_pickle(stream, label)
    if extra := len(data) - stream.tell():
        raise CheckpointError(f"{label} is damaged: data.pkl has {extra:,} bytes after its pickle")
    storages = {persistent: _storage(persistent, archive, big_endian=big_endian) for persistent in pickle.persistent}
    sums = checksums(archive.records, f"{archive.folder}/data/")
    notes = (BIG_ENDIAN_NOTE,) if big_endian else ()
    return _Root(pickle.value, storages), Listing(TORCH_ZIP.name, (), sums, notes=notes)


def _storage(persistent: Persistent, archive: _Archive, *, big_endian: bool) -> Storage:
    label = archive.label
    try:
        claim = storage_claim(persistent)
    except ValueError as problem:
        raise CheckpointError(f"{label} is damaged: {problem}") from problem
    record = archive.records.get(f"{archive.folder}/data/{claim.key}")
    if record is None or "/" in claim.key or claim.view:
        raise CheckpointError(f"{label} is damaged: it has no record for the storage {claim.key!r}")
    if record.compressed:
        raise compressed(record, label)
    if record.span.length != claim.nbytes:
        raise CheckpointError(
            f"{label} is damaged: {record.name!r} has {record.span.length:,} bytes instead of {claim.nbytes:,}"
        )
    return Storage(claim, record.span, big_endian)
