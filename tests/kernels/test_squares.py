"""Exact sums of squares."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from support import examples

from prunecli.dtypes import FLOATS
from prunecli.kernels.arrays import INTS
from prunecli.kernels.squares import quantum, square_sum


@settings(max_examples=examples(80))
@given(st.data(), st.sampled_from(sorted(FLOATS)))
def test_sums_of_squares_are_exact(data: st.DataObject, name: str) -> None:
    """The integer number of squared quanta equals the sum of the squares as fractions, with or without counts."""
    dtype = FLOATS[name]
    patterns = data.draw(st.lists(st.integers(0, dtype.top), max_size=20))
    counts = data.draw(st.lists(st.integers(0, 1 << 30), min_size=len(patterns), max_size=len(patterns)))
    squares = [Fraction(dtype.decode(p)) ** 2 if p <= dtype.finite_max else Fraction(0) for p in patterns]
    array, unit = np.array(patterns, INTS[max(dtype.itemsize, 2)]), Fraction(2) ** (2 * quantum(dtype))

    assert sum(squares, Fraction(0)) == square_sum(array, dtype) * unit
    weighted = sum((c * s for c, s in zip(counts, squares, strict=True)), Fraction(0))
    assert weighted == square_sum(array, dtype, np.array(counts, np.int64)) * unit
