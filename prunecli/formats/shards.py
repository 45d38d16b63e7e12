"""Find the shards of a checkpoint directory, its index and its other files.

No tensor file is opened here: the caller passes a function that recognizes torch files.
"""

from __future__ import annotations

import os
import shlex
import stat
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NoReturn

from prunecli.errors import CheckpointError
from prunecli.formats.model_files import (
    WEIGHT_SUFFIXES,
    choose_model,
    is_index_name,
    is_training_state,
    missing_shard,
    stem_of_index,
)
from prunecli.formats.own_files import is_own_folder, is_own_name, is_own_result
from prunecli.formats.strict_json import HEADER_LIMIT, parse_json_object
from prunecli.remote.path import RemotePath
from prunecli.text.escape import listed, quoted
from prunecli.text.member_names import leaves_its_folder
from prunecli.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_MOST_FOLDERS = 100
_NAMED = 5  # names that a message lists before it counts the rest
_OTHER_WEIGHTS = (".msgpack", ".ot", ".onnx_data", ".tflite", ".mlmodel", ".pb", ".zip", ".tar", ".gz")
_LARGEST_REMOTE = 100 * 10**6  # bytes of a file without weights, such as a tokenizer


@dataclass(frozen=True, slots=True)
class Index:
    """A parsed index: its file, the shard of each tensor, and the strings of its metadata."""

    path: Path
    weight_map: dict[str, str]
    metadata: dict[str, str]


@dataclass(frozen=True, slots=True)
class Layout:
    """The files of a checkpoint directory.

    Attributes:
        shards: The files with tensors, relative to the directory, sorted by name.
        other_files: All other files, relative to the directory.
        index: The index of the shards, or None.
        notes: Sentences about the directory that a user may want to know.
    """

    shards: tuple[str, ...]
    other_files: tuple[Path, ...]
    index: Index | None
    notes: tuple[str, ...]


def is_index(path: Path) -> bool:
    """Return whether `path` has the name of an index of shards."""
    return is_index_name(path.name)


def find_shards(directory: Path, index: Path | None, is_torch: Callable[[Path], bool]) -> Layout:
    """Find the shards of `directory`: those in `index`, or those that `choose_model` finds if it is None.

    `is_torch` returns whether a file is a torch file. Raises CheckpointError if there are no shards, if they are
    incomplete, or if the directory may hold several models.
    """
    shards: tuple[str, ...] = ()
    if index is None:
        model = choose_model(directory, file_names(directory), is_torch)
        index, shards = model.index, model.shards
    parsed = read_index(index) if index else None
    if parsed:
        shards = tuple(sorted(set(parsed.weight_map.values())))
    for name in shards:
        check_shard(directory, name)
    others, notes = other_files(directory, frozenset(shards))
    return Layout(shards, others, parsed, (*_choice(index, shards, others), *notes))


def _choice(index: Path | None, shards: tuple[str, ...], other_files: tuple[Path, ...]) -> tuple[str, ...]:
    """Return a note that names the model, if files next to it may be other models."""
    if not any(file.suffix in WEIGHT_SUFFIXES and not is_training_state(file.name) for file in other_files):
        return ()
    return (f"the model is that of {index.name if index else listed(shards, 1)}",)


def check_index(index: Index, shards: dict[str, str]) -> tuple[str, ...]:
    """Compare `index` with `shards`, the actual shard of each tensor, and return notes about tensors it does not list.

    Raises CheckpointError for a tensor that is not in the shard that the index names.
    """
    for name, shard in index.weight_map.items():
        if shards.get(name) != shard:
            actual = f"it is in {shards[name]}" if name in shards else "it is not there"
            raise CheckpointError(f"{index.path} puts the tensor {quoted(name)} in {shard}, but {actual}")
    extra = [name for name in shards if name not in index.weight_map]
    if not extra:
        return ()
    return (f"{len(extra)} tensors are in the shards but not in {index.path.name}, first {quoted(extra[0])}",)


def file_names(directory: Path) -> list[str]:
    """Return the sorted names of the files of a directory, dangling links included."""
    if isinstance(directory, RemotePath):
        return directory.files()
    try:
        with os.scandir(directory) as entries:
            return sorted(entry.name for entry in entries if _may_be_read(entry))
    except OSError as error:
        _unreadable(error)


def _may_be_read(entry: os.DirEntry[str]) -> bool:
    # Opening a FIFO would block. A dangling link is reported later.
    return entry.is_file() or (entry.is_symlink() and not Path(entry.path).exists())


def _unreadable(error: OSError) -> NoReturn:
    raise CheckpointError(f"cannot read {error.filename}: {error.strerror}") from error


def read_index(path: Path) -> Index:
    """Parse the index at `path`; raise CheckpointError if it is not valid or names files outside its directory."""
    try:
        with path.open("rb") as file:
            raw = file.read(HEADER_LIMIT + 1)
    except OSError as error:
        _unreadable(error)
    if len(raw) > HEADER_LIMIT:
        raise CheckpointError(f"{path} is too large for an index of shards: more than {HEADER_LIMIT} bytes")
    fields = dict(parse_json_object(raw, f"{path}"))
    weight_map, metadata = fields.get("weight_map"), fields.get("metadata")
    if not isinstance(weight_map, tuple) or not weight_map:
        raise CheckpointError(
            f"{path} is not an index of shards: it has no weight_map",
            hint=f"name a checkpoint file in {path.parent} instead",
        )
    strings = {k: v for k, v in metadata if isinstance(v, str)} if isinstance(metadata, tuple) else {}
    return Index(path, _weight_map(path, weight_map), strings)


def _weight_map(path: Path, pairs: tuple[tuple[str, object], ...]) -> dict[str, str]:
    shards: dict[str, str] = {}
    for name, shard in pairs:
        if name in shards:
            raise CheckpointError(f"{path} lists the tensor {quoted(name)} twice")
        if not isinstance(shard, str):
            raise CheckpointError(f"{path} has no file name for the tensor {quoted(name)}")
        shards[name] = shard
    names = sorted(set(shards.values()))
    for shard in names:
        check_member_name(str(path), shard)
    _check_suffixes(path, names)
    return shards


def check_member_name(listing: str, name: str) -> None:
    """Refuse a name that leaves the directory on any system, or that is not the canonical path of its file.

    `listing` is the file that names it.
    """
    if leaves_its_folder(name):
        raise CheckpointError(f"{listing} names a shard {quoted(name)}, which is not a plain path inside its directory")


def _check_suffixes(index: Path, names: list[str]) -> None:
    # A loader would unpickle a .bin file that a safetensors index names.
    wanted = PurePosixPath(stem_of_index(index.name)).suffix or PurePosixPath(names[0]).suffix
    for name in names:
        if PurePosixPath(name).suffix != wanted:
            raise CheckpointError(f"{index} names a shard {quoted(name)}, which is not a {wanted} file")


def check_shard(directory: Path, name: str) -> None:
    """Raise CheckpointError where the member `name` of a directory is missing, is no regular file or leaves it."""
    path = directory / name
    check_link(directory, path)
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise missing_shard(directory, name) from None
    except OSError as error:
        _unreadable(error)
    if not stat.S_ISREG(mode):
        raise CheckpointError(f"the shard {path} is not a regular file")


def check_link(directory: Path, path: Path) -> None:
    """Refuse `path` if it is a link that leaves `directory`, unless it leads to the `blobs` of the same Hub cache.

    In the Hub's cache, `snapshots/REVISION/name` is a link to `blobs/HASH` in the same repository folder.
    """
    if isinstance(path, RemotePath):
        return
    # The output is a copy of the directory: a link to a private file would publish the content of that file.
    home = Path(os.path.realpath(directory))
    target = Path(os.path.realpath(path))
    snapshots = (folder.parent for folder in (home, *home.parents) if folder.parent.name == "snapshots")
    # A `blobs` that is itself a link may lead to any folder.
    blobs = (folder.parent / "blobs" for folder in snapshots if not (folder.parent / "blobs").is_symlink())
    if any(target.is_relative_to(folder) for folder in (home, *blobs)):
        return
    raise CheckpointError(
        f"{path} is a link that leaves its directory, to {target}",
        hint=shlex.join(["cp", "--remove-destination", str(target), str(path)]),
    )


def other_files(directory: Path, shards: frozenset[str]) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    """Return the regular files that are not shards, and notes about those that may hold weights or are left out."""
    files: list[Path] = []
    notes: list[str] = []
    own: list[str] = []
    if isinstance(directory, RemotePath):
        return _remote_files(directory, shards)
    for path in _walk(directory, own):
        name = path.relative_to(directory)
        if name.as_posix() in shards:
            continue
        if path.is_dir():
            notes.append(f"the linked folder {name} is left out")
        elif is_own_result(path):
            own.append(str(name))
        elif _is_member(directory, path):
            files.append(name)
    weights = [str(name) for name in files if name.suffix in WEIGHT_SUFFIXES]
    if own:
        notes.append(f"left out, as results of this tool: {listed(own, _NAMED)}")
    if weights:
        notes.append(f"copied unchanged, though they may hold weights: {listed(weights, _NAMED)}")
    return tuple(files), tuple(notes)


def _remote_files(directory: RemotePath, shards: frozenset[str]) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    """Return the small files next to the shards that are elsewhere: an output does not get other models with them."""
    names = [name for name in directory.below() if name not in shards and not is_own_name(name)]
    left_out = [name for name in names if _is_large(directory / name)]
    files = tuple(Path(name) for name in names if name not in left_out)
    return files, (f"left out, as other weights or large files: {listed(left_out, _NAMED)}",) if left_out else ()


def _is_large(path: Path) -> bool:
    return path.suffix in WEIGHT_SUFFIXES + _OTHER_WEIGHTS or path.stat().st_size > _LARGEST_REMOTE


def _is_member(directory: Path, path: Path) -> bool:
    """Return whether `path` is a regular file; CheckpointError for a link that dangles or leaves the directory."""
    check_link(directory, path)
    if not path.exists():
        raise CheckpointError(f"{path} is a dangling link", hint=shlex.join(["rm", str(path)]))
    return path.is_file()


def _walk(directory: Path, own: list[str]) -> Iterator[Path]:
    """Yield every file below `directory` in name order, and every link to a folder; links are not followed.

    Folders that this tool wrote are not entered; their relative paths are added to `own`.
    """
    depth = str(directory).rstrip(os.sep).count(os.sep) + _MOST_FOLDERS
    for root, folders, names in os.walk(directory, onerror=_unreadable):
        if root.count(os.sep) > depth:  # os.walk calls itself for each level
            raise CheckpointError(f"{directory} has folders in more than {_MOST_FOLDERS} levels")
        results = [name for name in folders if is_own_folder(name, folders)]
        own += [str(Path(root, name).relative_to(directory)) for name in results]
        folders[:] = sorted(name for name in folders if name not in results)
        links = [name for name in folders if Path(root, name).is_symlink()]
        yield from (Path(root, name) for name in sorted(names + links))
