"""The tallies of torch equal those of NumPy bit for bit, and copy nothing but counts to the host."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import examples

from prunecli.dtypes import FLOATS, Float
from prunecli.kernels.arrays import INTS
from prunecli.kernels.numpy_ops import NumpyOps
from prunecli.kernels.tally import Counts, Shared, Statistics
from prunecli.kernels.torch_ops import TorchOps
from prunecli.kernels.torch_tally import counts_of
from prunecli.layout import SliceView

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

SHAPES = ((8, 256), (33, 100), (2, 3, 512), (5, 7), (3, 4096), (2, 2050), (64, 3, 3), (1500,), (1,))


def weights(dtype: Float, count: int, seed: int = 0, *, tiny: bool = False) -> NDArray[Any]:
    """Return random weights as integers: of all patterns, or of those around 1 or `tiny` ones."""
    rng, width = np.random.default_rng(seed), 8 * dtype.itemsize
    every = rng.integers(-(1 << (width - 1)), (1 << (width - 1)) - 1, count, dtype=np.int64)
    usual = (every & 0x3FF) + (5 if tiny else dtype.encode(0.01))
    sign = -(1 << (width - 1))  # with the bits above it, which are cleared below
    usual = np.minimum(usual, dtype.finite_max) | np.where(rng.random(count) < 0.5, sign, 0)
    usual = np.where(rng.random(count) < 0.05, sign, usual)
    mixed = np.where(rng.random(count) < (0.0 if seed % 2 else 0.01), every, usual)
    bits = mixed.astype(np.int64) & ((1 << width) - 1) if width < 64 else mixed
    return bits.astype(np.uint64).astype(f"u{dtype.itemsize}").view(INTS[dtype.itemsize])


def statistics(dtype: Float, shape: Sequence[int], *, bins: bool = False) -> Statistics:
    """Return statistics with everything that a tensor of the shape has."""
    numel, last = int(np.prod(shape)), shape[-1]
    if len(shape) == 1:
        return Statistics(dtype, numel)
    if len(shape) == 3:
        views = SliceView(shape[0], 1, shape[1], last), SliceView(shape[0], shape[1], last, 1)
        groups = (shape[1], last)
    else:
        views = SliceView(1, 1, shape[0], last), SliceView(1, shape[0], last, 1)
        groups = (last, 1)
    shift = max(dtype.mantissa - 2, 0)
    spread = (shift, 3, min(40, dtype.finite_max >> shift)) if bins else None
    return Statistics(dtype, numel, *views, groups=groups, bins=spread)


def counted(
    make: Callable[[], Any], x: NDArray[Any], kept: NDArray[Any], wanted: Statistics, edges: Sequence[int]
) -> tuple[NDArray[Any], Counts]:
    """Return the weights pruned in chunks between `edges`, and their counts by a backend."""
    ops, pruned = make(), x.copy()
    tally = ops.tally(wanted, Shared())
    for first, stop in pairwise(edges):
        run = ops.load(pruned[first:stop].copy())
        keep = np.where(kept[first:stop], -1, 0).astype(np.int16 if wanted.dtype.itemsize == 1 else x.dtype)
        tally.prune(run, ops.load(keep), first, write=True)
        pruned[first:stop] = np.asarray(run)
    return pruned, tally.counts()


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_counts_equal_those_of_numpy(name: str, shape: tuple[int, ...]) -> None:
    """Every number of the report is the same, for whole tensors and for chunks with any edges."""
    dtype, numel = FLOATS[name], int(np.prod(shape))
    for seed in range(3):
        x = weights(dtype, numel, seed, tiny=seed == 1)
        kept = np.random.default_rng(seed + 9).random(numel) < 0.45
        if seed == 2:
            kept.reshape(shape)[:1] = False
        wanted = statistics(dtype, shape, bins=True)
        edges = sorted({0, numel // 3, numel // 2 + 5, numel}) if numel > 20 else [0, numel]
        expected = counted(NumpyOps, x, kept, wanted, [0, numel])
        for cuts in ([0, numel], edges):
            pruned, counts = counted(lambda: TorchOps("cpu"), x, kept, wanted, cuts)
            assert expected[0].tolist() == pruned.tolist()
            assert _plain(expected[1]) == _plain(counts)


def _plain(counts: Counts) -> list[Any]:
    return [
        list(value) if isinstance(value, (list, tuple)) else value
        for value in (getattr(counts, name) for name in Counts.__slots__)
    ]


@pytest.mark.parametrize("name", FLOATS)
def test_without_write_nothing_changes(name: str) -> None:
    """The counts are those of a pruned tensor, and the weights stay as they are."""
    dtype, ops = FLOATS[name], TorchOps("cpu")
    x = torch.from_numpy(weights(dtype, 5000))
    before, keep = x.clone(), torch.arange(5000) % 3 == 0
    first, second = (ops.tally(statistics(dtype, (5, 1000)), Shared()) for _ in range(2))

    first.prune(x, keep, 0, write=False)

    assert torch.equal(before, x)
    second.prune(x, keep, 0, write=True)
    assert not torch.equal(before, x)
    assert counts_of([first]) == counts_of([second])


@settings(max_examples=examples(60))
@given(name=st.sampled_from(sorted(FLOATS)), count=st.integers(1, 4000), data=st.data())
def test_a_cut_prunes_the_first_equals(name: str, count: int, data: Any) -> None:  # noqa: ANN401
    """Weights below the cut and the first of those equal to it are pruned, of any number of blocks."""
    dtype, ops = FLOATS[name], TorchOps("cpu")
    x = (weights(dtype, count, 1).astype(np.int64) & 3).astype(INTS[dtype.itemsize])
    bits, ties = data.draw(st.integers(0, 4)), data.draw(st.integers(0, count))
    ties = min(ties, int((x == bits).sum()))
    run, tally = torch.from_numpy(x.copy()), ops.tally(Statistics(dtype, count), Shared())

    tally.prune(run, ops.cut(run, dtype, bits, ties), 0, write=True)

    expected = np.where((x < bits) | ((x == bits) & (np.cumsum(x == bits) <= ties)), 0, x)
    assert expected.tolist() == run.tolist()
    assert int((expected == 0).sum()) == tally.counts().zeros_after


@pytest.mark.parametrize(("group", "keep"), [(4, 2), (2, 1), (8, 3), (32, 8), (16, 0), (1, 1)])
def test_groups_are_those_of_keep_largest(group: int, keep: int) -> None:
    """A rule for flat groups prunes as the keep array does."""
    dtype, ops = FLOATS["BF16"], TorchOps("cpu")
    x = torch.from_numpy(weights(dtype, 4096, 1) & np.int16(-32641))
    flags = ops.keep_largest(ops.magnitudes(x, dtype), 0, 1024, 1, group, keep)
    rule = ops.groups(0, 4096, (1024, 1), group, keep)
    pruned = []
    for kept in (flags, rule):
        run = x.clone()
        ops.tally(statistics(dtype, (4, 1024)), Shared()).prune(run, kept, 0, write=True)
        pruned.append(run.tolist())

    assert pruned[0] == pruned[1]
