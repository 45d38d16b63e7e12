"""Folds: the compiled ones equal NumPy's bit for bit, for every format, every pattern and any shape."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import examples

from prunecli.dtypes import FLOATS, Float
from prunecli.kernels import folds, torch_folds
from prunecli.kernels.arrays import INTS
from prunecli.kernels.deviations import standard_deviation
from prunecli.kernels.folds import Numbers
from prunecli.kernels.later import fetched
from prunecli.kernels.native.library import library
from prunecli.kernels.norms import block_norms, slice_norms, smallest_norms
from prunecli.layout import SliceView

if library() is None:
    pytest.skip("the compiled kernels are not built", allow_module_level=True)

from prunecli.kernels import native_folds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

LENGTHS = st.one_of(st.integers(1, 9), st.sampled_from([31, 32, 33, 255, 256, 257, 1023, 1024, 1025, 3000]))
"""Numbers of elements around the blocks of the kernels."""


def extremes(dtype: Float) -> list[int]:
    """Return patterns at the edges of a format: zeros, denormals, the finite ones, infinity and NaN."""
    tiny = (1 << dtype.mantissa) - 1
    return [0, 1, tiny, tiny + 1, dtype.finite_max, min(dtype.finite_max + 1, dtype.mask), dtype.mask]


def patterns(dtype: Float, size: int, spread: str, seed: int) -> NDArray[Any]:
    """Return integers of a format: any of them, those at its edges, or weights near one magnitude."""
    random, integer = np.random.default_rng(seed), INTS[dtype.itemsize]
    sign = ~dtype.mask
    if spread == "any":
        return random.integers(sign, dtype.mask, size, integer, endpoint=True)
    one = dtype.encode(0.02)
    choices = extremes(dtype) if spread == "extreme" else [max(one + step, 0) for step in range(-3, 4)]
    return np.array([magnitude | by for magnitude in choices for by in (0, sign)], integer)[
        random.integers(0, 2 * len(choices), size)
    ]


@st.composite
def runs(draw: st.DrawFn, shape: Sequence[int]) -> tuple[NDArray[Any], Numbers]:
    """Draw the numbers of a run: weights of any format, or patterns of a scorer."""
    dtype = FLOATS[draw(st.sampled_from(sorted(FLOATS)))]
    spread = draw(st.sampled_from(["any", "extreme", "near"]))
    x = patterns(dtype, int(np.prod(shape)), spread, draw(st.integers(0, 999)))
    ranked = draw(st.booleans())
    if ranked:
        # As a scorer returns them: magnitudes in 16 bits or more, and -1.
        y = x.astype(INTS[max(dtype.itemsize, 2)]) & dtype.mask
        x = np.where(x % 5 == 0, y.dtype.type(-1), y)
    return x, Numbers(lambda first, stop: x[first:stop], dtype, ranked)


@settings(max_examples=examples(300))
@given(data=st.data(), n=st.sampled_from([1.0, 2.0, np.inf, -np.inf]))
def test_folds_have_the_bits_of_numpys(data: Any, n: float) -> None:  # noqa: ANN401
    """Parts of rows and of columns, in any shape, are joined in the same order."""
    length = data.draw(LENGTHS)
    shape = (data.draw(st.integers(1, 5)), length, data.draw(st.one_of(st.just(1), st.integers(1, 300))))
    part = data.draw(st.one_of(st.just(length), st.integers(1, 2 * length)))
    x, numbers = data.draw(runs(shape))

    expected = folds.fold(x, numbers, n, shape, part)
    again = (1, expected.size, 1)
    twice = folds.fold_again(expected.copy(), n, again, part)

    before = x.copy()
    for actual in (native_folds.fold(x, numbers, n, shape, part), on_device(x, numbers, n, shape, part)):
        assert actual.shape == expected.shape
        assert actual.tobytes() == expected.tobytes()
    for module in (native_folds, torch_folds):
        assert np.asarray(module.fold_again(expected.copy(), n, again, part)).tobytes() == twice.tobytes()
    assert np.array_equal(x, before)


def on_device(x: NDArray[Any], numbers: Numbers, n: float, shape: folds.Shape, part: int) -> NDArray[np.float64]:
    """Return the folds that torch computes."""
    return np.asarray(torch_folds.fold(torch.from_numpy(x), numbers, n, shape, part))


@settings(max_examples=examples(200))
@given(data=st.data())
def test_sums_of_blocks_have_the_bits_of_numpys(data: Any) -> None:  # noqa: ANN401
    """The squares of blocks of any size, the narrow ones at the edge too, are added in the same order."""
    shape = (data.draw(st.integers(1, 4)), data.draw(st.integers(1, 9)), data.draw(LENGTHS))
    wide = data.draw(st.one_of(st.integers(1, 9), LENGTHS))
    x, numbers = data.draw(runs(shape))

    expected, before = folds.fold_blocks(x, numbers, shape, wide), x.copy()

    assert expected.shape == (shape[0], -(-shape[2] // wide))
    assert native_folds.fold_blocks(x, numbers, shape, wide).tobytes() == expected.tobytes()
    on_device = torch_folds.fold_blocks(torch.from_numpy(x), numbers, shape, wide)
    assert np.asarray(on_device).tobytes() == expected.tobytes()
    assert np.array_equal(x, before)


@settings(max_examples=examples(200))
@given(data=st.data(), scale=st.sampled_from([1.0, 2.0**-600]))
def test_moments_have_the_bits_of_numpys(data: Any, scale: float) -> None:  # noqa: ANN401
    """The sums of weights with their signs and of their squares, and the number of finite ones, are the same."""
    x, numbers = data.draw(runs((data.draw(LENGTHS),)))

    expected, before = folds.moments(x, numbers, scale), x.copy()
    np.testing.assert_array_equal(native_folds.moments(x, numbers, scale), expected)
    np.testing.assert_array_equal(torch_folds.moments(torch.from_numpy(x), numbers, scale), expected)
    assert np.array_equal(x, before)


@pytest.mark.parametrize("name", ["F8_E5M2", "F8_E4M3", "F8_E5M2FNUZ", "F8_E4M3FNUZ", "F16", "BF16"])
def test_every_pattern_has_its_value(name: str) -> None:
    """Each pattern of the short formats has the magnitude that the format defines, and NaN counts as infinity."""
    dtype = FLOATS[name]
    x = np.arange(1 << (8 * dtype.itemsize), dtype=np.int64).astype(INTS[dtype.itemsize])
    numbers = Numbers(lambda first, stop: x[first:stop], dtype)

    found = [module.fold(x, numbers, 1.0, (x.size, 1, 1), 1).reshape(-1) for module in (native_folds, folds)]

    magnitudes = [dtype.decode(bits) for bits in range(dtype.mask + 1)]
    expected = np.nan_to_num(np.array(magnitudes + magnitudes), nan=np.inf, posinf=np.inf)
    if dtype.negative_zero_is_nan:
        expected[dtype.mask + 1] = np.inf
    assert found[0].tolist() == found[1].tolist() == expected.tolist()


@pytest.mark.parametrize("run", [8, 64, 1 << 12])
@pytest.mark.parametrize("name", FLOATS)
def test_norms_and_deviations_are_the_same_where_weights_lie_on_a_device(name: str, run: int) -> None:
    """Norms of slices of any view and of blocks, and deviations, have the bits of the host for any length of runs."""
    dtype, view = FLOATS[name], SliceView(2, 3, 10, 4)
    x = patterns(dtype, view.total * view.size, "near", 1)
    tensor, host = torch.from_numpy(x), Numbers(lambda first, stop: x[first:stop], dtype)
    device = Numbers(lambda first, stop: tensor[first:stop], dtype, kernels=torch_folds, run=run)

    for one in (view, SliceView(1, 1, 20, 12), SliceView(2, 12, 10, 1), SliceView(1, 1, 1, 240)):
        assert fetched([slice_norms(device, one, 2.0)])[0].tobytes() == slice_norms(host, one, 2.0).tobytes()
        for block in ((4, 4), (3, 5), (100, 1)):
            squares = block_norms(device, one, block)  # the roots of few are taken, when they are ranked
            assert np.sqrt(np.asarray(squares)).tobytes() == block_norms(host, one, block).tobytes()
    assert standard_deviation(device, x.size) == standard_deviation(host, x.size)


@pytest.mark.parametrize("at_once", [1 << 22, 7])
@pytest.mark.parametrize("k", [0, 1, 17, 60, 100])
def test_ranks_on_a_device_are_those_of_the_host(k: int, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Squares whose roots round to one number are equals, of which the first are pruned."""
    monkeypatch.setattr(torch_folds, "RANKED_AT_ONCE", at_once)
    near = 2.0 + np.arange(40) * np.spacing(2.0)
    squares = np.concatenate([near[::-1], np.zeros(5), np.full(5, np.inf), np.random.default_rng(0).random(50)])
    assert len(np.unique(np.sqrt(near))) < 40

    flags, value = torch_folds.smallest_roots(torch.from_numpy(squares), k)

    assert (flags.numpy().astype(np.uint8).tobytes(), value) == smallest_norms(np.sqrt(squares), k)
