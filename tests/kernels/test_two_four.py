"""The 2:4 pattern along the inputs, against a loop over groups, whatever the chunks and threads."""

from __future__ import annotations

from math import prod
from threading import Thread
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import examples
from support.layouts import canonical, described, layouts_of, most_of_four, pieces, tensors

from prunecli.engine.measure import statistics_of
from prunecli.kernels.tally import Shared
from prunecli.kernels.two_four import TwoFour, conforms
from prunecli.layout import TensorLayout

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from prunecli.checkpoint import TensorInfo


def two_four_of(tensor: TensorInfo, shared: Shared) -> TwoFour | None:
    """Return the check along the inputs of a tensor, or None if it has none."""
    groups = statistics_of(tensor).groups
    return None if groups is None else TwoFour(*groups, shared)


def holds(tensor: TensorInfo, array: NDArray[np.int32], parts: Sequence[tuple[int, int]]) -> bool | None:
    """Return the result for an array that is added in parts, and check that no group is left over."""
    shared = Shared()
    check = two_four_of(tensor, shared)
    if check is None:
        return None
    for start, stop in parts:
        check.add(start, array.reshape(-1)[start:stop])
    assert shared.is_empty or not check.holds
    return check.holds


@settings(max_examples=examples(250))
@given(tensor=tensors(fewest=2, longest=13), data=st.data())
def test_one_non_zero_too_many_breaks_the_pattern(tensor: TensorInfo, data: st.DataObject) -> None:
    """For every layout and cut, an array with the pattern holds, and a third non-zero in any group breaks it."""
    array = np.zeros(tensor.shape, np.int32)
    if tensor.layout.inputs is not None:
        indices = canonical(np.arange(array.size).reshape(tensor.shape), tensor.layout)
        array.reshape(-1)[indices[:, :, 1::4].ravel()] = 5
        array.reshape(-1)[indices[:, :, 2::4].ravel()] = 1 << 30
    parts = data.draw(st.composite(pieces)(array.size))
    most = most_of_four(array, tensor.layout)

    assert holds(tensor, array, parts) is (None if most is None else True)

    array.reshape(-1)[data.draw(st.integers(0, array.size - 1))] = 3
    assert holds(tensor, array, parts) == (None if most is None else (most_of_four(array, tensor.layout) or 0) <= 2)


@settings(max_examples=examples(60))
@given(
    shape=st.tuples(st.integers(1, 70), st.integers(1, 9), st.integers(1, 3)),
    density=st.sampled_from([0.1, 0.3, 0.5]),
    run=st.sampled_from([1, 30, 1 << 16]),
    seed=st.integers(0, 99),
)
def test_conforms_equals_its_definition(shape: tuple[int, ...], density: float, run: int, seed: int) -> None:
    """An array conforms if no group of 4 along axis 1, nor a short last one, has more than 2 non-zeros."""
    after = (np.random.default_rng(seed).random(shape) < density).astype(np.int32)
    groups = [after[:, low : low + 4] for low in range(0, shape[1], 4)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("prunecli.kernels.two_four.RUN", run)
        assert conforms(after) == all((np.count_nonzero(group, axis=1) <= 2).all() for group in groups)


@pytest.mark.parametrize("layout", [TensorLayout("vector", 0, None), TensorLayout("gain", None, None)])
def test_without_inputs_there_is_no_pattern(layout: TensorLayout) -> None:
    """A tensor without inputs is not checked."""
    assert two_four_of(described((8, 8), layout), Shared()) is None


@pytest.mark.parametrize("words", ["out-in", "in-out", "experts out-in", "experts in-out"])
def test_fewer_inputs_than_a_group_are_not_checked(words: str) -> None:
    """With 3 inputs there is no group of 4, whatever the number of outputs; with 4 there is one."""
    for inputs in (3, 4):
        layout = next(one for one in layouts_of((8, 8, 8)) if one.words == words)
        shape = tuple(inputs if dim == layout.inputs else 8 for dim in range(3))
        assert (two_four_of(described(shape, layout), Shared()) is not None) is (inputs == 4)


def test_complete_groups_take_no_memory() -> None:
    """A long tensor [in, out] in chunks that split groups holds the counts of few groups at any time."""
    tensor = described((400, 100), TensorLayout("matrix", 1, 0))
    array = np.zeros(tensor.shape, np.int32)
    array[::2] = 1
    shared = Shared()
    check = two_four_of(tensor, shared)
    assert check is not None

    for start in range(0, array.size, 730):
        check.add(start, array.reshape(-1)[start : start + 730])
        assert len(shared._parts) <= 1

    assert check.holds
    assert shared.is_empty


def test_threads_share_the_counts_of_split_groups() -> None:
    """Groups whose parts are added by different threads are complete together, and one more non-zero is noticed."""
    shape = (40, 1000)
    for extra, expected in ((0, True), (1, False)):
        array = np.zeros(shape, np.int32)
        array[::2] = 1
        array[33, 500] = extra
        shared = Shared()
        flat, step = array.reshape(-1), 777
        starts = range(0, prod(shape), step)

        def add(own: Sequence[int], shared: Shared = shared, flat: NDArray[np.int32] = flat, step: int = step) -> None:
            check = TwoFour(shape[0], shape[1], shared)
            for start in own:
                check.add(start, flat[start : start + step])

        threads = [Thread(target=add, args=(starts[number::3],)) for number in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert shared.overfull is not expected
        assert shared.is_empty or shared.overfull
