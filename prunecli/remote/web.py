"""Files of web servers. A server lists nothing: only files that are named are there."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote, urljoin, urlsplit, urlunsplit

from prunecli.errors import CheckpointError
from prunecli.remote.ranges import Address, Remote
from prunecli.remote.stores import HEAD, Store
from prunecli.remote.urls import public
from prunecli.text.escape import printable

if TYPE_CHECKING:
    from prunecli.errors import CheckpointError as Refusal


class WebStore(Store):
    """A folder of a web server, in which files are looked for by their names."""

    def __init__(self, root: str, named: str, url: str) -> None:
        """Take the file `named` at `url`, and its folder `root`."""
        super().__init__(root, {})
        self._named, self._url = named, url
        self._missing: set[str] = set()

    def find(self, name: str) -> Remote | None:
        """Return the file of this name if the server has it; its first bytes are fetched to find out."""
        if name in self.files or not name or name in self._missing:
            return self.files.get(name)
        remote = Remote(f"{self.root}/{name}", lambda: Address(self._url_of(name), {}), self._refused)
        try:
            self.keep(remote, 0, remote.probe(HEAD))
        except _AbsentError:
            self._missing.add(name)
            return None
        self.files[name] = remote
        return remote

    def _url_of(self, name: str) -> str:
        return self._url if name == self._named else urljoin(self._url, quote(name))

    def _refused(self, name: str, status: int) -> Refusal | None:
        """Return the error for a file next to the named one that is not there, or that is not for everyone."""
        other = name != f"{self.root}/{self._named}"
        return _AbsentError(name) if other and status in {401, 403, 404, 410} else None

    def missing(self, name: str) -> CheckpointError:
        """Return the error for a folder."""
        return CheckpointError(f"{printable(self.root)}/{printable(name)} is no file")


class _AbsentError(CheckpointError):
    """The server does not have a file, or does not give it."""


def open_store(url: str) -> tuple[Store, str]:
    """Return the folder of the file at `url`, and the name of the file. Raises CheckpointError."""
    root, _, name = public(url).rpartition("/")
    if root.endswith(":/") or not name:
        raise CheckpointError(
            f"{printable(public(url))} names no file, and web servers list none",
            hint="name a file, or the index of shards: https://HOST/FOLDER/model.safetensors.index.json",
        )
    parts = urlsplit(url)
    store = WebStore(root, name, urlunsplit(parts._replace(fragment="")))
    store.find(name)
    return store, name
