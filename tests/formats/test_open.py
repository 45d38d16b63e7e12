"""Opening checkpoint files and directories; paths that cannot be opened."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save, save_file
from support.children import run_python
from support.opening import refused, tensor_bytes, weights

from prunecli.errors import CheckpointError
from prunecli.formats.open import open_checkpoint


def sharded(folder: Path) -> Path:
    """Write a directory of two numbered safetensors files."""
    folder.mkdir()
    for i in range(2):
        save_file(weights(i), folder / f"m-{i + 1:05}-of-00002.safetensors")
    return folder


def open_descriptors() -> int:
    """Return the number of open descriptors of this process, or 0 on systems without /proc."""
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.is_dir() else 0


# one file


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", "", ".txt"])
@pytest.mark.parametrize("container", ["safetensors", "zip", "legacy"])
def test_the_format_is_detected_from_the_content(tmp_path: Path, container: str, suffix: str) -> None:
    """A checkpoint opens under any suffix, and its tensors are at the listed positions."""
    path = tmp_path / f"model{suffix}"
    if container == "safetensors":
        path.write_bytes(save(weights()))
    else:
        torch.save(weights(), path, _use_new_zipfile_serialization=container == "zip")

    checkpoint = open_checkpoint(path)

    assert {name: t.numpy().tobytes() for name, t in weights().items()} == tensor_bytes(checkpoint)
    assert (path, path.stat().st_size) == (checkpoint.files[0].path, checkpoint.files[0].size)
    assert not checkpoint.is_directory


def test_a_legacy_file_of_another_pickle_protocol_is_torch(tmp_path: Path) -> None:
    """A legacy file of torch.save(pickle_protocol=4) opens."""
    path = tmp_path / "model.pth"
    torch.save(weights(), path, _use_new_zipfile_serialization=False, pickle_protocol=4)

    assert len(open_checkpoint(path).tensors) == 2


def test_a_key_applies_to_torch_files_only(tmp_path: Path) -> None:
    """`key` selects a nested dict; for safetensors, which has none, it is an error."""
    torch.save({"a": weights(0), "b": weights(1)}, tmp_path / "m.pth")
    save_file(weights(), tmp_path / "m.safetensors")

    checkpoint = open_checkpoint(tmp_path / "m.pth", key="b")
    with pytest.raises(CheckpointError, match="has no key 'b'"):
        open_checkpoint(tmp_path / "m.safetensors", key="b")

    assert ("b", {"l1.weight", "l1.bias"}) == (
        checkpoint.key,
        {t.name for t in checkpoint.tensors if not t.unprunable_reason},
    )


def test_a_tied_name_in_the_metadata_is_noted(tmp_path: Path) -> None:
    """A name that the Hub's writer dropped as a copy becomes a note; other metadata does not."""
    save_file(weights(), tmp_path / "m.safetensors", metadata={"head.weight": "l0.weight", "format": "pt"})

    assert open_checkpoint(tmp_path / "m.safetensors").notes == ("'head.weight' is stored once, as 'l0.weight'",)


def test_opening_leaves_no_descriptor_open(tmp_path: Path) -> None:
    """No file stays open: not after a file, not after a directory, not after an error."""
    folder = sharded(tmp_path / "d")
    torch.save(weights(), tmp_path / "m.pth")
    (tmp_path / "bad.pth").write_bytes(b"PK\3\4" + bytes(100))
    before = open_descriptors()

    open_checkpoint(folder)
    open_checkpoint(tmp_path / "m.pth")
    refused(tmp_path / "bad.pth")

    assert before == open_descriptors()


def modules_after_opening(*paths: Path) -> set[str]:
    """Return the names of the modules that a new Python has imported after it has opened `paths`."""
    code = "import sys; from prunecli.formats.open import open_checkpoint\n"
    code += "for path in sys.argv[1:]: open_checkpoint(path)\nprint(*sys.modules, sep='\\n')"
    return set(run_python("-c", code, *paths, text=True).stdout.split())


def test_opening_imports_neither_numpy_nor_torch(tmp_path: Path) -> None:
    """Listing tensors imports no array library."""
    torch.save(weights(), tmp_path / "m.pth")

    modules = modules_after_opening(sharded(tmp_path / "d"), tmp_path / "m.pth")

    assert "prunecli.formats.torch.reader" in modules
    assert not {"numpy", "torch", "safetensors"} & modules


def test_opening_safetensors_imports_no_other_reader(tmp_path: Path) -> None:
    """A reader is imported when a file of its format is opened."""
    modules = modules_after_opening(sharded(tmp_path / "d"))

    readers = {name for name in modules if name.startswith("prunecli.formats.") and name.endswith(".reader")}
    assert readers == {"prunecli.formats.safetensors.reader"}


@pytest.mark.parametrize("path", ["model.pth", "hf://org/model"])
def test_a_system_that_cannot_read_checkpoints_is_one_sentence(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    """Windows has no reads at an offset into a buffer, and none of the paths for models elsewhere."""
    monkeypatch.delattr(os, "preadv")
    monkeypatch.delattr("prunecli.formats.elsewhere.open_remote")
    with pytest.raises(CheckpointError, match="read on Linux and macOS") as caught:
        open_checkpoint(path, remote=True)

    assert caught.value.hint == "on Windows use its Subsystem for Linux: wsl --install"


def test_a_missing_path_names_the_closest(tmp_path: Path) -> None:
    """The hint for a missing path is the closest name in its folder, or a command that lists the folder."""
    (tmp_path / "resnet20.pth").touch()

    assert f"closest name is {tmp_path / 'resnet20.pth'}" == refused(tmp_path / "resnet2.pth").hint
    assert f"closest name is {tmp_path / 'resnet20.pth'}" == refused(tmp_path / "RESNET20.PTH").hint
    assert f"closest name is {tmp_path / 'resnet20.pth'}" == refused(tmp_path / "resnet20.safetensors").hint
    assert f"ls {tmp_path}" == refused(tmp_path / "e.pth").hint
    assert f"ls {tmp_path}" == refused(tmp_path / "zzz").hint
    assert "there is no folder" in (refused(tmp_path / "no" / "m.pth").hint or "")


def test_an_empty_path_is_not_the_current_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty path, such as an unset shell variable gives, is refused and does not mean `.`."""
    monkeypatch.chdir(sharded(tmp_path / "d"))

    assert "the path of the checkpoint is empty" in str(refused(""))


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000, "m.pth/inside"])
def test_impossible_paths_are_one_sentence(tmp_path: Path, name: str) -> None:
    """A path with NUL, a path that is too long, and a path through a file raise CheckpointError."""
    (tmp_path / "m.pth").touch()

    refused(f"{tmp_path}/{name}")


def test_a_fifo_is_refused(tmp_path: Path) -> None:
    """A FIFO is not opened, which would block; the hint copies it to a file."""
    os.mkfifo(tmp_path / "pipe")

    assert f"cat {tmp_path / 'pipe'} > checkpoint.pth" == refused(tmp_path / "pipe").hint


@pytest.mark.parametrize("what", ["file", "directory"])
def test_no_permission_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """A file or directory without read permission raises CheckpointError with the system's reason."""

    def denied(path: str | Path, *_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", denied)
    monkeypatch.setattr(os, "scandir", denied)
    path = tmp_path / "m.pth"
    path.touch()

    error = refused(path if what == "file" else tmp_path)

    assert f"cannot read {path if what == 'file' else tmp_path}: Permission denied" == str(error)
