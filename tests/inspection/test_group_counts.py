"""Counts of zeros, of values that are not finite, and of overfull groups, against NumPy and plain loops."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import examples

from prunecli.checkpoint import Span, TensorInfo, row_major
from prunecli.inspection import group_counts
from prunecli.inspection.group_counts import OverfullGroups, TensorCounts, count_overfull_groups, count_weights
from prunecli.io import scan
from prunecli.io.threads import Worker
from prunecli.kernels.numpy_ops import NumpyOps
from prunecli.kernels.two_four import conforms


class TensorOf:
    """A NumPy array with the description and the reader that the counting functions take."""

    def __init__(self, array: np.ndarray[Any, Any]) -> None:
        """Describe `array`, of float32."""
        shape = tuple(array.shape)
        self.info = TensorInfo("w", "F32", shape, row_major(shape), 0, Span(0, array.nbytes))
        self._flat = array.reshape(-1).view(np.int32)

    def read(self, first: int, stop: int) -> np.ndarray[Any, Any]:
        """Return the bit patterns of a range."""
        return self._flat[first:stop]


def test_counts_include_every_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tensor longer than a run is counted to its end, and the first value that is not finite has its index."""
    monkeypatch.setattr(scan, "CHUNK", 16)
    tensor = TensorOf(np.array([0, 1, 2, 3, 4, math.inf, 0, 7, -0.0, math.nan], np.float32))

    assert count_weights(Worker(None), tensor.info, tensor.read) == TensorCounts(3, 2, 5)


@given(
    shape=st.lists(st.integers(1, 9), min_size=2, max_size=4),
    keep=st.integers(0, 5),
    group=st.integers(1, 6),
    dim=st.integers(-4, 3),
    window=st.sampled_from([1, 3, 16, 1 << 18]),
    seed=st.integers(0, 99),
)
@settings(max_examples=examples(200), suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_overfull_groups_equal_those_of_a_loop(
    monkeypatch: pytest.MonkeyPatch, shape: list[int], keep: int, group: int, dim: int, window: int, seed: int
) -> None:
    """For every shape, group, dimension and run, the overfull groups are counted and the first one is located."""
    monkeypatch.setattr(group_counts, "RUN", window)
    dim %= len(shape)
    w = np.random.default_rng(seed).integers(0, 2, shape).astype(np.float32)
    tensor = TensorOf(w)

    run = shape[dim], math.prod(shape[dim + 1 :])
    found = count_overfull_groups(NumpyOps(), tensor.info, tensor.read, (keep, group), run)

    rows = np.moveaxis(np.arange(w.size).reshape(shape), dim, -1).reshape(-1, shape[dim])
    groups = [row[at : at + group] for row in rows for at in range(0, len(row), group)]
    counts = {int(g[0]): int(np.count_nonzero(w.reshape(-1)[g])) for g in groups}
    overfull = {index: count for index, count in counts.items() if count > keep}
    first = min(overfull, default=None)
    assert (found.groups, found.overfull, found.first) == (len(groups), len(overfull), first)
    assert found.nonzeros == (None if first is None else overfull[first])


@pytest.mark.parametrize("window", [1, 2, 3, 5, 7])
def test_groups_larger_than_a_run_are_counted(monkeypatch: pytest.MonkeyPatch, window: int) -> None:
    """Groups that do not fit into a run have the same counts as those that do."""
    for shape, dim, group in product([(2, 5), (5, 4), (3, 4, 5), (6, 2, 3)], [0, 1], [1, 2, 3, 5]):
        tensor = TensorOf(np.random.default_rng(group).integers(0, 2, shape).astype(np.float32))

        def found(tensor: TensorOf = tensor, group: int = group, dim: int = dim) -> OverfullGroups:
            run = tensor.info.shape[dim], math.prod(tensor.info.shape[dim + 1 :])
            return count_overfull_groups(NumpyOps(), tensor.info, tensor.read, (1, group), run)

        expected = found()
        with monkeypatch.context() as patch:
            patch.setattr(group_counts, "RUN", window)

            assert found() == expected


@given(rows=st.integers(1, 5), cols=st.integers(1, 20), inner=st.integers(1, 3), seed=st.integers(0, 99))
def test_the_pattern_2_of_4_agrees_with_the_report(rows: int, cols: int, inner: int, seed: int) -> None:
    """The pattern 2:4 holds exactly if a report says so."""
    w = (np.random.default_rng(seed).random((rows, cols, inner)) < 0.45).astype(np.float32)
    tensor = TensorOf(w)

    found = count_overfull_groups(NumpyOps(), tensor.info, tensor.read, (2, 4), (cols, inner))

    assert (found.overfull == 0) == conforms(w.view(np.int32))
