"""List what a checkpoint contains besides tensors: metadata, other entries, other records, other files.

Nothing is unpickled. The layout of a container and bytes that no tensor uses are not content.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from prunecli.checkpoint import Span
from prunecli.errors import CheckpointError
from prunecli.formats.dcp.detect import metadata_names
from prunecli.formats.fingerprints import span_digest
from prunecli.formats.registry import format_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from prunecli.checkpoint import Checkpoint


def other_contents(checkpoint: Checkpoint) -> dict[str, str]:
    """Return the name of each item that is not a tensor, and a short text that identifies its value.

    Reads headers, pickles and small records again, and the other files of a directory. An item that several shards
    have with the same value is listed once; different values of one name are numbered (`name#2`). Raises
    CheckpointError if a file cannot be read.
    """
    contents: dict[str, str] = {}
    for name, text in _items(checkpoint):
        number, numbered = 1, name
        while contents.get(numbered, text) != text:
            number += 1
            numbered = f"{name}#{number}"
        contents[numbered] = text
    return contents


def _items(checkpoint: Checkpoint) -> Iterator[tuple[str, str]]:
    path = checkpoint.path
    try:
        if checkpoint.assembly is not None:
            yield from _distributed(checkpoint)
        for index, file in enumerate(checkpoint.files if checkpoint.assembly is None else ()):
            path = file.path
            spans = {tensor.span for tensor in checkpoint.tensors if tensor.file == index}
            with path.open("rb") as stream:
                yield from format_of(file).contents(stream, str(path), spans)
        for relative in _own_files(checkpoint):
            path = checkpoint.path / relative
            with path.open("rb") as stream:
                whole = Span(0, stream.seek(0, os.SEEK_END))
                yield f"file {relative.as_posix()}", span_digest(stream, whole)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error


def _distributed(checkpoint: Checkpoint) -> Iterator[tuple[str, str]]:
    from prunecli.formats.dcp.contents import distributed_contents  # noqa: PLC0415 - few checkpoints are distributed

    return distributed_contents(checkpoint)


def _own_files(checkpoint: Checkpoint) -> Iterator[Path]:
    """Yield the other files of a directory without those that only say how tensors are cut."""
    listings = () if checkpoint.assembly is None else metadata_names([path.name for path in checkpoint.other_files])
    return (path for path in checkpoint.other_files if path.as_posix() not in listings)
