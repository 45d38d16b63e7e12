"""Compiled kernels prune and count as NumPy does: the same numbers and bytes, for every format and any chunks."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from itertools import pairwise
from math import inf, prod
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support import examples

from prunecli.dtypes import FLOATS, Float
from prunecli.kernels.arrays import INTS
from prunecli.kernels.native.library import library
from prunecli.kernels.numpy_ops import NumpyOps
from prunecli.kernels.tally import Shared, Statistics
from prunecli.layout import SliceView, slice_view
from prunecli.report.histogram import bins_of

if library() is None:
    pytest.skip("the compiled kernels are not built", allow_module_level=True)

from prunecli.kernels import native_tally
from prunecli.kernels.native_ops import NativeOps
from prunecli.kernels.native_tally import LIMBS

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from prunecli.kernels.ops import Ops
    from prunecli.kernels.tally import Counts

SHAPES = [(1,), (3, 5), (40, 63), (64, 64), (7, 4, 9), (300, 16), (2, 37, 24), (4, 16, 3, 3), (5000,), (3, 1024)]

BACKENDS: tuple[Callable[[], Ops], ...] = (NumpyOps, NativeOps)


def with_values(random: np.random.Generator, dtype: Float, kind: str, size: int) -> NDArray[Any]:
    """Return weights as integers."""
    half = 1 << (8 * dtype.itemsize - 1)
    signs = random.choice(np.array([0, -half]), size).astype(INTS[dtype.itemsize])
    usual = dtype.encode(0.25)
    if kind == "any":
        y = random.integers(0, half, size)
    elif kind == "usual":
        y = random.integers(usual // 2, usual, size)
    elif kind == "equal":
        y = random.integers(usual, usual + 3, size)
    elif kind == "tiny":
        y = random.integers(0, 4, size)
    elif kind == "huge":
        y = random.integers(dtype.finite_max - 3, min(dtype.finite_max + 1, half - 1), size, endpoint=True)
    else:  # nearly all are zeros
        y = np.where(random.random(size) < 0.1, usual, 0)
    return y.astype(INTS[dtype.itemsize]) | signs


@dataclass
class Run:
    """How a tensor is pruned: cut or flags, chunks, and the thread of each chunk."""

    cut: int
    ties: int
    flags: NDArray[np.uint8] | None
    chunks: list[tuple[int, int, int]]
    write: bool


def pruned(make: Callable[[], Ops], statistics: Statistics, x: NDArray[Any], run: Run) -> tuple[Counts, bytes]:
    """Return the counts and the bytes of a tensor that is pruned chunk by chunk."""
    shared, x, backends = Shared(), x.copy(), [make(), make()]
    tallies = [ops.tally(statistics, shared) for ops in backends]
    for low, high, thread in run.chunks:
        ops, chunk = backends[thread], x[low:high]
        y = ops.magnitudes(chunk, statistics.dtype)
        if run.flags is None:
            keep = ops.at_least(y, run.cut)
            ops.drop_first_equal(keep, y, min(run.cut, statistics.dtype.top), run.ties)
        else:
            keep = ops.keep_slices(y, low, SliceView(1, 1, x.size, 1), run.flags.tobytes())
        tallies[thread].prune(chunk, keep, low, write=run.write)
    assert shared.is_empty or shared.overfull
    tallies[0].merge(tallies[1])
    return tallies[0].counts(), x.tobytes()


def chunks_of(data: st.DataObject, numel: int) -> list[tuple[int, int, int]]:
    """Draw chunks, in any order, and the thread of each."""
    ends = sorted({0, numel, *data.draw(st.lists(st.integers(0, numel), max_size=6))})
    chunks = [(low, high, data.draw(st.integers(0, 1))) for low, high in pairwise(ends)]
    return data.draw(st.permutations(chunks))


def statistics_of(shape: tuple[int, ...], dtype: Float, *, histogram: bool) -> Statistics:
    """Return everything that is counted about a tensor."""
    bins, numel = bins_of(dtype), prod(shape)
    counted = (bins.shift, bins.first, bins.last) if histogram else None
    if len(shape) == 1:
        return Statistics(dtype, numel, bins=counted)
    groups = (shape[1], prod(shape[2:])) if shape[1] >= 4 else None
    return Statistics(dtype, numel, slice_view(shape, 0), slice_view(shape, 1), groups, bins=counted)


@settings(max_examples=examples(300))
@given(st.sampled_from(sorted(FLOATS)), st.sampled_from(SHAPES), st.data())
def test_counts_and_bytes_are_those_of_numpy(name: str, shape: tuple[int, ...], data: st.DataObject) -> None:
    """Every number of the report and every byte, with a cut and ties or with flags."""
    dtype, random = FLOATS[name], np.random.default_rng(data.draw(st.integers(0, 1 << 30)))
    kind = data.draw(st.sampled_from(["any", "usual", "equal", "tiny", "huge", "zeros"]))
    x = with_values(random, dtype, kind, prod(shape))
    some = int(NumpyOps().magnitudes(x, dtype)[data.draw(st.integers(0, x.size - 1))])
    flags = (random.random(x.size) < data.draw(st.sampled_from([0, 0.3, 0.9]))).astype(np.uint8)
    run = Run(
        data.draw(st.sampled_from([0, some, dtype.top, dtype.top + 1])),
        data.draw(st.sampled_from([0, 1, 7, 700])),
        data.draw(st.sampled_from([None, flags])),
        chunks_of(data, x.size),
        data.draw(st.booleans()),
    )
    statistics = statistics_of(shape, dtype, histogram=data.draw(st.booleans()))

    numpy, native = (pruned(make, statistics, x, run) for make in BACKENDS)

    assert numpy == native


@settings(max_examples=examples(200))
@given(
    limbs=st.lists(st.tuples(st.integers(0, LIMBS - 1), st.integers(0, (1 << 63) - 1)), max_size=4),
    overflowed=st.booleans(),
)
@example(limbs=[(0, 1)], overflowed=False)  # the smallest positive number
@example(limbs=[(1, 1 << 20)], overflowed=False)  # the smallest one that is not subnormal
@example(limbs=[(2, 1), (0, 1 << 11)], overflowed=False)  # half of a last place
@example(limbs=[(5, 1 << 31), (3, 1 << 21), (0, 1)], overflowed=False)  # a bit more than half
@example(limbs=[(4, (1 << 53) - 1)], overflowed=False)
@example(limbs=[(64, (1 << 50) - 1), (66, (1 << 50) - 1)], overflowed=False)  # too large
def test_the_sum_of_squares_is_rounded_once(limbs: list[tuple[int, int]], *, overflowed: bool) -> None:
    """The kernel rounds the sum of its limbs to the nearest number, and of two to the even one, as Python does."""
    counts, units = native_tally._Counts(), 0
    for place, limb in dict(limbs).items():
        counts.limbs[1][place] = limb
        units += limb << (32 * place)
    counts.overflowed[1] = overflowed

    actual = native_tally._total(ctypes.byref(counts), 1)

    try:
        expected = inf if overflowed else units / (1 << 1074)
    except OverflowError:
        expected = inf
    assert expected == actual


@settings(max_examples=examples(40))
@given(st.integers(1, 64), st.integers(4, 40), st.integers(1, 40), st.data())
def test_the_2_4_pattern_is_found(outer: int, length: int, inner: int, data: st.DataObject) -> None:
    """A tensor with the pattern has it in any chunks, and one more weight in a group is found."""
    shape, dtype = (outer, length, inner), FLOATS["BF16"]
    x = np.zeros(shape, np.int16)
    x[:, 1::4], x[:, 3::4] = 3, 4
    place = data.draw(st.none() | st.tuples(*(st.integers(0, n - 1) for n in shape)))
    if place is not None:
        x[place] = 5
    run = Run(0, 0, None, chunks_of(data, x.size), write=True)
    statistics = Statistics(dtype, x.size, groups=(length, inner))

    numpy, native = (pruned(make, statistics, x.reshape(-1), run)[0].two_four for make in BACKENDS)

    assert numpy == native


@settings(max_examples=examples(40))
@given(
    st.builds(SliceView, st.integers(1, 3), st.integers(1, 5), st.integers(1, 30), st.sampled_from([1, 2, 300])),
    st.data(),
)
def test_dead_slices_of_any_view(view: SliceView, data: st.DataObject) -> None:
    """Slices of stacks without a non-zero."""
    random = np.random.default_rng(data.draw(st.integers(0, 1 << 30)))
    x = with_values(random, FLOATS["F16"], "zeros", view.total * view.size)
    x *= random.random(x.size) < data.draw(st.sampled_from([0.01, 0.2]))
    run = Run(0, 0, None, chunks_of(data, x.size), write=True)
    statistics = Statistics(FLOATS["F16"], x.size, outputs=view)

    numpy, native = (pruned(make, statistics, x, run)[0].dead_outputs for make in BACKENDS)

    assert numpy == native


@settings(max_examples=examples(40))
@given(st.integers(1, 3000), st.data())
def test_magnitudes_stand_for_weights(size: int, data: st.DataObject) -> None:
    """Products of codes and scales are counted in place of the codes that the cut ranks."""
    random = np.random.default_rng(data.draw(st.integers(0, 1 << 30)))
    codes = random.integers(-128, 128, size, np.int8)
    products = np.abs(random.standard_normal(size)).view(np.int64)
    products[random.random(size) < 0.1] = FLOATS["F64"].top
    cut, results = data.draw(st.integers(0, 127)), []
    for make in BACKENDS:
        ops, shared = make(), Shared()
        tally = ops.tally(Statistics(FLOATS["F64"], size), shared)
        keep = ops.at_least(ops.magnitudes(codes, FLOATS["F8_E4M3"]), cut)
        tally.add(products.copy(), keep, 0)
        results.append(tally.counts())

    assert results[0] == results[1]
