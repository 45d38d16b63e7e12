"""Opening a checkpoint: what a file is, by its content, and its tensors, from one file or from many shards.

Metadata only: nothing here reads tensor data, and no file stays open. Also the names that results get.
"""

from __future__ import annotations

import difflib
import os
import shlex
import stat
from dataclasses import dataclass, replace
from itertools import pairwise
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING

from prunecli.checkpoint import Checkpoint, CheckpointFile, PathLike, TensorInfo
from prunecli.errors import CheckpointError
from prunecli.formats.detect import _HEAD, ARRAYS, SAFETENSORS, TORCH, _foreign, detect_format
from prunecli.formats.safetensors.reader import read_safetensors
from prunecli.formats.shards import check_index, find_shards, is_index
from prunecli.text.escape import quoted

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import BinaryIO


@dataclass(frozen=True, slots=True)
class _Listing:
    """One opened file, as both readers can tell it."""

    file: CheckpointFile
    reader: str
    format: str
    tensors: tuple[TensorInfo, ...]
    key: str = ""
    metadata: tuple[tuple[str, str], ...] = ()
    facts: tuple[str, ...] = ()
    others: tuple[tuple[str, str], ...] = ()


def open_checkpoint(path: PathLike, *, key: str | None = None, label: str | None = None) -> Checkpoint:
    """List the tensors of the checkpoint at `path`: a file, a directory of shards, or an index of shards.

    `key` is the dotted path of the state_dict inside a nested torch file (None: find it). `label` names a
    file in messages in place of its path. A torch file's tensors keep their order, others are in name order.
    Raise CheckpointError for anything that is missing, unreadable, damaged or no checkpoint.
    """
    if not os.fspath(path):
        raise CheckpointError("the checkpoint's path is empty", hint="ls")
    path = Path(path)
    name = label or str(path)
    mode = _mode(path, name)
    if stat.S_ISDIR(mode):
        return _open_directory(path, None, key)
    if not stat.S_ISREG(mode):
        raise CheckpointError(
            f"{name} is not a regular file or a directory", hint=f"prune COMMAND - < {shlex.quote(str(path))}"
        )
    if is_index(path):
        return _open_directory(path.parent, path, key)
    one = _open_file(path, name, key)
    facts = (*one.facts, *_dropped(one.metadata, one.tensors))
    return Checkpoint(
        path, one.format, (one.file,), one.tensors, key=one.key, notes=facts, unprunable_entries=one.others
    )


def _mode(path: Path, name: str) -> int:
    """Return the file mode of what is at `path`, or say in one sentence why there is none."""
    try:
        return path.stat().st_mode
    except FileNotFoundError:
        raise CheckpointError(f"there is no file or directory {name}", hint=_near(path)) from None
    except OSError as error:
        raise CheckpointError(f"cannot read {name}: {error.strerror}") from error
    except ValueError as error:
        raise CheckpointError(f"{quoted(name)} is no path: {error}") from None


def _near(path: Path) -> str:
    try:
        names = [sibling.name for sibling in path.parent.iterdir()]
    except OSError:
        return f"there is no folder {path.parent} either"
    near = difflib.get_close_matches(path.name, names, n=1)
    return f"closest name is {path.parent / near[0]}" if near else shlex.join(["ls", str(path.parent)])


def _open_file(path: Path, label: str, key: str | None) -> _Listing:
    try:
        with path.open("rb") as file:
            modified = os.fstat(file.fileno()).st_mtime_ns
            listing = _read(file, path, label, key)
            return replace(listing, file=replace(listing.file, modified=modified))
    except OSError as error:
        raise CheckpointError(f"cannot read {label}: {error.strerror or error}") from error


def _read(file: BinaryIO, path: Path, label: str, key: str | None) -> _Listing:
    kind = detect_format(file.read(_HEAD), path.name)
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    if kind.reader == TORCH:
        from prunecli.formats.torch.reader import read_torch

        torch = read_torch(file, label, key=key)
        data = CheckpointFile(path, size, torch.checksums)
        return _Listing(data, TORCH, torch.format, torch.tensors, torch.key, (), torch.facts, torch.others)
    if kind.reader == ARRAYS:
        from prunecli.formats.numpy_pickle import read_array_pickle

        arrays = read_array_pickle(file, label, key=key)
        data = CheckpointFile(path, size)
        return _Listing(data, ARRAYS, arrays.format, arrays.tensors, arrays.key, (), arrays.facts, arrays.others)
    if not kind.reader:
        raise _foreign(kind, path, label)
    if key:
        raise CheckpointError(f"{label} is a safetensors file, which has no key {quoted(key)}", hint="leave --key out")
    listing = read_safetensors(file, label)
    metadata = tuple(listing.metadata.items())
    return _Listing(CheckpointFile(path, size), SAFETENSORS, SAFETENSORS, listing.tensors, metadata=metadata)


def _is_torch(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return detect_format(file.read(_HEAD)).reader == TORCH
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error


def _open_directory(directory: Path, index: Path | None, key: str | None) -> Checkpoint:
    layout = find_shards(directory, index, _is_torch)
    shards = [_open_file(directory / name, str(directory / name), key) for name in layout.shards]
    _check_alike(shards)
    tensors = _merged(shards)
    others = tuple(other for shard in shards for other in shard.others)
    facts = [fact for shard in shards for fact in shard.facts]
    metadata = [pair for shard in shards for pair in shard.metadata]
    if layout.index:
        facts += check_index(layout.index, _where(layout.shards, shards))
        metadata += layout.index.metadata.items()
    return Checkpoint(
        directory,
        shards[0].format,
        tuple(shard.file for shard in shards),
        tensors,
        is_directory=True,
        other_files=layout.other_files,
        key=shards[0].key,
        notes=tuple(dict.fromkeys([*layout.facts, *facts, *_dropped(metadata, tensors)])),
        unprunable_entries=others,
    )


def _check_alike(shards: list[_Listing]) -> None:
    first = shards[0]
    for shard in shards:
        if shard.reader != first.reader:
            raise CheckpointError(f"{first.file.path} is {first.reader} and {shard.file.path} is {shard.reader}")
        if shard.key != first.key:
            raise CheckpointError(
                f"{first.file.path} has its weights under {quoted(first.key)} and {shard.file.path} under"
                f" {quoted(shard.key)}"
            )


def _merged(shards: list[_Listing]) -> tuple[TensorInfo, ...]:
    """Give each tensor its file's index and sort them by name; a name in two shards is refused."""
    tensors = [replace(t, file=i) for i, shard in enumerate(shards) for t in shard.tensors]
    tensors.sort(key=attrgetter("name"))
    for a, b in pairwise(tensors):
        if a.name == b.name and a.file != b.file:
            one, other = shards[a.file].file.path, shards[b.file].file.path
            raise CheckpointError(f"tensor {quoted(a.name)} is in {one} and in {other}", hint=f"name one: {one}")
    return tuple(tensors)


def _where(names: tuple[str, ...], shards: list[_Listing]) -> dict[str, str]:
    where: dict[str, str] = {}
    for name, shard in zip(names, shards, strict=True):
        where.update((t.name, name) for t in shard.tensors)
        where.update((other, name) for other, _ in shard.others)
    return where


def _dropped(metadata: Iterable[tuple[str, str]], tensors: tuple[TensorInfo, ...]) -> tuple[str, ...]:
    """Tell the names that were saved once under another name, as the Hub's writer notes in the metadata."""
    names = {t.name for t in tensors}
    return tuple(
        f"{quoted(name)} is stored once, as {quoted(kept)}"
        for name, kept in metadata
        if kept in names and name not in names
    )
