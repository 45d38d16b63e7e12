"""The search for ranks compared with sorting: adversarial data, misleading samples, coarse bins, mixed dtypes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import examples

from prunecli.dtypes import FLOATS
from prunecli.kernels.arrays import INTS
from prunecli.kernels.bit_patterns import narrow, values, widen
from prunecli.kernels.numpy_ops import NumpyOps
from prunecli.kernels.torch_ops import TorchOps
from prunecli.plans import OrderStatistic, RankGroup
from prunecli.ranking import kth_smallest
from prunecli.ranking.kth_smallest import Keys, RankSearch, Sample, statistics_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

Member = tuple[str, "NDArray[Any]"]
"""A dtype's name, and magnitudes as patterns."""

PASSES = 3
"""A bracket that missed costs a second pass, and counting the ties a third."""


def patterns_of(numbers: NDArray[np.float64], name: str = "F32") -> Member:
    """Return the magnitudes of `numbers` in a format of `name`."""
    dtype = FLOATS[name]
    kind = INTS[max(dtype.itemsize, 2)]
    if name in ("F64", "F32", "F16"):
        floats = np.abs(numbers).astype(f"<f{dtype.itemsize}")
        return name, floats.view(INTS[dtype.itemsize])
    return name, np.array([dtype.encode(abs(number)) for number in numbers.tolist()], kind)


def bits(name: str, patterns: Sequence[int]) -> Member:
    """Return magnitudes given as patterns, in the width that the kernels use."""
    return name, np.array(patterns, INTS[max(FLOATS[name].itemsize, 2)])


def fair_samples(members: Sequence[Member]) -> list[Sample]:
    """Sample every fourth block of 8 elements."""
    found = []
    for at, (_, patterns) in enumerate(members):
        length = min(8, patterns.size)
        blocks = patterns[: patterns.size // length * length].reshape(-1, length)[::4]
        found.append(Sample(at, blocks.reshape(-1).copy(), length))
    return found


def search(
    members: Sequence[Member], ranks: Sequence[int], samples: Sequence[Sample] | None = None, *, ties: bool = True
) -> tuple[list[OrderStatistic], int]:
    """Find `ranks`, serving chunks of 100 in a shuffled order; return the statistics and the number of passes."""
    group = RankGroup(tuple(range(len(members))), tuple(ranks), ties)
    found = RankSearch(group, [FLOATS[name] for name, _ in members], [patterns.size for _, patterns in members])
    if samples is not None:
        found.narrow_to(samples)
    ops, random = NumpyOps(), np.random.default_rng(0)
    for passes in range(1, 200):
        tiles = [
            (member, low, width, at)
            for member, low, width in found.brackets()
            for at in range(0, members[member][1].size, 100)
        ]
        for index in random.permutation(len(tiles)):
            member, low, width, at = tiles[index]
            name, patterns = members[member]
            tile = patterns[at : at + 100]
            if low > FLOATS[name].top:
                found.add(member, tile.size, None, None)
            else:
                found.add(member, *ops.below_and_inside(tile, low, width))
        if found.advance():
            return found.statistics(), passes
    raise RuntimeError("the search does not end")


def everything(members: Sequence[Member]) -> NDArray[np.float64]:
    """Return all magnitudes as float64, sorted; NaN last."""
    return np.sort(np.concatenate([values(patterns, FLOATS[name]) for name, patterns in members]))


def check(
    members: Sequence[Member], ranks: Sequence[int], orders: Sequence[OrderStatistic], *, ties: bool = True
) -> None:
    """Compare each order statistic and its counts, whole and per member, with sorting; without NaN."""
    ordered = everything(members)
    for rank, order in zip(ranks, orders, strict=True):
        value = float(ordered[rank - 1])
        assert (rank, value) == (order.rank, order.value)
        assert int((ordered < value).sum()) == order.less
        assert int((ordered == value).sum()) == order.equal
        for at, (name, patterns) in enumerate(members):
            mine = values(patterns, FLOATS[name])
            assert (mine >= value).tolist() == (patterns.astype(np.int64) >= order.cuts[at]).tolist()
            exact = order.cuts[at] <= FLOATS[name].top and FLOATS[name].decode(order.cuts[at]) == value
            assert exact == order.hits[at]
            number = order.equals[at]
            assert number is None or number == int((mine == value).sum())
            assert number is not None or not ties or rank == order.less + order.equal


RANDOM = np.random.default_rng(7)

LAYOUTS: dict[str, Callable[[], list[Member]]] = {
    "plain": lambda: [patterns_of(RANDOM.standard_normal(3000))],
    "sorted": lambda: [patterns_of(np.sort(np.abs(RANDOM.standard_normal(3000))))],
    "descending": lambda: [patterns_of(-np.sort(-np.abs(RANDOM.standard_normal(3000))))],
    "another scale": lambda: [patterns_of(RANDOM.standard_normal(n) * s) for n, s in ((200, 1), (4000, 1e6), (90, 1))],
    "all equal": lambda: [patterns_of(np.full(n, 0.5)) for n in (700, 800, 1)],
    "half zeros": lambda: [patterns_of(RANDOM.standard_normal(2000) * RANDOM.integers(0, 2, 2000)) for _ in range(2)],
    "few values": lambda: [patterns_of(RANDOM.integers(0, 4, 1500).astype(float)) for _ in range(3)],
    "one outlier": lambda: [patterns_of(np.r_[np.zeros(1999), 1e30])],
    "wide float64": lambda: [patterns_of(10.0 ** RANDOM.uniform(-308, 308, 3000), "F64")],
    "subnormals": lambda: [patterns_of(RANDOM.uniform(0, 1e-310, 2000), "F64"), patterns_of(np.zeros(9), "F64")],
    "bf16": lambda: [patterns_of(RANDOM.standard_normal(2000), "BF16") for _ in range(2)],
    "mixed": lambda: [patterns_of(RANDOM.standard_normal(400), name) for name in FLOATS],
    "mixed without float64": lambda: [
        patterns_of(RANDOM.standard_normal(400) * 0.02, name) for name in FLOATS if name != "F64"
    ],
    "16 bits and 32": lambda: [patterns_of(RANDOM.integers(0, 9, 900) / 8, name) for name in ("BF16", "F32", "F16")],
    "mixed, few values": lambda: [patterns_of(RANDOM.integers(0, 3, 300) / 2, name) for name in FLOATS],
    "mixed with infinities": lambda: [
        patterns_of(np.r_[RANDOM.standard_normal(100), [np.inf] * 30], name) for name in ("F64", "F32", "F16")
    ],
    "one each": lambda: [patterns_of(np.array([1.5]), name) for name in FLOATS],
    "one weight": lambda: [patterns_of(np.array([1.5]))],
}


def some_ranks(total: int) -> list[int]:
    """Return ranks at both ends and between."""
    ranks = {1, 2, total // 3, total // 2, total * 9 // 10, total - 1, total}
    return sorted(ranks & set(range(1, total + 1)))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("sampled", [False, True])
def test_statistics_are_those_of_sorting(layout: str, sampled: bool) -> None:  # noqa: FBT001
    """The value, the smaller and equal counts, and the counts per member are exact, in at most three passes."""
    members = LAYOUTS[layout]()
    samples = fair_samples(members) if sampled else None

    for rank in some_ranks(sum(patterns.size for _, patterns in members)):
        orders, passes = search(members, [rank], samples)
        check(members, [rank], orders)
        assert passes <= PASSES


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("lie", ["all zero", "all huge", "one value"])
def test_a_misleading_sample_costs_only_passes(layout: str, lie: str) -> None:
    """After a bracket that misses on either side the search looks outside it, and the result is the same."""
    members = LAYOUTS[layout]()
    name, patterns = members[0]
    picture = {"all zero": 0, "all huge": FLOATS[name].finite_max, "one value": int(patterns[0])}[lie]
    samples = [Sample(0, np.full(400, picture, patterns.dtype), 8)]

    for rank in some_ranks(sum(patterns.size for _, patterns in members)):
        orders, passes = search(members, [rank], samples)
        check(members, [rank], orders)
        assert passes <= PASSES


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("limit", [4, 50, 400])
def test_coarse_bins_give_exact_results(layout: str, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With less memory bins are wider, the right one is counted again, and the result is the same."""
    monkeypatch.setattr(kth_smallest, "HELD_LIMIT", 16 * limit)
    monkeypatch.setattr(kth_smallest, "BINS_BITS", max(limit.bit_length() - 1, 1))
    members = LAYOUTS[layout]()

    for rank in some_ranks(sum(patterns.size for _, patterns in members)):
        orders, passes = search(members, [rank])
        check(members, [rank], orders)
        assert passes <= 66  # each pass at least halves the bracket, of at most 63 bits


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("limit", [4, 1 << 20])
@pytest.mark.parametrize("sampled", [False, True])
def test_two_neighbouring_ranks_are_found_together(
    layout: str,
    limit: int,
    sampled: bool,  # noqa: FBT001
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The two ranks of a percentile are exact, also if they are in different bins."""
    monkeypatch.setattr(kth_smallest, "HELD_LIMIT", 16 * limit)
    monkeypatch.setattr(kth_smallest, "BINS_BITS", max(limit.bit_length() - 1, 1))
    members = LAYOUTS[layout]()
    total = sum(patterns.size for _, patterns in members)

    for rank in {1, total // 2 + 1, total - 1} & set(range(1, total)):
        pair = [rank, rank + 1]
        orders, _ = search(members, pair, fair_samples(members) if sampled else None, ties=False)
        check(members, pair, orders, ties=False)


@pytest.mark.parametrize(("low", "high"), [(0, 50), (50, 51), (60, 70), (10, 20), (51, 1 << 31)])
def test_two_ranks_on_both_sides_of_a_bracket_end_the_search(low: int, high: int) -> None:
    """The search ends for a bracket that contains one of two ranks, or neither."""
    patterns = np.arange(1, 101, dtype=np.int32)
    found = RankSearch(RankGroup((0,), (50, 51), ties=False), [FLOATS["F32"]], [100])
    found.low, found.high = low, high

    for _ in range(4):
        for member, first, width in found.brackets():
            found.add(member, *NumpyOps().below_and_inside(patterns, first, width))
        if found.advance():
            break

    assert [order.cuts[0] for order in found.statistics()] == [50, 51]


@settings(max_examples=examples(80))
@given(data=st.data())
def test_any_mixture_ranks_by_value(data: Any) -> None:  # noqa: ANN401
    """Random patterns of random formats, NaN excluded, have the ranks of their float64 values."""
    members = []
    for name in data.draw(st.lists(st.sampled_from(list(FLOATS)), min_size=1, max_size=4)):
        top = FLOATS[name].infinity or FLOATS[name].finite_max
        members.append(bits(name, data.draw(st.lists(st.integers(0, top), min_size=1, max_size=12))))
    rank = data.draw(st.integers(1, sum(patterns.size for _, patterns in members)))

    orders, passes = search(members, [rank], fair_samples(members) if data.draw(st.booleans()) else None)

    check(members, [rank], orders)
    assert passes <= PASSES


@pytest.mark.parametrize("limit", [4, 1 << 20])
def test_nan_ranks_above_infinity(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a mixture of dtypes exactly the NaNs rank above all numbers and infinities."""
    monkeypatch.setattr(kth_smallest, "HELD_LIMIT", 16 * limit)
    monkeypatch.setattr(kth_smallest, "BINS_BITS", max(limit.bit_length() - 1, 1))
    members = [bits(name, [0, 1, FLOATS[name].finite_max, FLOATS[name].top]) for name in FLOATS]
    members.append(bits("F32", [FLOATS["F32"].infinity or 0, 0x7F800001, 0x7FC00000]))
    total = sum(patterns.size for _, patterns in members)
    numbers = int((~np.isnan(everything(members))).sum())

    for rank in range(1, total + 1):
        ((order,), _) = search(members, [rank])
        below = sum(int((p.astype(np.int64) < cut).sum()) for (_, p), cut in zip(members, order.cuts, strict=True))
        assert np.isnan(order.value) == (rank > numbers)
        assert below == order.less < rank <= order.less + order.equal


def test_a_million_weights_take_one_or_two_passes() -> None:
    """With a fair sample one pass is enough, and a second is needed only if the cut goes through equals."""
    member = patterns_of(np.random.default_rng(1).standard_normal(1 << 20))
    samples = [Sample(0, member[1].reshape(-1, 1024)[::8].reshape(-1).copy(), 1024)]
    found = RankSearch(RankGroup((0,), (1 << 19,)), [FLOATS["F32"]], [1 << 20])

    found.narrow_to(samples)
    for at, low, width in found.brackets():
        found.add(at, *NumpyOps().below_and_inside(member[1], low, width))

    assert found.advance()
    check([member], [1 << 19], found.statistics())


@pytest.mark.parametrize("device", ["numpy", "torch"])
def test_a_tensor_in_memory_has_the_same_statistics(device: str) -> None:
    """`statistics_of` returns the statistics that sorting gives."""
    ops = NumpyOps() if device == "numpy" else TorchOps("cpu")
    name, patterns = patterns_of(np.random.default_rng(0).integers(0, 9, 500).astype(float), "F16")
    ranks = [1, 2, 250, 499, 500]

    check([(name, patterns)], ranks, statistics_of(ops, ops.load(patterns), ranks, FLOATS[name]))


# --- keys


@pytest.mark.parametrize("wide", ["F32", "F64"])
@pytest.mark.parametrize("name", [name for name in FLOATS if FLOATS[name].itemsize <= 2])
def test_narrow_undoes_widen(name: str, wide: str) -> None:
    """Every magnitude, also NaN, has a wider pattern in the same order, and the way back gives the same pattern."""
    dtype, common = FLOATS[name], FLOATS[wide]
    patterns = np.arange(dtype.top + 1)

    keys = widen(patterns.astype(np.int64), dtype, common)

    assert (np.diff(keys) > 0).all()
    assert np.array_equal(values(keys, common)[:-1], values(patterns, dtype)[:-1], equal_nan=True)
    assert patterns.tolist() == [narrow(key, dtype, common) for key in keys.tolist()]
    assert (patterns + 1).tolist() == [narrow(key + 1, dtype, common) for key in keys.tolist()]


def test_keys_are_float32_without_float64() -> None:
    """Keys have the width of the widest format."""
    assert [Keys([FLOATS[n] for n in ns]).common.name for ns in (["F16"], ["BF16", "F16"], ["F8_E4M3", "F64"])] == [
        "F16",
        "F32",
        "F64",
    ]


@pytest.mark.parametrize("name", FLOATS)
def test_values_are_what_patterns_decode_to(name: str) -> None:
    """The conversion of arrays gives each pattern the value that its format decodes to."""
    dtype = FLOATS[name]
    patterns = np.unique(np.r_[np.arange(99) * (dtype.mask // 99), 1, dtype.finite_max, dtype.mask])
    kind = INTS[max(dtype.itemsize, 2)]

    got = values(patterns.astype(kind), dtype)

    assert [repr(dtype.decode(at)) for at in patterns.tolist()] == [repr(value) for value in got.tolist()]
