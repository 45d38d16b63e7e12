"""The groups with too many non-zeros: both implementations equal a loop over the groups."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import examples

from prunecli.dtypes import FLOATS
from prunecli.kernels.arrays import INTS
from prunecli.kernels.native.library import library
from prunecli.kernels.numpy_ops import NumpyOps
from prunecli.kernels.overfull import count_overfull

if TYPE_CHECKING:
    from prunecli.dtypes import Float


@settings(max_examples=examples(150))
@given(
    shape=st.tuples(st.integers(1, 5), st.one_of(st.integers(1, 40), st.integers(300, 700)), st.integers(1, 3)),
    group=st.one_of(st.sampled_from([2, 4, 8, 16, 32]), st.integers(1, 300)),
    kept=st.floats(0, 1),
    density=st.sampled_from([0.0, 0.3, 0.7, 1.0]),
    dtype=st.sampled_from(list(FLOATS.values())),
    seed=st.integers(0, 99),
)
@pytest.mark.parametrize("native", [False, True])
def test_overfull_groups_are_counted_and_the_first_one_is_found(
    dtype: Float, shape: tuple[int, int, int], group: int, kept: float, density: float, seed: int, *, native: bool
) -> None:
    """Zeros of both signs are zeros, and the pattern of -0.0 is none in fnuz formats."""
    if native and library() is None:
        pytest.skip("the compiled kernels are not built")
    random, keep = np.random.default_rng(seed), int(kept * group)
    integer = INTS[dtype.itemsize]
    x = random.integers(np.iinfo(integer).min, np.iinfo(integer).max, shape, integer)
    x[random.random(shape) >= density] = 0
    x[random.random(shape) < 0.1] = np.iinfo(integer).min
    nonzero = (NumpyOps().magnitudes(x.reshape(-1), dtype) != 0).reshape(shape)
    places = np.arange(x.size).reshape(shape)
    starts = range(0, shape[1], group)
    overfull = [places[:, low][nonzero[:, low : low + group].sum(axis=1) > keep] for low in starts]
    expected = sorted(np.concatenate(overfull).tolist())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("prunecli.kernels.overfull.has_native", lambda: native)

        found = count_overfull(x.reshape(-1), shape, (keep, group), dtype)

    assert found == (len(expected), expected[0] if expected else None)
