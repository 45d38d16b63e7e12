"""Paths of files elsewhere are paths, in every version of Python."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from prunecli.errors import CheckpointError
from prunecli.remote import path as paths
from prunecli.remote.path import RemotePath, as_path
from prunecli.remote.ranges import Address, Remote
from prunecli.remote.stores import Store

ROOT = "hf://org/model@main"


def remote(name: str, size: int) -> Remote:
    """Return a file that is never read."""
    return Remote(f"{ROOT}/{name}", lambda: Address("", {}), lambda *_: None, size, name)


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch) -> RemotePath:
    """Return the path of a model with two files."""
    store = Store(ROOT, {name: remote(name, size) for name, size in (("a.bin", 5), ("sub/b.bin", 6))})
    monkeypatch.setitem(paths._stores, ROOT, store)
    return RemotePath(ROOT)


def test_the_text_is_the_url(root: RemotePath) -> None:
    """Both slashes stay, for files, folders and parents."""
    assert [ROOT, f"{ROOT}/sub/b.bin", ROOT] == [str(root), str(root / Path("sub/b.bin")), str((root / "x").parent)]
    assert os.fspath(root) == ROOT
    assert as_path("https://user:pass@host:1/x/y.bin?q=1#f") == RemotePath("https://host:1/x/y.bin")


def test_a_relative_path_is_that_of_a_disk(root: RemotePath) -> None:
    """It is equal to a local one and has its hash."""
    relative = (root / "sub/b.bin").relative_to(root)

    assert (Path("sub/b.bin"), hash(Path("sub/b.bin")), "sub/b.bin") == (relative, hash(relative), relative.as_posix())


def test_files_and_folders(root: RemotePath) -> None:
    """A folder is what has files."""
    assert [root.is_dir(), (root / "sub").is_dir(), (root / "a.bin").is_dir()] == [True, True, False]
    assert [root.is_file(), (root / "a.bin").is_file(), (root / "c").exists()] == [False, True, False]
    assert (root.below(), root.files(), (root / "sub").below()) == (["a.bin", "sub/b.bin"], ["a.bin"], ["b.bin"])


def test_the_state_of_a_file(root: RemotePath) -> None:
    """The size is that of the list, and the time stands for the version."""
    state = (root / "a.bin").stat()

    assert (5, (root / "a.bin").version) == (state.st_size, state.st_mtime_ns)
    assert (root / "sub/b.bin").version != state.st_mtime_ns
    with pytest.raises(FileNotFoundError):
        (root / "c").stat()


def test_a_path_that_was_not_opened() -> None:
    """Nothing is known of it."""
    assert not RemotePath("hf://org/other").exists()
    with pytest.raises(CheckpointError, match="was not opened"):
        RemotePath("hf://org/other").stat()
