"""What each strategy plans, against torch.nn.utils.prune, NumPy and plain definitions."""

from __future__ import annotations

from math import inf, nan
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch.nn.utils.prune import _compute_nparams_toprune

from prunecli.checkpoint import Span, TensorInfo, row_major
from prunecli.dtypes import FLOATS
from prunecli.errors import SelectionError, UsageError
from prunecli.kernels.numpy_ops import NumpyOps
from prunecli.kernels.ops import INTS
from prunecli.plans import Cut, KeepLargestOfGroup, OrderStatistic
from prunecli.ranking.kth_smallest import statistics_of
from prunecli.strategies.amounts import check_amount, cut_above, exact_cuts, resolve_count
from prunecli.strategies.semi_structured import TopK
from prunecli.strategies.unstructured import Global, Percentile, StdThreshold, Threshold

if TYPE_CHECKING:
    from numpy.typing import NDArray

Q_IS_DOUBLE = np.lib.NumpyVersion(np.__version__) >= "2.4.0"
"""NumPy 2.0 to 2.3 round the rank of a float32 percentile to float32; before and after it is a float64."""


def tensor(*shape: int, dtype: str = "F32", name: str = "a.weight") -> TensorInfo:
    """Make a contiguous tensor."""
    return TensorInfo(name, dtype, shape, row_major(shape), 0, Span(0, 8 * int(np.prod(shape))))


def name_of(values: NDArray[Any]) -> str:
    """Return the dtype's name in files."""
    return f"F{8 * values.itemsize}"


def percentile_cut(values: NDArray[Any], q: float) -> Cut:
    """Plan a percentile for magnitudes that are at hand."""
    info, strategy = tensor(values.size, dtype=name_of(values)), Percentile(q)
    (group,) = strategy.groups([info], [info.numel])
    patterns = values.view(INTS[values.itemsize])
    (cut,) = strategy.cuts([info], statistics_of(NumpyOps(), patterns, group.ranks, FLOATS[info.dtype]), [info.numel])
    return cut


def pruned_by(cut: Cut, values: NDArray[Any]) -> list[bool]:
    """Tell which magnitudes a cut without ties prunes."""
    assert cut.ties == 0
    found: list[bool] = (values.view(INTS[values.itemsize]) < cut.bits).tolist()
    return found


# --- amounts


@settings(max_examples=100, deadline=None)
@given(numel=st.integers(0, 10_000), amount=st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])))
def test_an_amount_is_rounded_as_torch_rounds_it(numel: int, amount: float) -> None:
    """The count is torch.nn.utils.prune's number for a fraction, half to even."""
    expected = _compute_nparams_toprune(amount, numel)  # type: ignore[no-untyped-call]

    assert expected == resolve_count(amount, None, numel)


def test_halves_go_to_the_even_count() -> None:
    """Half of 5 is 2 and half of 7 is 4."""
    assert [resolve_count(0.5, None, numel) for numel in (1, 3, 5, 7, 9)] == [0, 2, 2, 4, 4]


@pytest.mark.parametrize("count", [0, 1, 10])
def test_a_count_is_taken_as_it_is(count: int) -> None:
    """A count up to the number of weights is that count."""
    assert count == resolve_count(None, count, 10)


def test_a_count_above_the_weights_is_refused() -> None:
    """More than there are is an error that says how many there are."""
    with pytest.raises(UsageError, match="10 selected weights"):
        resolve_count(None, 11, 10)


@pytest.mark.parametrize(
    ("amount", "count"), [(None, None), (0.5, 3), (-0.1, None), (1.1, None), (nan, None), (inf, None), (None, -1)]
)
def test_amounts_out_of_range_are_refused(amount: float | None, count: int | None) -> None:
    """Two amounts, none, one outside of 0 to 1 and a negative count are usage errors with a hint."""
    with pytest.raises(UsageError) as caught:
        check_amount(amount, count)

    assert caught.value.hint
    with pytest.raises(UsageError):
        Global(amount, count)


@pytest.mark.parametrize(("amount", "count"), [(0.0, None), (1.0, None), (1e-300, None), (None, 0)])
def test_amounts_at_the_ends_are_taken(amount: float | None, count: int | None) -> None:
    """0, 1 and a count of 0 are amounts."""
    check_amount(amount, count)


# --- thresholds


@pytest.mark.parametrize("thr", [-1.0, -1e-300, nan, inf, -inf])
def test_a_threshold_is_finite_and_not_negative(thr: float) -> None:
    """Anything else is a usage error that shows the value."""
    with pytest.raises(UsageError, match=str(thr)):
        Threshold(thr)
    with pytest.raises(UsageError, match=str(thr)):
        StdThreshold(thr)


@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16"])
@settings(max_examples=50, deadline=None)
@given(thr=st.one_of(st.floats(0, 1), st.floats(0, 1e39), st.sampled_from([0.0, 0.1, 65_504.0, 65_520.0, 70_000.0])))
def test_a_threshold_prunes_what_torchs_comparison_prunes(dtype: str, thr: float) -> None:
    """All finite weights around the threshold: those with `tensor.abs() > thr` stay, as do infinity and NaN."""
    kind = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[dtype]
    near = torch.tensor([thr, thr], dtype=torch.float64).clamp(max=torch.finfo(kind).max).to(kind)
    weights = torch.cat([near, near * 0.999, near * 1.01, torch.tensor([0.0, 1e-3, 0.1, 1, 60_000]).to(kind)])
    weights = weights[weights.isfinite()]
    expected = (weights.abs() > thr).tolist()
    cut = Threshold(thr).plan(tensor(weights.numel(), dtype=dtype))
    patterns = weights.view({8: torch.int64, 4: torch.int32, 2: torch.int16}[FLOATS[dtype].itemsize])

    assert isinstance(cut, Cut)
    assert expected == (patterns >= cut.bits).tolist()
    assert cut.bits <= FLOATS[dtype].finite_max + 1


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_huge_threshold_prunes_all_finite_weights_and_no_other(dtype: str) -> None:
    """Infinity and NaN stay whatever the threshold; the cut reported is the largest finite number."""
    cut = cut_above(1e308, FLOATS[dtype])
    wanted = FLOATS[dtype].finite_max if dtype != "F64" else FLOATS[dtype].encode(1e308)

    assert (wanted + 1, FLOATS[dtype].decode(wanted)) == (cut.bits, cut.value)


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_threshold_of_zero_prunes_zeros_only(dtype: str) -> None:
    """The pattern 0 goes, the smallest subnormal stays."""
    assert Cut(1, value=0.0) == Threshold(0.0).plan(tensor(3, dtype=dtype))


def test_a_spread_is_a_threshold_in_deviations() -> None:
    """Half a deviation of 0.5 is a threshold of 0.25."""
    assert Threshold(0.25).plan(tensor(3)) == StdThreshold(0.5).plan_from(tensor(3), np.array([0.5]), None)


# --- percentiles


@pytest.mark.parametrize("q", [-0.1, 100.1, nan, inf])
def test_a_percentile_is_0_to_100(q: float) -> None:
    """Anything else is a usage error."""
    with pytest.raises(UsageError, match="0 to 100"):
        Percentile(q)


percents = st.one_of(
    st.floats(0, 100), st.integers(0, 100).map(float), st.integers(0, 1000).map(lambda n: n / 10), st.just(99.999)
)


@pytest.mark.parametrize("kind", [np.float64, np.float32])
@settings(max_examples=250, deadline=None)
@given(size=st.integers(1, 400), q=percents, seed=st.integers(0, 10_000))
def test_a_percentile_is_numpys_bit_for_bit(kind: type[np.floating], size: int, q: float, seed: int) -> None:
    """Of random magnitudes, the cut's value is np.percentile's and what goes is what is at most that."""
    values = np.abs(np.random.default_rng(seed).standard_normal(size)).astype(kind)
    cut = percentile_cut(values, q)

    expected = plain_percentile(values, q)

    assert expected == cut.value
    assert (values <= expected).tolist() == pruned_by(cut, values)
    if kind is np.float64 or Q_IS_DOUBLE:
        assert float(np.percentile(values, q)) == expected


def plain_percentile(values: NDArray[Any], q: float) -> float:
    """Do NumPy's method "linear" by hand: the rank in float64, the interpolation in the values' own precision."""
    ordered, rank, kind = np.sort(values), (values.size - 1) * (q / 100), values.dtype.type
    at = min(int(rank), values.size - 1)
    low, high, part = ordered[at], ordered[min(at + 1, values.size - 1)], rank - at
    if part >= 0.5:
        return float(high - (high - low) * kind(1 - part))
    return float(low + (high - low) * kind(part))


@pytest.mark.parametrize("kind", [np.float64, np.float32])
@settings(max_examples=150, deadline=None)
@given(data=st.data(), q=percents)
def test_a_percentile_of_odd_numbers_is_numpys(kind: type[np.floating], data: Any, q: float) -> None:  # noqa: ANN401
    """Constant, tiny, huge, subnormal and few values: still bit for bit."""
    top = float(np.finfo(kind).max)
    width = 8 * np.dtype(kind).itemsize
    numbers = st.one_of(st.floats(0, top, width=width), st.sampled_from([0.0, 1.0]))  # type: ignore[arg-type]
    values = data.draw(arrays(kind, st.integers(1, 6), elements=numbers))

    assert plain_percentile(values, q) == percentile_cut(values, q).value


@pytest.mark.parametrize("kind", [np.float64, np.float32])
@pytest.mark.parametrize("values", [[3.0], [3.0, 5.0], [5.0, 3.0], [0.1] * 7, [0.0] * 4, [0.0, 0.0, 1.0]])
@pytest.mark.parametrize("q", [0, 0.1, 25, 50, 60, 99.9, 100])
def test_a_percentile_of_few_or_equal_values_is_numpys(kind: type[np.floating], values: list[float], q: float) -> None:
    """Arrays of length 1 and 2 and constant arrays have no trouble at their ends."""
    array = np.array(values, kind)
    expected = float(np.percentile(array, q)) if Q_IS_DOUBLE or kind is np.float64 else plain_percentile(array, q)

    cut = percentile_cut(array, q)

    assert expected == cut.value
    assert (array <= expected).tolist() == pruned_by(cut, array)


@pytest.mark.parametrize("kind", [np.float64, np.float32])
def test_a_percentile_halfway_is_numpys(kind: type[np.floating]) -> None:
    """Exactly between two values NumPy comes from the upper one, which rounds its own way."""
    pairs = (10.0 ** np.random.default_rng(0).uniform(-3, 3, (300, 2))).astype(kind)

    expected = [plain_percentile(pair, 50) for pair in pairs]

    assert expected == [percentile_cut(pair, 50).value for pair in pairs]
    if kind is np.float64 or Q_IS_DOUBLE:
        assert [float(np.percentile(pair, 50)) for pair in pairs] == expected


@pytest.mark.parametrize("q", [0.0, 40.0, 50.0, 60.0, 70.0, 100.0])
@pytest.mark.parametrize("worst", [inf, nan])
def test_a_percentile_among_infinities_prunes_finite_weights_only(q: float, worst: float) -> None:
    """Where the percentile is not finite, every finite weight at most it goes, and nothing else."""
    values = np.array([1, 2, 3, worst, worst], np.float32)

    gone = pruned_by(percentile_cut(values, q), values)

    assert gone == sorted(gone, reverse=True)
    assert not any(gone[3:])
    assert gone.count(True) >= min(3, int(q / 100 * 4) + 1)


# --- topk


@pytest.mark.parametrize(
    ("count", "group", "tail"),
    [(-1, 4, "keep"), (5, 4, "keep"), (0, 0, "keep"), (1, -1, "keep"), (1, 32_768, "keep"), (2, 4, "drop")],
)
def test_topk_refuses_what_no_group_can_do(count: int, group: int, tail: str) -> None:
    """A group without weights or too long, a count above the group, and an unknown tail are usage errors."""
    with pytest.raises(UsageError):
        TopK(count, group, 1, tail)


@pytest.mark.parametrize(("dim", "expected"), [(0, 0), (1, 1), (2, 2), (-1, 2), (-3, 0)])
def test_topk_counts_a_negative_dim_from_the_end(dim: int, expected: int) -> None:
    """The plan's dim counts from the front."""
    assert KeepLargestOfGroup(2, 4, expected, zero_tail=False) == TopK(2, 4, dim).plan(tensor(4, 8, 12))


@pytest.mark.parametrize("dim", [2, -3])
def test_topk_names_a_tensor_without_the_dim(dim: int) -> None:
    """A tensor with too few dimensions is an error with its name and the way to leave it out."""
    with pytest.raises(SelectionError, match=r"'a\.weight' has 2 dimensions") as caught:
        TopK(2, 4, dim).plan(tensor(4, 8))

    assert "exclude=['a.weight'] leaves it out" in (caught.value.hint or "")


def test_topk_refuses_a_tail_only_where_asked() -> None:
    """Under tail="error" a dimension that is no multiple of the group is refused; a multiple is not."""
    with pytest.raises(SelectionError, match="6 weights along dim 1"):
        TopK(2, 4, 1, "error").plan(tensor(8, 6))

    assert KeepLargestOfGroup(2, 4, 0, zero_tail=False) == TopK(2, 4, 0, "error").plan(tensor(8, 6))
    assert KeepLargestOfGroup(2, 4, 1, zero_tail=True) == TopK(2, 4, 1, "zero").plan(tensor(8, 6))


# --- global


def test_global_ranks_all_tensors_in_one_group() -> None:
    """One rank over everything: k of the sum of the sizes; none where nothing is to go."""
    tensors = [tensor(3, 3), tensor(2, 3)]

    assert [(g.members, g.ranks) for g in Global(0.5).groups(tensors, [t.numel for t in tensors])] == [((0, 1), (8,))]
    assert [(g.members, g.ranks) for g in Global(count=0).groups(tensors, [t.numel for t in tensors])] == [((0, 1), ())]
    assert [Cut(0), Cut(0)] == Global(count=0).cuts(tensors, [], [t.numel for t in tensors])


def order(rank: int, less: int, equals: tuple[int | None, ...], hits: tuple[bool, ...]) -> OrderStatistic:
    """Make an order statistic at pattern 10 for every member."""
    return OrderStatistic(rank, 1.5, less, sum(equal or 0 for equal in equals), (10,) * len(hits), hits, equals)


@pytest.mark.parametrize("ties", [1, 2, 3, 4, 5])
def test_a_cut_through_equals_takes_the_first_members_first(ties: int) -> None:
    """Ties are shared out in the order of the members, each up to what it has."""
    equals = (2, 0, 3, 1)
    expected = [0, 0, 0, 0]
    for _ in range(ties):
        expected[next(at for at in range(4) if expected[at] < equals[at])] += 1

    cuts = exact_cuts(order(100 + ties, 100, equals, (True, False, True, True)))

    assert expected == [cut.ties for cut in cuts] == [cut.equal_pruned for cut in cuts]
    assert [cut.bits for cut in cuts] == [10] * 4
    assert list(equals) == [cut.equal for cut in cuts]


def test_a_cut_that_takes_all_equals_is_no_tie() -> None:
    """Where all equals go, a member that has the pattern cuts above it, another at it, and no order is needed."""
    cuts = exact_cuts(order(106, 100, (2, 0, 3, 1), (True, False, True, True)))

    assert [cut.bits for cut in cuts] == [11, 10, 11, 11]
    assert [cut.ties for cut in cuts] == [0] * 4
    assert [cut.value for cut in cuts] == [1.5] * 4


def test_equals_that_nobody_counted_stay_unknown() -> None:
    """Where no cut goes through equals their number per member may be unknown, and is reported as such."""
    (cut,) = exact_cuts(OrderStatistic(5, 1.5, 4, 1, (10,), (True,), (None,)))

    assert Cut(11, value=1.5) == cut


# --- words


@pytest.mark.parametrize(
    ("strategy", "name", "words"),
    [
        (Threshold(0.1), "threshold", "|w| <= 0.1"),
        (StdThreshold(0.5), "threshold", "|w| <= 0.5 std"),
        (Percentile(60), "percentile", "|w| <= percentile 60"),
        (Global(0.5), "global", "smallest of all selected"),
        (TopK(2, 4), "topk", "keeps 2 of every 4 along dim 1"),
    ],
)
def test_a_strategy_says_what_it_does(strategy: Any, name: str, words: str) -> None:  # noqa: ANN401
    """The report gets a name with parameters, and a sentence per tensor."""
    assert name == strategy.describe()["name"]
    assert words == strategy.describe_for(tensor(2, 2))
