"""Global cuts by normalised scores against sorting every score, served tile by tile in random order."""

from __future__ import annotations

from fractions import Fraction
from math import inf, sqrt
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import SHARED
from torch import nn
from torch.nn.utils import prune

from prunecli.dtypes import FLOATS, Float
from prunecli.errors import CheckpointError, UsageError
from prunecli.formats.open import open_checkpoint
from prunecli.io.scan import scan_tensors
from prunecli.kernels.bit_patterns import values
from prunecli.kernels.numpy_ops import NumpyOps
from prunecli.kernels.ops import INTS
from prunecli.kernels.squares import quantum, square_sum
from prunecli.ranking import normalized_cut as room
from prunecli.ranking.normalized_cut import CountRequest, NormalizedCutSearch
from prunecli.ranking.normalized_scores import KINDS
from prunecli.selection.select import Selector, select

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from prunecli.plans import Cut

Member = tuple[str, "NDArray[Any]"]
"""A dtype's name, and magnitudes as patterns, -1 for a weight that is gone already."""

RANDOM = np.random.default_rng(11)


def member(numbers: Sequence[float] | NDArray[np.float64], name: str = "F32") -> Member:
    """Return the magnitudes of `numbers` in a format of `name`, in the width that the kernels use."""
    dtype, floats = FLOATS[name], np.abs(np.asarray(numbers, np.float64))
    if name in {"F64", "F32", "F16"}:
        with np.errstate(over="ignore"):
            return name, floats.astype(f"<f{dtype.itemsize}").view(INTS[dtype.itemsize])
    patterns = [dtype.encode(x) if x < inf else dtype.finite_max + 1 for x in floats.tolist()]
    return name, np.array(patterns, INTS[max(dtype.itemsize, 2)])


# --- what is right


def sums_from_the_top(patterns: Sequence[int], dtype: Float) -> list[Fraction]:
    """Return, for patterns in ascending order, the exact sum of squares of each and all after it."""
    sums, total = [], Fraction(0)
    for bits in reversed(patterns):
        total += Fraction(dtype.decode(bits)) ** 2 if bits <= dtype.finite_max else 0
        sums.append(total)
    return sums[::-1]


def scores(kind: str, name: str, patterns: Sequence[int]) -> list[float]:
    """Return the scores of patterns in ascending order, by the definitions, with exact sums rounded once."""
    dtype = FLOATS[name]
    sums = sums_from_the_top(patterns, dtype)
    finite = sum(bits <= dtype.finite_max for bits in patterns)
    found = []
    for bits, after in zip(patterns, sums, strict=True):
        w = dtype.decode(bits)
        if bits > dtype.finite_max:
            found.append(inf)
        elif kind == "none":
            found.append(w)
        elif not sums[0]:
            found.append(0.0)
        elif kind == "lamp":
            found.append(w * w / float(after))
        else:
            found.append(w / sqrt(float(sums[0] / (finite if kind == "rms" else 1))))
    return found


def by_sorting(kind: str, members: Sequence[Member], bounds: Sequence[tuple[int, int]], k: int) -> list[int] | None:
    """Return how many weights go from each member, by sorting every score; None where that cannot be."""
    rest, counts, competing = k, [], []
    for at, ((name, patterns), (lo, hi)) in enumerate(zip(members, bounds, strict=True)):
        left = np.sort(patterns[patterns >= 0]).tolist()
        high = min(hi, max(len(left) - (kind == "lamp"), 0))
        if lo > high:
            return None
        counts.append(lo)
        rest -= lo
        competing += [(s, at, rank) for rank, s in enumerate(scores(kind, name, left)) if lo <= rank < high]
    if not 0 <= rest <= len(competing):
        return None
    for _, at, _ in sorted(competing)[:rest]:
        counts[at] += 1
    return counts


# --- driving it


def drive(
    kind: str, members: Sequence[Member], bounds: Sequence[tuple[int, int]], k: int, *, tile: int = 100, seed: int = 0
) -> tuple[NormalizedCutSearch, int]:
    """Serve tiles in a random order until the cut is known; return the search and how many passes it took."""
    found, random = (
        NormalizedCutSearch([FLOATS[name] for name, _ in members], kind, bounds, k),
        np.random.default_rng(seed),
    )
    for passes in range(1, 100):
        tiles = [(want, at) for want in found.wanted() for at in range(0, members[want.member][1].size, tile)]
        for index in random.permutation(len(tiles)):
            want, at = tiles[index]
            found.add(want, want.count(members[want.member][1][at : at + tile]))
        if found.advance():
            return found, passes
    raise RuntimeError("the search does not end")


def free(members: Sequence[Member]) -> list[tuple[int, int]]:
    """Return bounds that do not bind."""
    return [(0, patterns.size) for _, patterns in members]


def check_cuts(members: Sequence[Member], counts: Sequence[int], cuts: Sequence[Cut]) -> None:
    """Compare each cut with its member's patterns in order: what goes, how many equals there are and go."""
    for (name, patterns), count, cut in zip(members, counts, cuts, strict=True):
        left = np.sort(patterns[patterns >= 0]).astype(np.int64)
        assert count == int((left < cut.bits).sum()) + cut.ties
        if not count:
            assert (cut.bits, cut.ties) == (0, 0)
            continue
        last = int(left[count - 1])
        assert cut.bits == last + (cut.ties == 0)
        assert int((left == last).sum()) == cut.equal
        assert count - int((left < last).sum()) == cut.equal_pruned
        value = FLOATS[name].decode(last)
        assert cut.value == value or value != value  # noqa: PLR0124 - NaN


def check(kind: str, members: Sequence[Member], bounds: Sequence[tuple[int, int]], k: int, **how: int) -> int:
    """Compare with sorting everything, and return how many passes it took."""
    expected = by_sorting(kind, members, bounds, k)
    if expected is None:
        with pytest.raises(UsageError):
            drive(kind, members, bounds, k, **how)
        return 0
    found, passes = drive(kind, members, bounds, k, **how)
    assert expected == found.counts()
    check_cuts(members, expected, found.cuts())
    return passes


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


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_cut_is_what_sorting_all_scores_gives(layout: str, kind: str) -> None:
    """For every kind, data and count the weights that go are the k of smallest score, in at most three passes."""
    members = LAYOUTS[layout]
    total = sum(int((patterns >= 0).sum()) for _, patterns in members)

    for k in sorted({0, 1, total // 3, total // 2, total * 9 // 10, total - len(members), total - 1, total}):
        if k >= 0:
            assert check(kind, members, free(members), k) <= 3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_bounds_hold_and_the_others_make_up_for_them(layout: str, kind: str) -> None:
    """A tensor at its bound loses exactly that many, and the total is what was asked for."""
    members = LAYOUTS[layout]
    sizes = [int((patterns >= 0).sum()) for _, patterns in members]

    for low, high in ((0.3, 0.7), (0.5, 0.5), (0.0, 0.2), (0.6, 1.0)):
        bounds = [(int(low * size), round(high * size)) for size in sizes]
        least, most = (sum(ends) for ends in zip(*bounds, strict=True))
        for k in {least, (least + most) // 2, most}:
            check(kind, members, bounds, k)


NAMES = st.sampled_from(sorted(FLOATS))


@st.composite
def some_members(draw: st.DrawFn) -> list[Member]:
    """Draw up to four small tensors of any patterns, many of them equal, some gone already."""
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


@settings(max_examples=150, deadline=None)
@given(st.data(), some_members(), st.sampled_from(KINDS), st.integers(0, 9), st.sampled_from([1, 7, 100]))
def test_any_small_tensors(data: st.DataObject, members: list[Member], kind: str, seed: int, tile: int) -> None:
    """Ties, zeros, NaN, mixed dtypes, weights gone already and bounds: always what sorting gives."""
    sizes = [int((patterns >= 0).sum()) for _, patterns in members]
    bounds = []
    for size in sizes:
        low = data.draw(st.integers(0, size // 2))
        bounds.append((low, data.draw(st.integers(low, size))))
    k = data.draw(st.integers(0, sum(sizes)))

    check(kind, members, bounds, k, seed=seed, tile=tile)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, FLOATS["F64"].finite_max), min_size=1, max_size=12), min_size=1, max_size=3),
    st.sampled_from(KINDS),
    st.floats(0, 1),
)
def test_float64_of_any_size(parts: list[list[int]], kind: str, share: float) -> None:
    """Squares that no float64 holds overflow nothing: the order within tensors and the total still hold."""
    members = [("F64", np.array(part, np.int64)) for part in parts]
    most = sum(map(len, parts)) - (len(parts) if kind == "lamp" else 0)
    k = round(share * most)

    found, _ = drive(kind, members, free(members), k)

    assert k == sum(found.counts())
    check_cuts(members, found.counts(), found.cuts())
    gone, stays = [Fraction(0)], []
    for (_, patterns), count in zip(members, found.counts(), strict=True):
        squares = squared_scores(kind, np.sort(patterns).tolist())
        gone += squares[:count]
        stays += squares[count : len(squares) - (kind == "lamp")]
    least = min(stays, default=max(gone))
    assert max(gone) <= max(least * (1 + Fraction(1, 10**12)), Fraction(1, 2**900))


def squared_scores(kind: str, patterns: Sequence[int]) -> list[Fraction]:
    """Return what orders float64 weights as their scores do, as exact fractions."""
    dtype = FLOATS["F64"]
    sums = sums_from_the_top(patterns, dtype)
    squares = [Fraction(dtype.decode(bits)) ** 2 for bits in patterns]
    if kind == "none" or not sums[0]:
        return squares
    if kind == "lamp":
        return [square / total if total else square for square, total in zip(squares, sums, strict=True)]
    return [square / sums[0] * (len(patterns) if kind == "rms" else 1) for square in squares]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("limit", [1, 100, 3000])
def test_little_memory_costs_passes_and_nothing_else(kind: str, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With little room the search looks finer step by step and ends at the same cut."""
    members = [member(RANDOM.standard_normal(4000) * s, n) for s, n in ((1, "F32"), (0.1, "F64"), (3, "BF16"))]
    expected, _ = drive(kind, members, free(members), 5000)
    monkeypatch.setattr(room, "HELD_LIMIT", limit)

    found, _ = drive(kind, members, free(members), 5000)

    assert expected.cuts() == found.cuts()


@pytest.mark.parametrize("kind", KINDS)
def test_many_tensors_are_looked_at_more_coarsely_first(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With many tensors the first pass tells fewer bits apart, and the cut is the same."""
    names = ("BF16", "F16", "F32", "F64", "F8_E4M3")
    numbers = [RANDOM.standard_normal(6) * (1 + at % 3) for at in range(130)]
    members = [member([*some, inf], names[at % 4]) for at, some in enumerate(numbers)]
    members += [member(some, names[4]) for some in numbers[:9]]
    counts = (100, 500, 800)
    expected = [drive(kind, members, free(members), k)[0].cuts() for k in counts]
    monkeypatch.setattr(room, "MANY", 1)

    for k, cuts in zip(counts, expected, strict=True):
        found, passes = drive(kind, members, free(members), k)
        assert cuts == found.cuts()
        assert passes > 1


@pytest.mark.parametrize("kind", KINDS)
def test_tiles_and_their_order_change_nothing(kind: str) -> None:
    """The same weights give the same bits of the same cut, however they are served."""
    members = [member(RANDOM.standard_normal(5000) * s) for s in (1, 0.3)] * 2
    expected, _ = drive(kind, members, free(members), 9000)

    for seed, tile in ((1, 64), (2, 997), (3, 5000)):
        assert expected.cuts() == drive(kind, members, free(members), 9000, seed=seed, tile=tile)[0].cuts()


def test_sixteen_bits_take_one_pass_and_float32_two() -> None:
    """As long as the runs fit in memory."""
    halves = [member(RANDOM.standard_normal(2000), "F16"), member(RANDOM.standard_normal(2000), "BF16")]
    singles = [member(RANDOM.standard_normal(2000)) for _ in range(2)]

    assert [drive(kind, halves, free(halves), 2000)[1] for kind in KINDS] == [1] * 4
    assert [drive(kind, singles, free(singles), 2000)[1] for kind in KINDS] == [2] * 4


# --- against torch and the published LAMP


@pytest.mark.parametrize("kind", ["none", "l2", "rms"])
def test_global_unstructured_with_scaled_scores(kind: str) -> None:
    """`global_unstructured` with importance scores of |w| over the norm prunes as many of each tensor."""
    generator = torch.Generator().manual_seed(3)
    layers = [nn.Linear(30, size) for size in (20, 50, 7)]
    for at, layer in enumerate(layers):
        layer.weight.data = torch.randn(layer.weight.shape, generator=generator) * 10.0**-at
    wide = [layer.weight.detach().double() for layer in layers]
    divisors = [{"none": 1.0, "l2": w.norm(), "rms": w.square().mean().sqrt()}[kind] for w in wide]
    importance = {(layer, "weight"): w.abs() / d for layer, w, d in zip(layers, wide, divisors, strict=True)}
    members = [member(w.numpy().reshape(-1)) for w in wide]

    prune.global_unstructured(list(importance), prune.L1Unstructured, importance_scores=importance, amount=1200)
    found, _ = drive(kind, members, free(members), 1200)

    assert [layer.weight.numel() - int(layer.get_buffer("weight_mask").sum()) for layer in layers] == found.counts()


def published_lamp(weights: Sequence[NDArray[np.float64]], k: int) -> list[int]:
    """Return how many weights go from each tensor: scores as published, the sums in float64 from the largest down."""
    parts = []
    for w in weights:
        squares = np.sort(np.square(w.reshape(-1)))
        sums = np.cumsum(squares[::-1])[::-1]
        parts.append(np.divide(squares, sums, out=np.zeros_like(squares), where=sums > 0))
    owner = np.repeat(np.arange(len(parts)), [part.size for part in parts])
    first = np.argsort(np.concatenate(parts), kind="stable")[:k]
    return [int(np.count_nonzero(owner[first] == at)) for at in range(len(parts))]


@pytest.mark.parametrize("amount", [0.1, 0.5, 0.9, 0.99])
def test_lamp_as_published(amount: float) -> None:
    """LAMP takes from each tensor as many weights as the published scores do."""
    weights = [RANDOM.standard_normal(n) * s for n, s in ((4000, 1), (900, 20), (50, 1e-4))]
    weights = [w.astype(np.float32).astype(np.float64) for w in weights]
    members = [member(w) for w in weights]
    k = round(amount * 4950)

    assert published_lamp(weights, k) == drive("lamp", members, free(members), k)[0].counts()


def test_lamp_leaves_every_tensor_a_weight() -> None:
    """The largest weight of each tensor stays, however little it is; one more is refused with what can be typed."""
    members = [member([1e-30, 1e-31]), member([5.0]), member(np.zeros(3)), member([1e9] * 4, "BF16")]

    found, _ = drive("lamp", members, free(members), 6)

    assert found.counts() == [1, 0, 2, 3]
    with pytest.raises(UsageError, match="LAMP keeps one of every tensor, so at most 6 can") as error:
        drive("lamp", members, free(members), 7)
    assert error.value.hint == "--count 6"
    with pytest.raises(UsageError, match="LAMP keeps one"):  # before anything is read, where the sizes are known
        NormalizedCutSearch(
            [FLOATS[name] for name, _ in members], "lamp", free(members), 7, [y.size for _, y in members]
        )


REAL = {
    "resnet20-12fca82f.th",
    "taef2_decoder.pth",
    "burn-mnist.safetensors",
    "TinyPeLLM-pytorch_model.bin",
    "AaronNet32plus.pth",
}


@pytest.mark.skipif(not (SHARED / "checkpoints").is_dir(), reason="needs the shared checkpoints")
@pytest.mark.parametrize("name", sorted(REAL))
def test_real_checkpoints(name: str) -> None:
    """On trained weights the counts are those of sorting float64 scores, and LAMP's those of the published ones."""
    checkpoint = open_checkpoint(SHARED / "checkpoints" / name)
    tensors = [target.tensor for target in select(checkpoint, Selector()).targets]
    members = scan_tensors(
        checkpoint,
        tensors,
        lambda _, t, read: (t.dtype, NumpyOps().magnitudes(read(0, t.numel), FLOATS[t.dtype]).copy()),
    )
    weights = [values(patterns, FLOATS[dtype]) for dtype, patterns in members]
    total = sum(w.size for w in weights)

    for amount in (0.5, 0.9):
        k = round(amount * total)
        assert published_lamp(weights, k) == drive("lamp", members, free(members), k, tile=1 << 15)[0].counts()
        for kind, scale in (("none", lambda _: 1.0), ("l2", np.linalg.norm), ("rms", lambda w: sqrt(np.mean(w * w)))):
            ranked = np.concatenate([w / (scale(w) or 1.0) for w in weights])
            owner = np.repeat(np.arange(len(weights)), [w.size for w in weights])
            expected = np.bincount(owner[np.argsort(ranked, kind="stable")[:k]], minlength=len(weights)).tolist()
            assert expected == drive(kind, members, free(members), k, tile=1 << 15)[0].counts()


# --- sums and refusals


@settings(max_examples=80, deadline=None)
@given(st.data(), NAMES)
def test_sums_of_squares_are_exact(data: st.DataObject, name: str) -> None:
    """The whole number of squared quanta is the sum of the squares as fractions, with counts or without."""
    dtype = FLOATS[name]
    patterns = data.draw(st.lists(st.integers(0, dtype.top), max_size=20))
    counts = data.draw(st.lists(st.integers(0, 1 << 30), min_size=len(patterns), max_size=len(patterns)))
    squares = [Fraction(dtype.decode(p)) ** 2 if p <= dtype.finite_max else Fraction(0) for p in patterns]
    array, unit = np.array(patterns, INTS[max(dtype.itemsize, 2)]), Fraction(2) ** (2 * quantum(dtype))

    assert sum(squares, Fraction(0)) == square_sum(array, dtype) * unit
    weighted = sum((c * s for c, s in zip(counts, squares, strict=True)), Fraction(0))
    assert weighted == square_sum(array, dtype, np.array(counts, np.int64)) * unit


@pytest.mark.parametrize(
    ("bounds", "k", "told"),
    [
        ([(2, 3), (2, 3)], 3, "3 weights are to go, but --min-per-tensor makes at least 4 go"),
        ([(0, 3), (0, 1)], 5, "5 weights are to go, but --max-per-tensor sets limits, so at most 4 can"),
    ],
)
def test_counts_that_the_bounds_do_not_allow(bounds: list[tuple[int, int]], k: int, told: str) -> None:
    """They are refused before anything is read, with a count that would do."""
    with pytest.raises(UsageError, match=told) as error:
        NormalizedCutSearch([FLOATS["F32"]] * 2, "l2", bounds, k)
    assert error.value.hint == "--count 4"


def test_a_least_share_that_lamp_cannot_give() -> None:
    """A tensor that must lose all it has and must keep one is refused."""
    with pytest.raises(UsageError, match="of a tensor of 2 weights at least 2 are to go, but at most 1 can"):
        drive("lamp", [member([1.0, 2.0]), member([3.0] * 9)], [(2, 2), (0, 9)], 5)


def test_weights_that_change_between_passes() -> None:
    """A second pass that sees other weights than the first ends in an error that says so."""
    found = NormalizedCutSearch([FLOATS["F32"]], "l2", [(0, 4)], 2)
    for numbers in ([1.0, 2.0, 3.0, 4.0], [8.0, 9.0, 9.5, 10.0]):
        for want in found.wanted():
            found.add(want, want.count(member(numbers)[1]))
        if numbers[0] == 1.0:
            assert not found.advance()

    with pytest.raises(CheckpointError, match="changed while they were being read"):
        found.advance()


def test_counting_changes_nothing_and_skips_what_is_gone() -> None:
    """A tile is left as it was; its negative entries, and what is outside the range, do not count."""
    y = np.array([-1, 5, 7, 7, 9, -1, 200], "<i4")
    before = y.copy()

    seen = CountRequest(0, FLOATS["F32"], 4, 9, 0, above=9).count(y)

    assert (seen.bins.tolist(), seen.counts.tolist()) == ([5, 7], [1, 2])
    assert seen.squares == 9 * 9 + 200 * 200
    assert before.tolist() == y.tolist()
