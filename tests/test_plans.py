"""Plans: a tensor in chunks gives the same result as in one piece, and ties are pruned in order."""

from __future__ import annotations

import itertools
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import examples

from prunecli.kernels.numpy_ops import NumpyOps
from prunecli.kernels.ops import Ops
from prunecli.kernels.torch_ops import TorchOps
from prunecli.layout import slice_view
from prunecli.plans import Chunk, Cut, KeepLargestOfGroup, PruneBlocks, PruneSlices, TensorPlan, without_masks

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

OPS: dict[str, Callable[[], Ops]] = {"numpy": NumpyOps, "torch": lambda: TorchOps("cpu")}

VIEW = slice_view((2, 2), 0)


def nothing(_: int) -> int:
    """Grant no ties."""
    return 0


def budget(ties: int) -> Callable[[int], int]:
    """Grant up to `ties` ties in the order of calls."""
    left = [ties]

    def take(equal: int) -> int:
        granted = min(left[0], equal)
        left[0] = left[0] - granted  # which may be a tensor of torch
        return granted

    return take


def in_chunks(
    plan: Cut | KeepLargestOfGroup, ops: Ops, values: NDArray[Any], shape: tuple[int, ...], edges: list[int]
) -> list[int]:
    """Return the keep array made of chunks: [edge, next edge) widened by `reach`, as windows are."""
    take, kept = budget(getattr(plan, "ties", 0)), []
    for start, stop in itertools.pairwise(edges):
        low, high = plan.reach(shape, start, stop)
        chunk = Chunk(shape, low, high - low, take)
        got = np.asarray(plan.keep(ops, ops.load(values[low:high].copy()), chunk))
        kept += got[start - low : stop - low].tolist()
    return kept


def expected_groups(values: NDArray[Any], plan: KeepLargestOfGroup, shape: tuple[int, ...]) -> list[int]:
    """Return the keep array by the definition: the largest of each group, of equals the lower index."""
    length = shape[plan.dim]
    lines = np.moveaxis(values.reshape(shape), plan.dim, -1)
    kept = np.zeros(lines.shape, int)
    for line, out in zip(lines.reshape(-1, length), kept.reshape(-1, length), strict=True):
        for low in range(0, length, plan.group):
            group = line[low : low + plan.group]
            if plan.zero_tail and len(group) < plan.group:
                continue
            for at in sorted(range(len(group)), key=lambda at: (-group[at], at))[: plan.count]:
                out[low + at] = -1
    whole: list[int] = np.moveaxis(kept, -1, plan.dim).reshape(-1).tolist()
    return whole


def blocks(plan: KeepLargestOfGroup, shape: tuple[int, ...]) -> list[tuple[int, int]]:
    """Return, for each element, the number of the run of memory that holds its group and the interleaved ones."""
    length, inner = shape[plan.dim], prod(shape[plan.dim + 1 :])
    return [(at // (length * inner), at // inner % length // plan.group) for at in range(prod(shape))]


shapes = st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple)


@st.composite
def grouped_tensors(draw: st.DrawFn, groups: st.SearchStrategy[int]) -> tuple[KeepLargestOfGroup, tuple[int, ...]]:
    """Draw a plan and a shape that it fits, sometimes with a long grouped dimension."""
    shape = list(draw(shapes))
    dim = draw(st.integers(0, len(shape) - 1))
    shape[dim] = draw(st.integers(1, 45))
    group = draw(groups)
    return KeepLargestOfGroup(draw(st.integers(0, group)), group, dim, zero_tail=draw(st.booleans())), tuple(shape)


# --- cuts


@pytest.mark.parametrize("make", OPS.values(), ids=OPS)
@pytest.mark.parametrize("ties", range(5))
def test_a_cut_prunes_below_it_and_the_first_ties(make: Callable[[], Ops], ties: int) -> None:
    """Weights below the cut are pruned, and the first `ties` equal to it in row-major order."""
    values = np.array([5, 7, 3, 5, 5, 9, 5], np.int32)
    order = [0, 3, 4, 6]

    got = in_chunks(Cut(5, ties), make(), values, (7,), [0, 7])

    assert [0 if value < 5 or at in order[:ties] else -1 for at, value in enumerate(values)] == got


@settings(max_examples=examples(60))
@given(
    values=st.lists(st.integers(0, 4), min_size=1, max_size=40),
    bits=st.integers(0, 5),
    ties=st.integers(0, 6),
    data=st.data(),
)
def test_a_cut_in_chunks_is_the_cut_of_the_whole(values: list[int], bits: int, ties: int, data: Any) -> None:  # noqa: ANN401
    """For any chunks, in order, the same weights are pruned."""
    y = np.array(values, np.int16)
    inner = data.draw(st.sets(st.integers(0, len(values))))
    edges = sorted({0, len(values), *inner})

    for make in OPS.values():
        whole = in_chunks(Cut(bits, ties), make(), y, (len(values),), [0, len(values)])
        assert whole == in_chunks(Cut(bits, ties), make(), y, (len(values),), edges)
    assert sum(value < bits for value in values) + min(ties, values.count(bits)) == whole.count(0)


# --- groups


@settings(max_examples=examples(150))
@given(case=grouped_tensors(st.integers(1, 40)), data=st.data())
def test_reach_is_the_smallest_range_of_whole_groups(
    case: tuple[KeepLargestOfGroup, tuple[int, ...]], data: st.DataObject
) -> None:
    """Reach contains the range, starts and ends between groups, and contains no other group."""
    plan, shape = case
    start = data.draw(st.integers(0, prod(shape) - 1))
    stop = data.draw(st.integers(start + 1, prod(shape)))
    owners = blocks(plan, shape)
    first, last = owners[start], owners[stop - 1]

    expected = (owners.index(first), len(owners) - owners[::-1].index(last))

    assert expected == plan.reach(shape, start, stop)


@settings(max_examples=examples(150))
@given(case=grouped_tensors(st.integers(1, 40)), data=st.data())
def test_groups_in_chunks_are_the_groups_of_the_whole(
    case: tuple[KeepLargestOfGroup, tuple[int, ...]], data: st.DataObject
) -> None:
    """For any dim, group, tail and chunks, NumPy and torch keep the weights that the definition keeps."""
    plan, shape = case
    numel = prod(shape)
    values = np.random.default_rng(data.draw(st.integers(0, 99))).integers(0, 6, numel).astype(np.int32)
    edges = sorted({0, numel, *data.draw(st.sets(st.integers(0, numel), max_size=4))})
    expected = expected_groups(values, plan, shape)

    for make in OPS.values():
        assert expected == in_chunks(plan, make(), values, shape, [0, numel])
        assert expected == in_chunks(plan, make(), values, shape, edges)


@pytest.mark.parametrize("make", OPS.values(), ids=OPS)
@pytest.mark.parametrize("group", [1, 2, 15, 16, 17, 40, 300])
@pytest.mark.parametrize("all_of_them", [False, True])
def test_keeping_none_or_all_of_a_group(make: Callable[[], Ops], group: int, all_of_them: bool) -> None:  # noqa: FBT001
    """A count of 0 prunes all weights, a count of the whole group none, for short and long groups."""
    values = np.arange(3 * 50, dtype=np.int64)
    plan = KeepLargestOfGroup(group * all_of_them, group, 1, zero_tail=False)

    assert [-all_of_them] * 150 == in_chunks(plan, make(), values, (3, 50), [0, 150])


@pytest.mark.parametrize("kind", [np.int16, np.int32, np.int64])
@pytest.mark.parametrize("group", [4, 20])
def test_the_extremes_of_a_width_rank_in_groups(kind: type[np.signedinteger], group: int) -> None:
    """The largest integer of each width ranks highest in short and long groups."""
    values = np.zeros(2 * group, kind)
    values[[group - 1, group]] = np.iinfo(kind).max

    for make in OPS.values():
        got = in_chunks(KeepLargestOfGroup(1, group, 0, zero_tail=False), make(), values, (2 * group,), [0, 2 * group])
        assert [group - 1, group] == np.flatnonzero(got).tolist()


@pytest.mark.parametrize("plan", [Cut(3, 2), PruneSlices(VIEW, b"\x01"), PruneBlocks(VIEW, (2, 2), b"\x01")])
def test_cuts_slices_and_blocks_decide_each_weight_alone(plan: TensorPlan) -> None:
    """The reach of a range is the range."""
    assert plan.reach((10, 10), 7, 31) == (7, 31)


def test_plans_without_masks_keep_their_cut() -> None:
    """The mask of slices or blocks is removed; a plan without a mask is not changed."""
    cut = Cut(7, ties=2, value=0.5)

    assert without_masks(PruneSlices(VIEW, b"\x00\x01", value=0.5)) == PruneSlices(VIEW, b"", value=0.5)
    assert without_masks(PruneBlocks(VIEW, (2, 2), b"\x00\x01", value=0.5)) == PruneBlocks(VIEW, (2, 2), b"", value=0.5)
    assert without_masks(cut) is cut
