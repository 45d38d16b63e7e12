"""Random numbers: the compiled kernel gives the stream of NumPy's Philox, at any place."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import examples

from prunecli.kernels.native.library import library
from prunecli.kernels.random_bits import draw
from prunecli.kernels.rows import Rows
from prunecli.kernels.torch_ops import TorchOps
from prunecli.kernels.torch_values import random_numbers

PLACES = st.one_of(st.integers(0, 100), st.integers(0, 1 << 45))


@settings(max_examples=examples(60))
@given(key=st.integers(0, (1 << 128) - 1), first=PLACES, count=st.integers(0, 100))
def test_any_place_of_the_stream_is_philox(key: int, first: int, count: int) -> None:
    """The numbers are the upper 31 bits of the halves of Philox's words, whatever the place where they begin."""
    step, skip = divmod(first, 8)
    words = np.random.Philox(key=key, counter=step).random_raw(64)
    halves = words.astype("<u8").view("<u4") >> 1

    found = draw(key, first, count)

    assert found.dtype == np.int32
    assert found.tolist() == halves[skip : skip + count].tolist()


@settings(max_examples=examples(20))
@given(key=st.integers(0, (1 << 128) - 1), first=PLACES, count=st.integers(1, 100), rows=st.integers(1, 3))
def test_torch_draws_the_same_numbers(key: int, first: int, count: int, rows: int) -> None:
    """Rows at even distances have the numbers of the stream at their places."""
    found = random_numbers(TorchOps("cpu"), [key], Rows((0,), torch.zeros((rows, count)), first, 80))

    assert found.tolist() == [draw(key, first + 80 * row, count).tolist() for row in range(rows)]


@pytest.mark.skipif(library() is None, reason="the compiled kernels are not built")
def test_numpy_draws_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the library the numbers are the same."""
    native = draw(7 << 70 | 5, 12345, 1000)
    monkeypatch.setattr("prunecli.kernels.random_bits.has_native", lambda: False)

    assert np.array_equal(native, draw(7 << 70 | 5, 12345, 1000))
