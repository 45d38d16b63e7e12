"""Paths of files that are elsewhere: they open, list and name what a server has, as other paths do for a disk."""

from __future__ import annotations

import io
import os
import re
import stat
from pathlib import Path, PosixPath
from typing import TYPE_CHECKING, Any, BinaryIO

from prunecli.errors import CheckpointError
from prunecli.remote.urls import from_page, is_url, local_name, public
from prunecli.text.escape import printable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prunecli.checkpoint import PathLike
    from prunecli.remote.ranges import Remote
    from prunecli.remote.stores import Store

_ONE_SLASH = re.compile(r"^([a-z][a-z0-9]+):/(?!/)")  # what pathlib makes of two

_stores: dict[str, Store] = {}
"""The stores of all models that were opened, by their roots."""


class RemotePath(PosixPath):
    """The path of a file or folder of a model that is elsewhere. Its text is the URL without secrets."""

    __slots__ = ()

    def __str__(self) -> str:
        """Return the URL, or the text of a relative path."""
        return _ONE_SLASH.sub(r"\1://", super().__str__())

    @property
    def store(self) -> Store:
        """The store of the model; CheckpointError if it was not opened."""
        return self._located()[0]

    @property
    def remote(self) -> Remote:
        """The file; FileNotFoundError if there is none."""
        store, name = self._located()
        remote = store.find(name)
        if remote is None:
            raise FileNotFoundError(2, os.strerror(2), str(self))
        return remote

    def _located(self) -> tuple[Store, str]:
        """Return the store and the name in it."""
        own = str(self)
        for folder in (self, *self.parents):
            root = str(folder)
            if root in _stores:
                return _stores[root], own[len(root) :].strip("/")
        raise CheckpointError(f"{printable(own)} was not opened")

    def open(self, *_: Any, **__: Any) -> Any:  # noqa: ANN401 - as the method of pathlib
        """Open the file to read its bytes."""
        from prunecli.remote.stores import RemoteReader  # noqa: PLC0415 - only for models elsewhere

        return io.BufferedReader(RemoteReader(self.store, self.remote))

    def read_bytes(self) -> bytes:
        """Return the whole file."""
        with self.open("rb") as file:
            data: bytes = file.read()
        return data

    def stat(self, **_: Any) -> os.stat_result:  # noqa: ANN401 - as the method of pathlib
        """Return the kind and the size; the time of modification is a number for the version."""
        from prunecli.remote.stores import number_of  # noqa: PLC0415 - only for models elsewhere

        store, name = self._located()
        remote = store.find(name)
        if remote is None:
            if store.below(name):
                return os.stat_result((stat.S_IFDIR | 0o755, 0, 0, 1, 0, 0, 0, 0, 0, 0))
            raise FileNotFoundError(2, os.strerror(2), str(self))
        fields = stat.S_IFREG | 0o644, 0, 0, 1, 0, 0, remote.known_size, 0, 0, 0
        return os.stat_result(fields, {"st_mtime_ns": number_of(remote.version)})

    def exists(self, **_: Any) -> bool:  # noqa: ANN401 - as the method of pathlib
        """Return whether there is such a file or folder."""
        return self.is_file() or self.is_dir()

    def is_file(self, **_: Any) -> bool:  # noqa: ANN401 - as the method of pathlib
        """Return whether it is a file; a model that was not opened has none."""
        try:
            store, name = self._located()
        except CheckpointError:
            return False
        return store.find(name) is not None

    def is_dir(self, **_: Any) -> bool:  # noqa: ANN401 - as the method of pathlib
        """Return whether it is a folder; a model that was not opened has none."""
        try:
            store, name = self._located()
        except CheckpointError:
            return False
        return bool(store.below(name))

    def is_symlink(self) -> bool:
        """Return False: servers have no links."""
        return False

    def samefile(self, other: PathLike) -> bool:
        """Return whether both paths have the same text."""
        return str(self) == str(other)

    def below(self) -> list[str]:
        """Return the names of all files in the folder and its folders, relative to it."""
        store, name = self._located()
        return store.below(name)

    def files(self) -> list[str]:
        """Return the names of the files of the folder itself."""
        return [name for name in self.below() if "/" not in name]

    def fetch_heads(self, names: Iterable[str]) -> None:
        """Fetch the first bytes of some files of the folder at the same time."""
        store, folder = self._located()
        store.fetch_heads(f"{folder}/{name}" if folder else name for name in names)

    @property
    def version(self) -> int:
        """A number that stands for the content of the file."""
        from prunecli.remote.stores import number_of  # noqa: PLC0415 - only for models elsewhere

        return number_of(self.remote.version)


def expect_reads(file: BinaryIO, offsets: Iterable[int]) -> None:
    """Fetch what is read at these offsets of a file next at the same time, if the file is elsewhere."""
    expect = getattr(getattr(file, "raw", None), "expect", None)
    if expect is not None:
        expect(offsets)


def as_path(path: PathLike) -> Path:
    """Return a path: a RemotePath for a URL, of which nothing is read yet."""
    text = os.fspath(path)
    return RemotePath(public(text)) if is_url(text) else Path(path)


def named_locally(path: Path) -> Path:
    """Return the path of a copy of a model: itself, or a name in the current directory for one that is elsewhere."""
    return Path(local_name(str(path))) if isinstance(path, RemotePath) else path


def open_remote(url: str) -> RemotePath:
    """Return the path of the model at `url`, after listing its files. Raises CheckpointError."""
    url = from_page(url)
    scheme = url.split("://", 1)[0].lower()
    if scheme == "hf":
        from prunecli.remote.hub import open_store  # noqa: PLC0415 - only for models elsewhere
    elif scheme == "s3":
        from prunecli.remote.bucket import open_store  # noqa: PLC0415 - only for models elsewhere
    else:
        from prunecli.remote.web import open_store  # noqa: PLC0415 - only for models elsewhere
    store, name = open_store(url)
    _stores[store.root] = store
    path = RemotePath(f"{store.root}/{name}" if name else store.root)
    if not path.exists():
        raise store.missing(name)
    return path
