"""The compiled kernels of ranking equal plain definitions bit for bit, for every width and form of numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import examples

from prunecli.dtypes import FLOATS
from prunecli.kernels.arrays import INTS
from prunecli.kernels.native.library import library

if library() is None:
    pytest.skip("the compiled kernels are not built", allow_module_level=True)

from prunecli.kernels import native_ranks

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIZES = st.one_of(st.integers(1, 70), st.integers(500, 1700))
"""Numbers of elements around the blocks of the kernels."""


@dataclass
class Numbers:
    """Numbers as a kernel takes them, and their patterns by the definition."""

    x: NDArray[Any]
    form: int
    patterns: NDArray[np.int64]
    top: int


@st.composite
def numbers(draw: st.DrawFn, sizes: st.SearchStrategy[int] = SIZES, kinds: tuple[str, ...] = ()) -> Numbers:
    """Draw weights of a format, or patterns of a scorer: few different ones, any, or only extreme ones."""
    kind = draw(st.sampled_from(kinds or (*FLOATS, "scores16", "scores32", "scores64")))
    size, random = draw(sizes), np.random.default_rng(draw(st.integers(0, 1 << 30)))
    bits = 8 * FLOATS[kind].itemsize if kind in FLOATS else int(kind[-2:])
    integer, half = INTS[bits // 8], 1 << (bits - 1)
    spread = draw(st.sampled_from(["equal", "few", "near", "any", "extreme"]))
    if spread == "extreme":
        x = random.choice(np.array([-half, half - 1, 0, 1, -1, 1 - half], integer), size)
    elif spread == "any":
        x = random.integers(-half, half, size, integer, endpoint=False)
    else:
        few = {"equal": 1, "few": 5, "near": 100}[spread]
        x = (half // 2 + random.integers(0, few, size)).astype(integer) ^ random.choice([0, -half], size).astype(
            integer
        )
    if kind in FLOATS:
        patterns = (x & integer.type(half - 1)).astype(np.int64)
        if FLOATS[kind].negative_zero_is_nan:
            patterns[x == -half] = half
        return Numbers(x, native_ranks.form_of(FLOATS[kind]), patterns, FLOATS[kind].top)
    x = np.maximum(x, -1).astype(integer)
    return Numbers(x, native_ranks.PATTERNS, x.astype(np.int64), half - 1)


def largest(patterns: NDArray[np.int64], keep: int) -> list[int]:
    """Return the flags of the largest; of equals the first."""
    flags = np.zeros(len(patterns), int)
    flags[np.argsort(~patterns, kind="stable")[:keep]] = -1
    return flags.tolist()


@settings(max_examples=examples(200))
@given(numbers(), st.data())
def test_a_bracket_is_counted_and_extracted(n: Numbers, data: st.DataObject) -> None:
    """Numbers below, the patterns inside in their order, and their counts in bins."""
    some = st.sampled_from(n.patterns.tolist()) | st.integers(0, n.top)
    low, high = sorted(max(data.draw(some), 0) for _ in range(2))
    width = high - low + data.draw(st.integers(0, 1))
    inside = n.patterns[(n.patterns >= low) & (n.patterns < low + width)]
    found = np.zeros_like(n.x)

    below, count = native_ranks.extract_inside(n.x, n.form, low, width, found)

    assert int((n.patterns < low).sum()) == below
    assert inside.tolist() == found[:count].view(np.uint8 if n.x.itemsize == 1 else n.x.dtype).tolist()

    shift = max(width.bit_length() - data.draw(st.sampled_from([3, 8])), 0)
    bins = np.zeros((width >> shift) + 1, np.int64)
    assert below == native_ranks.count_bins(n.x, n.form, low, width, shift, bins)
    assert np.bincount((inside - low) >> shift, minlength=len(bins)).tolist() == bins.tolist()


@settings(max_examples=examples(300))
@given(numbers(), st.integers(1, 100), st.integers(1, 9), st.data())
def test_the_largest_of_each_group_survive(n: Numbers, group: int, inner: int, data: st.DataObject) -> None:
    """Any group, any inner stride, a run that starts at any group, a short last group, ties by position."""
    length = data.draw(st.integers(1, 40) | st.integers(1, 4).map(lambda groups: groups * group))
    keep = data.draw(st.integers(0, group))
    group = min(group, length)
    slab, unit = length * inner, group * inner
    slab_start = data.draw(st.integers(0, 3)) * slab
    start = slab_start + data.draw(st.integers(0, (length - 1) // group)) * unit
    stop = len(n.x) + start  # the last whole group before it
    stop -= (stop % slab) % unit
    if stop <= start:
        return
    middle = np.arange(start, stop) // inner
    groups = (middle // length * length + middle % length // group) * inner + np.arange(start, stop) % inner
    patterns = n.patterns[: stop - start]
    order = np.lexsort((np.arange(stop - start), ~patterns, groups))
    first = np.searchsorted(groups[order], groups[order])
    expected = np.zeros(stop - start, int)
    expected[order] = -((np.arange(stop - start) - first) < keep).astype(int)
    flags = np.full(stop - start, 7, np.int8)

    native_ranks.keep_largest(n.x[: stop - start], n.form, start, length, inner, group, keep, flags)

    assert expected.tolist() == flags.tolist()


@settings(max_examples=examples(200))
@given(numbers(), st.integers(1, 1000), st.booleans(), st.data())
def test_the_smallest_of_each_row_are_dropped(n: Numbers, row: int, alike: bool, data: st.DataObject) -> None:  # noqa: FBT001
    """One number for all rows, or one for each; among equals the lowest index is pruned."""
    row = min(row, len(n.x))
    rows = len(n.x) // row
    wanted = [data.draw(st.integers(0, row)) for _ in range(1 if alike else rows)]
    x, patterns = n.x[: rows * row], n.patterns[: rows * row].reshape(rows, row)
    expected = []
    for r in range(rows):
        flags = np.full(row, -1)
        flags[np.argsort(patterns[r], kind="stable")[: wanted[r % len(wanted)]]] = 0
        expected += flags.tolist()
    flags = np.full(rows * row, 7, np.int8)

    native_ranks.drop_smallest(x, n.form, row, np.array(wanted), flags)

    assert expected == flags.tolist()


@settings(max_examples=examples(30))
@given(numbers(st.just(60_000)), st.data())
def test_long_rows_are_reduced_first(n: Numbers, data: st.DataObject) -> None:
    """Rows and groups of many elements have the same result, with columns or without."""
    wanted = data.draw(st.integers(0, 20_000))
    expected = np.full((3, 20_000), -1)
    for flags, row in zip(expected, n.patterns.reshape(3, -1), strict=True):
        flags[np.argsort(row, kind="stable")[:wanted]] = 0
    flags = np.zeros(60_000, np.int8)

    native_ranks.drop_smallest(n.x, n.form, 20_000, np.array([wanted]), flags)

    assert expected.reshape(-1).tolist() == flags.tolist()
    for inner in (1, 3):
        columns = n.patterns.reshape(-1, 20_000, inner).swapaxes(1, 2).reshape(-1, 20_000)
        kept = np.array([largest(column, wanted) for column in columns])
        native_ranks.keep_largest(n.x, n.form, 0, 20_000, inner, 20_000, wanted, flags)
        assert kept.reshape(-1, inner, 20_000).swapaxes(1, 2).reshape(-1).tolist() == flags.tolist()


@settings(max_examples=examples(60))
@given(numbers(st.sampled_from([1, 2, 600, 40_000])), st.data())
def test_the_smallest_has_its_rank(n: Numbers, data: st.DataObject) -> None:
    """The pattern at a rank, and how many are smaller and equal."""
    rank = data.draw(st.integers(1, len(n.x)))
    wanted = int(np.sort(n.patterns)[rank - 1])

    found = native_ranks.smallest(n.x, n.form, rank)

    assert (wanted, int((n.patterns < wanted).sum()), int((n.patterns == wanted).sum())) == found


@settings(max_examples=examples(40))
@given(numbers(kinds=("scores16", "scores32", "scores64")), st.integers(1, 50))
def test_remaining_weights_are_counted(n: Numbers, row: int) -> None:
    """-1 marks an already pruned weight."""
    row = min(row, len(n.x))
    rows = len(n.x) // row
    counts = np.zeros(rows, np.int64)

    native_ranks.count_remaining(n.x[: rows * row], row, counts)

    assert (n.patterns[: rows * row].reshape(rows, row) >= 0).sum(axis=1).tolist() == counts.tolist()


def test_read_only_memory_is_accepted() -> None:
    """Weights may lie in bytes and in views that cannot be written."""
    x = np.arange(12, dtype="<i4")
    found = bytearray(48)

    below, inside = native_ranks.extract_inside(memoryview(x.tobytes()).cast("i"), 0, 3, 4, memoryview(found).cast("i"))

    assert (below, inside) == (3, 4)
    assert memoryview(found).cast("i")[:4].tolist() == [3, 4, 5, 6]
