"""The pickle of an archive, `data.pkl`. A conversion needs it twice: for the tensors, and for what else it holds."""

from __future__ import annotations

import io
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from prunecli.errors import CheckpointError
from prunecli.formats.pickle.reader import read_pickle

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prunecli.formats.pickle.reader import Pickle
    from prunecli.formats.torch.records import Archive

_kept: ContextVar[dict[bytes, Pickle] | None] = ContextVar("_kept", default=None)


@contextmanager
def keeping_pickle() -> Iterator[None]:
    """Within the block, keep the last pickle: it is not read again if the next one has the same bytes."""
    token = _kept.set({})
    try:
        yield
    finally:
        _kept.reset(token)


def read_data_pickle(archive: Archive) -> Pickle:
    """Return the description of `data.pkl`; CheckpointError if it is damaged or has bytes after its end."""
    kept, data = _kept.get(), archive.read("data.pkl")
    if kept is not None and data in kept:
        return kept[data]
    stream = io.BytesIO(data)
    pickle = read_pickle(stream, archive.label)
    if extra := len(data) - stream.tell():
        raise CheckpointError(f"{archive.label} is damaged: data.pkl has {extra:,} bytes after its pickle")
    if kept is not None:
        kept.clear()
        kept[data] = pickle
    return pickle
