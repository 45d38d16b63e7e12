"""`nonzeros_per_group` equals a loop over the groups."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import examples

from prunecli.kernels.groups import FEW, nonzeros_per_group


@settings(max_examples=examples(100))
@given(
    shape=st.tuples(st.integers(0, 5), st.integers(1, 20), st.integers(1, 3)),
    group=st.sampled_from([1, 2, 4, 5]),
    density=st.sampled_from([0.0, 0.3, 0.7, 1.0]),
)
def test_each_group_is_counted(shape: tuple[int, int, int], group: int, density: float) -> None:
    """Groups are consecutive entries of the middle dimension; the last one may be short."""
    nonzero = np.random.default_rng(0).random(shape) < density
    starts = range(0, shape[1], group)
    expected = np.stack([nonzero[:, low : low + group].sum(axis=1) for low in starts], axis=1)

    assert np.array_equal(expected, nonzeros_per_group(nonzero, group))


@pytest.mark.parametrize("group", [4, FEW + 1, 255, 256, 300])
def test_a_group_of_non_zeros_has_as_many_as_it_is_long(group: int) -> None:
    """The counts do not overflow their type."""
    assert {group} == set(nonzeros_per_group(np.ones((2, 2 * group, 1), bool), group).reshape(-1).tolist())
