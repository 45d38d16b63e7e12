"""Open models that are elsewhere. Without a command that can read them there, the error says how to download them."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from prunecli.errors import CheckpointError
from prunecli.remote.errors import download_first, local_only
from prunecli.remote.path import open_remote
from prunecli.remote.urls import is_url, public, unreadable_url

if TYPE_CHECKING:
    from collections.abc import Iterator

_COMMANDS = (
    "ls ",
    "file ",
    "head ",
    "unzip ",
    "gzip ",
    "zstd ",
    "xz ",
    "bzip2 ",
    "lz4 ",
    "7z ",
    "tar ",
    "download or ",
)


def opened_elsewhere(text: str, *, allowed: bool) -> tuple[Path, tuple[str, ...]]:
    """Return the path of a model, and sentences about it. A text with `://` may also name a local file.

    Raises CheckpointError.
    """
    if not is_url(text):
        scheme = unreadable_url(text)
        if scheme is not None and not Path(text).exists():
            raise CheckpointError(
                f"models are read from hf://, s3:// and https://, and not from {scheme}://",
                hint="download it first, and name the local path",
            )
        return Path(text), ()
    if not allowed:
        raise local_only(public(text))
    path = open_remote(text)
    return path, path.store.notes


@contextmanager
def hints_for_elsewhere(path: Path) -> Iterator[None]:
    """Replace the commands for local files in hints by the one that downloads a model."""
    try:
        yield
    except CheckpointError as error:
        hint = error.hint_parts
        if is_url(str(path)) and isinstance(hint, str) and hint.startswith(_COMMANDS):
            raise CheckpointError(str(error), hint=download_first(str(path))) from error
        raise
