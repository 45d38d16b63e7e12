"""The numbers of weights below some magnitudes: both implementations equal a comparison of patterns."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import examples

from prunecli.dtypes import FLOATS
from prunecli.kernels.arrays import INTS
from prunecli.kernels.below import count_below
from prunecli.kernels.native.library import library
from prunecli.kernels.numpy_ops import NumpyOps

if TYPE_CHECKING:
    from prunecli.dtypes import Float


@settings(max_examples=examples(100))
@given(
    dtype=st.sampled_from(list(FLOATS.values())),
    size=st.sampled_from([0, 1, 127, 513, 3000]),
    seed=st.integers(0, 99),
    data=st.data(),
)
@pytest.mark.parametrize("native", [False, True])
def test_weights_below_cuts_are_counted(
    dtype: Float, size: int, seed: int, data: st.DataObject, *, native: bool
) -> None:
    """Cuts are any patterns in any order, up to one above the largest."""
    if native and library() is None:
        pytest.skip("the compiled kernels are not built")
    integer = INTS[dtype.itemsize]
    x = np.random.default_rng(seed).integers(np.iinfo(integer).min, np.iinfo(integer).max, size, integer, endpoint=True)
    x[::5] = np.iinfo(integer).min
    patterns = NumpyOps().magnitudes(x, dtype).tolist()
    edges = st.sampled_from([0, 1, dtype.finite_max, dtype.finite_max + 1, dtype.top, dtype.top + 1])
    cuts = data.draw(st.lists(edges | st.integers(0, dtype.top + 1), max_size=6))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("prunecli.kernels.below.has_native", lambda: native)

        found = count_below([x[: size // 2], x[size // 2 :]], np.array(cuts, np.uint64), dtype)

    assert found.tolist() == [sum(pattern < cut for pattern in patterns) for cut in cuts]
