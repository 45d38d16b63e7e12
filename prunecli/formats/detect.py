"""detect."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from prunecli.errors import CheckpointError
from prunecli.formats.shards import DCP_TO_TORCH
from prunecli.text.escape import quoted

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


def detect_format(head: bytes, name: str = "") -> Kind:
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
    from prunecli.formats.torch.reader import is_torch  # noqa: PLC0415 - a safetensors file does without

    if is_torch(head):
        return Kind(TORCH, TORCH)
    from prunecli.formats.numpy_pickle import is_pickle  # noqa: PLC0415 - the same

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
