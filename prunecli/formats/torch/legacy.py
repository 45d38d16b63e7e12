"""The file format before torch 1.6: five pickles, then each storage as an element count and its bytes.

The pickles are a magic number, the protocol version, system information, the object, and the keys of the storages in
file order. Nothing is unpickled.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from prunecli.checkpoint import Span
from prunecli.errors import CheckpointError
from prunecli.formats.pickle.opcodes import bounded
from prunecli.formats.pickle.reader import read_pickle
from prunecli.formats.torch.format import LEGACY_MAGIC
from prunecli.formats.torch.rebuild import Storage, StorageClaim, storage_claims

if TYPE_CHECKING:
    from prunecli.formats.pickle.reader import Persistent, Pickle

COUNT_SIZE = 8
"""Bytes of the element count in front of each storage."""

_PROTOCOL = 1001
_MAX_PICKLE = 1 << 28  # bytes of all five pickles


@dataclass(frozen=True, slots=True)
class LegacyFile:
    """The parts of a legacy file.

    Attributes:
        pickle: The pickle of the object that was saved.
        object_span: The bytes of the pickle of that object.
        spans: The bytes of each storage by key, without its count, in file order; they follow the last pickle.
        storages: The storage of each persistent id in the object.
        end: The end of the last storage, in bytes from the start of the file.
    """

    pickle: Pickle
    object_span: Span
    spans: dict[str, Span]
    storages: dict[Persistent, Storage]
    end: int


def read_legacy(file: BinaryIO, label: str) -> LegacyFile:
    """Return the parts of the legacy `file`.

    Raises CheckpointError, with `label`, if the file is damaged, truncated, or of another protocol version.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    window = bounded(file, min(size, _MAX_PICKLE))
    pickles: list[Pickle] = []
    ends: list[int] = []
    for _ in range(5):
        pickles.append(read_pickle(window, label))
        ends.append(file.tell())
    magic, protocol, _, pickle, keys = pickles
    if magic.value != LEGACY_MAGIC or protocol.value != _PROTOCOL:
        raise CheckpointError(f"{label} is a torch file of protocol {_short(protocol.value)}, not {_PROTOCOL}")
    try:
        claims = storage_claims(pickle)
        # Reversed: the file is compared with the first claim of each key, and `_storage` compares the others.
        spans, end = _spans(file, size, keys.value, {claim.key: claim for claim in reversed(claims.values())})
        storages = {persistent: _storage(claim, spans[claim.key]) for persistent, claim in claims.items()}
    except ValueError as problem:
        raise CheckpointError(f"{label} is damaged or truncated: {problem}") from problem
    return LegacyFile(pickle, Span(ends[2], ends[3] - ends[2]), spans, storages, end)


def _short(protocol: object) -> str:
    """Return a protocol version as text: a damaged file may have a number or an object of any size there."""
    small = isinstance(protocol, int) and abs(protocol) < 1 << 64
    return str(protocol) if small else type(protocol).__name__


def _storage(claim: StorageClaim, span: Span) -> Storage:
    if claim.nbytes != span.length:
        raise ValueError(f"storage {claim.key!r} has two sizes")
    return Storage(claim, span)


def _spans(file: BinaryIO, size: int, keys: object, claims: dict[str, StorageClaim]) -> tuple[dict[str, Span], int]:
    """Return the bytes of each storage, and the end of the last one."""
    if not isinstance(keys, list) or len(keys) != len(claims):
        raise ValueError("its list of storages does not match its tensors")
    spans: dict[str, Span] = {}
    position = file.tell()
    for key in keys:
        if not isinstance(key, str) or key not in claims or key in spans:
            raise ValueError("its list of storages does not match its tensors")
        file.seek(position)
        count = int.from_bytes(file.read(COUNT_SIZE), "little", signed=True)
        claim = claims[key]
        span = Span(position + COUNT_SIZE, claim.nbytes)
        if span.end > size:
            raise ValueError(f"storage {key!r} ends at byte {span.end:,}, but the file has {size:,}")
        if count != claim.length:
            raise ValueError(f"storage {key!r} has {count:,} elements instead of {claim.length:,}")
        spans[key] = span
        position = span.end
    return spans, position
