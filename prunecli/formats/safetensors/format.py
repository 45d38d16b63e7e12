"""The safetensors format, as a value for the list of formats."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO

from prunecli.formats.format import Format, refuse_keys

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from prunecli.checkpoint import Span
    from prunecli.formats.extras import Extras
    from prunecli.formats.listing import Listing
    from prunecli.io.parts import FilePlan


def _detect(head: bytes) -> bool:
    # A header length below 2^40 has three zero bytes, which text with a brace at byte 8 does not have.
    return head[5:8] == b"\0\0\0" and head[8:].lstrip(b" \t\r\n").startswith(b"{")


def _read(file: BinaryIO, label: str, keys: Sequence[str]) -> Listing:
    from prunecli.formats.safetensors.reader import read_safetensors

    refuse_keys(f"{label} is a safetensors file", keys)
    return read_safetensors(file, label)


def _contents(file: BinaryIO, label: str, _: Collection[Span]) -> Iterator[tuple[str, str]]:
    from prunecli.formats.fingerprints import shortened
    from prunecli.formats.safetensors.reader import read_safetensors

    for key, value in read_safetensors(file, label).metadata.items():
        yield f"metadata {shortened(key)}", shortened(repr(value))


def _rewrite(file: BinaryIO, label: str, names: Mapping[str, str | None]) -> FilePlan:
    from prunecli.formats.safetensors.rewrite import rewrite_safetensors

    return rewrite_safetensors(file, label, names)


def _extras(file: BinaryIO, label: str, _: Collection[str]) -> Extras:
    from prunecli.formats.extras import Extras
    from prunecli.formats.safetensors.reader import read_safetensors

    return Extras(read_safetensors(file, label).metadata)


SAFETENSORS = Format("safetensors", "safetensors", _detect, _read, _contents, _rewrite, nested=False, extras=_extras)
