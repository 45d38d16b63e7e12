"""Opening checkpoints by content; what is none is named for what it is; and the names of results."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some
from safetensors.torch import save, save_file

from prunecli.errors import CheckpointError
from prunecli.formats.detect import SAFETENSORS, TORCH, detect_format
from prunecli.formats.open import open_checkpoint
from prunecli.formats.output_names import default_output, default_report

if TYPE_CHECKING:
    from prunecli.checkpoint import Checkpoint

SHARED = Path(__file__).parents[3] / "shared" / "checkpoints"
REAL = {
    "AaronNet32plus.pth": 138,
    "TinyPeLLM-pytorch_model.bin": 24,
    "allennlp-elmo-tagger.th": 55,
    "burn-mnist.pt": 20,
    "burn-mnist.safetensors": 20,
    "distiller-4D-5Lremoved.pth.tar": 107,
    "facenet-rnet.pt": 16,
    "resnet20-12fca82f.th": 97,
    "silero_vad_16k.safetensors": 15,
    "taef2_decoder.pth": 79,
}  # tensors in each file's state_dict


def weights(seed: int = 0) -> dict[str, torch.Tensor]:
    """Return two small tensors, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    return {f"l{seed}.weight": torch.randn(3, 4, generator=generator), f"l{seed}.bias": torch.ones(3)}


def sharded(folder: Path) -> Path:
    """Write a directory of two safetensors files."""
    folder.mkdir()
    for i in range(2):
        save_file(weights(i), folder / f"m{i}.safetensors")
    return folder


def open_descriptors() -> int:
    """Count this process's open descriptors, or return 0 where the system does not tell."""
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.is_dir() else 0


def refused(path: str | Path) -> CheckpointError:
    """Return the error that opening `path` raises; it must be one line."""
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path)
    assert "\n" not in f"{caught.value}{caught.value.hint}"
    return caught.value


def values(checkpoint: Checkpoint) -> dict[str, bytes]:
    """Return each contiguous tensor's bytes, read from where the checkpoint says they are."""
    return {t.name: checkpoint.files[t.file].path.read_bytes()[t.start : t.end] for t in checkpoint.tensors}


# one file


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared folder of real checkpoints is not here")
@pytest.mark.parametrize("name", REAL)
def test_real_checkpoints_open(name: str) -> None:
    """Every real checkpoint opens and lists as many tensors as its state_dict has."""
    inside = [t for t in open_checkpoint(SHARED / name).tensors if t.unprunable_reason != "outside the state_dict"]

    assert REAL[name] == len(inside)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", "", ".txt"])
@pytest.mark.parametrize("container", ["safetensors", "zip", "legacy"])
def test_the_content_decides_and_not_the_suffix(tmp_path: Path, container: str, suffix: str) -> None:
    """A checkpoint under any name is opened as what it is, and its tensors are where it says."""
    path = tmp_path / f"model{suffix}"
    if container == "safetensors":
        path.write_bytes(save(weights()))
    else:
        torch.save(weights(), path, _use_new_zipfile_serialization=container == "zip")

    checkpoint = open_checkpoint(path)

    assert {name: t.numpy().tobytes() for name, t in weights().items()} == values(checkpoint)
    assert (path, path.stat().st_size) == (checkpoint.files[0].path, checkpoint.files[0].size)
    assert not checkpoint.is_directory


def test_a_legacy_file_of_another_pickle_protocol_is_torch(tmp_path: Path) -> None:
    """torch.save(pickle_protocol=4) of the legacy kind is recognised."""
    path = tmp_path / "model.pth"
    torch.save(weights(), path, _use_new_zipfile_serialization=False, pickle_protocol=4)

    assert len(open_checkpoint(path).tensors) == 2


def test_a_key_is_followed_in_torch_files_only(tmp_path: Path) -> None:
    """`key` chooses a nested dict; safetensors has none, so there it is an error."""
    torch.save({"a": weights(0), "b": weights(1)}, tmp_path / "m.pth")
    save_file(weights(), tmp_path / "m.safetensors")

    checkpoint = open_checkpoint(tmp_path / "m.pth", key="b")
    with pytest.raises(CheckpointError, match="has no key 'b'"):
        open_checkpoint(tmp_path / "m.safetensors", key="b")

    assert ("b", {"l1.weight", "l1.bias"}) == (
        checkpoint.key,
        {t.name for t in checkpoint.tensors if not t.unprunable_reason},
    )


def test_a_tied_name_in_the_metadata_is_told(tmp_path: Path) -> None:
    """A name the Hub's writer dropped as a copy is a fact; other metadata is not."""
    save_file(weights(), tmp_path / "m.safetensors", metadata={"head.weight": "l0.weight", "format": "pt"})

    assert open_checkpoint(tmp_path / "m.safetensors").notes == ("'head.weight' is stored once, as 'l0.weight'",)


def test_opening_leaves_no_descriptor_open(tmp_path: Path) -> None:
    """Neither a file nor a directory stays open, nor a file that is refused."""
    folder = sharded(tmp_path / "d")
    torch.save(weights(), tmp_path / "m.pth")
    (tmp_path / "bad.pth").write_bytes(b"PK\3\4" + bytes(100))
    before = open_descriptors()

    open_checkpoint(folder)
    open_checkpoint(tmp_path / "m.pth")
    refused(tmp_path / "bad.pth")

    assert before == open_descriptors()


def test_opening_imports_neither_numpy_nor_torch(tmp_path: Path) -> None:
    """A listing must not pay for array libraries."""
    torch.save(weights(), tmp_path / "m.pth")
    code = (
        "import sys; from prunecli.formats.open import open_checkpoint;"
        f"open_checkpoint({str(sharded(tmp_path / 'd'))!r}); open_checkpoint({str(tmp_path / 'm.pth')!r});"
        "print({'numpy', 'torch', 'safetensors'} & set(sys.modules))"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "set()"


# files that are something else


def npy() -> bytes:
    """Return a .npy file's bytes."""
    file = io.BytesIO()
    np.save(file, np.ones(3))
    return file.getvalue()


def npz() -> bytes:
    """Return a .npz file's bytes."""
    file = io.BytesIO()
    np.savez(file, w=np.ones(3))
    return file.getvalue()


def tar() -> bytes:
    """Return a tar archive's bytes."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("sys_info"), io.BytesIO())
    return file.getvalue()


def empty_zip() -> bytes:
    """Return a zip archive without entries."""
    file = io.BytesIO()
    zipfile.ZipFile(file, "w").close()
    return file.getvalue()


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
    "HDF5": (b"\x89HDF\r\n\x1a\n\0\0", "an HDF5 file", "safetensors"),
    "npy": (npy(), "a NumPy .npy array", "safetensors"),
    "npz": (npz(), "a NumPy .npz archive", "safetensors"),
    "GGUF": (b"GGUF\3\0\0\0", "a GGUF model", "convert again"),
    "ONNX": (b"\x08\x07\x12\x07pytorch\x1a\x05", "perhaps an ONNX model", "export again"),
    "TFLite": (b"\x1c\0\0\0TFL3\x14\0", "a TensorFlow Lite model", "convert again"),
    "tar": (tar(), "a tar archive of torch 0.1", "torch.save again"),
    "pickle": (pickle.dumps({"w": [1.0]}, protocol=4), "a pickle, not written by torch.save", "safetensors"),
    "zeros": (bytes(5000), "zero bytes only", "download it again"),
    "empty zip": (empty_zip(), "an empty zip archive", "file "),
    "junk before a zip": (b"\x01junk" + npz(), "of no kind known here, beginning 01 6a 75 6e 6b", "file "),
}


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_that_is_something_else_is_named_for_it(tmp_path: Path, kind: str, suffix: str) -> None:
    """The message says what the file is, the hint what to type, under whatever suffix it comes."""
    raw, what, hint = FOREIGN[kind]
    path = tmp_path / f"model{suffix}"
    path.write_bytes(raw)

    if (kind, suffix) in {("zeros", ".safetensors"), ("ONNX", ".safetensors"), ("junk before a zip", ".safetensors")}:
        assert str(path) in str(refused(path))
        return

    error = refused(path)

    assert f"{path} is not a checkpoint: it is {what}" in str(error)
    assert hint in (error.hint or "")


def test_the_decompression_hint_can_be_typed(tmp_path: Path) -> None:
    """The command in the hint makes a file that opens, even where the path has spaces."""
    path = tmp_path / "my model.pth.gz"
    buffer = io.BytesIO()
    torch.save(weights(), buffer)
    path.write_bytes(gzip.compress(buffer.getvalue()))

    subprocess.run(["sh", "-c", refused(path).hint or "false"], check=True)

    assert len(open_checkpoint(tmp_path / "my model.pth").tensors) == 2


def test_a_label_stands_for_the_path_in_messages(tmp_path: Path) -> None:
    """Spooled standard input is called that, and its hint reads standard input."""
    path = tmp_path / "spool"
    path.write_bytes(gzip.compress(b"x"))

    with pytest.raises(CheckpointError, match=r"^standard input is not a checkpoint") as caught:
        open_checkpoint(path, label="standard input")

    assert (caught.value.hint or "").startswith("gzip -dc - > ")


def test_a_missing_path_names_the_nearest(tmp_path: Path) -> None:
    """A path that is not there is an error, with the closest name beside it or a listing to type."""
    (tmp_path / "resnet20.pth").touch()

    assert f"closest name is {tmp_path / 'resnet20.pth'}" == refused(tmp_path / "resnet2.pth").hint
    assert f"ls {tmp_path}" == refused(tmp_path / "zzz").hint
    assert "there is no folder" in (refused(tmp_path / "no" / "m.pth").hint or "")


def test_an_empty_path_is_not_the_current_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty path, as an unset shell variable leaves, is refused and not taken for `.`."""
    monkeypatch.chdir(sharded(tmp_path / "d"))

    assert "path is empty" in str(refused(""))


@given(some.binary(max_size=300))
def test_any_first_bytes_are_told_apart(head: bytes) -> None:
    """Whatever a file begins with, it is one of the two kinds, or there are words for it."""
    kind = detect_format(head)

    assert kind.reader in {SAFETENSORS, TORCH, ""}
    assert kind.what


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000, "m.pth/inside"])
def test_impossible_paths_are_one_sentence(tmp_path: Path, name: str) -> None:
    """A path with NUL, one that is too long, and one through a file are CheckpointErrors."""
    (tmp_path / "m.pth").touch()

    refused(f"{tmp_path}/{name}")


def test_a_fifo_is_not_waited_for(tmp_path: Path) -> None:
    """A fifo is refused at once, with the way to pass it."""
    os.mkfifo(tmp_path / "pipe")

    assert f"prune COMMAND - < {tmp_path / 'pipe'}" == refused(tmp_path / "pipe").hint


@pytest.mark.parametrize("what", ["file", "directory"])
def test_no_permission_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """What the system does not let us read is a CheckpointError that says so."""

    def denied(path: str | Path, *_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", denied)
    monkeypatch.setattr(os, "scandir", denied)
    path = tmp_path / "m.pth"
    path.touch()

    error = refused(path if what == "file" else tmp_path)

    assert f"cannot read {path if what == 'file' else tmp_path}: Permission denied" == str(error)


# names of results


@pytest.mark.parametrize(
    ("checkpoint", "output", "report"),
    [
        ("ckpt.pth", "ckpt.pruned.pth", "ckpt.pruned.report.json"),
        ("a/nested.pth.tar", "a/nested.pruned.pth.tar", "a/nested.pruned.report.json"),
        ("model.v1.2.safetensors", "model.v1.2.pruned.safetensors", "model.v1.2.pruned.report.json"),
        ("model", "model.pruned", "model.pruned.report.json"),
        ("model.v1.2", "model.v1.2.pruned", "model.v1.2.pruned.report.json"),
        (".hidden", ".hidden.pruned", ".hidden.pruned.report.json"),
        ("m.tar", "m.pruned.tar", "m.pruned.report.json"),
        ("ckpt.pruned.pth", "ckpt.pruned.pruned.pth", "ckpt.pruned.pruned.report.json"),
        ("w w/ü.pt", "w w/ü.pruned.pt", "w w/ü.pruned.report.json"),
    ],
)
def test_a_file_s_results_stand_beside_it(checkpoint: str, output: str, report: str) -> None:
    """The output keeps the suffix, doubled or not; the report stands in for it."""
    assert Path(output) == default_output(checkpoint)
    assert Path(report) == default_report(output)


@pytest.mark.parametrize(
    "spelling", ["d.v1.x", "d.v1.x/", "d.v1.x/.", "./d.v1.x", "d.v1.x/m.index.json", "d.v1.x/sub/.."]
)
def test_a_directory_s_results_stand_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spelling: str) -> None:
    """However a directory is spelled, or its index, the output is its whole name with `.pruned`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d.v1.x" / "sub").mkdir(parents=True)

    output = default_output(spelling)

    assert tmp_path / "d.v1.x.pruned" == output.absolute()
    assert tmp_path / "d.v1.x.pruned.report.json" == default_report(output).absolute()


@pytest.mark.parametrize("spelling", [".", "m.index.json", "sub/..", "./"])
def test_the_current_directory_s_results_stand_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spelling: str
) -> None:
    """`.` has the name of the directory it is."""
    (tmp_path / "d" / "sub").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "d")

    assert tmp_path / "d.pruned" == default_output(spelling)


def test_the_root_has_no_output_name() -> None:
    """`/` has no name to derive one from."""
    with pytest.raises(CheckpointError, match="has no name"):
        default_output("/")


def test_a_directory_that_is_there_keeps_its_dots_in_the_report(tmp_path: Path) -> None:
    """An existing output directory `out.d` has the report `out.d.report.json`."""
    (tmp_path / "out.d").mkdir()

    assert tmp_path / "out.d.report.json" == default_report(tmp_path / "out.d")
