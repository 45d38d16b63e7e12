"""Global cuts by normalised scores, compared with sorting every score."""

from __future__ import annotations

from fractions import Fraction
from math import inf
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import examples
from support.normalized import Member, check, check_cuts, cut_search, drive, member, no_limits, sums_from_the_top

from prunecli.dtypes import FLOATS
from prunecli.errors import CheckpointError, UsageError
from prunecli.kernels.arrays import INTS
from prunecli.ranking import normalized_cut
from prunecli.ranking.normalized_cut import CountRequest
from prunecli.strategies.unstructured import NORMALIZE

if TYPE_CHECKING:
    from collections.abc import Sequence

RANDOM = np.random.default_rng(11)

LAYOUTS: dict[str, list[Member]] = {
    "one": [member(RANDOM.standard_normal(700))],
    "scales": [member(RANDOM.standard_normal(n) * s) for n, s in ((300, 1e-6), (500, 1), (40, 1e7))],
    "twins": [member(np.linspace(0.1, 3, 200))] * 3,
    "few values": [member(RANDOM.integers(0, 4, 300).astype(float)) for _ in range(3)],
    "half zeros": [member(RANDOM.standard_normal(300) * RANDOM.integers(0, 2, 300)) for _ in range(2)],
    "all zero": [member(np.zeros(50)), member(RANDOM.standard_normal(100)), member(np.zeros(1))],
    "only zeros": [member(np.zeros(50)), member(np.zeros(70), "BF16")],
    "bf16": [member(RANDOM.standard_normal(400) * s, "BF16") for s in (1, 0.02)],
    "ties": [member(np.full(n, 0.5), "F16") for n in (90, 30, 1)] + [member([0.25] * 40)],
    "float64": [member(RANDOM.standard_normal(300), "F64"), member(RANDOM.standard_normal(200) * 1e9, "F64")],
    "every dtype": [member(RANDOM.standard_normal(60), name) for name in FLOATS],
    "non-finite": [
        member(np.r_[RANDOM.standard_normal(50), [inf] * 9]),
        ("F32", np.array([0x7FC00001, 0x7F800001, 0x7FFFFFFF, 0x7F800000, 3], "<i4")),
        ("F8_E5M2FNUZ", np.array([0x80, 0x7F, 1], np.int16)),
    ],
    "masked": [("F32", np.where(RANDOM.random(300) < 0.5, -1, member(RANDOM.standard_normal(300))[1]))],
    "empty": [member([]), member([1.0]), member([2.0, 1.0])],
    "subnormal": [("F32", RANDOM.integers(0, 1 << 23, 200).astype("<i4")), member(RANDOM.standard_normal(100))],
}


@pytest.mark.parametrize("kind", NORMALIZE)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_cut_is_what_sorting_all_scores_gives(layout: str, kind: str) -> None:
    """For every score, data and count, the k weights with the smallest scores are pruned, in at most three passes."""
    members = LAYOUTS[layout]
    total = sum(int((patterns >= 0).sum()) for _, patterns in members)

    for k in sorted({0, 1, total // 3, total // 2, total * 9 // 10, total - len(members), total - 1, total}):
        if k >= 0:
            assert check(kind, members, no_limits(members), k) <= 3


@pytest.mark.parametrize("kind", NORMALIZE)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_limits_hold_and_the_total_is_exact(layout: str, kind: str) -> None:
    """A tensor at its limit loses exactly that many weights, and the total is the requested one."""
    members = LAYOUTS[layout]
    sizes = [int((patterns >= 0).sum()) for _, patterns in members]

    for low, high in ((0.3, 0.7), (0.5, 0.5), (0.0, 0.2), (0.6, 1.0)):
        bounds = [(int(low * size), round(high * size)) for size in sizes]
        least, most = (sum(ends) for ends in zip(*bounds, strict=True))
        for k in {least, (least + most) // 2, most}:
            check(kind, members, bounds, k)


@pytest.mark.parametrize("kind", NORMALIZE)
@pytest.mark.parametrize("name", FLOATS)
def test_few_leading_bits_do_not_mix_numbers_with_nan(name: str, kind: str) -> None:
    """A first pass by few bits gives the cuts of sorting, also in formats whose NaN follows the largest number."""
    dtype = FLOATS[name]
    largest = dtype.encode(1e9) if name == "F64" else dtype.finite_max  # whose square is a float64
    members = [(name, np.r_[member(RANDOM.standard_normal(90), name)[1], [largest, dtype.top] * 3])] * 2
    for leading in (1, 4, 5):
        for k in (1, 60, 190):
            check(kind, members, no_limits(members), k, leading=leading)


NAMES = st.sampled_from(sorted(FLOATS))


@st.composite
def some_members(draw: st.DrawFn) -> list[Member]:
    """Draw up to four small tensors of any patterns, many of them equal, some already pruned."""
    found = []
    for name in draw(st.lists(NAMES, min_size=1, max_size=4)):
        dtype = FLOATS[name]
        pool = draw(st.lists(st.integers(0, dtype.top), min_size=1, max_size=6))
        usual = [dtype.encode(value) for value in (0.0, 0.5, 1.0, 1.5)]
        patterns = draw(st.lists(st.sampled_from([-1, *pool, *usual]), max_size=25))
        if name == "F64":  # squares that a float64 holds, so that the definition can be followed as it is written
            patterns = [bits for bits in patterns if bits <= 0 or 1e-140 < dtype.decode(bits) < 1e150]
        found.append((name, np.array(patterns, INTS[max(dtype.itemsize, 2)])))
    return found


@settings(max_examples=examples(150))
@given(st.data(), some_members(), st.sampled_from(NORMALIZE), st.integers(0, 9), st.sampled_from([1, 7, 100]))
def test_any_small_tensors(data: st.DataObject, members: list[Member], kind: str, seed: int, chunk: int) -> None:
    """With ties, zeros, NaN, mixed dtypes, already pruned weights and limits, the result is that of sorting."""
    sizes = [int((patterns >= 0).sum()) for _, patterns in members]
    bounds = []
    for size in sizes:
        low = data.draw(st.integers(0, size // 2))
        bounds.append((low, data.draw(st.integers(low, size))))
    k = data.draw(st.integers(0, sum(sizes)))

    check(kind, members, bounds, k, seed=seed, chunk=chunk)


@settings(max_examples=examples(60))
@given(
    st.lists(st.lists(st.integers(0, FLOATS["F64"].finite_max), min_size=1, max_size=12), min_size=1, max_size=3),
    st.sampled_from(NORMALIZE),
    st.floats(0, 1),
)
def test_float64_of_any_size(parts: list[list[int]], kind: str, share: float) -> None:
    """Squares beyond float64 do not overflow: the order within tensors and the total are still right."""
    members = [("F64", np.array(part, np.int64)) for part in parts]
    most = sum(map(len, parts)) - (len(parts) if kind == "lamp" else 0)
    k = round(share * most)

    search, _ = drive(kind, members, no_limits(members), k)

    assert k == sum(search.counts())
    check_cuts(members, search.counts(), search.cuts())
    pruned, kept = [Fraction(0)], []
    for (_, patterns), count in zip(members, search.counts(), strict=True):
        squares = squared_scores(kind, np.sort(patterns).tolist())
        pruned += squares[:count]
        kept += squares[count : len(squares) - (kind == "lamp")]
    least = min(kept, default=max(pruned))
    assert max(pruned) <= max(least * (1 + Fraction(1, 10**12)), Fraction(1, 2**900))


def squared_scores(kind: str, patterns: Sequence[int]) -> list[Fraction]:
    """Return exact fractions in the same order as the scores of float64 weights."""
    dtype = FLOATS["F64"]
    sums = sums_from_the_top(patterns, dtype)
    squares = [Fraction(dtype.decode(bits)) ** 2 for bits in patterns]
    if kind == "none" or not sums[0]:
        return squares
    if kind == "lamp":
        return [square / total if total else square for square, total in zip(squares, sums, strict=True)]
    return [square / sums[0] * (len(patterns) if kind == "rms" else 1) for square in squares]


@pytest.mark.parametrize("kind", NORMALIZE)
@pytest.mark.parametrize("limit", [1, 100, 3000])
def test_less_memory_costs_only_passes(kind: str, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With less memory the search needs more passes and finds the same cut."""
    members = [member(RANDOM.standard_normal(4000) * s, n) for s, n in ((1, "F32"), (0.1, "F64"), (3, "BF16"))]
    expected, _ = drive(kind, members, no_limits(members), 5000)
    monkeypatch.setattr(normalized_cut, "HELD_LIMIT", limit)

    search, _ = drive(kind, members, no_limits(members), 5000)

    assert expected.cuts() == search.cuts()


@pytest.mark.parametrize("kind", NORMALIZE)
def test_many_tensors_are_counted_more_coarsely_first(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With many tensors the first pass uses fewer bits, and the cut is the same."""
    names = ("BF16", "F16", "F32", "F64", "F8_E4M3")
    numbers = [RANDOM.standard_normal(6) * (1 + at % 3) for at in range(130)]
    members = [member([*some, inf], names[at % 4]) for at, some in enumerate(numbers)]
    members += [member(some, names[4]) for some in numbers[:9]]
    counts = (100, 500, 800)
    expected = [drive(kind, members, no_limits(members), k)[0].cuts() for k in counts]
    monkeypatch.setattr(normalized_cut, "MANY", 1)

    for k, cuts in zip(counts, expected, strict=True):
        search, passes = drive(kind, members, no_limits(members), k)
        assert cuts == search.cuts()
        assert passes > 1


@pytest.mark.parametrize("kind", NORMALIZE)
def test_chunks_and_their_order_change_nothing(kind: str) -> None:
    """The cut does not depend on the size and the order of the chunks."""
    members = [member(RANDOM.standard_normal(5000) * s) for s in (1, 0.3)] * 2
    expected, _ = drive(kind, members, no_limits(members), 9000)

    for seed, chunk in ((1, 64), (2, 997), (3, 5000)):
        assert expected.cuts() == drive(kind, members, no_limits(members), 9000, seed=seed, chunk=chunk)[0].cuts()


def test_sixteen_bits_take_one_pass_and_float32_two() -> None:
    """If the runs fit in memory, 16-bit dtypes are counted once and float32 twice."""
    halves = [member(RANDOM.standard_normal(2000), "F16"), member(RANDOM.standard_normal(2000), "BF16")]
    singles = [member(RANDOM.standard_normal(2000)) for _ in range(2)]

    assert [drive(kind, halves, no_limits(halves), 2000)[1] for kind in NORMALIZE] == [1] * 4
    assert [drive(kind, singles, no_limits(singles), 2000)[1] for kind in NORMALIZE] == [2] * 4


def test_lamp_keeps_a_weight_of_every_tensor() -> None:
    """The largest weight of each tensor is kept, however small; a larger count is refused."""
    members = [member([1e-30, 1e-31]), member([5.0]), member(np.zeros(3)), member([1e9] * 4, "BF16")]

    search, _ = drive("lamp", members, no_limits(members), 6)

    assert search.counts() == [1, 0, 2, 3]
    with pytest.raises(UsageError, match="LAMP keeps one weight of every tensor, so at most 6 can be pruned") as error:
        drive("lamp", members, no_limits(members), 7)
    assert error.value.hint == "count=6"
    with pytest.raises(UsageError, match="LAMP keeps one"):  # before any weight is read, if the sizes are known
        cut_search([name for name, _ in members], "lamp", no_limits(members), 7, [y.size for _, y in members])


# --- refusals


@pytest.mark.parametrize(
    ("bounds", "k", "message"),
    [
        ([(2, 3), (2, 3)], 3, "the amount is 3 weights, but the minimum per tensor is 4 in all"),
        ([(0, 3), (0, 1)], 5, "the amount is 5 weights, but tensors have a maximum, so at most 4 can be pruned"),
    ],
)
def test_counts_outside_the_limits_are_refused(bounds: list[tuple[int, int]], k: int, message: str) -> None:
    """They are refused before any weight is read, with a count that is possible."""
    with pytest.raises(UsageError, match=message) as error:
        cut_search(["F32"] * 2, "l2", bounds, k)
    assert error.value.hint == "count=4"


def test_a_minimum_that_lamp_cannot_reach_is_refused() -> None:
    """A tensor cannot lose all of its weights and keep one."""
    with pytest.raises(UsageError, match="a tensor of 2 weights must lose at least 2 of them, but can lose only 1"):
        drive("lamp", [member([1.0, 2.0]), member([3.0] * 9)], [(2, 2), (0, 9)], 5)


def test_weights_that_change_between_passes_are_an_error() -> None:
    """A second pass over other weights than the first raises CheckpointError."""
    search = cut_search(["F32"], "l2", [(0, 4)], 2)
    for numbers in ([1.0, 2.0, 3.0, 4.0], [8.0, 9.0, 9.5, 10.0]):
        for request in search.requests():
            search.add(request, request.count(member(numbers)[1]))
        if numbers[0] == 1.0:
            assert not search.advance()

    with pytest.raises(CheckpointError, match="changed while they were read"):
        search.advance()


def test_counting_changes_nothing_and_ignores_pruned_weights() -> None:
    """The chunk is not changed; negative patterns and patterns outside the range do not count."""
    y = np.array([-1, 5, 7, 7, 9, -1, 200], "<i4")
    before = y.copy()

    result = CountRequest(0, FLOATS["F32"], 4, 9, 0, above=9).count(y)

    assert (result.bins.tolist(), result.counts.tolist()) == ([5, 7], [1, 2])
    assert result.squares == 9 * 9 + 200 * 200
    assert before.tolist() == y.tolist()
