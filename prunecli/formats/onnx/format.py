"""The format of ONNX, as a value for the list of formats."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO

from prunecli.formats.format import HEAD, Format, refuse_keys

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from prunecli.checkpoint import Span
    from prunecli.formats.listing import Listing

_TEXTS = frozenset(b"\x12\x1a\x22\x32")
"""The tags of the texts of a model: its producer, the producer's version, its domain, its description."""


def _detect(head: bytes) -> bool:
    """Return whether `head` begins a ModelProto: a version, texts and a version of the model, then a graph or opsets.

    Writers sort fields by number. Version 1 is left to the SavedModel of TensorFlow, which begins like it.
    """
    if len(head) < 3 or head[0] != 8 or not 2 <= head[1] < 128:
        return False
    place = 2
    while place < len(head):
        tag = head[place]
        if tag in {0x3A, 0x42}:  # the graph, or a set of operators
            return True
        if tag == 0x28:  # the version of the model, a number
            place += 1
            while place < len(head) and head[place] >= 128:
                place += 1
            place += 1
        elif tag in _TEXTS:
            length = head[place + 1] if place + 1 < len(head) else 0
            if length >= 128:  # a longer text is most likely a description, before which nothing was wrong
                return True
            place += 2 + length
        else:
            return False
    return True


def _read(file: BinaryIO, label: str, keys: Sequence[str]) -> Listing:
    from prunecli.formats.onnx.reader import read_onnx

    refuse_keys(f"{label} is an ONNX model", keys)
    return read_onnx(file, label)


def _contents(file: BinaryIO, _: str, tensor_spans: Collection[Span]) -> Iterator[tuple[str, str]]:
    from prunecli.formats.fingerprints import digest_between

    file.seek(0)
    if _detect(file.read(HEAD)):  # not one of the other files with numbers
        yield "the graph and the metadata", digest_between(file, tensor_spans)


ONNX = Format("ONNX", "ONNX", _detect, _read, _contents, nested=False)
