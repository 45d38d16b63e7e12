"""The formats of numpy.save and numpy.savez, as values for the list of formats."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO

from prunecli.formats.format import Format, refuse_keys

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from prunecli.checkpoint import Span
    from prunecli.formats.extras import Extras
    from prunecli.formats.listing import Listing

MAGIC = b"\x93NUMPY"
"""The first bytes of an array."""


def _is_npy(head: bytes) -> bool:
    return head.startswith(MAGIC)


def _is_npz(head: bytes) -> bool:
    """Return whether `head` begins a zip whose first record is an array by its name."""
    length = int.from_bytes(head[26:28], "little")
    return head.startswith(b"PK\3\4") and head[30 : 30 + length].endswith(b".npy")


def _read_npy(file: BinaryIO, label: str, keys: Sequence[str]) -> Listing:
    from prunecli.formats.npy.reader import read_npy

    refuse_keys(f"{label} is a .npy file", keys)
    return read_npy(file, label)


def _read_npz(file: BinaryIO, label: str, keys: Sequence[str]) -> Listing:
    from prunecli.formats.npy.reader import read_npz

    refuse_keys(f"{label} is a .npz archive", keys)
    return read_npz(file, label)


def _no_contents(_file: BinaryIO, _label: str, _spans: Collection[Span]) -> Iterator[tuple[str, str]]:
    return iter(())


def _npz_contents(file: BinaryIO, label: str, tensor_spans: Collection[Span]) -> Iterator[tuple[str, str]]:
    from prunecli.formats.fingerprints import shortened, span_digest
    from prunecli.formats.npy.archive import open_archive

    view, records, _ = open_archive(file, label)
    for name, record in records.items():
        if record.span not in tensor_spans:
            yield f"record {shortened(name)}", span_digest(view, record.span)


def _npz_extras(file: BinaryIO, label: str, _: Collection[str]) -> Extras:
    from prunecli.formats.extras import Extras
    from prunecli.formats.npy.reader import rest_of_npz

    return Extras(rest=tuple(rest_of_npz(file, label)))


NPZ = Format("NumPy .npz", "NumPy .npz", _is_npz, _read_npz, _npz_contents, nested=False, extras=_npz_extras)
NPY = Format("NumPy .npy", "NumPy .npy", _is_npy, _read_npy, _no_contents, nested=False)
