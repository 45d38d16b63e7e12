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

from prunecli.checkpoint import Checkpoint, CheckpointFile, TensorInfo
from prunecli.errors import CheckpointError
from prunecli.formats.safetensors.reader import quoted, read_safetensors
from prunecli.formats.shards import DCP_TO_TORCH, check_index, find_shards, is_index

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import BinaryIO

SAFETENSORS = "safetensors"
TORCH = "torch"
ARRAYS = "arrays"

_HEAD = 4096  # bytes that are looked at to tell what a file is
_COMPRESSED = {".gz", ".zst", ".xz", ".bz2", ".lz4"}
_EXPORT_AGAIN = "prune the model it was made from, then export again"
_SAVE_AGAIN = "save its weights as safetensors with the program that wrote it"


@dataclass(frozen=True, slots=True)
class Kind:
    """What a file is.

    `reader` is SAFETENSORS, TORCH, ARRAYS (a pickle that may hold NumPy arrays), or "" where there is none; then
    `what` completes "it is", and `hint`, with `{path}`, `{out}` and `{folder}` to fill in, says what to type.
    """

    reader: str
    what: str
    hint: str | None = None


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


_FOREIGN = (
    (0, b"\x1f\x8b", "gzip-compressed", "gzip -dc {path} > {out}"),
    (0, b"\x28\xb5\x2f\xfd", "zstd-compressed", "zstd -dc {path} > {out}"),
    (0, b"\xfd7zXZ\0", "xz-compressed", "xz -dc {path} > {out}"),
    (0, b"BZh", "bzip2-compressed", "bzip2 -dc {path} > {out}"),
    (0, b"\x04\x22\x4d\x18", "lz4-compressed", "lz4 -dc {path} > {out}"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", "7z x {path}"),
    (0, b"sys_info\0", "a tar archive of torch 0.1", "load it with the program that wrote it, then torch.save again"),
    (257, b"ustar", "a tar archive", "tar -xf {path}"),
    (0, b"PK\5\6", "an empty zip archive", None),
    (0, b"\x89PNG", "a PNG image", None),
    (0, b"\xff\xd8\xff", "a JPEG image", None),
    (0, b"GIF8", "a GIF image", None),
    (0, b"%PDF", "a PDF document", None),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file, perhaps of Keras", _SAVE_AGAIN),
    (0, b"\x93NUMPY", "a NumPy .npy array", _SAVE_AGAIN),
    (0, b"GGUF", "a GGUF model", "prune the safetensors it was made from, then convert again"),
    (4, b"TFL3", "a TensorFlow Lite model", "prune the model it was made from, then convert again"),
    (0, b"SQLite format 3\0", "an SQLite database", None),
    (0, b"\x7fELF", "an executable or a shared library", None),
)  # (offset, magic bytes there, what it is, hint)


def open_checkpoint(path: str | os.PathLike[str], *, key: str | None = None, label: str | None = None) -> Checkpoint:
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
    return Checkpoint(path, one.format, (one.file,), one.tensors, key=one.key, facts=facts, others=one.others)


def sniff(head: bytes, name: str = "") -> Kind:
    """Tell what a file is from `head`, its first 4096 bytes; `name` only tells damaged from foreign."""
    if not head:
        return Kind("", "empty", "download or save it again")
    if _is_safetensors(head):
        return Kind(SAFETENSORS, SAFETENSORS)
    known = _part_of_dcp(head, name) or _by_magic(head)
    if known:
        return known
    if head[:16] == bytes(16) and head[20:21] == b"\x08":  # a LoDTensor: versions of 0, no levels, a protobuf
        return Kind("", "parameters of an exported Paddle model (.pdiparams)", _EXPORT_AGAIN)
    if name.endswith(".safetensors") and not _is_text(head):
        return Kind(SAFETENSORS, SAFETENSORS)
    return _text_kind(head) if _is_text(head) else _guess(head)


def default_output(checkpoint_path: str | os.PathLike[str]) -> Path:
    """Name the output for a checkpoint: `.pruned` before the suffix of a file, after the name of a directory.

    An index stands for its directory. Raise CheckpointError where the path has no name, as `/` has none.
    """
    path = Path(checkpoint_path)
    folder = path.parent if is_index(path) else path
    if folder.name in {"", ".."}:
        folder = Path(os.path.realpath(folder))
    if not folder.name:
        raise CheckpointError(f"{folder} has no name to derive the output's from", hint="-o OUTPUT")
    if folder.is_dir():
        return folder.with_name(f"{folder.name}.pruned")
    suffix = _suffix(folder.name)
    return folder.with_name(f"{folder.name.removesuffix(suffix)}.pruned{suffix}")


def default_report(output: str | os.PathLike[str]) -> Path:
    """Name the report for an output: `.report.json` in place of a file's suffix, after a directory's name."""
    path = Path(output)
    if path.name in {"", ".."}:
        path = Path(os.path.realpath(path))
    stem = path.name if path.is_dir() else path.name.removesuffix(_suffix(path.name))
    return path.with_name(f"{stem}.report.json") if path.name else path / "report.json"


def _suffix(name: str) -> str:
    """Return what follows a file's stem: `.pth`, `.pth.tar`, or nothing where the last dot is a version's."""
    stem, dot, last = name.rpartition(".")
    if not stem or not last[:1].isalpha() or last == "pruned":
        return ""
    return f"{_suffix(stem)}.tar" if last == "tar" else dot + last


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
    kind = sniff(file.read(_HEAD), path.name)
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


def _foreign(kind: Kind, path: Path, label: str) -> CheckpointError:
    """Say what a file is that is no checkpoint, and what can be done about it."""
    source = shlex.quote(str(path)) if label == str(path) else "-"
    out = path.with_suffix("") if path.suffix in _COMPRESSED else path.with_name(f"{path.name}.out")
    hint = (kind.hint or "file {path}").format(
        path=source, out=shlex.quote(str(out)), folder=shlex.quote(str(path.parent))
    )
    return CheckpointError(f"{label} is not a checkpoint: it is {kind.what}", hint=hint)


def _is_safetensors(head: bytes) -> bool:
    # a length below 2^40 has zero bytes, so text that happens to have a brace there is not meant
    return head[5:8] == b"\0\0\0" and head[8:].lstrip(b" \t\r\n").startswith(b"{")


def _by_magic(head: bytes) -> Kind | None:
    for offset, magic, what, hint in _FOREIGN:
        if head.startswith(magic, offset):
            return Kind("", what, hint)
    if head.startswith(b"PK\3\4"):
        return _zip_kind(head)
    from prunecli.formats.torch.reader import is_torch

    if is_torch(head):
        return Kind(TORCH, TORCH)
    from prunecli.formats.numpy_pickle import is_pickle

    if is_pickle(head):
        return Kind(ARRAYS, "a pickle")
    return None


def _part_of_dcp(head: bytes, name: str) -> Kind | None:
    """Tell a file of a distributed checkpoint: its parts are torch files one behind the other."""
    if name.endswith(".distcp") or (name == ".metadata" and b"torch.distributed.checkpoint" in head):
        return Kind("", "part of a distributed checkpoint", f"{shlex.join(DCP_TO_TORCH)} {{folder}} model.pth")
    return None


def _zip_kind(head: bytes) -> Kind:
    first = head[30 : 30 + int.from_bytes(head[26:28], "little")]
    if first.endswith(b".npy"):
        return Kind("", "a NumPy .npz archive", _SAVE_AGAIN)
    if first in {b"metadata.json", b"config.json", b"model.weights.h5"}:
        return Kind("", "a Keras archive", _SAVE_AGAIN)
    return Kind(TORCH, "torch")


def _is_text(head: bytes) -> bool:
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3:
            return False
        text = head[: error.start].decode("utf-8")
    return all(c.isprintable() or c.isspace() for c in text)


def _text_kind(head: bytes) -> Kind:
    start = head.lstrip().lower()
    if head.startswith(b"version https://git-lfs"):
        return Kind("", "a git-lfs pointer, which stands for the real file", "git lfs pull")
    if start.startswith((b"<!doctype html", b"<html")):
        return Kind("", "an HTML page", "download the file itself; on a hub, from /resolve/ and not /blob/")
    if head.startswith(b"{"):
        return Kind("", "JSON text", "name the folder it is in: {folder}")
    return Kind("", f"text, beginning {quoted(head[:40].decode('utf-8', 'replace'))}", "head {path}")


def _guess(head: bytes) -> Kind:
    """Tell binary files without a magic number by the habits of their writers."""
    if not head.strip(b"\0"):
        return Kind("", "zero bytes only, as a broken download leaves", "download it again")
    # field 1 of a protobuf is ONNX's version number, and a string or a message follows
    if head[0] == 8 and head[2:3] in {b"\x12", b"\x1a", b"\x3a"}:
        return Kind("", "perhaps an ONNX model", _EXPORT_AGAIN)
    return Kind("", f"of no kind known here, beginning {head[:8].hex(' ')}", "file {path}")


def _is_torch(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return sniff(file.read(_HEAD)).reader == TORCH
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
        companions=layout.companions,
        key=shards[0].key,
        facts=tuple(dict.fromkeys([*layout.facts, *facts, *_dropped(metadata, tensors)])),
        others=others,
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
