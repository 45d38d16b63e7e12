"""The format of pickles of NumPy arrays, as values for the list of formats."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO

from prunecli.formats.format import Format

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from prunecli.checkpoint import Span
    from prunecli.formats.extras import Extras
    from prunecli.formats.listing import Listing


def _detect(head: bytes) -> bool:
    """Return whether `head` begins a pickle of protocol 2 to 5."""
    return head[:1] == b"\x80" and head[1:2] in {b"\2", b"\3", b"\4", b"\5"}


def _read(file: BinaryIO, label: str, keys: Sequence[str]) -> Listing:
    from prunecli.formats.numpy_pickle.reader import read_numpy_pickle

    return read_numpy_pickle(file, label, keys)


def _contents(file: BinaryIO, label: str, tensor_spans: Collection[Span]) -> Iterator[tuple[str, str]]:
    from prunecli.formats.numpy_pickle.reader import PICKLE_LIMIT, span_of
    from prunecli.formats.pickle.contents import Source, entries
    from prunecli.formats.pickle.opcodes import bounded
    from prunecli.formats.pickle.reader import read_pickle

    root = read_pickle(bounded(file, PICKLE_LIMIT), label).value
    return entries(root, Source(file, label, lambda leaf: span_of(leaf) in tensor_spans))


def _extras(file: BinaryIO, label: str, names: Collection[str]) -> Extras:
    from prunecli.formats.numpy_pickle.reader import PICKLE_LIMIT
    from prunecli.formats.pickle.extras import extras_below
    from prunecli.formats.pickle.opcodes import bounded
    from prunecli.formats.pickle.reader import read_pickle

    return extras_below(read_pickle(bounded(file, PICKLE_LIMIT), label).value, names)


NUMPY_PICKLE = Format("pickle of NumPy arrays", "pickle of NumPy arrays", _detect, _read, _contents, extras=_extras)
PADDLE = Format("Paddle", "Paddle", None, _read, _contents, extras=_extras)
