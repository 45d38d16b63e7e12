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
from prunecli.ranking.device_ranks import Held, OnDevice, find_on_devices, table_of
from prunecli.ranking.kth_smallest import RankSearch


def searched(held: list[Held], rank: int, names: list[str]) -> Any:  # noqa: ANN401 - an OrderStatistic
    """Return the order statistic at `rank` of all members, whose dtypes are `names`."""
    sizes = {member: len(part) for each in held for member, part in zip(each.members, each.parts, strict=True)}
    numels = [sizes[member] for member in range(len(names))]
    search = RankSearch(RankGroup(tuple(range(len(names))), (rank,)), [FLOATS[name] for name in names], numels)
    find_on_devices([(search, held)])
    return search.statistics()[0]


def held_together(ops: TorchOps, xs: list[Any], names: list[str]) -> list[Held]:
    """Return the members of a group, those of one dtype together."""
    by_name: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        by_name.setdefault(name, []).append(index)
    return [Held(ops, tuple(own), [xs[i] for i in own], FLOATS[name]) for name, own in by_name.items()]


@settings(max_examples=examples(60))
@given(
    names=st.lists(st.sampled_from(sorted(FLOATS)), min_size=1, max_size=4),
    spread=st.sampled_from([3, 300, 1 << 40]),
    seed=st.integers(0, 9),
    together=st.booleans(),
    data=st.data(),
)
def test_the_rank_is_that_of_a_sort(
    names: list[str],
    spread: int,
    seed: int,
    together: bool,  # noqa: FBT001 - of Hypothesis
    data: Any,  # noqa: ANN401
) -> None:
    """Formats are merged by value; smaller and equal ones are counted in all members, the equals also in each."""
    rng, ops, xs, keys = np.random.default_rng(seed), TorchOps("cpu"), [], []
    for name in names:
        dtype, count = FLOATS[name], data.draw(st.integers(1, 3000))
        one = dtype.encode(1.0)
        raw = np.clip(one + rng.integers(-min(spread, one), spread, count), 0, dtype.top).astype(np.int64)
        x = torch.from_numpy((raw & dtype.mask).astype(INTS[dtype.itemsize]))
        xs.append(x)
        patterns = np.asarray(ops.magnitudes(x, dtype))
        common = RankSearch(RankGroup((0,), (1,)), [FLOATS[n] for n in names], [1]).keys.common
        keys.append(patterns.astype(np.int64) if dtype is common else widen(patterns, dtype, common).astype(np.int64))
    every = np.sort(np.concatenate(keys))
    rank = data.draw(st.integers(1, len(every)))
    alone = [Held(ops, (index,), [x], FLOATS[name]) for index, (x, name) in enumerate(zip(xs, names, strict=True))]

    found = searched(held_together(ops, xs, names) if together else alone, rank, names)

    key = every[rank - 1]
    assert int((every < key).sum()) == found.less
    assert int((every == key).sum()) == found.equal
    if found.rank < found.less + found.equal:
        assert [int((k == key).sum()) for k in keys] == list(found.equals)


@pytest.mark.parametrize("name", ["BF16", "F32", "F64"])
def test_marks_rank_lowest(name: str) -> None:
    """Pruned weights, marked by -1, have the lowest ranks."""
    dtype = FLOATS[name]
    y = torch.arange(5000).to(getattr(torch, f"int{8 * dtype.itemsize}")) + 77
    y[::5] = -1

    search = RankSearch(RankGroup((0,), (3000,)), [dtype], [5000])
    done = False
    while not done:
        shift = search.shift(12)
        table = table_of(search, OnDevice(TorchOps("cpu"), y, dtype, marked=True), shift).tolist()
        search.add_bins(table[0], table[1:], shift)
        done = search.advance()

    found = search.statistics()[0]
    assert (int(y.sort().values[2999]), 2999, 1) == (found.cuts[0], found.less, found.equal)
