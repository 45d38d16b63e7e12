"""Ranks over tensors on devices are those of a sort, and only counts are copied to the host."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import examples

from prunecli.dtypes import FLOATS
from prunecli.kernels.arrays import INTS
from prunecli.kernels.bit_patterns import widen
from prunecli.kernels.torch_ops import TorchOps
from prunecli.plans import RankGroup
from prunecli.ranking.device_ranks import OnDevice, count_on_devices, narrow_on_devices
from prunecli.ranking.kth_smallest import RankSearch


def searched(members: list[OnDevice], rank: int) -> Any:  # noqa: ANN401 - an OrderStatistic
    """Return the order statistic at `rank` of all members."""
    dtypes, sizes = [m.dtype for m in members], [len(m.values) for m in members]
    search = RankSearch(RankGroup(tuple(range(len(members))), (rank,)), dtypes, sizes)
    narrow_on_devices(search, dict(enumerate(members)))
    for _ in range(9):
        count_on_devices(search, dict(enumerate(members)))
        if search.advance():
            break
    return search.statistics()[0]


@settings(max_examples=examples(60))
@given(
    names=st.lists(st.sampled_from(sorted(FLOATS)), min_size=1, max_size=4),
    spread=st.sampled_from([3, 300, 1 << 40]),
    seed=st.integers(0, 9),
    data=st.data(),
)
def test_the_rank_is_that_of_a_sort(names: list[str], spread: int, seed: int, data: Any) -> None:  # noqa: ANN401
    """Formats are merged by value; smaller and equal ones are counted in all members, the equals also in each."""
    rng, ops, members, keys = np.random.default_rng(seed), TorchOps("cpu"), [], []
    for name in names:
        dtype, count = FLOATS[name], data.draw(st.integers(1, 3000))
        one = dtype.encode(1.0)
        raw = np.clip(one + rng.integers(-min(spread, one), spread, count), 0, dtype.top).astype(np.int64)
        x = torch.from_numpy((raw & dtype.mask).astype(INTS[dtype.itemsize]))
        members.append(OnDevice(ops, x, dtype))
        patterns = np.asarray(ops.magnitudes(x, dtype))
        common = RankSearch(RankGroup((0,), (1,)), [FLOATS[n] for n in names], [1]).keys.common
        keys.append(patterns.astype(np.int64) if dtype is common else widen(patterns, dtype, common).astype(np.int64))
    together = np.sort(np.concatenate(keys))
    rank = data.draw(st.integers(1, len(together)))

    found = searched(members, rank)

    key = together[rank - 1]
    assert int((together < key).sum()) == found.less
    assert int((together == key).sum()) == found.equal
    if found.rank < found.less + found.equal:
        assert [int((k == key).sum()) for k in keys] == list(found.equals)


@pytest.mark.parametrize("name", ["BF16", "F32", "F64"])
def test_marks_rank_lowest(name: str) -> None:
    """Pruned weights, marked by -1, have the lowest ranks."""
    dtype = FLOATS[name]
    y = torch.arange(5000).to(getattr(torch, f"int{8 * dtype.itemsize}")) + 77
    y[::5] = -1

    found = searched([OnDevice(TorchOps("cpu"), y, dtype, marked=True)], 3000)

    assert (int(y.sort().values[2999]), 2999, 1) == (found.cuts[0], found.less, found.equal)
