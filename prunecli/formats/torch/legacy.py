"""The format torch wrote before 1.6: five pickles, then each storage as an element count and its bytes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, BinaryIO

from prunecli.checkpoint import Span
from prunecli.errors import CheckpointError
from prunecli.formats.pickle.opcodes import bounded
from prunecli.formats.pickle.reader import read_pickle
from prunecli.formats.torch.rebuild import Storage, StorageClaim, storage_claim

if TYPE_CHECKING:
    from prunecli.formats.pickle.reader import Persistent, Pickle

_MAGIC = 0x1950A86A20F9469CFC6C
_MAGIC_BYTES = _MAGIC.to_bytes(10, "little")
_PROTOCOL = 1001
_MAX_PICKLE = 1 << 28  # bytes of all five pickles


def is_legacy(head: bytes) -> bool:
    """Whether a file that begins with `head` (32 bytes or more) is in the format before torch 1.6."""
    return head[:1] == b"\x80" and _MAGIC_BYTES in head[:32]


def read_legacy(file: BinaryIO, label: str) -> tuple[object, dict[Persistent, Storage], tuple[str, ...]]:
    """Return the object in `file`, where each storage it mentions lies, and facts worth telling.

    Raises CheckpointError, naming `label`, where the file is damaged, truncated, or of another version.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    window = bounded(file, min(size, _MAX_PICKLE))
    magic, protocol, _, pickle, keys = (read_pickle(window, label) for _ in range(5))
    if magic.value != _MAGIC or protocol.value != _PROTOCOL:
        got = protocol.value
        what = got if isinstance(got, int) and abs(got) < 1 << 64 else type(got).__name__
        raise CheckpointError(f"{label} is a torch file of protocol {what}, not {_PROTOCOL}")
    try:
        claims = _claims(pickle)
        spans, end = _spans(file, size, keys.value, {claim.key: claim for claim in reversed(claims.values())})
        storages = {persistent: _storage(claim, spans[claim.key]) for persistent, claim in claims.items()}
    except ValueError as problem:
        raise CheckpointError(f"{label} is damaged or truncated: {problem}") from problem
    facts = (f"{size - end:,} bytes behind the last storage are passed through",) if size > end else ()
    return pickle.value, storages, facts


def _claims(pickle: Pickle) -> dict[Persistent, StorageClaim]:
    return {
        persistent: storage_claim(persistent)
        for persistent in pickle.persistent
        # a pickled module brings its class with its source
        if not (isinstance(persistent.pid, tuple) and persistent.pid[:1] == ("module",))
    }


def _storage(claim: StorageClaim, span: Span) -> Storage:
    if claim.nbytes != span.length:
        raise ValueError(f"storage {claim.key!r} has two sizes")
    return Storage(claim, span)


def _spans(file: BinaryIO, size: int, keys: object, claims: dict[str, StorageClaim]) -> tuple[dict[str, Span], int]:
    """Return where each storage's bytes lie, and where the last one ends."""
    if not isinstance(keys, list) or len(keys) != len(claims):
        raise ValueError("its list of storages does not fit its tensors")
    spans: dict[str, Span] = {}
    position = file.tell()
    for key in keys:
        if not isinstance(key, str) or key not in claims or key in spans:
            raise ValueError("its list of storages does not fit its tensors")
        file.seek(position)
        count = int.from_bytes(file.read(8), "little", signed=True)
        claim = claims[key]
        span = Span(position + 8, claim.nbytes)
        if span.end > size:
            raise ValueError(f"storage {key!r} ends at byte {span.end:,} of {size:,}")
        if count != claim.length:
            raise ValueError(f"storage {key!r} has {count:,} elements where {claim.length:,} belong")
        spans[key] = span
        position = span.end
    return spans, position
