"""The float formats equal torch's conversions for every 8- and 16-bit pattern, and NumPy's for the wide formats."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from itertools import pairwise
from math import inf, isnan, nextafter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import examples
from support.weights import TORCH_FLOATS

from prunecli.dtypes import BITS, FLOATS, Float, cast, why_not_prunable

NARROW = [name for name in FLOATS if FLOATS[name].itemsize <= 2]
NUMPY: dict[str, type[np.floating]] = {"F64": np.float64, "F32": np.float32, "F16": np.float16}

magnitudes = st.floats(min_value=0, allow_nan=False, allow_infinity=False)


def torch_values(name: str) -> list[float]:
    """Return torch's values of all magnitude patterns."""
    dtype = FLOATS[name]
    integer = {1: torch.uint8, 2: torch.int16}[dtype.itemsize]
    patterns = torch.arange(dtype.mask + 1, dtype=torch.int32).to(integer)
    actual: list[float] = patterns.view(TORCH_FLOATS[name]).to(torch.float64).tolist()
    return actual


def torch_bits(value: float, name: str) -> int:
    """Return the pattern of a float32 number that torch casts to the format."""
    integer = {1: torch.uint8, 2: torch.int16}[FLOATS[name].itemsize]
    return int(torch.tensor(value, dtype=torch.float32).to(TORCH_FLOATS[name]).view(integer))


def finite_values(dtype: Float) -> list[float]:
    """Return the finite magnitudes, ascending; their indices are their patterns."""
    return [dtype.decode(bits) for bits in range(dtype.finite_max + 1)]


@pytest.mark.parametrize("name", NARROW)
def test_every_narrow_pattern_decodes_as_in_torch(name: str) -> None:
    """Every magnitude of the 8- and 16-bit formats has torch's value, NaN, infinity and subnormals included."""
    expected = torch_values(name)

    got = [FLOATS[name].decode(bits) for bits in range(len(expected))]

    assert [repr(value) for value in expected] == [repr(value) for value in got]


@pytest.mark.parametrize("name", NARROW)
def test_limits_are_torchs(name: str) -> None:
    """Size, largest and smallest normal number of a format equal those of torch.finfo."""
    dtype, info = FLOATS[name], torch.finfo(TORCH_FLOATS[name])
    expected = (TORCH_FLOATS[name].itemsize, info.max, info.smallest_normal)

    assert expected == (dtype.itemsize, dtype.decode(dtype.finite_max), dtype.decode(1 << dtype.mantissa))
    assert dtype.itemsize * 8 == BITS[name]


@pytest.mark.parametrize("name", NARROW)
def test_the_lone_sign_bit_is_nan_in_fnuz_only(name: str) -> None:
    """If torch reads the sign bit alone as NaN, that NaN is the largest magnitude."""
    dtype = FLOATS[name]
    integer = {1: torch.int8, 2: torch.int16}[dtype.itemsize]
    lone = torch.tensor([-dtype.mask - 1], dtype=integer).view(TORCH_FLOATS[name]).to(torch.float64)

    assert isnan(float(lone)) == dtype.negative_zero_is_nan
    assert dtype.mask + isnan(float(lone)) == dtype.top


@pytest.mark.parametrize("name", NARROW)
def test_every_narrow_value_encodes_as_itself(name: str) -> None:
    """encode, floor and ceil invert decode for every finite magnitude."""
    dtype = FLOATS[name]

    for bits, value in enumerate(finite_values(dtype)):
        assert (bits, bits, bits) == (dtype.encode(value), dtype.floor(value), dtype.ceil(value))


@pytest.mark.parametrize("name", NARROW)
def test_numbers_between_patterns_round_to_the_nearest_half_to_even(name: str) -> None:
    """Between two neighbours encode returns the nearer, in the middle the even one; floor and ceil return the ends."""
    dtype = FLOATS[name]
    values = finite_values(dtype)

    for bits, (low, high) in enumerate(pairwise(values)):
        middle = (low + high) / 2  # exact: float64 has more bits
        even = bits + bits % 2
        near = nextafter(middle, 0), middle, nextafter(middle, inf)
        assert [bits, even, bits + 1] == [dtype.encode(value) for value in near]
        assert [bits] * 3 == [dtype.floor(value) for value in near]
        assert [bits + 1] * 3 == [dtype.ceil(value) for value in near]


@pytest.mark.parametrize("name", FLOATS)
def test_numbers_beyond_the_range_encode_one_above_the_finite(name: str) -> None:
    """Beyond the range, encode and ceil return one above the largest finite pattern, and floor returns that."""
    dtype = FLOATS[name]
    top = dtype.decode(dtype.finite_max)
    huge = 1.7e308 if name != "F64" else top

    assert dtype.finite_max + (name != "F64") == dtype.encode(huge)
    assert dtype.finite_max == dtype.floor(huge) == dtype.floor(inf)
    assert dtype.finite_max + (name != "F64") == dtype.ceil(huge)
    assert dtype.finite_max + 1 == dtype.ceil(inf)


@pytest.mark.parametrize("name", NARROW)
def test_the_half_above_the_largest_number_rounds_as_if_the_next_existed(name: str) -> None:
    """Half a step above the largest finite number rounds to even; less than that rounds down."""
    dtype = FLOATS[name]
    below, top = dtype.decode(dtype.finite_max - 1), dtype.decode(dtype.finite_max)
    half = top + (top - below) / 2

    assert dtype.finite_max + dtype.finite_max % 2 == dtype.encode(half)
    assert dtype.finite_max == dtype.encode(nextafter(half, 0))
    assert dtype.finite_max + 1 == dtype.encode(nextafter(half, inf))


@pytest.mark.parametrize("name", ["F64", "F32", "F16"])
@settings(max_examples=examples(150))
@given(value=magnitudes)
def test_encode_is_numpys_cast(name: str, value: float) -> None:
    """A float64 number is encoded as NumPy rounds it, to infinity beyond the range."""
    dtype = FLOATS[name]
    with np.errstate(over="ignore", under="ignore"):
        expected = int(NUMPY[name](value).view(f"i{dtype.itemsize}"))

    assert expected == dtype.encode(value)


@pytest.mark.parametrize("name", FLOATS)
@settings(max_examples=examples(100))
@given(value=magnitudes)
def test_floor_and_ceil_enclose_the_value(name: str, value: float) -> None:
    """No finite pattern lies between floor and the value, nor between the value and ceil."""
    dtype = FLOATS[name]
    low, high = dtype.floor(value), dtype.ceil(value)

    assert dtype.decode(low) <= value
    assert high - low == (dtype.decode(low) != value)
    assert high > dtype.finite_max or value <= dtype.decode(high)


@pytest.mark.parametrize("name", NARROW)
@settings(max_examples=examples(100))
@given(value=st.floats(min_value=0, max_value=100_000, width=32))
def test_floor_and_ceil_are_searches_in_the_sorted_values(name: str, value: float) -> None:
    """Floor is the last finite value up to the number, and ceil the first from it on."""
    dtype = FLOATS[name]
    values = SORTED[name]

    assert bisect_right(values, value) - 1 == dtype.floor(value)
    assert bisect_left(values, value) == dtype.ceil(value)


SORTED = {name: finite_values(FLOATS[name]) for name in NARROW}


@pytest.mark.parametrize("name", NARROW)
@settings(max_examples=examples(100))
@given(value=st.floats(min_value=0, width=32, allow_nan=False, allow_infinity=False))
def test_encode_is_torchs_cast_of_float32(name: str, value: float) -> None:
    """Within the range a float32 number is encoded as torch casts it."""
    dtype = FLOATS[name]
    expected = torch_bits(min(value, dtype.decode(dtype.finite_max)), name)

    assert expected == dtype.encode(min(value, dtype.decode(dtype.finite_max)))
    assert dtype.encode(value) > dtype.finite_max or torch_bits(value, name) == dtype.encode(value)


@pytest.mark.parametrize("name", ["F64", "F32", "F16", "BF16"])
@settings(max_examples=examples(60))
@given(value=st.one_of(st.floats(0, 1), st.floats(0, 70_000), magnitudes))
def test_cast_splits_a_tensor_where_torchs_comparison_does(name: str, value: float) -> None:
    """The patterns above cast(value) are those where torch's `tensor.abs() > value` is True."""
    dtype = FLOATS[name]
    index = dtype.encode(value)
    patterns = [bits for bits in range(index - 3, index + 4) if 0 <= bits <= dtype.finite_max]
    integer = {2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]
    weights = torch.tensor(patterns, dtype=integer).view(TORCH_FLOATS[name])

    expected = (weights.abs() > value).tolist()

    assert expected == [bits > cast(value, dtype) for bits in patterns]


@pytest.mark.parametrize("name", NARROW)
def test_cast_rounds_twice_as_torch_does(name: str) -> None:
    """A number just above a tie is rounded to the tie by float32, and then to even."""
    dtype = FLOATS[name]
    one = dtype.encode(1.0)
    half = (1.0 + dtype.decode(one + 1)) / 2

    assert one == cast(nextafter(half, inf), dtype)
    assert one + 1 == dtype.encode(nextafter(half, inf))


@pytest.mark.parametrize("name", FLOATS)
def test_cast_of_zero_and_of_a_huge_number(name: str) -> None:
    """Zero casts to the pattern 0, and a number beyond float32's range beyond that of each narrower format."""
    dtype = FLOATS[name]

    assert cast(0.0, dtype) == 0
    assert name == "F64" or cast(1e300, dtype) == dtype.finite_max + 1


@pytest.mark.parametrize(
    ("dtype", "word"),
    [("I8", "integers"), ("U16", "integers"), ("BOOL", "booleans"), ("C64", "complex"), ("F4", "packed")],
)
def test_other_dtypes_are_not_prunable(dtype: str, word: str) -> None:
    """The reason for integers, booleans, complex and packed numbers names the dtype."""
    reason = why_not_prunable(dtype)

    assert reason is not None
    assert word in reason
    assert dtype in reason


@pytest.mark.parametrize("dtype", FLOATS)
def test_floats_are_prunable(dtype: str) -> None:
    """Every float format can be pruned."""
    assert why_not_prunable(dtype) is None
