"""The format of HDF5, as a value for the list of formats."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO

from prunecli.formats.format import Format, refuse_keys

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from prunecli.checkpoint import Span
    from prunecli.formats.listing import Listing

SIGNATURE = b"\x89HDF\r\n\x1a\n"


def _detect(head: bytes) -> bool:
    return head.startswith(SIGNATURE)


def _read(file: BinaryIO, label: str, keys: Sequence[str]) -> Listing:
    from prunecli.formats.hdf5.reader import read_hdf5

    refuse_keys(f"{label} is an HDF5 file", keys)
    return read_hdf5(file, label)


def _contents(file: BinaryIO, _: str, tensor_spans: Collection[Span]) -> Iterator[tuple[str, str]]:
    from prunecli.formats.fingerprints import digest_between

    yield "groups, attributes and other datasets", digest_between(file, tensor_spans)


HDF5 = Format("HDF5", "HDF5", _detect, _read, _contents, nested=False)
