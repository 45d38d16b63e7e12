"""The contents of a distributed checkpoint besides tensors: the objects that were saved with them."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from prunecli.checkpoint import Span
from prunecli.errors import CheckpointError
from prunecli.formats.dcp.directory import read_saved
from prunecli.formats.fingerprints import shortened, span_digest
from prunecli.formats.torch.contents import zip_contents

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import BinaryIO

    from prunecli.checkpoint import Checkpoint
    from prunecli.formats.dcp.saved import SavedObject

_LONGEST = 1 << 24  # bytes of an object whose entries are listed
_WHOLE = "the object itself"


def distributed_contents(checkpoint: Checkpoint) -> Iterator[tuple[str, str]]:
    """Yield the name and an identifying text of each entry of each object; OSError if a file cannot be read."""
    saved = read_saved(checkpoint.path)
    by_file: dict[int, list[SavedObject]] = {}
    for one in saved.objects:
        by_file.setdefault(one.file, []).append(one)
    for number, objects in sorted(by_file.items()):
        with saved.files[number].path.open("rb") as file:
            for one in objects:
                yield from _entries(file, one, saved.files[number].path)


def _entries(file: BinaryIO, one: SavedObject, path: Path) -> Iterator[tuple[str, str]]:
    name = f"entry {shortened(one.name)}"
    digest = span_digest(file, Span(one.start, one.length))
    if one.length <= _LONGEST:
        file.seek(one.start)
        try:
            entries = list(zip_contents(io.BytesIO(file.read(one.length)), str(path), ()))
        except CheckpointError:  # saved by another program
            entries = []
        if entries:
            yield from (
                (name if part == _WHOLE else f"{name}.{part.removeprefix('entry ')}", text) for part, text in entries
            )
            return
    yield name, digest
