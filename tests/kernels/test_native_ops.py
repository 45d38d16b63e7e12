"""The operations with compiled kernels give the bits of NumPy's, for every format and for the patterns of scorers."""

from __future__ import annotations

import sys
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import examples

from prunecli.dtypes import FLOATS, Float
from prunecli.kernels.arrays import INTS
from prunecli.kernels.native.library import library
from prunecli.kernels.numpy_ops import NumpyOps
from prunecli.kernels.tally import Shared, Statistics
from prunecli.layout import SliceView

if library() is None:
    pytest.skip("the compiled kernels are not built", allow_module_level=True)

from prunecli.kernels.native_ops import NativeOps

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from prunecli.kernels.ops import Ops

SIZES = st.one_of(st.integers(1, 80), st.integers(900, 1200))


@dataclass
class Numbers:
    """Weights of a format, or the patterns of a scorer, and the largest pattern."""

    x: NDArray[Any]
    dtype: Float | None
    top: int

    def ranked(self, ops: Ops) -> Any:  # noqa: ANN401 - of the backend
        """Return what a backend ranks."""
        return self.x if self.dtype is None else ops.magnitudes(ops.load(self.x), self.dtype)

    @property
    def patterns(self) -> NDArray[Any]:
        """The patterns as NumPy has them."""
        patterns: NDArray[Any] = np.array(self.ranked(NumpyOps()))
        return patterns

    def flags(self, keep: str, *arguments: Any) -> list[list[int]]:  # noqa: ANN401 - of any operation
        """Return the flags that an operation returns with NumPy and with the compiled kernels."""
        backends: tuple[Ops, ...] = (NumpyOps(), NativeOps())
        return [ops.as_flags(getattr(ops, keep)(self.ranked(ops), *arguments)).tolist() for ops in backends]


@st.composite
def numbers(draw: st.DrawFn, sizes: st.SearchStrategy[int] = SIZES) -> Numbers:
    """Draw weights or patterns: any, extreme ones, or few different ones."""
    kind = draw(st.sampled_from([*FLOATS, "2", "4", "8"]))
    size, random = draw(sizes), np.random.default_rng(draw(st.integers(0, 1 << 30)))
    dtype = FLOATS.get(kind)
    integer = INTS[int(kind) if dtype is None else dtype.itemsize]
    half = 1 << (8 * integer.itemsize - 1)
    spread = draw(st.sampled_from(["any", "extreme", "few"]))
    if spread == "any":
        x = random.integers(-half, half, size, integer)
    elif spread == "extreme":
        x = random.choice(np.array([-half, half - 1, half - 2, 0, 1, -1, 1 - half], integer), size)
    else:
        x = (random.integers(0, 4, size) + half // 3).astype(integer) | random.choice([0, -half], size).astype(integer)
    return Numbers(x if dtype else np.maximum(x, -1), dtype, half - 1 if dtype is None else dtype.top)


def a_cut(data: st.DataObject, n: Numbers) -> int:
    """Draw a cut, often one that is among the patterns."""
    among = st.sampled_from(n.patterns.tolist()).map(lambda p: max(p, 0))
    return data.draw(among | st.sampled_from([0, 1, n.top, n.top + 1]))


@settings(max_examples=examples(150))
@given(numbers(), st.data())
def test_cuts_and_ties(n: Numbers, data: st.DataObject) -> None:
    """A cut, the number of equals, the first of them, and a part of the result."""
    cut, low = a_cut(data, n), data.draw(st.integers(0, n.x.size))
    high, results = data.draw(st.integers(low, n.x.size)), []
    value = min(cut, n.top)
    ties = data.draw(st.integers(0, 5))
    for ops in (NumpyOps(), NativeOps()):
        keep, y = ops.at_least(n.ranked(ops), cut), n.ranked(ops)
        ops.drop_first_equal(keep, y, value, ties)
        if n.dtype is None:
            ops.drop_pruned(keep, y)
        part = ops.part(keep, slice(low, high))
        results.append((ops.count_equal(y, value), ops.as_flags(part).tolist(), ops.as_flags(keep).tolist()))

    assert results[0] == results[1]


@settings(max_examples=examples(100))
@given(numbers(), st.data())
def test_a_cut_stays_lazy_with_its_ties(n: Numbers, data: st.DataObject) -> None:
    """Where the dropped equals are those of the cut, no flags are needed, also for a part."""
    ops, cut = NativeOps(), min(a_cut(data, n), n.top)
    y = n.ranked(ops)
    keep, ties, low = ops.at_least(y, cut), data.draw(st.integers(0, 9)), data.draw(st.integers(0, n.x.size))

    ops.drop_first_equal(keep, y, cut, ties)
    part = ops.part(keep, slice(low, n.x.size))

    if keep.y.x is n.x:
        assert keep.flags is part.flags is None
    assert ops.as_flags(part).tolist() == ops.as_flags(keep).tolist()[low:]


@settings(max_examples=examples(80))
@given(numbers(), st.data())
def test_brackets_and_order_statistics(n: Numbers, data: st.DataObject) -> None:
    """The numbers below and inside a bracket, and the smallest entries."""
    low = min(a_cut(data, n), n.top)
    width = data.draw(st.sampled_from([0, 1, 2, 8, 9, 1000, 1 << 40]).map(lambda w: min(w, n.top + 1 - low)))
    rank, results = data.draw(st.integers(1, n.x.size)), []
    for ops in (NumpyOps(), NativeOps()):
        below, patterns, counts = ops.below_and_inside(n.ranked(ops), low, width)
        inside = patterns.tolist() if counts is None else counts
        results.append((below, inside, ops.smallest(n.ranked(ops), rank)))

    assert results[0] == results[1]


@settings(max_examples=examples(60))
@given(numbers(), st.data())
def test_groups_and_rows(n: Numbers, data: st.DataObject) -> None:
    """The largest of groups, and rows without their smallest."""
    inner, group = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 20))
    length = max(n.x.size // inner, 1)
    if inner * length == n.x.size:
        numpy, native = n.flags("keep_largest", 0, length, inner, group, data.draw(st.integers(0, group)))
        assert numpy == native
    row = data.draw(st.sampled_from([r for r in (1, 2, 5, n.x.size) if n.x.size % r == 0]))
    share = data.draw(st.floats(0, 1))
    numpy, native = n.flags("keep_rows", row, lambda remaining: int(share * remaining))
    assert numpy == native


VIEWS = st.builds(SliceView, *[st.integers(1, 4), st.integers(1, 4), st.integers(1, 9), st.sampled_from([1, 2, 9, 40])])


@settings(max_examples=examples(200))
@given(VIEWS, st.data())
def test_slices_blocks_and_cuts_of_slices(view: SliceView, data: st.DataObject) -> None:
    """What survives in any run of any view."""
    total = view.total * view.size
    start = data.draw(st.integers(0, total - 1))
    n = data.draw(numbers(st.integers(1, total - start)))
    random = np.random.default_rng(data.draw(st.integers(0, 1 << 30)))
    alive = random.integers(0, 2, view.total, np.uint8).tobytes()
    numpy, native = n.flags("keep_slices", start, view, alive)
    assert numpy == native

    block = data.draw(st.integers(1, 10)), data.draw(st.integers(1, 10))
    blocks = view.stacks * -(-view.slices // block[0]) * -(-view.size // block[1])
    numpy, native = n.flags("keep_blocks", start, view, block, random.integers(0, 3, blocks, np.uint8).tobytes())
    assert numpy == native

    cuts = np.maximum(random.choice(n.patterns, view.total), 0)
    limits = random.integers(-1, view.size, view.total)
    numpy, native = n.flags("keep_above", start, view, cuts, limits)
    assert numpy == native


@settings(max_examples=examples(100))
@given(numbers(), st.data())
def test_what_is_dropped_from_flags(n: Numbers, data: st.DataObject) -> None:
    """Already pruned weights, the end of a dimension, and the weights themselves."""
    length, inner, start = (data.draw(st.integers(*bounds)) for bounds in ((1, 5), (1, 4), (0, 30)))
    alive, first, results = bytes([1, 0, 1]), data.draw(st.integers(0, 5)), []
    size = n.x.dtype.itemsize
    dtype = n.dtype or next(f for f in FLOATS.values() if f.itemsize == size)
    for ops in (NumpyOps(), NativeOps()):
        keep = ops.keep_slices(n.ranked(ops), 0, SliceView(1, n.x.size, 3, 1), alive)
        if n.dtype is None:
            ops.drop_pruned(keep, n.ranked(ops))
        ops.drop_from(keep, start - start % inner, length, inner, first)
        out = np.ones_like(n.x)
        ops.store_masked(n.x.copy(), keep, out, dtype)
        results.append((ops.as_flags(keep).tolist(), out.tolist()))

    assert results[0] == results[1]


@pytest.fixture
def no_forced_switch() -> Iterator[None]:
    """Let a thread run until it gives the interpreter lock away by itself."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("no_forced_switch")
def test_a_kernel_holds_no_interpreter_lock() -> None:
    """A thread runs Python code while another one is inside a kernel."""
    ops, x, start = NativeOps(), np.ones(1 << 20, np.int32), threading.Barrier(2)
    tally = ops.tally(Statistics(FLOATS["F32"], x.size), Shared())
    inside, seen = threading.Event(), threading.Event()

    def prune() -> None:
        start.wait()
        for _ in range(1000):
            if seen.is_set():
                return
            inside.set()
            tally.prune(x, ops.at_least(ops.magnitudes(x, FLOATS["F32"]), 5), 0, write=True)
            inside.clear()

    thread = threading.Thread(target=prune)
    thread.start()
    start.wait()
    while thread.is_alive() and not inside.is_set():
        time.sleep(0)
    # A call that kept the lock would have ended before this thread could look.
    while thread.is_alive() and not seen.is_set():
        if inside.is_set():
            seen.set()
        time.sleep(0)
    thread.join()

    assert seen.is_set()


@pytest.mark.parametrize("name", sorted(FLOATS))
def test_the_patterns_of_ranked_weights_are_those_of_numpy(name: str) -> None:
    """As an array of NumPy's, for what ranks no weights as they are."""
    dtype = FLOATS[name]
    x = np.random.default_rng(0).integers(0, 256, 256 * dtype.itemsize, np.uint8).view(INTS[dtype.itemsize])

    ranked = np.asarray(NativeOps().magnitudes(x, dtype))

    expected = NumpyOps().magnitudes(x, dtype)
    assert (expected.dtype, expected.tolist()) == (ranked.dtype, ranked.tolist())
