"""Parts of files that are inflated while they are read."""

from __future__ import annotations

import zlib

import pytest

from prunecli.checkpoint import Span
from prunecli.errors import CheckpointError
from prunecli.io.inflated import Deflated, inflate

DATA = bytes(range(256)) * 1000
PACKED = zlib.compress(DATA, wbits=-15)


def test_a_file_that_becomes_shorter_is_an_error() -> None:
    """Where fewer bytes can be read than the part has, inflating ends with a sentence, at any place."""
    part = Deflated(Span(0, len(PACKED)), len(DATA), zlib.crc32(DATA), "data/0")

    for left in (0, len(PACKED) // 2):
        with pytest.raises(CheckpointError, match="its record 'data/0' is not one stream of compressed bytes"):
            list(inflate(lambda offset, length, left=left: PACKED[:left][offset : offset + length], part, "m.pth"))
    assert b"".join(inflate(lambda offset, length: PACKED[offset : offset + length], part, "m.pth")) == DATA
