"""`crc32` equals zlib's, and `combine` equals zlib's CRC-32 of the concatenated bytes."""

from __future__ import annotations

import random
from ctypes import c_int64, c_uint32, c_void_p, create_string_buffer
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import examples

from prunecli.io import crc32 as module
from prunecli.io.crc32 import LONG, combine
from prunecli.kernels.native.library import address, level, library

MOST = 0xFFFFFFFF
"""The largest CRC-32, and the one of which the register is zero."""


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


@settings(max_examples=examples(100))
@given(
    seed=st.integers(0, 1 << 32), length=st.integers(0, 3 * LONG), start=st.integers(0, 70), value=st.integers(0, MOST)
)
def test_any_length_and_place(seed: int, length: int, start: int, value: int) -> None:
    """Data of any length, at any place in memory and after any other data, has the CRC-32 that zlib gives it."""
    data = memoryview(random.Random(seed).randbytes(start + length))[start:]

    assert module.crc32(data, value) == crc32(data, value)


@pytest.mark.parametrize("level_", ["base", "v3", "v4"])
@pytest.mark.skipif(library() is None, reason="there are no compiled kernels")
def test_folded_bytes_have_the_same_checksum(level_: str) -> None:
    """For each instruction set and length, the folded 16 bytes and the rest have the CRC-32 of all bytes."""
    if level_ > level():
        pytest.skip(f"this CPU or compiler has no {level_}")
    fold = library()[f"crc32_fold_{level_}"]
    fold.argtypes, fold.restype = (c_void_p, c_int64, c_uint32, c_void_p), c_int64
    data, folded = random.Random(0).randbytes(1300), create_string_buffer(16)
    for length in range(1300):
        done = fold(address(data), length, 0x12345678, folded)
        register = crc32(folded, MOST) if done else 0x12345678
        assert 0 <= done <= length
        assert crc32(data[done:length], register) == crc32(data[:length], 0x12345678)


def test_short_data_and_other_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without compiled kernels, or with ones that cannot fold, zlib computes all of it."""
    data = random.Random(1).randbytes(LONG + 5)
    for fold in (None, lambda *_: 0):
        monkeypatch.setattr(module, "_fold", lambda fold=fold: fold)
        assert module.crc32(data, 7) == crc32(data, 7)
