"""Flags as bits: both sets of kernels give the bits of NumPy, and the flags come back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import examples

from prunecli.kernels import bits
from prunecli.kernels.bits import pack_bits, unpack_bits
from prunecli.kernels.native.library import library


@pytest.mark.parametrize("native", [True, False])
@settings(max_examples=examples(40))
@given(rows=st.integers(0, 5), cols=st.integers(1, 70), seed=st.integers(0, 99))
def test_the_bits_are_those_of_numpy(native: bool, rows: int, cols: int, seed: int) -> None:  # noqa: FBT001
    """The order is that of compressed-tensors: numpy.packbits along rows, from the lowest bit."""
    if native and library() is None:
        pytest.skip("the compiled kernels are not built")
    flags = np.random.default_rng(seed).integers(0, 2, (rows, cols), np.uint8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bits, "has_native", lambda: native)

        packed = pack_bits(memoryview(flags).cast("B") if rows else b"", rows, cols)

        unpacked = unpack_bits(packed, rows, cols)

    assert bytes(packed) == np.packbits(flags, axis=1, bitorder="little").tobytes()
    assert unpacked.tolist() == flags.reshape(-1).tolist()


@pytest.mark.parametrize("native", [True, False])
@given(rows=st.integers(1, 3), lead=st.integers(0, 7), cols=st.integers(1, 40), seed=st.integers(0, 9))
def test_leading_bits_are_left_out(native: bool, rows: int, lead: int, cols: int, seed: int) -> None:  # noqa: FBT001
    """Rows that start inside a byte come back without the bits before them."""
    if native and library() is None:
        pytest.skip("the compiled kernels are not built")
    flags = np.random.default_rng(seed).integers(0, 2, (rows, lead + cols), np.uint8)
    packed = np.packbits(flags, axis=1, bitorder="little").tobytes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bits, "has_native", lambda: native)

        unpacked = unpack_bits(packed, rows, cols, lead)

    assert unpacked.tolist() == flags[:, lead:].reshape(-1).tolist()
