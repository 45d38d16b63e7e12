"""The arithmetic of tensors in parts: runs, elements, views, and folds of numbers that several processes have."""

from __future__ import annotations

from math import inf, prod
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import examples

from prunecli.checkpoint import Span, TensorInfo, row_major
from prunecli.engine.sharded.nodes import joined, nodes_of_index
from prunecli.engine.sharded.parts import Part, has_whole_groups, runs_of
from prunecli.engine.sharded.payloads import packed, unpacked
from prunecli.engine.sharded.values import pieces
from prunecli.errors import CheckpointError
from prunecli.kernels.folds import fold_again, join_of
from prunecli.layout import SliceView


def info(shape: tuple[int, ...]) -> TensorInfo:
    """Return a tensor of a shape."""
    return TensorInfo("weight", "F32", shape, row_major(shape), 0, Span(0, 4 * prod(shape)))


@st.composite
def parts(draw: st.DrawFn) -> Part:
    """Draw a shape of two to four dimensions, and some indices of each."""
    shape = draw(st.lists(st.integers(1, 6), min_size=2, max_size=4).map(tuple))
    indices = []
    for size in shape:
        some = st.lists(st.integers(0, size - 1), min_size=1, max_size=size, unique=True)
        indices.append(draw(st.one_of(st.just(list(range(size))), some)))
    arrays = tuple(np.array(sorted(index), np.int64) for index in indices)
    return Part(info(shape), info(tuple(map(len, indices))), arrays, counted=True)


@settings(max_examples=examples(60))
@given(parts())
def test_runs_and_elements_are_those_of_numpy(part: Part) -> None:
    """The places of a part in the whole tensor, one by one and in runs."""
    whole = np.arange(part.tensor.numel).reshape(part.tensor.shape)
    own = whole[np.ix_(*part.indices)].reshape(-1)
    starts, lengths, places = part.runs

    assert part.elements(np.arange(part.local.numel)).tolist() == own.tolist()
    assert np.concatenate([np.arange(s, s + n) for s, n in zip(starts, lengths, strict=True)]).tolist() == own.tolist()
    assert part.number_of_runs == len(starts) == len(places)
    first, stop = part.local.numel // 3, part.local.numel
    found = [element for start, low, high in pieces(part, first, stop) for element in range(start, start + high - low)]
    assert found == own[first:stop].tolist()


@settings(max_examples=examples(60))
@given(parts(), st.integers(0, 3))
def test_the_slices_of_a_part_are_slices_of_the_whole(part: Part, dim: int) -> None:
    """Numbers of slices, and positions in them, are those of the whole tensor."""
    shape = part.tensor.shape
    dim %= len(shape)
    view = SliceView(1, prod(shape[:dim]), shape[dim], prod(shape[dim + 1 :]))
    own = part.of_view(view)
    assert own is not None
    whole = np.moveaxis(np.arange(part.tensor.numel).reshape(view.before, view.slices, view.after), 1, 0)
    slices = whole.reshape(view.slices, -1)

    local = part.elements(np.arange(part.local.numel)).reshape(own.view.before, own.view.slices, own.view.after)

    assert (np.moveaxis(local, 1, 0).reshape(own.view.slices, -1) == slices[np.ix_(own.numbers, own.positions)]).all()
    assert own.has_whole_slices is (own.view.before * own.view.after == view.size)


def test_a_cut_dimension_cannot_be_split() -> None:
    """The groups of a layout divide a dimension, which must then be whole."""
    view = SliceView(2, 3, 4, 1)
    whole = Part(info((6, 4)), info((6, 4)), (np.arange(6), np.arange(4)), counted=True)
    cut = Part(info((6, 4)), info((3, 4)), (np.arange(3), np.arange(4)), counted=True)

    assert whole.of_view(view) is not None
    assert cut.of_view(view) is None


@settings(max_examples=examples(60))
@given(st.integers(1, 70), st.integers(1, 4), st.sampled_from([1, inf, -inf]), st.randoms(use_true_random=False))
def test_folds_of_parts_have_the_bits_of_the_whole(length: int, owners: int, n: float, random: Any) -> None:  # noqa: ANN401
    """Whatever process has which numbers, the joined fold is that of all of them."""
    numbers = np.array([random.uniform(0, 1) ** 9 for _ in range(length)])
    owner = np.array([random.randrange(owners) for _ in range(length)])
    if random.random() < 0.7:
        owner.sort()
    levels, indices, values = [], [], []
    for process in range(owners):
        index = np.flatnonzero(owner == process)
        for level, number, low, high in nodes_of_index(index, length):
            levels.append(level)
            indices.append(number)
            own = numbers[index[low:high]]
            values.append(fold_again(own, n, (1, high - low, 1), high - low).reshape(1))

    found = joined(np.array(levels), np.array(indices), np.stack(values), length, join_of(n))

    assert found.tolist() == fold_again(numbers, n, (1, length, 1), length).reshape(1).tolist()


def test_a_missing_node_is_an_error() -> None:
    """Parts that do not make up a tensor give no number."""
    with pytest.raises(CheckpointError, match="do not add up to all of it"):
        joined(np.array([1]), np.array([0]), np.ones((1, 1)), 4, np.add)


@pytest.mark.parametrize(
    ("index", "size", "group", "groups", "whole"),
    [
        ([0, 1, 2, 3], 8, 4, 1, True),
        ([2, 3, 4, 5], 8, 4, 1, False),
        ([4, 5], 6, 4, 1, True),
        ([4], 6, 4, 1, False),
        ([4, 5, 6, 7], 12, 4, 2, False),
        ([4, 5], 12, 4, 2, True),
        ([], 6, 4, 1, True),
    ],
)
def test_whole_groups(index: list[int], size: int, group: int, groups: int, whole: bool) -> None:  # noqa: FBT001
    """A short last group of each part of a dimension counts as whole with the weights that it has."""
    assert has_whole_groups(np.array(index, np.int64), size, group, groups) is whole


def test_runs_of_nothing() -> None:
    """A process may have no index."""
    assert [ends.tolist() for ends in runs_of(np.zeros(0, np.int64))] == [[], []]


def test_arrays_as_bytes() -> None:
    """Types, shapes and numbers arrive, also of empty arrays."""
    arrays = {"a": np.arange(6, dtype=np.int16).reshape(2, 3), "none": np.empty((0, 4)), "flag": np.array([True])}

    found = unpacked(packed(arrays))

    assert {name: (a.dtype, a.shape, a.tolist()) for name, a in found.items()} == {
        name: (a.dtype, a.shape, a.tolist()) for name, a in arrays.items()
    }
