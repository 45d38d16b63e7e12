"""Norms of slices and blocks and standard deviations equal those of plain NumPy, whatever the length of the runs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import examples

from prunecli.dtypes import FLOATS
from prunecli.kernels import norms
from prunecli.kernels.deviations import standard_deviation
from prunecli.kernels.folds import Numbers
from prunecli.kernels.native.library import library
from prunecli.kernels.norms import block_norms, slice_norms, smallest_norms, smallest_numbers
from prunecli.layout import slice_view

if TYPE_CHECKING:
    from numpy.typing import NDArray

F32 = FLOATS["F32"]
SHAPES = [(5,), (1, 1), (7, 5), (4, 3, 2), (6, 5, 3, 3), (2, 300), (300, 2), (3, 1, 40)]


def reader(weights: NDArray[np.float32]) -> Numbers:
    """Return `weights` as numbers."""
    flat = weights.reshape(-1).view(np.int32)
    return Numbers(lambda first, stop: flat[first:stop], F32)


def random(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return normal weights, the same for the same shape."""
    return np.random.default_rng(math.prod(shape)).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("run", [1, 8, 64, 1 << 18])
@pytest.mark.parametrize("n", [1.0, 2.0, math.inf, -math.inf])
@pytest.mark.parametrize("shape", SHAPES)
def test_slice_norms_are_numpys(shape: tuple[int, ...], n: float, run: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slice norms along every dimension equal NumPy's float64 norms, for slices longer and shorter than a run."""
    monkeypatch.setattr(norms, "RUN", run)
    weights = random(shape)

    for dim in range(len(shape)):
        slices = np.moveaxis(weights.astype(np.float64), dim, 0).reshape(shape[dim], -1)
        expected = np.linalg.norm(slices, n, axis=1)
        np.testing.assert_allclose(slice_norms(reader(weights), slice_view(shape, dim), n), expected, rtol=1e-14)


@pytest.mark.parametrize("run", [1, 64, 1 << 18])
@pytest.mark.parametrize("block", [(1, 1), (2, 3), (4, 4), (100, 2), (3, 1000)])
@pytest.mark.parametrize("shape", SHAPES)
def test_block_norms_are_root_mean_squares(
    shape: tuple[int, ...], block: tuple[int, int], run: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A block's norm is the root mean square of its weights; a block at an edge counts the weights that it has."""
    monkeypatch.setattr(norms, "RUN", run)
    weights = random(shape)
    matrix = weights.astype(np.float64).reshape(shape[0], -1)
    rows, cols = range(0, matrix.shape[0], block[0]), range(0, matrix.shape[1], block[1])
    expected = [[math.sqrt(np.mean(np.square(matrix[r : r + block[0], c : c + block[1]]))) for c in cols] for r in rows]

    np.testing.assert_allclose(block_norms(reader(weights), slice_view(shape, 0), block)[0], expected, rtol=1e-14)


@pytest.mark.parametrize("name", ["F64", "F16", "BF16", "F8_E4M3", "F8_E4M3FNUZ"])
def test_norms_of_every_dtype_are_summed_in_float64(name: str) -> None:
    """A norm that would overflow or round in the weights' own dtype does neither."""
    dtype = FLOATS[name]
    integer = np.dtype(f"i{dtype.itemsize}")
    patterns = np.full((2, 600), dtype.finite_max, integer)

    numbers = Numbers(lambda first, stop: patterns.reshape(-1)[first:stop], dtype)

    actual = slice_norms(numbers, slice_view((2, 600), 0), 1.0)

    expected = 600 * dtype.decode(dtype.finite_max)
    np.testing.assert_allclose(actual, [expected, expected], rtol=1e-15 if math.isfinite(expected) else 0)


def test_nan_and_infinity_make_a_norm_infinite() -> None:
    """The norm of a slice with NaN or infinity is infinite, so the slice is pruned last."""
    weights = np.array([[1.0, np.nan], [np.inf, 0.0], [3.0, 4.0]], np.float32)

    assert slice_norms(reader(weights), slice_view((3, 2), 0), 2.0).tolist() == [math.inf, math.inf, 5.0]


@pytest.mark.parametrize("size", [2, 1000, 300_000])
def test_standard_deviation_is_numpys_with_ddof_1(size: int) -> None:
    """The denominator is n - 1, and NaN is left out."""
    weights = random((size,))
    expected = float(np.std(weights.astype(np.float64), ddof=1))
    with_nan = np.append(weights, np.float32(np.nan))

    assert standard_deviation(reader(weights), size) == pytest.approx(expected, rel=1e-12)
    assert standard_deviation(reader(with_nan), size + 1) == pytest.approx(expected, rel=1e-12)


def test_a_single_weight_has_no_deviation() -> None:
    """The standard deviation of one weight is 0."""
    assert standard_deviation(reader(np.ones(1, np.float32)), 1) == 0.0


@pytest.mark.parametrize("k", range(8))
def test_exactly_k_smallest_norms_are_pruned(k: int) -> None:
    """The pruned norms are the first k of a stable sort; the largest of them is returned."""
    scores = np.array([2.0, 1.0, np.inf, 1.0, 0.0, 2.0, 2.0])
    order = np.argsort(scores, kind="stable")[:k]

    alive, value = smallest_norms(scores, k)

    assert {index for index, byte in enumerate(alive) if not byte} == set(order.tolist())
    assert value == (scores[order[-1]] if k else None)


@pytest.mark.parametrize("k", range(5))
def test_pruned_slices_do_not_count_in_k(k: int) -> None:
    """Slices that are pruned already stay pruned and do not count in k, whatever their norm."""
    scores = np.array([2.0, 1.0, 0.0, 1.0, 0.0, 3.0])
    alive = np.array([True, True, False, True, True, False])

    keep, value = smallest_norms(scores, k, alive)

    assert [index for index, byte in enumerate(keep) if not byte] == sorted([2, 5, *[4, 1, 3, 0][:k]])
    assert value == ([0.0, 1.0, 1.0, 2.0][k - 1] if k else None)


@pytest.mark.parametrize("rank", [1, 2, 50, 51, 99, 100])
@pytest.mark.parametrize("equal", [False, True])
def test_ranking_by_leading_bits_gives_the_same_norms(rank: int, equal: bool, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: FBT001
    """Many norms are ranked by their leading bits first, with the same result as few."""
    scores = np.ones(100) if equal else np.abs(np.random.default_rng(0).standard_normal(100))
    scores[:5] = [np.inf, 0.0, np.inf, 5e-324, 0.0]
    alive = np.arange(100) % 7 != 3
    few = smallest_norms(scores, rank), smallest_norms(scores, min(rank, 80), alive)

    monkeypatch.setattr(norms, "RANKED_AT_ONCE", 16)

    assert few == (smallest_norms(scores, rank), smallest_norms(scores, min(rank, 80), alive))


@pytest.mark.skipif(library() is None, reason="the compiled kernels are not built")
@settings(max_examples=examples(60))
@given(data=st.data(), spread=st.sampled_from(["equal", "few", "near", "any"]))
def test_the_compiled_kernels_prune_the_norms_that_numpy_prunes(data: Any, spread: str) -> None:  # noqa: ANN401
    """The flags and the largest pruned norm are the same, for few and many norms with any number of equal ones."""
    from prunecli.kernels import native_folds

    size, seed = data.draw(st.sampled_from([1, 5, 700, 20_000])), data.draw(st.integers(0, 99))
    random = np.random.default_rng(seed)
    scores = {
        "equal": np.full(size, 0.5),
        "few": random.choice([0.0, -1.0, 5e-324, 1.0, np.inf], size),
        "near": 1 + random.integers(0, 3000, size) * 2.0**-52,
        "any": np.exp(random.standard_normal(size) * 100),
    }[spread]
    rank = data.draw(st.integers(1 + int((scores < 0).sum()) if (scores >= 0).any() else size, size))

    if scores.max() >= 0:
        assert native_folds.smallest_norms(scores, rank) == smallest_numbers(scores, rank)


def test_a_pruned_weight_has_the_value_zero() -> None:
    """A weight that is already pruned (-1) adds 0 to a norm."""
    patterns = np.array([0x3F80_0000, -1], np.int32)
    numbers = Numbers(lambda first, stop: patterns[first:stop], F32, ranked=True)

    assert slice_norms(numbers, slice_view((2,), 0), 1.0).tolist() == [1.0, 0.0]


@pytest.mark.parametrize("count", [1, 2, 3, 7, 8, 1000, 1025])
def test_a_fold_joins_neighbours_in_pairs(count: int) -> None:
    """A fold adds neighbours, keeps the last of an odd number, and goes on until one number is left."""
    weights = random((count,)).astype(np.float64)
    expected = np.square(weights).tolist()
    while len(expected) > 1:
        expected = [sum(expected[place : place + 2]) for place in range(0, len(expected), 2)]
    numbers = Numbers(lambda first, stop: weights[first:stop].view(np.int64), FLOATS["F64"])

    norms_of_slices = slice_norms(numbers, slice_view((1, count), 0), 2.0)

    assert norms_of_slices.tolist() == [math.sqrt(expected[0])]


@pytest.mark.parametrize("run", [1, 8, 1024])
@pytest.mark.parametrize("shape", [(3, 5), (4, 3, 2), (6, 5, 3, 3), (300, 2), (37, 40)])
def test_the_length_of_the_runs_changes_no_bit(
    shape: tuple[int, ...], run: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Norms and deviations are the same whether tensors are read at once or in runs."""
    numbers = reader(random(shape))
    views = [slice_view(shape, dim) for dim in range(len(shape))]

    def measured() -> list[bytes]:
        slices = [slice_norms(numbers, view, n) for view in views for n in (1.0, 2.0)]
        blocks = [block_norms(numbers, view, (3, 4)) for view in views]
        deviation = np.array(standard_deviation(numbers, math.prod(shape)))
        return [found.tobytes() for found in (*slices, *blocks, deviation)]

    at_once = measured()
    monkeypatch.setattr(norms, "RUN", run)
    monkeypatch.setattr(norms, "COLUMNS_LIMIT", run)

    assert measured() == at_once
