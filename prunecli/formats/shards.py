"""Find the shards of a checkpoint directory, its index and its other files.

No tensor file is opened here: the caller passes a function that recognizes torch files.
"""

from __future__ import annotations

import os
import re
import shlex
import stat
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, NoReturn

from prunecli.errors import CheckpointError
from prunecli.formats.strict_json import HEADER_LIMIT, parse_json_object
from prunecli.text.escape import listed, quoted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

INDEX_SUFFIX = ".index.json"
TORCH_SUFFIXES = (".bin", ".pth", ".pt", ".ckpt", ".th")
"""The suffixes of torch files that are searched in a directory. A file that the user names may have any suffix."""

_WEIGHT_SUFFIXES = (".safetensors", *TORCH_SUFFIXES)
_NAMED = 5  # names that a message lists before it counts the rest
_SHARD_NAME = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<suffix>\.\w+)")

DCP_TO_TORCH = ("python", "-m", "torch.distributed.checkpoint.format_utils", "dcp_to_torch")
"""The command that converts a distributed checkpoint to a torch file; the directory and the new file are appended."""

_ZERO_TO_FP32 = ("python", "-m", "deepspeed.utils.zero_to_fp32")


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
    return path.name.endswith(INDEX_SUFFIX)


def find_shards(directory: Path, index: Path | None, is_torch: Callable[[Path], bool]) -> Layout:
    """Find the shards of `directory`: those in `index`, or in its only index, or the files that are present.

    Without an index, the shards are all `*.safetensors` files; if there are none, the only torch file or the complete
    set of torch shards. `is_torch` returns whether a file is a torch file. Raises CheckpointError if there are no
    shards, if they are incomplete, or if the choice is ambiguous.
    """
    names = _file_names(directory)
    index = index or _only_index(directory, names)
    parsed = _read_index(index) if index else None
    shards = sorted(set(parsed.weight_map.values())) if parsed else _unindexed(directory, names, is_torch)
    for name in shards:
        _check_shard(directory, name)
    other_files, notes = _other_files(directory, frozenset(shards))
    return Layout(tuple(shards), other_files, parsed, notes)


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


def _file_names(directory: Path) -> list[str]:
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


def _only_index(directory: Path, names: list[str]) -> Path | None:
    indexes = [name for name in names if name.endswith(INDEX_SUFFIX)]
    _refuse_several(directory, indexes, "indexes")
    return directory / indexes[0] if indexes else None


def _refuse_several(directory: Path, names: list[str], noun: str) -> None:
    if len(names) > 1:
        raise CheckpointError(
            f"{directory} has {len(names)} {noun}: {listed(names, _NAMED)}",
            hint=f"name the one you mean: {directory / names[0]}",
        )


def _read_index(path: Path) -> Index:
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
        _check_name(path, shard)
    _check_suffixes(path, names)
    return shards


def _check_name(index: Path, name: str) -> None:
    """Refuse a name that leaves the directory on any system, or that is not the canonical path of its file."""
    windows = PureWindowsPath(name)
    leaves = windows.drive or windows.root or ".." in windows.parts or "\\" in name
    if leaves or not name.isprintable() or PurePosixPath(name).as_posix() != name or name == ".":
        raise CheckpointError(f"{index} names a shard {quoted(name)}, which is not a plain path inside its directory")


def _check_suffixes(index: Path, names: list[str]) -> None:
    # A loader would unpickle a .bin file that a safetensors index names.
    wanted = PurePosixPath(index.name[: -len(INDEX_SUFFIX)]).suffix or PurePosixPath(names[0]).suffix
    for name in names:
        if PurePosixPath(name).suffix != wanted:
            raise CheckpointError(f"{index} names a shard {quoted(name)}, which is not a {wanted} file")


def _check_shard(directory: Path, name: str) -> None:
    path = directory / name
    check_link(directory, path)
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise _lacks(directory, name) from None
    except OSError as error:
        _unreadable(error)
    if not stat.S_ISREG(mode):
        raise CheckpointError(f"the shard {path} is not a regular file")


def check_link(directory: Path, path: Path) -> None:
    """Refuse `path` if it is a link that leaves `directory`, unless it leads to the `blobs` of the same Hub cache.

    In the Hub's cache, `snapshots/REVISION/name` is a link to `blobs/HASH` in the same repository folder.
    """
    # The output is a copy of the directory: a link to a private file would publish the content of that file.
    home = Path(os.path.realpath(directory))
    target = Path(os.path.realpath(path))
    snapshots = (folder.parent for folder in (home, *home.parents) if folder.parent.name == "snapshots")
    blobs = (Path(os.path.realpath(folder.parent / "blobs")) for folder in snapshots)
    if any(target.is_relative_to(folder) for folder in (home, *blobs)):
        return
    raise CheckpointError(
        f"{path} is a link that leaves its directory, to {target}",
        hint=shlex.join(["cp", "--remove-destination", str(target), str(path)]),
    )


def _unindexed(directory: Path, names: list[str], is_torch: Callable[[Path], bool]) -> list[str]:
    """Return the shards of a directory without an index."""
    safetensors = [name for name in names if name.endswith(".safetensors")]
    if safetensors:
        _check_complete(directory, safetensors)
        return safetensors
    _refuse_foreign(directory, names)
    torch = [name for name in names if name.endswith(TORCH_SUFFIXES) and is_torch(directory / name)]
    # transformers writes this name; next to it, training_args.bin and optimizer.pt hold no weights.
    if "pytorch_model.bin" in torch:
        return ["pytorch_model.bin"]
    sharded = [name for name in torch if _SHARD_NAME.fullmatch(name)]
    if sharded:
        _check_complete(directory, sharded)
        return sharded
    _refuse_several(directory, torch, "checkpoints")
    return torch or _no_checkpoint(directory, names)


def _check_complete(directory: Path, names: list[str]) -> None:
    """Refuse a set of shards if some of the numbers that its names announce are missing."""
    present = frozenset(names)
    matches = [match for name in names if (match := _SHARD_NAME.fullmatch(name))]
    sets = sorted({(match["stem"], match["count"], match["suffix"]) for match in matches})
    expected = (
        f"{stem}-{number:05}-of-{count}{suffix}" for stem, count, suffix in sets for number in range(1, int(count) + 1)
    )
    missing = next((name for name in expected if name not in present), None)
    if missing:
        raise _lacks(directory, missing)


def _lacks(directory: Path, shard: str) -> CheckpointError:
    return CheckpointError(f"{directory} lacks the shard {shard}", hint=f"download or copy it to {directory / shard}")


def _refuse_foreign(directory: Path, names: list[str]) -> None:
    if ".metadata" in names and any(name.endswith(".distcp") for name in names):
        raise CheckpointError(
            f"{directory} is a distributed checkpoint (torch.distributed.checkpoint)",
            hint=shlex.join([*DCP_TO_TORCH, str(directory), f"{directory.name or 'model'}.pth"]),
        )
    if "saved_model.pb" in names:
        raise CheckpointError(f"{directory} is a TensorFlow SavedModel", hint="save its variables as safetensors first")
    if any(".data-00000-of-" in name for name in names):
        raise CheckpointError(f"{directory} is a TensorFlow checkpoint", hint="save its variables as safetensors first")


def _no_checkpoint(directory: Path, names: list[str]) -> NoReturn:
    """Raise the error for a directory without a checkpoint; its hint names a folder below that has one."""
    if "zero_to_fp32.py" in names:
        raise CheckpointError(
            f"{directory} is a DeepSpeed checkpoint, whose weights are split over several files",
            hint=shlex.join([*_ZERO_TO_FP32, str(directory), f"{directory.name or 'model'}.whole"]),
        )
    below = (*directory.glob("*/*.safetensors"), *directory.glob("*/*/*.safetensors"))
    folders = sorted(str(path.parent) for path in below)
    raise CheckpointError(
        f"{directory} holds no checkpoint: none of its {len(names)} files is a *.safetensors file or a torch file",
        hint=f"name the folder with the checkpoint: {folders[0]}" if folders else shlex.join(["ls", str(directory)]),
    )


def _other_files(directory: Path, shards: frozenset[str]) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    """Return the regular files that are not shards, and notes about those that may hold weights or are left out."""
    files: list[Path] = []
    notes: list[str] = []
    for path in _walk(directory):
        name = path.relative_to(directory)
        if name.as_posix() in shards:
            continue
        if path.is_dir():
            notes.append(f"the linked folder {name} is left out")
            continue
        check_link(directory, path)
        if not path.exists():
            raise CheckpointError(f"{path} is a dangling link", hint=shlex.join(["rm", str(path)]))
        if path.is_file():
            files.append(name)
    weights = [str(name) for name in files if name.suffix in _WEIGHT_SUFFIXES]
    if weights:
        notes.append(f"copied unchanged, though they may hold weights: {listed(weights, _NAMED)}")
    return tuple(files), tuple(notes)


def _walk(directory: Path) -> Iterator[Path]:
    """Yield every file below `directory` in name order, and every link to a folder; links are not followed."""
    for root, folders, names in os.walk(directory, onerror=_unreadable):
        folders.sort()
        links = [name for name in folders if Path(root, name).is_symlink()]
        yield from (Path(root, name) for name in sorted(names + links))
