"""The format of llama.cpp, as a value for the list of formats."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO

from prunecli.formats.format import Format, refuse_keys

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from prunecli.checkpoint import Span
    from prunecli.formats.listing import Listing

MAGIC = b"GGUF"


def _detect(head: bytes) -> bool:
    return head.startswith(MAGIC)


def _read(file: BinaryIO, label: str, keys: Sequence[str]) -> Listing:
    from prunecli.formats.gguf.reader import read_gguf

    refuse_keys(f"{label} is a GGUF file", keys)
    return read_gguf(file, label)


def _contents(file: BinaryIO, label: str, _: Collection[Span]) -> Iterator[tuple[str, str]]:
    from prunecli.formats.fingerprints import shortened, span_digest
    from prunecli.formats.gguf.reader import read_metadata

    for key, value in read_metadata(file, label).items():
        yield f"metadata {shortened(key)}", span_digest(file, value.span) if value.text is None else value.text


GGUF = Format("GGUF", "GGUF", _detect, _read, _contents, nested=False)
