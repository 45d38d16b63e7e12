"""List the tensors of files that torch.save, torch.jit.save and torch.export.save wrote.

Nothing is unpickled and no tensor data is read.
"""

from __future__ import annotations

import os
from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, BinaryIO

from prunecli.checkpoint import OUTSIDE
from prunecli.errors import CheckpointError
from prunecli.formats.format import refuse_keys
from prunecli.formats.listing import Listing
from prunecli.formats.pickle.leaves import other_kind, unwrapped
from prunecli.formats.pickle.reader import Call
from prunecli.formats.pickle.tensors import with_tensors
from prunecli.formats.torch.data_pickle import read_data_pickle
from prunecli.formats.torch.export import is_exported, read_exported
from prunecli.formats.torch.format import TORCH_LEGACY, TORCH_ZIP, TORCHSCRIPT
from prunecli.formats.torch.legacy import read_legacy
from prunecli.formats.torch.loader_rules import check_rules
from prunecli.formats.torch.packed import open_zip
from prunecli.formats.torch.rebuild import (
    Storage,
    conversion,
    is_strided,
    storage_claims,
    storages_below,
    tensor_info,
    unknown_dtype,
)
from prunecli.formats.torch.records import Archive, torch_archive
from prunecli.formats.torch.torchscript import is_script, read_classes, sort_attributes
from prunecli.text.escape import quoted

if TYPE_CHECKING:
    from collections.abc import Container, Sequence

    from prunecli.checkpoint import Span, TensorInfo
    from prunecli.formats.pickle.reader import Persistent, Pickle
    from prunecli.formats.torch.rebuild import StorageClaim
    from prunecli.formats.zip.directory import Record


def read_torch_zip(file: BinaryIO, label: str, keys: Sequence[str] = ()) -> Listing:
    """List the tensors of a zip archive; `Listing.format` is "torch zip", "TorchScript" or "torch.export".

    `keys` are the dotted paths of the state_dicts or globs over them; without any, the state_dict is looked for. Raises
    CheckpointError, with `label`, if the zip is damaged, is not one of torch, or has no tensors at a key.
    """
    opened = open_zip(file, label)
    listing = _read_records(opened.file, opened.records, label, keys)
    return replace(listing, inflated=opened.inflated, notes=(*listing.notes, *opened.notes))


def _read_records(file: BinaryIO, records: dict[str, Record], label: str, keys: Sequence[str]) -> Listing:
    if is_exported(records):
        return _exported(file, records, label, keys)
    archive = torch_archive(file, records, label)
    if "data.pkl" not in archive.records:
        raise CheckpointError(f"{label} is a zip, but not one of torch: it has no data.pkl in {archive.folder!r}")
    pickle = read_data_pickle(archive)
    storages = zip_storages(pickle, archive)
    listing = Listing(TORCH_ZIP.name, (), archive.checksums("data/"), notes=archive.notes)
    if not is_script(records):
        return _with_tensors(listing, pickle, storages, label, keys)
    sort_attributes(pickle.value, read_classes(archive))
    listing = _with_tensors(replace(listing, format=TORCHSCRIPT.name), pickle, storages, label, keys)
    if not listing.tensors and not listing.unprunable_entries:
        raise CheckpointError(
            f"{label} is a TorchScript archive without named weights: torch.jit.freeze turns weights into constants",
            hint="prune the file from before torch.jit.freeze, then freeze again",
        )
    return listing


def read_torch_legacy(file: BinaryIO, label: str, keys: Sequence[str] = ()) -> Listing:
    """List the tensors of a file in the format before torch 1.6; see `read_torch_zip` for the arguments."""
    legacy = read_legacy(file, label)
    extra = file.seek(0, os.SEEK_END) - legacy.end
    notes = (f"{extra:,} bytes after the last storage are copied unchanged",) if extra else ()
    return _with_tensors(Listing(TORCH_LEGACY.name, (), notes=notes), legacy.pickle, legacy.storages, label, keys)


def _with_tensors(
    listing: Listing, pickle: Pickle, storages: dict[Persistent, Storage], label: str, keys: Sequence[str]
) -> Listing:
    """Return `listing` with the tensors of `pickle`."""
    check_rules(pickle, label)
    others: list[object] = []

    def describe(name: str, value: object) -> TensorInfo | str:
        inner = unwrapped(value)
        dtype = unknown_dtype(inner)
        if dtype is not None or not is_strided(inner):
            others.append(inner)
            return other_kind(inner) if dtype is None else f"tensor of {dtype}"
        if isinstance(inner, Call) and (inner.items or inner.entries):
            raise CheckpointError(
                f"{label} cannot be read safely: the tensor {quoted(name)} is changed after it is made"
            )
        info = tensor_info(name, inner, storages)
        return conversion(value, info.dtype) or info

    listing = with_tensors(listing, pickle.value, label, keys, describe, pickle.length)
    tensors = _mark_disputed(listing.tensors)
    return replace(listing, tensors=_mark_shared(tensors, {storages[p].span for p in storages_below(others, storages)}))


def _mark_shared(tensors: Sequence[TensorInfo], spans: Container[Span]) -> tuple[TensorInfo, ...]:
    """Make the tensors unprunable whose storage is in `spans`: those of other kinds of tensors."""
    reason = "its storage is also that of another kind of tensor"
    return tuple(_unprunable(t, reason) if t.span.length and t.span in spans else t for t in tensors)


def _mark_disputed(tensors: Sequence[TensorInfo]) -> tuple[TensorInfo, ...]:
    """Make the tensors unprunable whose storage is read with more than one dtype."""
    # A zero written for one dtype would change the numbers of the other.
    dtypes: dict[Span, set[str]] = defaultdict(set)
    for tensor in tensors:
        dtypes[tensor.span].add(tensor.dtype)
    return tuple(
        _unprunable(tensor, f"its storage is read as {' and as '.join(sorted(dtypes[tensor.span]))}")
        if len(dtypes[tensor.span]) > 1 and tensor.span.length
        else tensor
        for tensor in tensors
    )


def _unprunable(tensor: TensorInfo, reason: str) -> TensorInfo:
    return tensor if tensor.unprunable_reason == OUTSIDE else replace(tensor, unprunable_reason=reason)


def _exported(file: BinaryIO, records: dict[str, Record], label: str, keys: Sequence[str]) -> Listing:
    refuse_keys(f"{label} is an exported program", keys)
    listing = read_exported(file, records, label)
    return replace(listing, tensors=_mark_disputed(listing.tensors))


def zip_storages(pickle: Pickle, archive: Archive) -> dict[Persistent, Storage]:
    """Return the storage of each persistent id; CheckpointError if a record is missing or does not fit."""
    try:
        claims = storage_claims(pickle)
    except ValueError as problem:
        raise CheckpointError(f"{archive.label} is damaged: {problem}") from problem
    return {persistent: _storage(claim, archive) for persistent, claim in claims.items()}


def _storage(claim: StorageClaim, archive: Archive) -> Storage:
    label = archive.label
    record = archive.records.get(f"data/{claim.key}")
    # A key with a slash could name a record outside data/.
    if record is None or "/" in claim.key or claim.view:
        raise CheckpointError(f"{label} is damaged: it has no record for the storage {claim.key!r}")
    # torch.load(mmap=True) would continue into the bytes after a record that is too short.
    if record.span.length != claim.nbytes:
        raise CheckpointError(
            f"{label} is damaged: {record.name!r} has {record.span.length:,} bytes instead of {claim.nbytes:,}"
        )
    return Storage(claim, record.span, archive.big_endian)
