"""The next bits of patterns that begin with given bits: both implementations equal the definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import examples

from prunecli.kernels.native.library import library
from prunecli.kernels.next_bits import NextBits


@settings(max_examples=examples(80))
@given(
    itemsize=st.sampled_from([4, 8]),
    level=st.integers(1, 3),
    size=st.sampled_from([0, 1, 9, 5000]),
    chosen=st.integers(0, 30),
    few=st.booleans(),
    seed=st.integers(0, 999),
)
@pytest.mark.parametrize("native", [False, True])
def test_the_next_bits_of_patterns_in_bins_are_found(
    itemsize: int, level: int, size: int, chosen: int, seed: int, *, few: bool, native: bool
) -> None:
    """They come in the order of the weights, of any sign, whose leading bits may be those of several bins."""
    if native and library() is None:
        pytest.skip("the compiled kernels are not built")
    span = 8 * itemsize - 16 * min(level, itemsize // 2 - 1)
    shift, random = max(span - 16, 0), np.random.default_rng(seed)
    top = (1 << (8 * itemsize - 1)) - 1
    y = random.integers(0, top, size, np.int64, endpoint=True)
    if few:  # many begin with the same bits
        y = (top // 3 & ~((1 << (span + 3)) - 1)) + y % (1 << (span + 3))
    searched = np.r_[random.choice(y, chosen) if size else [], random.integers(0, top, 2)].astype(np.int64)
    lows = np.unique(searched >> span << span)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("prunecli.kernels.next_bits.has_native", lambda: native)
        signs = random.integers(0, 2, size) << (8 * itemsize - 1)
        found = NextBits(itemsize, lows, span, shift).of((y | signs).astype(f"i{itemsize}"))

    assert found.tolist() == [int(p) >> shift for p in y if int(p) >> span << span in set(lows.tolist())]
