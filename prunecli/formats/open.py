"""Open a checkpoint: a file, a directory of shards, or an index of shards.

Reads metadata only, no tensor data. No file stays open.
"""

from __future__ import annotations

import os
import shlex
import stat
from dataclasses import replace
from itertools import pairwise
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from prunecli.checkpoint import Checkpoint, CheckpointFile, Keys, PathLike, TensorInfo, key_patterns
from prunecli.errors import CheckpointError
from prunecli.formats.config import model_type_in
from prunecli.formats.data_files import find_data_files
from prunecli.formats.dcp.detect import is_distributed
from prunecli.formats.dcp.format import SHARDING_INFO
from prunecli.formats.detect import PART, ForeignKind, detect_format, not_a_checkpoint
from prunecli.formats.format import HEAD, head_of
from prunecli.formats.registry import family_of
from prunecli.formats.shards import check_index, file_names, find_shards, is_index
from prunecli.formats.torch.format import TORCH_ZIP
from prunecli.io.read_errors import read_errors
from prunecli.layouts.decide import with_layouts
from prunecli.remote.path import RemotePath
from prunecli.text.closest import closest
from prunecli.text.escape import quoted
from prunecli.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from prunecli.formats.listing import Listing


@dataclass(frozen=True, slots=True)
class _OpenedFile:
    file: CheckpointFile
    listing: Listing


def open_checkpoint(path: PathLike, *, key: Keys = None, label: str | None = None, remote: bool = False) -> Checkpoint:
    """Return the metadata of the checkpoint at `path`, with what each tensor is.

    See `open_listed` for the arguments, the value and the errors.
    """
    return with_layouts(open_listed(path, key=key, label=label, remote=remote))


def open_listed(path: PathLike, *, key: Keys, label: str | None, remote: bool) -> Checkpoint:
    """Return the metadata of the checkpoint at `path`; what a tensor is, is not decided unless its format says it.

    Args:
        path: A checkpoint file, a directory of shards, or an index of shards (`*.index.json`).
        key: The dotted paths of the state_dicts inside a nested torch file, or globs over them. None looks for the
            state_dict at the usual places.
        label: A name for the file in messages, instead of its path.
        remote: Whether the path may be the URL of a model that is elsewhere.

    Returns:
        The tensors, their files and notes. The tensors of a torch file keep their order; others are sorted by name.

    Raises:
        CheckpointError: The path is missing, unreadable, damaged, or not a checkpoint.
    """
    # Path("") is the current directory, which the user of an unset shell variable does not mean.
    if not os.fspath(path):
        raise CheckpointError("the path of the checkpoint is empty", hint="ls")
    if not hasattr(os, "preadv"):
        raise CheckpointError(
            "checkpoints are read on Linux and macOS: this system lacks the calls for it",
            hint="on Windows use its Subsystem for Linux: wsl --install",
        )
    if "://" in os.fspath(path):
        return _open_elsewhere(os.fspath(path), key, allowed=remote)
    path = Path(path)
    name, keys = label or str(path), key_patterns(key)
    return _open(path, name, keys, label)


def _open_elsewhere(url: str, key: Keys, *, allowed: bool) -> Checkpoint:
    """Return the metadata of a model that is elsewhere, or of a local file with such a name."""
    from prunecli.formats.elsewhere import hints_for_elsewhere, opened_elsewhere

    path, notes = opened_elsewhere(url, allowed=allowed)
    with hints_for_elsewhere(path):
        checkpoint = _open(path, str(path), key_patterns(key), None)
    return replace(checkpoint, notes=(*checkpoint.notes, *notes)) if notes else checkpoint


def _open(path: Path, name: str, keys: Sequence[str], label: str | None) -> Checkpoint:
    mode = _file_mode(path, name)
    if stat.S_ISDIR(mode):
        return _open_distributed(path, keys) if is_distributed(path) else _open_directory(path, None, keys)
    if not stat.S_ISREG(mode):
        raise CheckpointError(
            f"{name} is not a regular file or a directory",
            hint=f"cat {shlex.quote(str(path))} > checkpoint.pth",
        )
    if is_index(path):
        return _open_directory(path.parent, path, keys)
    opened = _open_file(path, name, keys)
    listing = opened.listing
    checkpoint = Checkpoint(
        path,
        listing.format,
        (opened.file,),
        listing.tensors,
        keys=listing.keys,
        parts=listing.parts,
        notes=(*listing.notes, *_stored_once(listing.metadata.items(), listing.tensors)),
        unprunable_entries=listing.unprunable_entries,
        model_type="" if label else model_type_in(path.parent),
        is_module=listing.is_module,
        metadata=listing.metadata,
    )
    if listing.data_files:
        checkpoint = _with_data(checkpoint, opened, label)
    return checkpoint


def _with_data(checkpoint: Checkpoint, opened: _OpenedFile, label: str | None) -> Checkpoint:
    """Return the checkpoint as a directory of the file and of those that have its numbers."""
    path = checkpoint.path
    if label:
        raise CheckpointError(
            f"{label} has its weights in {quoted(opened.listing.data_files[0])}, which a pipe does not give",
            hint="name the file itself",
        )
    files = (opened.file, *find_data_files(path, opened.listing))
    return replace(checkpoint, path=path.parent, files=files, is_directory=True)


def _files(shards: list[_OpenedFile]) -> tuple[CheckpointFile, ...]:
    """Return the files of the shards, and of a single one those that have its numbers."""
    if len(shards) == 1:
        return (shards[0].file, *find_data_files(shards[0].file.path, shards[0].listing))
    for shard in shards:
        if shard.listing.data_files:
            raise CheckpointError(f"{shard.file.path} has weights in other files", hint="name one file at a time")
    return tuple(shard.file for shard in shards)


def _file_mode(path: Path, name: str) -> int:
    try:
        return path.stat().st_mode
    except FileNotFoundError:
        raise CheckpointError(f"there is no file or directory {name}", hint=_hint_for_missing(path)) from None
    except OSError as error:
        raise CheckpointError(f"cannot read {name}: {error.strerror}") from error
    except ValueError as error:
        raise CheckpointError(f"{quoted(name)} is not a valid path: {error}") from None


def _hint_for_missing(path: Path) -> str:
    try:
        names = [sibling.name for sibling in path.parent.iterdir()]
    except OSError:
        return f"there is no folder {path.parent} either"
    by_stem = {Path(name).stem: name for name in sorted(names, key=lambda name: Path(name).suffix == path.suffix)}
    near = closest(path.stem, by_stem)  # equal suffixes alone would make any two names similar
    similar = [name for name in names if name.lower() == path.name.lower()] or [by_stem[stem] for stem in near]
    return f"closest name is {path.parent / similar[0]}" if similar else shlex.join(["ls", str(path.parent)])


def _open_file(path: Path, label: str, keys: Sequence[str]) -> _OpenedFile:
    with read_errors(label), path.open("rb") as file:
        modified = _modified(path, file)
        detected = detect_format(file.read(HEAD), path.name)
        if isinstance(detected, ForeignKind):
            raise not_a_checkpoint(detected, path, label)
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        listing = detected.read(file, label, keys)
        if SHARDING_INFO in listing.metadata:
            raise not_a_checkpoint(PART, path, label)
        inflated = listing.inflated
        size = size if inflated is None else inflated.size
        return _OpenedFile(CheckpointFile(path, size, listing.checksums, modified, listing.format, inflated), listing)


def _modified(path: Path, file: BinaryIO) -> int:
    """Return the time of modification (ns) of an open file, or the number of the version of one that is elsewhere."""
    return path.version if isinstance(path, RemotePath) else os.fstat(file.fileno()).st_mtime_ns


def _is_torch(path: Path) -> bool:
    detected = detect_format(head_of(path))
    return not isinstance(detected, ForeignKind) and detected.family == TORCH_ZIP.family


def _open_distributed(directory: Path, keys: Sequence[str]) -> Checkpoint:
    from prunecli.formats.dcp.directory import open_distributed

    return open_distributed(directory, keys)


def _open_directory(directory: Path, index: Path | None, keys: Sequence[str]) -> Checkpoint:
    elsewhere = isinstance(directory, RemotePath)
    safe = elsewhere and any(name.endswith(".safetensors") for name in file_names(directory))
    # Next to safetensors files, torch files count by their names alone: each would be a request.
    layout = find_shards(directory, index, (lambda _: True) if safe else _is_torch)
    if isinstance(directory, RemotePath):
        directory.fetch_heads(layout.shards)
    shards = [_open_file(directory / name, str(directory / name), keys) for name in layout.shards]
    _check_consistent(shards)
    listings = [shard.listing for shard in shards]
    tensors = _merged(shards)
    notes = [*layout.notes, *(note for listing in listings for note in listing.notes)]
    metadata = [pair for listing in listings for pair in listing.metadata.items()]
    if layout.index:
        notes += check_index(layout.index, _shard_of_each_name(layout.shards, listings))
        metadata += layout.index.metadata.items()
    files = _files(shards)
    names = {file.path.relative_to(directory) for file in files}
    return Checkpoint(
        directory,
        listings[0].format,
        files,
        tensors,
        is_directory=True,
        other_files=tuple(name for name in layout.other_files if name not in names),
        index=Path(layout.index.path.name) if layout.index else None,
        keys=listings[0].keys,
        parts=listings[0].parts,
        notes=tuple(dict.fromkeys([*notes, *_stored_once(metadata, tensors)])),
        unprunable_entries=tuple(entry for listing in listings for entry in listing.unprunable_entries),
        model_type=model_type_in(directory),
        is_module=any(listing.is_module for listing in listings),
    )


def _check_consistent(shards: list[_OpenedFile]) -> None:
    """Refuse shards of different formats, or with the state_dict under different keys."""
    first = shards[0]
    for shard in shards:
        a, b = first.listing, shard.listing
        if family_of(a.format) != family_of(b.format):
            raise CheckpointError(f"{first.file.path} is {a.format}, but {shard.file.path} is {b.format}")
        if a.keys != b.keys:
            one, other = (quoted(", ".join(listing.keys)) for listing in (a, b))
            raise CheckpointError(
                f"{first.file.path} has its weights under {one}, but {shard.file.path} has them under {other}"
            )


def _merged(shards: list[_OpenedFile]) -> tuple[TensorInfo, ...]:
    """Return the tensors of all shards with the index of their file, sorted by name; refuse a name in two shards."""
    tensors = [replace(t, file=i or t.file) for i, shard in enumerate(shards) for t in shard.listing.tensors]
    tensors.sort(key=attrgetter("name"))
    for a, b in pairwise(tensors):
        # Loaders do not agree on which of the two tensors counts.
        if a.name == b.name and a.file != b.file:
            one, other = shards[a.file].file.path, shards[b.file].file.path
            raise CheckpointError(
                f"the tensor {quoted(a.name)} is in {one} and in {other}", hint=f"name one of the files: {one}"
            )
    return tuple(tensors)


def _shard_of_each_name(names: tuple[str, ...], listings: list[Listing]) -> dict[str, str]:
    shards: dict[str, str] = {}
    for name, listing in zip(names, listings, strict=True):
        shards.update((tensor.name, name) for tensor in listing.tensors)
        shards.update((entry, name) for entry, _ in listing.unprunable_entries)
    return shards


def _stored_once(metadata: Iterable[tuple[str, str]], tensors: tuple[TensorInfo, ...]) -> tuple[str, ...]:
    """Return a note for each tied name that is not stored: the Hub's writer maps it to the stored name in the metadata.

    Other metadata has no tensor's name as its value.
    """
    names = {tensor.name for tensor in tensors}
    return tuple(
        f"{quoted(name)} is stored once, as {quoted(kept)}"
        for name, kept in metadata
        if kept in names and name not in names
    )
