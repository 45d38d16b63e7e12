"""Runs of row-major elements are copied out of views with any strides, and back."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from support import examples

from prunecli.io.strided import gather, scatter


@settings(max_examples=examples(60))
@given(st.data())
def test_runs_of_a_view(data: st.DataObject) -> None:
    """`gather` returns the row-major elements of any view and byte order; `scatter` writes these elements alone."""
    shape = tuple(data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=4)))
    order = data.draw(st.permutations(range(len(shape))))
    base = np.arange(2 * np.prod(shape), dtype=data.draw(st.sampled_from([">i4", "<i4"])))[::2]
    view = base.reshape([shape[d] for d in order]).transpose(np.argsort(order))
    first, stop = sorted(data.draw(st.tuples(*[st.integers(0, view.size)] * 2)))
    expected = view.reshape(-1).copy()

    flat = gather(view, first, stop)
    scatter(-flat - 1, view, first)

    assert flat.dtype.isnative
    assert np.array_equal(flat, expected[first:stop])
    expected[first:stop] = -expected[first:stop] - 1
    assert np.array_equal(view.reshape(-1), expected)
