"""Index arithmetic on views: any run of elements has the slices and blocks that NumPy's own shapes give them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import examples

from prunecli.dtypes import FLOATS
from prunecli.kernels import norms
from prunecli.kernels.folds import Numbers
from prunecli.kernels.norms import block_norms, slice_norms
from prunecli.kernels.views import block_flags, block_grid, block_numbers, of_elements, positions, slice_flags
from prunecli.layout import SliceView

if TYPE_CHECKING:
    from numpy.typing import NDArray

views = st.builds(SliceView, *[st.integers(1, 6)] * 4)


def size(view: SliceView) -> int:
    """Return the number of elements."""
    return view.total * view.size


def numbers(view: SliceView) -> NDArray[np.int64]:
    """Return the number of the slice of each element."""
    own = np.arange(view.total).reshape(view.stacks, 1, view.slices, 1)
    return np.broadcast_to(own, (view.stacks, view.before, view.slices, view.after)).reshape(-1)


def blocks(view: SliceView, block: tuple[int, int]) -> NDArray[np.int64]:
    """Return the number of the block of each element, by marking the blocks of each stack one after the other."""
    found = np.empty((view.stacks, view.slices, view.size), np.int64)
    number = 0
    for stack in range(view.stacks):
        for row in range(0, view.slices, block[0]):
            for column in range(0, view.size, block[1]):
                found[stack, row : row + block[0], column : column + block[1]] = number
                number += 1
    in_file = found.reshape(view.stacks, view.slices, view.before, view.after).swapaxes(1, 2)
    return np.ascontiguousarray(in_file).reshape(-1)


def in_float64(weights: NDArray[np.float64]) -> Numbers:
    """Return `weights` as numbers."""
    return Numbers(lambda first, stop: weights[first:stop].view(np.int64), FLOATS["F64"])


@settings(max_examples=examples(200))
@given(view=views, data=st.data())
def test_any_run_has_the_slices_of_the_whole(view: SliceView, data: Any) -> None:  # noqa: ANN401
    """Numbers and flags of a run of elements are that run of those of all elements."""
    start = data.draw(st.integers(0, size(view) - 1))
    count = data.draw(st.integers(1, size(view) - start))
    alive = data.draw(st.binary(min_size=view.total, max_size=view.total))
    own = numbers(view)[start : start + count]

    assert np.array_equal(own, of_elements(np.arange(view.total), start, count, view))
    assert np.array_equal(np.where(np.frombuffer(alive, np.int8)[own], -1, 0), slice_flags(start, count, view, alive))
    assert np.array_equal(own, positions(np.arange(start, start + count), view)[0])


@settings(max_examples=examples(50))
@given(view=views)
def test_positions_count_the_elements_of_a_slice(view: SliceView) -> None:
    """The elements of each slice have the positions from 0 on, in the order of the file."""
    number, position = positions(np.arange(size(view)), view)

    for own in range(view.total):
        assert position[number == own].tolist() == list(range(view.size))


@settings(max_examples=examples(200))
@given(view=views, block=st.tuples(st.integers(1, 7), st.integers(1, 40)), data=st.data())
def test_any_run_has_the_blocks_of_the_whole(view: SliceView, block: tuple[int, int], data: Any) -> None:  # noqa: ANN401
    """Numbers and flags of a run of elements are those of the blocks of each stack, row by row."""
    start = data.draw(st.integers(0, size(view) - 1))
    count = data.draw(st.integers(1, size(view) - start))
    total = int(np.prod(block_grid(view, block)))
    alive = data.draw(st.binary(min_size=total, max_size=total))
    own = blocks(view, block)[start : start + count]

    assert np.array_equal(own, block_numbers(start, count, view, block))
    assert np.array_equal(
        np.where(np.frombuffer(alive, np.int8)[own], -1, 0), block_flags(start, count, view, block, alive)
    )


@pytest.mark.parametrize("run", [1, 8, 64, 1 << 18])
@pytest.mark.parametrize("n", [1.0, 2.0, np.inf, -np.inf])
@settings(max_examples=examples(20))
@given(view=views, seed=st.integers(0, 99))
def test_norms_of_every_view_are_numpys(n: float, run: int, view: SliceView, seed: int) -> None:
    """The norms of slices equal NumPy's float64 norms of the elements with their numbers."""
    weights = np.random.default_rng(seed).standard_normal(size(view))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(norms, "RUN", run)
        actual = slice_norms(in_float64(weights), view, n)

    own = numbers(view)
    expected = [np.linalg.norm(weights[own == number], n) for number in range(view.total)]
    np.testing.assert_allclose(actual, expected, rtol=1e-14)


@pytest.mark.parametrize("run", [1, 8, 64, 1 << 18])
@settings(max_examples=examples(40))
@given(view=views, block=st.tuples(st.integers(1, 7), st.integers(1, 40)), seed=st.integers(0, 99))
def test_blocks_of_every_view_have_their_root_mean_squares(
    run: int, view: SliceView, block: tuple[int, int], seed: int
) -> None:
    """The norms of blocks are the root mean squares of the elements with their numbers, in their order."""
    weights = np.random.default_rng(seed).standard_normal(size(view))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(norms, "RUN", run)
        actual = block_norms(in_float64(weights), view, block)

    own = blocks(view, block)
    expected = [np.sqrt(np.mean(np.square(weights[own == number]))) for number in range(own.max() + 1)]
    assert actual.shape == block_grid(view, block)
    np.testing.assert_allclose(actual.reshape(-1), expected, rtol=1e-14)
