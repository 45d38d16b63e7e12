"""Changes of weights: the compiled kernel counts those that the values of the formats have, one by one."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import examples

from prunecli.dtypes import FLOATS, Float
from prunecli.kernels.arrays import INTS
from prunecli.kernels.changes import changes
from prunecli.kernels.native.library import library

if library() is None:
    pytest.skip("the compiled kernels are not built", allow_module_level=True)

if TYPE_CHECKING:
    from numpy.typing import NDArray


def value(bits: int, dtype: Float) -> float:
    """Return the value of an integer of the width of a format."""
    if dtype.negative_zero_is_nan and bits == ~dtype.mask:
        return math.nan
    magnitude = dtype.decode(bits & dtype.mask)
    return -magnitude if bits < 0 else magnitude


def expected(x: NDArray[Any], y: NDArray[Any], dtype: Float) -> dict[str, float]:
    """Return the counts of the changes from `x` to `y`."""
    places = [at for at in range(x.size) if x[at] != y[at]]
    pairs = [(value(int(x[at]), dtype), value(int(y[at]), dtype)) for at in places]
    sizes = [abs(b - a) for a, b in pairs]
    finite = [size for size in sizes if math.isfinite(size)]
    others = [at for at, (_, b) in zip(places, pairs, strict=True) if b != 0]
    return {
        "changed": len(places),
        "to_zero": sum(b == 0 != a for a, b in pairs),
        "zero_signs": sum(b == 0 == a for a, b in pairs),
        "nonfinite": len(sizes) - len(finite),
        "first": min(places, default=-1),
        "first_other": min(others, default=-1),
        "largest": max(finite, default=0.0),
    }


@pytest.mark.parametrize("name", FLOATS)
@settings(max_examples=examples(30))
@given(
    size=st.sampled_from([1, 30, 1023, 1024, 2100]),
    part=st.sampled_from([0.0, 0.01, 0.5]),
    seed=st.integers(0, 99),
    extreme=st.booleans(),
)
def test_changes_are_those_of_the_values(name: str, size: int, part: float, seed: int, *, extreme: bool) -> None:
    """Changes to zero and of its sign, differences that are not finite, the first changes and the largest one."""
    dtype, random = FLOATS[name], np.random.default_rng(seed)
    edges = [0, 1, dtype.finite_max, min(dtype.finite_max + 1, dtype.mask), dtype.mask]
    pool = np.array([m | sign for m in edges for sign in (0, ~dtype.mask)], INTS[dtype.itemsize])
    if not extreme:
        pool = random.integers(~dtype.mask, dtype.mask, 50, pool.dtype, endpoint=True)
    x, other = random.choice(pool, size), random.choice([*pool, 0], size).astype(pool.dtype)
    y = np.where(random.random(size) < part, other, x)

    found = changes(x, y, dtype)

    assert {field: getattr(found, field) for field, _ in found._fields_} == expected(x, y, dtype)
