"""`combine` equals zlib's CRC-32 of the concatenated bytes."""

from __future__ import annotations

from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import examples

from prunecli.io.crc32 import combine


@settings(max_examples=examples(150))
@given(first=st.binary(max_size=300), second=st.binary(max_size=300))
def test_two_runs_combine_to_the_checksum_of_both(first: bytes, second: bytes) -> None:
    """The CRC-32 of a + b follows from those of a and b and the length of b, also if one is empty."""
    assert crc32(first + second) == combine(crc32(first), crc32(second), len(second))


@settings(max_examples=examples(30))
@given(parts=st.lists(st.binary(max_size=50), max_size=8))
def test_many_runs_combine_from_the_left(parts: list[bytes]) -> None:
    """Any number of parts can be combined, starting from 0, the CRC-32 of no bytes."""
    whole = 0
    for part in parts:
        whole = combine(whole, crc32(part), len(part))

    assert crc32(b"".join(parts)) == whole


@pytest.mark.parametrize("length", [1, 7, 8, 255, 4096, 65_537, (1 << 20) + 3])
def test_long_runs_combine(length: int) -> None:
    """Lengths around powers of two are combined correctly."""
    tail = bytes(index % 251 for index in range(1000)) * (length // 1000 + 1)
    tail = tail[:length]

    assert crc32(b"head" + tail) == combine(crc32(b"head"), crc32(tail), length)


def test_lengths_beyond_32_bits_are_combined() -> None:
    """Appending 5 GiB in one step equals appending them in five."""
    zeros = crc32(bytes(1 << 20))
    one = zeros
    for doubling in range(10):
        one = combine(one, one, 1 << (20 + doubling))
    by_steps = one
    for _ in range(4):
        by_steps = combine(by_steps, one, 1 << 30)
    four = combine(combine(one, one, 1 << 30), combine(one, one, 1 << 30), 1 << 31)

    assert by_steps == combine(one, four, 1 << 32)
