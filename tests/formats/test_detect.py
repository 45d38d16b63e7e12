"""Detection of formats from the first bytes; files of other kinds are refused with the name of their kind."""

from __future__ import annotations

import gzip
import io
import pickle
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as some
from support.handmade import archive
from support.opening import refused
from support.torch_files import saved

from prunecli.errors import CheckpointError
from prunecli.formats.detect import ForeignKind, detect_format
from prunecli.formats.format import HEAD
from prunecli.formats.open import open_checkpoint
from prunecli.formats.registry import FORMATS


def npy() -> bytes:
    """Return the bytes of a .npy file."""
    file = io.BytesIO()
    np.save(file, np.ones(3))
    return file.getvalue()


def tar() -> bytes:
    """Return the bytes of a tar archive."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("sys_info"), io.BytesIO())
    return file.getvalue()


KERAS = archive({"metadata.json": b"{}", "model.weights.h5": b"\x89HDF\r\n\x1a\n"})
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
FOREIGN: dict[str, tuple[bytes, str, str]] = {
    "empty": (b"", "empty", "download"),
    "text": (b"404: Not Found", "text, beginning '404: Not Found'", "head "),
    "text beyond ASCII": ("Größe\n".encode() * 1000, "text, beginning", "head "),
    "JSON": (b'{"model_type": "llama"}', "JSON text", "name the folder it is in"),
    "HTML": (b"\n<!DOCTYPE html>\n<html>", "an HTML page", "/resolve/"),
    "git-lfs": (POINTER, "a git-lfs pointer", "git lfs pull"),
    "gzip": (gzip.compress(b"x"), "gzip-compressed", "gzip -dc "),
    "zstd": (b"\x28\xb5\x2f\xfd\x04\x58", "zstd-compressed", "zstd -dc "),
    "xz": (b"\xfd7zXZ\0\0\4", "xz-compressed", "xz -dc "),
    "bzip2": (b"BZh91AY&SY\0", "bzip2-compressed", "bzip2 -dc "),
    "PNG": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "a PNG image", "file "),
    "JPEG": (b"\xff\xd8\xff\xe0\0\x10JFIF", "a JPEG image", "file "),
    "Keras": (KERAS, "a Keras archive", "unzip "),
    "Paddle parameters": (
        bytes(16) + b"\x09\0\0\0\x08\x05\x10\x20" + bytes(64),
        "parameters of an exported Paddle model",
        "export again",
    ),
    "other tar": (b"x" * 257 + b"ustar" + bytes(250), "a tar archive", "tar -xf "),
    "TFLite": (b"\x1c\0\0\0TFL3\x14\0", "a TensorFlow Lite model", "convert again"),
    "saved_model.pb": (b"\x08\x01\x12\x9a\x42\x0a\x20\x0a", "a TensorFlow SavedModel", "safetensors"),
    "ggml": (b"lmgg\0\x7d\0\0", "a ggml model", "convert again"),
    "mat": (b"MATLAB 5.0 MAT-file, Platform: GLNXA64" + b" " * 90 + b"\0\1IM", "a MATLAB .mat file", "safetensors"),
    "ncnn": (b"7767517\n75 83\nInput data 0 1 data\n", "the layers of an ncnn model", "convert again"),
    "ncnn weights": (b"\x47\x6b\x30\x01\x33\x3c", "weights of an ncnn model", "convert again"),
    "TF.js": (b'{"format": "graph-model", "modelTopology": {}}', "the description of a TensorFlow.js model", "convert"),
    "Paddle program": (
        b"\n\xfe\x05\x08\x00\x10" + b"\xff" * 9 + b"\x01\x1a\x20\n\x04feed",
        "the program of an exported Paddle model",
        "export again",
    ),
    "MindSpore": (
        b"\n\xa1\x01\n\x0cconv1.weight\x12\x90\x01\x08\x06\x08\x03\x12\x07Float32\x1a\x80\x01" + bytes(range(99)),
        "a MindSpore checkpoint",
        "safetensors",
    ),
    "SentencePiece": (
        b"\n\x0e\n\x05<unk>\x15\0\0\0\0\x18\x02\n\x0c\n\x03<s>\x15\0\0\0\0\x18\x03",
        "a SentencePiece tokenizer",
        "ls ",
    ),
    "pickle of protocol 0": (pickle.dumps({"w": [1.0]}, 0), "a pickle of protocol 0 or 1", "safetensors"),
    "pickle of protocol 1": (pickle.dumps({"w": [1.0]}, 1), "a pickle of protocol 0 or 1", "safetensors"),
    "array in protocol 1": (pickle.dumps(np.ones(3), 1), "a pickle of protocol 0 or 1", "safetensors"),
    "Stable-Baselines3": (
        archive({"data": b'{"policy_class": {}}', "policy.pth": b"PK"}),
        "a Stable-Baselines3 archive",
        "unzip ",
    ),
    "tar": (tar(), "a tar archive of torch 0.1", "torch.save again"),
    "pickle": (pickle.dumps({"w": [1.0]}, protocol=4), "a pickle, not written by torch.save", "safetensors"),
    "zeros": (bytes(5000), "zero bytes only", "download it again"),
    "empty zip": (archive({}), "an empty zip archive", "file "),
    "junk before a zip": (
        b"\x01junk" + archive({"w.npy": npy()}),
        "of an unknown kind, beginning 01 6a 75 6e 6b",
        "file ",
    ),
}


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_foreign_files_are_refused_by_kind(tmp_path: Path, kind: str, suffix: str) -> None:
    """The message names the kind of the file and the hint has the next step, for every suffix."""
    raw, what, hint = FOREIGN[kind]
    path = tmp_path / f"model{suffix}"
    path.write_bytes(raw)
    error = refused(path)

    if (kind, suffix) in {("zeros", ".safetensors"), ("junk before a zip", ".safetensors")}:
        assert str(path) in str(error)
        return

    assert f"{path} is not a checkpoint: it is {what}" in str(error)
    assert hint in (error.hint or "")


def test_the_decompression_hint_is_a_command(tmp_path: Path) -> None:
    """The command in the hint writes a file that opens, also if the path has spaces."""
    path = tmp_path / "my model.pth.gz"
    path.write_bytes(gzip.compress(saved({"w": torch.ones(3), "v": torch.ones(2)})))

    subprocess.run(["sh", "-c", refused(path).hint or "false"], check=True)

    assert len(open_checkpoint(tmp_path / "my model.pth").tensors) == 2


def test_messages_name_the_label_instead_of_the_path(tmp_path: Path) -> None:
    """A temporary copy of standard input is called "standard input", and its hint reads standard input."""
    path = tmp_path / "spool"
    path.write_bytes(gzip.compress(b"x"))

    with pytest.raises(CheckpointError, match=r"^standard input is not a checkpoint") as caught:
        open_checkpoint(path, label="standard input")

    assert (caught.value.hint or "").startswith("gzip -dc - > ")


@given(some.binary(max_size=300))
@example(b"\x80\x02")
def test_any_first_bytes_have_a_format_or_a_kind(head: bytes) -> None:
    """Detection returns a format of the list, or a foreign kind with a description."""
    detected = detect_format(head)

    assert detected.what if isinstance(detected, ForeignKind) else detected in FORMATS


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (saved({})[:HEAD], "torch zip"),
        (saved({}, legacy=True)[:HEAD], "torch legacy"),
        (saved({}, 4, legacy=True)[:HEAD], "torch legacy"),
        (pickle.dumps({}, 2), "pickle of NumPy arrays"),
        (b"\x1f\x8b\0\0\0\0\0\0{}", "safetensors"),
        (b"BZh\0\0\0\0\0{}", "safetensors"),
    ],
)
def test_formats_are_detected(head: bytes, name: str) -> None:
    """A safetensors header whose length begins like another magic number is detected as safetensors."""
    detected = detect_format(head)

    assert not isinstance(detected, ForeignKind)
    assert name == detected.name


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("variables.data-00000-of-00001", "part of a TensorFlow checkpoint"),
        ("model.ckpt-7.index", "the index of a TensorFlow checkpoint"),
        ("group1-shard1of4.bin", "weights of a TensorFlow.js model"),
        ("net.caffemodel", "a Caffe model"),
        ("flax_model.msgpack", "a msgpack file, perhaps of Flax"),
    ],
)
def test_files_without_a_magic_number_are_named_by_their_names(name: str, what: str) -> None:
    """Binary files of other programs without a magic number are refused by kind if their name says it."""
    detected = detect_format(b"\x93\x12\x88\xf1\0\0\0\1", name)

    assert isinstance(detected, ForeignKind)
    assert detected.what == what


def test_the_safetensors_file_of_one_rank_is_refused(tmp_path: Path) -> None:
    """A part of a distributed checkpoint is refused, although it is a whole safetensors file."""
    path = tmp_path / "__0_0.distcp"
    path.write_bytes(b"\2\0\0\0\0\0\0\0{}")

    assert "it is part of a distributed checkpoint" in str(refused(path))


@pytest.mark.parametrize("name", ["__0_0.distcp", ".metadata"])
def test_parts_of_a_distributed_checkpoint_are_refused(name: str) -> None:
    """A part is refused by kind, although it begins like a torch file or a pickle."""
    detected = detect_format(b"\x80\x04\x95torch.distributed.checkpoint", name)

    assert isinstance(detected, ForeignKind)
    assert detected.what == "part of a distributed checkpoint"
