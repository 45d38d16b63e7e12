"""Operations on arrays of keys equal plain definitions, with the compiled kernels and with NumPy."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import examples

from prunecli.dtypes import FLOATS
from prunecli.kernels import key_arrays
from prunecli.kernels.arrays import INTS
from prunecli.kernels.backend import has_native

if TYPE_CHECKING:
    from collections.abc import Iterator

KERNELS = [pytest.param(True, id="native", marks=pytest.mark.skipif(not has_native(), reason="not built"))]
KERNELS += [pytest.param(False, id="numpy")]

KEYS = st.sampled_from([("h", 1 << 15), ("i", 1 << 31), ("q", 1 << 63)]).flatmap(
    lambda kind: st.builds(
        array,
        st.just(kind[0]),
        st.lists(st.integers(-1, 9) | st.integers(-1, kind[1] - 1), min_size=1, max_size=40),
    )
)
"""Arrays of keys, some of them equal."""


@pytest.fixture(params=KERNELS, autouse=True, scope="module")
def native(request: pytest.FixtureRequest) -> Iterator[bool]:
    """Compute with each kind of kernels in turn."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(key_arrays, "has_native", lambda: request.param)
        yield request.param


@settings(max_examples=examples(60))
@given(KEYS, st.data())
def test_keys_are_ranked_and_counted(native: bool, keys: array[int], data: st.DataObject) -> None:  # noqa: FBT001
    """The key at a rank, the numbers of keys equal to it and from it on, and the keys in a bracket and its bins."""
    assert native == key_arrays.has_native()
    listed, rank = keys.tolist(), data.draw(st.integers(1, len(keys)))
    key = sorted(listed)[rank - 1]
    smaller, equal = sum(k < key for k in listed), listed.count(key)
    low, last = sorted(data.draw(st.sampled_from([max(k, 0) for k in listed])) for _ in range(2))
    shift, bins = max((last - low).bit_length() - 3, 0), array("q", [0] * 8)

    assert key_arrays.smallest(keys, rank) == (key, smaller, equal)
    assert key_arrays.count_equal(keys, max(key, 0)) == listed.count(max(key, 0))
    assert key_arrays.count_from(keys, len(keys), key) == [len(keys) - smaller]
    assert key_arrays.count_from(keys, 1, key + 1) == [int(k > key) for k in listed]
    inside = [k for k in listed if low <= k <= last]
    assert key_arrays.within(keys, low, last - low + 1).tolist() == inside
    key_arrays.add_to_bins(keys, low, last - low + 1, shift, bins)
    assert bins.tolist() == np.bincount([(k - low) >> shift for k in inside], minlength=8).tolist()
    assert key_arrays.joined([keys, keys[:1]]).tolist() == [*listed, listed[0]]


@pytest.mark.parametrize("name", FLOATS)
def test_magnitudes_of_bytes(name: str) -> None:
    """Weights as bytes give the same magnitudes as an array does."""
    dtype = FLOATS[name]
    half = 1 << (8 * dtype.itemsize - 1)
    x = np.array([0, 1, -1, half - 1, -half, 1 - half, half // 3], INTS[dtype.itemsize])
    expected = [dtype.top if w == -half and dtype.negative_zero_is_nan else w & (half - 1) for w in x.tolist()]

    assert key_arrays.magnitudes(bytearray(x.tobytes()), dtype).tolist() == expected
