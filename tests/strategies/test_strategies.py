"""The plans of strategies, compared with NumPy and with plain definitions."""

from __future__ import annotations

from dataclasses import replace
from math import inf, nan
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from support import ROOT, examples, prune_tensors

from prunecli.checkpoint import Span, TensorInfo, row_major
from prunecli.dtypes import FLOATS
from prunecli.errors import Argument, SelectionError, UsageError
from prunecli.kernels.arrays import INTS
from prunecli.kernels.numpy_ops import NumpyOps
from prunecli.layout import TensorLayout
from prunecli.plans import Cut, KeepLargestOfGroup
from prunecli.ranking.kth_smallest import statistics_of
from prunecli.strategies.amounts import cut_above
from prunecli.strategies.semi_structured import TopK
from prunecli.strategies.structured import Block, RandomStructured, Structured
from prunecli.strategies.thresholds import StdThreshold, Threshold
from prunecli.strategies.unstructured import L1, Global, Percentile

if TYPE_CHECKING:
    from pathlib import Path

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
    """Return the cut of a percentile for these magnitudes."""
    info, strategy = tensor(values.size, dtype=name_of(values)), Percentile(q)
    (group,) = strategy.groups([info], [info.numel])
    patterns = values.view(INTS[values.itemsize])
    (cut,) = strategy.cuts([info], statistics_of(NumpyOps(), patterns, group.ranks, FLOATS[info.dtype]), [info.numel])
    return cut


def pruned_by(cut: Cut, values: NDArray[Any]) -> list[bool]:
    """Return which magnitudes a cut without ties prunes."""
    assert cut.ties == 0
    found: list[bool] = (values.view(INTS[values.itemsize]) < cut.bits).tolist()
    return found


# --- thresholds


@pytest.mark.parametrize("thr", [-1.0, -1e-300, nan, inf, -inf])
def test_a_threshold_is_finite_and_not_negative(thr: float) -> None:
    """Other numbers are usage errors that show the value."""
    with pytest.raises(UsageError, match=str(thr)):
        Threshold(thr)
    with pytest.raises(UsageError, match=str(thr)):
        StdThreshold(thr)


@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16"])
@settings(max_examples=examples(50))
@given(thr=st.one_of(st.floats(0, 1), st.floats(0, 1e39), st.sampled_from([0.0, 0.1, 65_504.0, 65_520.0, 70_000.0])))
def test_a_threshold_prunes_what_torchs_comparison_prunes(dtype: str, thr: float) -> None:
    """Of all finite weights around the threshold, those with `tensor.abs() > thr` are kept, as are infinity and NaN."""
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
def test_a_huge_threshold_prunes_exactly_the_finite_weights(dtype: str) -> None:
    """Infinity and NaN are kept for every threshold; the reported cut is the largest finite number."""
    cut = cut_above(1e308, FLOATS[dtype])
    wanted = FLOATS[dtype].finite_max if dtype != "F64" else FLOATS[dtype].encode(1e308)

    assert (wanted + 1, FLOATS[dtype].decode(wanted)) == (cut.bits, cut.value)


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_threshold_of_zero_prunes_zeros_only(dtype: str) -> None:
    """The pattern 0 is pruned, the smallest subnormal is kept."""
    assert Cut(1, value=0.0) == Threshold(0.0).plan(tensor(3, dtype=dtype))


def test_a_std_threshold_is_a_threshold_in_deviations() -> None:
    """Half a deviation of 0.5 is a threshold of 0.25."""
    assert Threshold(0.25).plan(tensor(3)) == StdThreshold(0.5).plan_from(tensor(3), np.array([0.5]), None)


# --- percentiles


@pytest.mark.parametrize("q", [-0.1, 100.1, nan, inf])
def test_a_percentile_is_0_to_100(q: float) -> None:
    """Other numbers are usage errors."""
    with pytest.raises(UsageError, match="0 to 100"):
        Percentile(q)


percents = st.one_of(
    st.floats(0, 100), st.integers(0, 100).map(float), st.integers(0, 1000).map(lambda n: n / 10), st.just(99.999)
)


@pytest.mark.parametrize("kind", [np.float64, np.float32])
@settings(max_examples=examples(250))
@given(size=st.integers(1, 400), q=percents, seed=st.integers(0, 10_000))
def test_a_percentile_is_numpys_bit_for_bit(kind: type[np.floating], size: int, q: float, seed: int) -> None:
    """The value of the cut is that of np.percentile, and the pruned magnitudes are those up to it."""
    values = np.abs(np.random.default_rng(seed).standard_normal(size)).astype(kind)
    cut = percentile_cut(values, q)

    expected = plain_percentile(values, q)

    assert expected == cut.value
    assert (values <= expected).tolist() == pruned_by(cut, values)
    if kind is np.float64 or Q_IS_DOUBLE:
        assert float(np.percentile(values, q)) == expected


def plain_percentile(values: NDArray[Any], q: float) -> float:
    """Return the percentile by NumPy's method "linear": rank in float64, interpolation in the values' precision."""
    ordered, rank, kind = np.sort(values), (values.size - 1) * (q / 100), values.dtype.type
    at = min(int(rank), values.size - 1)
    low, high, part = ordered[at], ordered[min(at + 1, values.size - 1)], rank - at
    if part >= 0.5:
        return float(high - (high - low) * kind(1 - part))
    return float(low + (high - low) * kind(part))


@pytest.mark.parametrize("kind", [np.float64, np.float32])
@settings(max_examples=examples(150))
@given(data=st.data(), q=percents)
def test_a_percentile_of_extreme_numbers_is_numpys(kind: type[np.floating], data: Any, q: float) -> None:  # noqa: ANN401
    """Constant, tiny, huge, subnormal and few values give the same bits as NumPy."""
    numbers = st.floats(0, float(np.finfo(kind).max), width=8 * kind().itemsize) | st.sampled_from([0.0, 1.0])
    values = data.draw(arrays(kind, st.integers(1, 6), elements=numbers))

    assert plain_percentile(values, q) == percentile_cut(values, q).value


@pytest.mark.parametrize("kind", [np.float64, np.float32])
@pytest.mark.parametrize("values", [[3.0], [3.0, 5.0], [5.0, 3.0], [0.1] * 7, [0.0] * 4, [0.0, 0.0, 1.0]])
@pytest.mark.parametrize("q", [0, 0.1, 25, 50, 60, 99.9, 100])
def test_a_percentile_of_few_or_equal_values_is_numpys(kind: type[np.floating], values: list[float], q: float) -> None:
    """Arrays of length 1 and 2 and constant arrays give the same bits as NumPy."""
    array = np.array(values, kind)
    expected = float(np.percentile(array, q)) if Q_IS_DOUBLE or kind is np.float64 else plain_percentile(array, q)

    cut = percentile_cut(array, q)

    assert expected == cut.value
    assert (array <= expected).tolist() == pruned_by(cut, array)


def test_a_percentile_of_float16_is_the_sentence_of_the_page(tmp_path: Path) -> None:
    """The expression on the page, with `w` as float32, gives the pruned weights; of the float16 array it does not."""
    row = next(
        line for line in (ROOT / "docs" / "strategies.md").read_text().splitlines() if line.startswith("| `percentile")
    )
    formula = row.split("`")[3]
    assert "in NumPy; `w` of 16 or 8 bits as float32" in row
    half = np.random.default_rng(0).standard_normal((10, 10)).astype(np.float16)

    after = prune_tensors({"w": torch.from_numpy(half)}, Percentile(33.3), tmp_path)["w"].numpy()

    single = eval(formula, {"np": np, "w": half.astype(np.float32), "Q": 33.3})  # noqa: S307 - it is our own
    assert ((after == 0) == single).all()
    assert (np.abs(half) <= np.percentile(np.abs(half), 33.3)).sum() != single.sum()


@pytest.mark.parametrize("kind", [np.float64, np.float32])
def test_a_percentile_halfway_is_numpys(kind: type[np.floating]) -> None:
    """From the middle on NumPy interpolates down from the upper value, which rounds differently."""
    pairs = (10.0 ** np.random.default_rng(0).uniform(-3, 3, (300, 2))).astype(kind)

    expected = [plain_percentile(pair, 50) for pair in pairs]

    assert expected == [percentile_cut(pair, 50).value for pair in pairs]
    if kind is np.float64 or Q_IS_DOUBLE:
        assert [float(np.percentile(pair, 50)) for pair in pairs] == expected


@pytest.mark.parametrize("q", [0.0, 40.0, 50.0, 60.0, 70.0, 100.0])
@pytest.mark.parametrize("worst", [inf, nan])
def test_a_percentile_among_infinities_prunes_finite_weights_only(q: float, worst: float) -> None:
    """Where the percentile is not finite, all finite weights up to it are pruned, and no others."""
    values = np.array([1, 2, 3, worst, worst], np.float32)

    pruned = pruned_by(percentile_cut(values, q), values)

    assert pruned == sorted(pruned, reverse=True)
    assert not any(pruned[3:])
    assert pruned.count(True) >= min(3, int(q / 100 * 4) + 1)


# --- topk


@pytest.mark.parametrize(
    ("count", "group", "tail"),
    [(-1, 4, "keep"), (5, 4, "keep"), (0, 0, "keep"), (1, -1, "keep"), (1, 32_768, "keep"), (2, 4, "drop")],
)
def test_topk_checks_its_arguments(count: int, group: int, tail: str) -> None:
    """An empty or too long group, more weights to keep than a group has, and an unknown tail are usage errors."""
    with pytest.raises(UsageError):
        TopK(count, group, 1, tail)


@pytest.mark.parametrize(("dim", "expected"), [(0, 0), (1, 1), (2, 2), (-1, 2), (-3, 0)])
def test_topk_counts_a_negative_dim_from_the_end(dim: int, expected: int) -> None:
    """The dim of the plan is counted from the front."""
    assert KeepLargestOfGroup(2, 4, expected, zero_tail=False) == TopK(2, 4, dim).plan(tensor(4, 8, 12))


@pytest.mark.parametrize("dim", [2, -3])
def test_topk_names_a_tensor_without_the_dim(dim: int) -> None:
    """The error for a tensor with too few dimensions has its name, and the hint excludes it."""
    with pytest.raises(SelectionError, match=r"'a\.weight' has 2 dimensions") as caught:
        TopK(2, 4, dim).plan(tensor(4, 8))

    assert "exclude=['a.weight'] leaves it out" in (caught.value.hint or "")


def test_topk_refuses_a_short_tail_on_request() -> None:
    """With tail="error" the dimension must be a multiple of the group."""
    with pytest.raises(SelectionError, match="6 weights along dim 1"):
        TopK(2, 4, 1, "error").plan(tensor(8, 6))

    assert KeepLargestOfGroup(2, 4, 0, zero_tail=False) == TopK(2, 4, 0, "error").plan(tensor(8, 6))
    assert KeepLargestOfGroup(2, 4, 1, zero_tail=True) == TopK(2, 4, 1, "zero").plan(tensor(8, 6))


def test_topk_names_the_largest_tensor_that_is_shorter_than_a_group() -> None:
    """A pattern does not apply to tensors with fewer inputs than a group, and one sentence counts them."""
    short = [tensor(8, 3, 3, 3, name="first"), tensor(8, 1, 3, 3, name="second"), tensor(8, 4, name="fc")]

    assert TopK(2, 4).warnings(short) == (
        "2:4 does not apply to 2 tensors with fewer inputs than the 4 of a group; the largest is first with 3",
    )
    assert TopK(2, 4).warnings(short[1:]) == (
        "2:4 does not apply to second, which has 1 input: fewer than the 4 of a group",
    )
    assert TopK(2, 4, dim=0).warnings(short) == ()


def test_groups_stay_in_the_groups_of_a_transposed_convolution() -> None:
    """A tail is that of one group of inputs."""
    grouped = replace(tensor(12, 4, 3), layout=TensorLayout("kernel", 1, 0, groups=2))

    with pytest.raises(SelectionError, match="6 weights along dim 0"):
        TopK(2, 4, tail="error").plan(grouped)
    assert KeepLargestOfGroup(2, 3, 0, zero_tail=False, parts=2) == TopK(2, 3).plan(grouped)


@pytest.mark.parametrize(
    ("strategy", "follows"),
    [
        (TopK(2, 4), True),
        (TopK(2, 4, dim=1), False),
        (L1(amount=0.5, scope="row"), True),
        (L1(amount=0.5), False),
        (Structured(amount=0.5), True),
        (Structured(amount=0.5, dim=0), False),
        (RandomStructured(amount=0.5), True),
        (Block(4, 4, amount=0.5), True),
        (Global(amount=0.5), False),
    ],
)
def test_strategies_follow_the_layout_unless_a_dim_is_given(strategy: Any, *, follows: bool) -> None:  # noqa: ANN401
    """An assumed layout is worth a warning only where the result depends on it."""
    assert strategy.follows_layout == follows


@pytest.mark.parametrize(
    ("strategy", "words"),
    [
        (Structured(amount=0.05), "0.05 of its 8 outputs rounds to 0"),
        (Structured(amount=0.05, dim=1), "0.05 of its 6 slices along dim 1 rounds to 0"),
        (Block(4, 4, amount=0.05), "0.05 of its 4 blocks of 4x4 rounds to 0"),
        (L1(amount=0.05, scope="row"), "0.05 of its 6 weights in a row rounds to 0"),
    ],
)
def test_an_amount_that_rounds_to_nothing_is_said(strategy: Any, words: str) -> None:  # noqa: ANN401
    """The warning names the tensor, and the hint a count for it alone."""
    (notice,) = strategy.warnings([tensor(8, 6), tensor(800, 600, name="large")])

    assert str(notice) == f"nothing is pruned of a.weight: {words}"
    assert notice.hint_parts == (Argument("include", ["a.weight"]), Argument("count", 1), " prunes one of it")
    assert type(strategy)(*[4, 4][: 2 * isinstance(strategy, Block)], amount=0.0).warnings([tensor(8, 6)]) == ()


# --- global


def test_global_ranks_all_tensors_in_one_group() -> None:
    """The rank is k of the sum of the sizes; there is no rank where nothing is pruned."""
    tensors = [tensor(3, 3), tensor(2, 3)]

    assert [(g.members, g.ranks) for g in Global(0.5).groups(tensors, [t.numel for t in tensors])] == [((0, 1), (8,))]
    assert [(g.members, g.ranks) for g in Global(count=0).groups(tensors, [t.numel for t in tensors])] == [((0, 1), ())]
    assert [Cut(0), Cut(0)] == Global(count=0).cuts(tensors, [], [t.numel for t in tensors])


# --- words


@pytest.mark.parametrize(
    ("strategy", "name", "words"),
    [
        (Threshold(0.1), "threshold", "|w| <= 0.1"),
        (StdThreshold(0.5), "threshold", "|w| <= 0.5 std"),
        (Percentile(60), "percentile", "|w| <= percentile 60"),
        (Global(0.5), "global", "smallest of all selected"),
        (TopK(2, 4, dim=0), "topk", "keeps 2 of every 4 along dim 0"),
        (TopK(2, 4), "topk", "keeps 2 of every 4 inputs"),
    ],
)
def test_a_strategy_describes_itself(strategy: Any, name: str, words: str) -> None:  # noqa: ANN401
    """The report gets a name with parameters, and a few words for each tensor."""
    assert name == strategy.describe()["name"]
    assert words == strategy.rule
