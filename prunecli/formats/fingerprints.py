"""Short texts that identify a value: equal values have equal texts, different values have different ones."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Collection

    from prunecli.checkpoint import Span

TEXT_LIMIT = 60
"""Longer texts are cut to this many characters and completed by a digest."""

_CHUNK = 1 << 20  # bytes


def shortened(text: str, limit: int = TEXT_LIMIT) -> str:
    """Return `text`, or its first `limit` characters and a digest if it is longer."""
    return text if len(text) <= limit else f"{text[:limit]}... ({text_digest(text)})"


def text_digest(text: str) -> str:
    """Return "sha256" and 12 hex digits."""
    # JSON escapes and pickles can contain half a surrogate pair, which UTF-8 cannot encode.
    return f"sha256 {hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:12]}"


def span_digest(file: BinaryIO, span: Span) -> str:
    """Return the length and the digest of `span`; memory does not depend on its length."""
    digest = hashlib.sha256()
    _update(digest, file, span.start, span.end)
    return f"{span.length:,} bytes, sha256 {digest.hexdigest()[:12]}"


def digest_between(file: BinaryIO, spans: Collection[Span]) -> str:
    """Return the number and the digest of the bytes of `file` that are in none of `spans`."""
    digest, place, length = hashlib.sha256(), 0, 0
    size = file.seek(0, os.SEEK_END)
    for start, end in [*sorted((span.start, span.end) for span in spans), (size, size)]:
        length += max(start - place, 0)
        _update(digest, file, place, start)
        place = max(place, end)
    return f"{length:,} bytes, sha256 {digest.hexdigest()[:12]}"


def _update(digest: hashlib._Hash, file: BinaryIO, start: int, end: int) -> None:
    file.seek(start)
    while start < end and (data := file.read(min(_CHUNK, end - start))):
        digest.update(data)
        start += len(data)
