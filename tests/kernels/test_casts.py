"""Casts to 16 bits: the bits of torch's `.to()`, and the counts of what is lost."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import examples

from prunecli.dtypes import CASTABLE
from prunecli.kernels.casts import Lost, cast

TORCH = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
WIDTH = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}


def bits(tensor: torch.Tensor, dtype: str) -> np.ndarray:
    """Return the patterns of a tensor as integers of its width."""
    return tensor.contiguous().view(torch.uint8).numpy().view(f"<i{WIDTH[dtype]}")


def agree(x: np.ndarray, source: str, target: str) -> None:
    """Compare a cast of patterns with torch: equal bits, or both NaN."""
    tensor = torch.from_numpy(x.view(np.uint8).copy()).view(TORCH[source])
    expected = tensor.to(TORCH[target])

    made, lost = cast(x, source, target)

    nan = expected.isnan().numpy()
    actual = torch.from_numpy(made.view(np.uint8).copy()).view(TORCH[target])
    assert np.array_equal(nan, actual.isnan().numpy())
    assert np.array_equal(bits(expected, target)[~nan].view("<u2"), made[~nan])
    overflowed = int((expected.isinf() & tensor.isfinite()).sum())
    assert lost == Lost(overflowed, int(((expected == 0) & (tensor != 0)).sum()))


@pytest.mark.parametrize("target", ["F16", "BF16"])
@pytest.mark.parametrize("source", ["F16", "BF16"])
def test_every_pattern_of_16_bits_is_cast_as_torch_casts_it(source: str, target: str) -> None:
    """All 65,536 patterns of the short formats."""
    agree(np.arange(-32768, 32768, dtype="<i2"), source, target)


@pytest.mark.parametrize("target", ["F16", "BF16"])
@pytest.mark.parametrize("source", sorted(CASTABLE))
@settings(max_examples=examples(30))
@given(data=st.data())
def test_random_patterns_are_cast_as_torch_casts_them(source: str, target: str, data: st.DataObject) -> None:
    """Any patterns: halves between two values, infinities, NaN, subnormal numbers."""
    low, high = -(1 << (8 * WIDTH[source] - 1)), (1 << (8 * WIDTH[source] - 1)) - 1
    numbers = data.draw(st.lists(st.integers(low, high), min_size=1, max_size=40))

    agree(np.array(numbers, f"<i{WIDTH[source]}"), source, target)


@pytest.mark.parametrize("target", ["F16", "BF16"])
def test_ties_and_the_ends_of_the_range_are_cast_as_torch_casts_them(target: str) -> None:
    """Neighbours of every value of 16 bits, and the halves between them, in float32 and float64."""
    values = torch.arange(0, 65536, 7, dtype=torch.int32).to(torch.int16).view(TORCH[target])
    values = values[values.isfinite()]
    for source in ("F32", "F64"):
        x = values.to(TORCH[source])
        half = (x + torch.roll(x, 1)) / 2
        near = torch.cat([x, half, torch.nextafter(half, x), torch.nextafter(half, torch.roll(x, 1))])
        agree(bits(near, source), source, target)
