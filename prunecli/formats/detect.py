"""Detect the format of a file from its first bytes, and name the kinds of files that are not checkpoints."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING

from prunecli.errors import CheckpointError
from prunecli.formats.registry import FORMATS
from prunecli.formats.safetensors.format import SAFETENSORS
from prunecli.text.escape import quoted
from prunecli.values import dataclass

if TYPE_CHECKING:
    from pathlib import Path

    from prunecli.formats.format import Format

_COMPRESSED = {".gz", ".zst", ".xz", ".bz2", ".lz4"}
_EXPORT_AGAIN = "prune the model it was made from, then export again"
_CONVERT_AGAIN = "prune the model it was made from, then convert again"
_SAVE_AGAIN = "save its weights as safetensors with the program that wrote it"


@dataclass(frozen=True, slots=True)
class ForeignKind:
    """A kind of file that is recognized and refused.

    `what` completes the sentence "it is ...". The placeholders `{path}`, `{out}` and `{folder}` in `hint` stand for the
    file, a decompressed file, and the file's folder.
    """

    what: str
    hint: str = "file {path}"


PART = ForeignKind("part of a distributed checkpoint", "name the folder it is in: {folder}")
"""A file with parts of tensors, or the list of the parts."""

_BY_MAGIC = (
    (0, b"\x1f\x8b", ForeignKind("gzip-compressed", "gzip -dc {path} > {out}")),
    (0, b"\x28\xb5\x2f\xfd", ForeignKind("zstd-compressed", "zstd -dc {path} > {out}")),
    (0, b"\xfd7zXZ\0", ForeignKind("xz-compressed", "xz -dc {path} > {out}")),
    (0, b"BZh", ForeignKind("bzip2-compressed", "bzip2 -dc {path} > {out}")),
    (0, b"\x04\x22\x4d\x18", ForeignKind("lz4-compressed", "lz4 -dc {path} > {out}")),
    (0, b"7z\xbc\xaf\x27\x1c", ForeignKind("a 7-Zip archive", "7z x {path}")),
    (
        0,
        b"sys_info\0",
        ForeignKind("a tar archive of torch 0.1", "load it with the program that wrote it, then torch.save again"),
    ),
    (257, b"ustar", ForeignKind("a tar archive", "tar -xf {path}")),
    (0, b"PK\5\6", ForeignKind("an empty zip archive")),
    (0, b"\x89PNG", ForeignKind("a PNG image")),
    (0, b"\xff\xd8\xff", ForeignKind("a JPEG image")),
    (0, b"GIF8", ForeignKind("a GIF image")),
    (0, b"%PDF", ForeignKind("a PDF document")),
    (4, b"TFL3", ForeignKind("a TensorFlow Lite model", _CONVERT_AGAIN)),
    (0, b"SQLite format 3\0", ForeignKind("an SQLite database")),
    (0, b"\x7fELF", ForeignKind("an executable or a shared library")),
    (0, b"lmgg", ForeignKind("a ggml model, the format before GGUF", _CONVERT_AGAIN)),
    (0, b"fmgg", ForeignKind("a ggml model, the format before GGUF", _CONVERT_AGAIN)),
    (0, b"tjgg", ForeignKind("a ggml model, the format before GGUF", _CONVERT_AGAIN)),
    (0, b"algg", ForeignKind("a ggml LoRA adapter", _CONVERT_AGAIN)),
    (0, b"MATLAB ", ForeignKind("a MATLAB .mat file", _SAVE_AGAIN)),
    (0, b"\x47\x6b\x30\x01", ForeignKind("weights of an ncnn model", _CONVERT_AGAIN)),
    (0, b"7767517\n", ForeignKind("the layers of an ncnn model", _CONVERT_AGAIN)),
    (0, b"\x08\x01\x12", ForeignKind("a TensorFlow SavedModel (saved_model.pb), or another protobuf", _SAVE_AGAIN)),
)
"""The offset of the magic bytes, the magic bytes, and the kind of file that they identify."""


_BY_NAME = (
    (r"\.data-\d{5}-of-\d{5}$", ForeignKind("part of a TensorFlow checkpoint", _SAVE_AGAIN)),
    (r"(^variables|ckpt(-\d+)?)\.index$", ForeignKind("the index of a TensorFlow checkpoint", _SAVE_AGAIN)),
    (r"^group\d+-shard\d+of\d+(\.bin)?$", ForeignKind("weights of a TensorFlow.js model", _CONVERT_AGAIN)),
    (r"\.caffemodel$", ForeignKind("a Caffe model", _SAVE_AGAIN)),
    (r"\.msgpack$", ForeignKind("a msgpack file, perhaps of Flax", _SAVE_AGAIN)),
)
"""Regular expressions for the names of files without a magic number, and their kinds."""

_PROTOBUFS = (
    (
        rb"\n.{1,4}\x08\x00\x10\xff{9}\x01",
        ForeignKind("the program of an exported Paddle model (.pdmodel)", _EXPORT_AGAIN),
    ),
    (
        rb"\n.{1,5}\n.{1,300}?\x12.{1,5}\x08.{1,40}?\x12.(Float|BFloat|Int|UInt|Bool)",
        ForeignKind("a MindSpore checkpoint", _SAVE_AGAIN),
    ),
    (rb"\n.\n.{1,30}?\x15.{4}\x18[\x01-\x06]", ForeignKind("a SentencePiece tokenizer, not a model", "ls {folder}")),
)
"""The first bytes of protobufs with a known structure, and their kinds."""

_OLD_PICKLE = rb"[}\]]q\x00|\((?:dp|lp)\d*\n|c[A-Za-z_][\w.]*\n[A-Za-z_]\w*\n"
"""The first opcodes of a pickle of protocol 0 or 1, which has no header."""


def detect_format(head: bytes, name: str = "") -> Format | ForeignKind:
    """Return the format of a file, or the kind of file it is instead.

    `head` is the first `format.HEAD` bytes. The file `name` matters only if the bytes do not decide: a damaged file is
    reported as damaged if it is named `*.safetensors`.
    """
    if not head:
        return ForeignKind("empty", "download or save it again")
    if name.endswith(".distcp"):  # even where it is whole safetensors: it holds the part of one rank
        return PART
    # Safetensors comes first: the length of its header, in the first bytes, can equal any magic number.
    for format_ in FORMATS:
        if format_.detect is not None and format_.detect(head):
            return format_ if format_ is SAFETENSORS else _foreign_kind(head, name) or format_
    if foreign := _foreign_kind(head, name):
        return foreign
    if _is_text(head):
        return _text_kind(head)
    return SAFETENSORS if name.endswith(".safetensors") else _unknown_kind(head)


def not_a_checkpoint(kind: ForeignKind, path: Path, label: str) -> CheckpointError:
    """Return the error that says what kind of file the file at `path` is, with a hint on how to get a checkpoint."""
    source = shlex.quote(str(path)) if label == str(path) else "-"
    out = path.with_suffix("") if path.suffix in _COMPRESSED else path.with_name(f"{path.name}.out")
    hint = kind.hint.format(path=source, out=shlex.quote(str(out)), folder=shlex.quote(str(path.parent)))
    return CheckpointError(f"{label} is not a checkpoint: it is {kind.what}", hint=hint)


def _foreign_kind(head: bytes, name: str) -> ForeignKind | None:
    """Return the kind of a foreign file that its name or magic bytes identify, or None."""
    # A distributed checkpoint's parts contain whole torch files, one after the other.
    if name == ".metadata" and b"torch.distributed.checkpoint" in head:
        return PART
    for offset, magic, kind in _BY_MAGIC:
        if head.startswith(magic, offset):
            return kind
    if head.startswith(b"PK\3\4"):
        return _zip_kind(head)
    if head[:16] == bytes(16) and head[20:21] == b"\x08":  # a LoDTensor: versions of 0, no levels, a protobuf
        return ForeignKind("parameters of an exported Paddle model (.pdiparams)", _EXPORT_AGAIN)
    return _by_structure(head, name)


def _by_structure(head: bytes, name: str) -> ForeignKind | None:
    """Return the kind of a file without a magic number that its name or its first fields show, or None."""
    if by_name := next((kind for pattern, kind in _BY_NAME if re.search(pattern, name)), None):
        return by_name
    if re.match(_OLD_PICKLE, head):
        return ForeignKind("a pickle of protocol 0 or 1", _SAVE_AGAIN)
    return next((kind for start, kind in _PROTOBUFS if re.match(start, head, re.DOTALL)), None)


def _zip_kind(head: bytes) -> ForeignKind | None:
    """Return the kind of a zip that the name of its first record shows not to be one of torch, or None."""
    first = head[30 : 30 + int.from_bytes(head[26:28], "little")]
    if first in {b"metadata.json", b"config.json", b"model.weights.h5"}:
        return ForeignKind("a Keras archive, which contains the weights", "unzip {path} model.weights.h5")
    if first in {b"policy.pth", b"_stable_baselines3_version"} or (first == b"data" and b"policy_class" in head):
        return ForeignKind(
            "a Stable-Baselines3 archive, which contains the checkpoint policy.pth", "unzip {path} policy.pth"
        )
    return None


def _is_text(head: bytes) -> bool:
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3:  # `head` may end inside a character of up to four bytes
            return False
        text = head[: error.start].decode("utf-8")
    return all(c.isprintable() or c.isspace() for c in text)


def _text_kind(head: bytes) -> ForeignKind:
    start = head.lstrip().lower()
    if head.startswith(b"version https://git-lfs"):
        return ForeignKind("a git-lfs pointer, which stands for the real file", "git lfs pull")
    if start.startswith((b"<!doctype html", b"<html")):
        return ForeignKind("an HTML page", "download the file itself; on a hub, from /resolve/ and not /blob/")
    if head.startswith(b"{") and (b'"weightsManifest"' in head or b'"modelTopology"' in head):
        return ForeignKind("the description of a TensorFlow.js model", _CONVERT_AGAIN)
    if head.startswith(b"{"):
        return ForeignKind("JSON text", "name the folder it is in: {folder}")
    return ForeignKind(f"text, beginning {quoted(head[:40].decode('utf-8', 'replace'))}", "head {path}")


def _unknown_kind(head: bytes) -> ForeignKind:
    """Return the likely kind of a binary file without a magic number."""
    if not head.strip(b"\0"):
        return ForeignKind("zero bytes only, as a broken download leaves", "download it again")
    return ForeignKind(f"of an unknown kind, beginning {head[:8].hex(' ')}")
