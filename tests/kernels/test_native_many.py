"""Several whole tensors that are pruned with one call have the counts and bytes of each alone."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import examples

from prunecli.dtypes import FLOATS
from prunecli.kernels.arrays import INTS
from prunecli.kernels.native.library import address, library
from prunecli.kernels.numpy_ops import NumpyOps
from prunecli.kernels.tally import Counts, Shared, Statistics
from prunecli.layout import SliceView, slice_view

if library() is None:
    pytest.skip("the compiled kernels are not built", allow_module_level=True)

from prunecli.kernels.native_many import Item, Kind
from prunecli.kernels.native_ops import NativeOps

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray

    from prunecli.kernels.ops import Keep

SHAPES = [(1,), (5000,), (3, 5), (64, 64), (7, 4, 9), (2, 1000), (40, 63)]


class One:
    """A tensor, and what is dropped of it by NumPy and by the compiled kernels."""

    def __init__(self, data: st.DataObject) -> None:
        """Draw a tensor and a rule."""
        dtype, shape = FLOATS[data.draw(st.sampled_from(sorted(FLOATS)))], data.draw(st.sampled_from(SHAPES))
        random = np.random.default_rng(data.draw(st.integers(0, 1 << 30)))
        half = 1 << (8 * dtype.itemsize - 1)
        high = data.draw(st.sampled_from([3, half]))
        self.x: NDArray[Any] = random.integers(-high, high, prod(shape), INTS[dtype.itemsize])
        self.statistics = _statistics(dtype.name, shape)
        self.alive = bytes(random.integers(0, 2, shape[0], np.uint8))
        self.group, self.kept = data.draw(st.sampled_from([(4, 2), (7, 2), (40, 9)]))
        self.tail = data.draw(st.booleans())
        self.rule = data.draw(st.sampled_from(["cut", "groups", "slices"]))
        self.cut, self.ties = data.draw(st.integers(0, dtype.top)), data.draw(st.sampled_from([0, 1, 100]))
        self.view = slice_view(shape, 0)
        self.length, self.inner = (shape[-1], 1) if len(shape) != 3 else (shape[1], shape[2])
        self.end = self.length - self.length % self.group if self.tail else self.length

    def by_numpy(self) -> tuple[Counts, bytes]:
        """Return the counts and the bytes as NumPy's kernels give them."""
        ops, x = NumpyOps(), self.x.copy()
        tally = ops.tally(self.statistics, Shared())
        tally.prune(x, self._keep(ops, ops.magnitudes(x, self.statistics.dtype)), 0, write=True)
        return tally.counts(), x.tobytes()

    def _keep(self, ops: NumpyOps, y: NDArray[Any]) -> Keep:
        if self.rule == "slices":
            return ops.keep_slices(y, 0, self.view, self.alive)
        if self.rule == "groups":
            keep = ops.keep_largest(y, 0, self.length, self.inner, self.group, self.kept)
            ops.drop_from(keep, 0, self.length, self.inner, self.end)
            return keep
        keep = ops.at_least(y, self.cut)
        ops.drop_first_equal(keep, y, self.cut, self.ties)
        return keep

    def item(self) -> Item:
        """Return the tensor for the compiled kernels, which overwrite it."""
        kind, x, view = Kind(self.statistics), address(self.x), self.view
        if self.rule == "slices":
            return Item(kind, x, view=(view.before, view.slices, view.after), alive=self.alive)
        if self.rule == "groups":
            groups = (self.length, self.inner, min(self.group, self.length), self.kept, self.end)
            return Item(kind, x, groups=groups)
        return Item(kind, x, self.cut, self.ties)


def _statistics(dtype: str, shape: tuple[int, ...]) -> Statistics:
    """Return everything that is counted about a tensor; the inputs of a third dimension are in stacks."""
    if len(shape) == 1:
        return Statistics(FLOATS[dtype], shape[0])
    inputs = SliceView(shape[0], 1, shape[1], shape[2]) if len(shape) == 3 else slice_view(shape, 1)
    groups = (shape[1], prod(shape[2:])) if shape[1] >= 4 else None
    return Statistics(FLOATS[dtype], prod(shape), slice_view(shape, 0), inputs, groups)


@settings(max_examples=examples(100))
@given(st.integers(1, 5), st.data())
def test_tensors_of_any_kind_are_pruned_together(count: int, data: st.DataObject) -> None:
    """Dtypes, shapes and rules may differ; every number and every byte is that of NumPy."""
    tensors = [One(data) for _ in range(count)]
    expected = [tensor.by_numpy() for tensor in tensors]

    counts = list(NativeOps().prune_each([tensor.item() for tensor in tensors]))

    assert expected == [(own, tensor.x.tobytes()) for own, tensor in zip(counts, tensors, strict=True)]
