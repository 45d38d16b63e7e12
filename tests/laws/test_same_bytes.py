"""The output bytes and the report do not depend on the window, the threads, direct writing or the device."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from support import CONTAINERS, STRATEGIES, examples, expected, files, make_checkpoint, make_weights, same_bits, zeroed
from support.covering import in_turn
from support.weights import TORCH_FLOATS

from prunecli.engine import rank_planner, scored_tensors
from prunecli.engine.files import prune_files
from prunecli.engine.options import RunOptions
from prunecli.engine.outputs import Outputs
from prunecli.engine.prepare import prepare_work
from prunecli.engine.score_files import ScoreInputs
from prunecli.formats.open import open_checkpoint
from prunecli.selection.select import Selector
from prunecli.strategies.semi_structured import TopK
from prunecli.strategies.strategy import Strategy
from prunecli.strategies.structured import RandomStructured
from prunecli.strategies.thresholds import StdThreshold, Threshold
from prunecli.strategies.unstructured import Global, Percentile, Random

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import Pruned

    from prunecli.report.model import Report, Row

SPECIAL = [float("nan"), float("inf"), -float("inf"), -float("nan"), -0.0, 0.0, 1e-45, -1e-45, 1e-310, 6e-8, -6e-8]
REFERENCE = RunOptions(threads=1, window=1 << 20, direct=False)
WITH_NUMPY = {
    "page": replace(REFERENCE, window=4096),
    "pages": replace(REFERENCE, window=3 * 4096, threads=2),
    "threads": replace(REFERENCE, window=4096, threads=16),
    "direct": replace(REFERENCE, window=2 * 4096, threads=3, direct=True),
}
WITH_TORCH = {
    "device": replace(REFERENCE, device="cpu"),
    "device-pages": replace(REFERENCE, device="cpu", window=2 * 4096, threads=2),
}
OTHERS = WITH_NUMPY | WITH_TORCH
TRIED: dict[str, Strategy] = {
    **STRATEGIES,
    "global-ties": Global(count=1),
    "global-most": Global(amount=0.97),
    "global-all": Global(amount=1.0),
    "percentile-all": Percentile(100),
    "topk-wide": TopK(3, 150),
    "topk-keep-1-of-16": TopK(1, 16, dim=-1),
    "random": Random(amount=0.4, seed=3),
    "random-rows": RandomStructured(amount=0.4),
}


def run(
    path: Path, strategy: Strategy, output: Path, options: RunOptions, rules: Selector
) -> tuple[list[bytes], list[Row]]:
    """Prune `path` and return the result in exact form."""
    checkpoint = open_checkpoint(path)
    work = prepare_work(checkpoint, rules, strategy, ScoreInputs())
    report = prune_files(checkpoint, work, Outputs(output, force=output.exists()), options)
    return exact(output, report)


def exact(output: Path, report: Report) -> tuple[list[bytes], list[Row]]:
    """Return the bytes of each output file and the rows without `l2_kept`, the one number that is rounded."""
    return [file.read_bytes() for file in files(output)], [replace(row, l2_kept=None) for row in report.rows]


@cache
def special_weights() -> dict[str, torch.Tensor]:
    """Return matrices of several pages in every dtype, with ties, NaN, infinities, -0.0 and denormals in them."""
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for name, dtype in TORCH_FLOATS.items():
        t = torch.randn(61, 167, generator=generator, dtype=torch.float64).mul_(0.1)
        t[::3] = t[::3].mul(20).round().div(20)
        t.view(-1)[: 13 * len(SPECIAL) : 13] = torch.tensor(SPECIAL, dtype=torch.float64)
        weights[f"{name}.weight"] = t.to(dtype)
    weights["kernel.weight"] = torch.randn(9, 23, 3, 5, generator=generator)
    return weights


@pytest.fixture(scope="module")
def special(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a safetensors file of the special weights."""
    path = tmp_path_factory.mktemp("special") / "in.safetensors"
    save_file(special_weights(), path)
    return path


@pytest.fixture(scope="module")
def reference(
    special: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[list[bytes], list[Row]]]:
    """Return a function that prunes the special weights by a strategy in one window and one thread."""

    @cache
    def make(strategy: str) -> tuple[list[bytes], list[Row]]:
        return run(special, TRIED[strategy], tmp_path_factory.mktemp("reference") / "out", REFERENCE, Selector())

    return make


@pytest.mark.parametrize(("strategy", "way"), [*in_turn(TRIED, WITH_NUMPY), *in_turn(TRIED, WITH_TORCH)])
def test_every_way_of_working_gives_the_same_bytes(
    strategy: str, way: str, special: Path, reference: Callable[[str], tuple[list[bytes], list[Row]]], tmp_path: Path
) -> None:
    """Windows, threads, direct writes and torch's kernels change neither a byte nor a row, in any dtype."""
    assert reference(strategy) == run(special, TRIED[strategy], tmp_path / "out", OTHERS[way], Selector())


@pytest.mark.parametrize(
    ("container", "strategy", "way"), in_turn(product(CONTAINERS, STRATEGIES), ["threads", "direct", "device-pages"])
)
def test_every_container_gives_the_same_bytes(
    container: str, strategy: str, way: str, pruned: Callable[[str, str], Pruned], tmp_path: Path
) -> None:
    """The result for strided, shared, legacy and sharded tensors does not depend on the way of working."""
    done = pruned(container, strategy)

    assert exact(done.output, done.report) == run(
        done.source, STRATEGIES[strategy], tmp_path / "out", OTHERS[way], Selector()
    )


@pytest.mark.parametrize("small", [0, 1 << 22])
def test_planning_in_batches_gives_the_same_bytes(
    strategy: str, small: int, source: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The size of the batches that are planned together, and ranking tensors in chunks, do not change the result."""
    path = source("safetensors")
    wanted = run(path, STRATEGIES[strategy], tmp_path / "reference", REFERENCE, Selector())
    monkeypatch.setattr(rank_planner, "BATCH_BYTES", 1)
    monkeypatch.setattr(rank_planner, "SMALL_TENSOR", small)
    monkeypatch.setattr(scored_tensors, "SCAN_BYTES", 512)

    assert wanted == run(path, STRATEGIES[strategy], tmp_path / "other", RunOptions(window=4096, threads=3), Selector())


shapes = st.lists(st.integers(1, 9), min_size=1, max_size=2).map(lambda tail: [7 * 9 * 11, *tail])
ways = st.builds(
    RunOptions,
    device=st.sampled_from([None, "cpu"]),
    threads=st.integers(1, 4),
    window=st.integers(1, 6).map(lambda pages: 4096 * pages),
    direct=st.booleans(),
)
amounts = st.floats(0, 1)
strategies = st.one_of(
    st.builds(Threshold, st.floats(0, 0.3)),
    st.builds(StdThreshold, st.floats(0, 2)),
    st.builds(Percentile, st.floats(0, 100)),
    st.builds(Global, amounts),
    st.builds(lambda group, part, dim: TopK(round(part * group), group, dim), st.integers(1, 40), amounts, st.just(0)),
    st.builds(
        lambda group, part, tail: TopK(max(1, round(part * group)), group, -1, tail),
        st.integers(1, 15),
        amounts,
        st.sampled_from(["keep", "zero"]),
    ),
)


@settings(max_examples=examples(50))
@given(st.sampled_from(list(TORCH_FLOATS.values())), shapes, strategies, ways, st.integers(0, 2**32 - 1))
def test_any_way_of_working_gives_the_same_bytes(
    tmp_path_factory: pytest.TempPathFactory,
    dtype: torch.dtype,
    shape: list[int],
    strategy: Strategy,
    way: RunOptions,
    seed: int,
) -> None:
    """For any dtype, shape and strategy, any way of working writes the bytes that NumPy writes in one window."""
    folder = tmp_path_factory.mktemp("law")
    t = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).mul(0.1).to(dtype)
    save_file({"odd": torch.zeros(3, dtype=torch.uint8), "w.weight": t}, folder / "in")

    wanted = run(folder / "in", strategy, folder / "wanted", REFERENCE, Selector(include=("*.weight",)))

    assert wanted == run(folder / "in", strategy, folder / "actual", way, Selector(include=("*.weight",)))


@pytest.mark.parametrize("way", OTHERS)
def test_the_kept_part_of_the_norm_is_equal_up_to_rounding(way: str, special: Path, tmp_path: Path) -> None:
    """Sums of squares are rounded at the ends of windows: `l2_kept`, a fraction of 1, agrees to 2e-6."""
    checkpoint = open_checkpoint(special)
    work = prepare_work(checkpoint, Selector(), Percentile(60), ScoreInputs())
    kept = [
        [row.l2_kept for row in prune_files(checkpoint, work, Outputs(out), options).rows]
        for out, options in ((tmp_path / "a", REFERENCE), (tmp_path / "b", OTHERS[way]))
    ]

    assert kept[0] == pytest.approx(kept[1], rel=0, abs=2e-6)
    assert len(special_weights()) == len([part for part in kept[0] if part is not None and 0 < part < 1])


# --- special values

EVERY_PATTERN = [name for name, dtype in TORCH_FLOATS.items() if dtype.itemsize <= 2]


def every_pattern(dtype: torch.dtype) -> torch.Tensor:
    """Return each bit pattern of an 8- or 16-bit dtype once, in random order."""
    count = 1 << (8 * dtype.itemsize)
    order = np.random.default_rng(0).permutation(count).astype(f"<u{dtype.itemsize}")
    return torch.from_numpy(order.view(f"<i{dtype.itemsize}")).view(dtype).reshape(-1, 16)


def tried(weights: dict[str, torch.Tensor], strategy: Strategy, folder: Path, device: str | None) -> torch.Tensor:
    """Return the tensor `w.weight` after pruning."""
    save_file(weights, folder / "in")
    run(folder / "in", strategy, folder / "out", replace(REFERENCE, device=device), Selector(include=("w.weight",)))
    return load_file(folder / "out")["w.weight"]


@pytest.mark.parametrize("device", [None, "cpu"])
@pytest.mark.parametrize("thr", [0.0, 1e-7, 0.1, 1.0, 240.0, 1e30])
@pytest.mark.parametrize("name", EVERY_PATTERN)
def test_threshold_is_right_for_every_pattern(name: str, thr: float, device: str | None, tmp_path: Path) -> None:
    """All numbers of a small dtype up to the threshold become zero; NaN and infinities stay."""
    t = every_pattern(TORCH_FLOATS[name])
    cut = torch.tensor(min(thr, torch.finfo(TORCH_FLOATS[name]).max)).to(TORCH_FLOATS[name]).float()

    actual = tried({"w.weight": t}, Threshold(thr), tmp_path, device)

    wide = t.float().abs()
    assert same_bits(zeroed(t, ~(wide <= cut) | wide.isinf()), actual)


@pytest.mark.parametrize("device", [None, "cpu"])
@pytest.mark.parametrize("name", TORCH_FLOATS)
def test_a_count_takes_finite_weights_first(name: str, device: str | None, tmp_path: Path) -> None:
    """A count takes all finite weights before an infinity, and all infinities before a NaN."""
    t = special_weights()[f"{name}.weight"]
    rest = ~t.double().isfinite()
    finite = int((~rest).sum())

    for count in (finite, finite + 1):
        actual = tried({"w.weight": t}, Global(count=count), tmp_path, device)
        assert t.numel() - count == int((~actual.double().isfinite()).sum())
        assert count == int((actual.double() == 0).sum())
    if t.double().isinf().any():
        assert int(t.double().isinf().sum()) - 1 == int(actual.double().isinf().sum())


@pytest.mark.parametrize("device", [None, "cpu"])
@pytest.mark.parametrize("strategy", [Threshold(1e38), Percentile(100), StdThreshold(1e6)])
@pytest.mark.parametrize("name", TORCH_FLOATS)
def test_cuts_by_value_spare_nonfinite_weights(
    name: str, strategy: Strategy, device: str | None, tmp_path: Path
) -> None:
    """The highest cut by value zeroes every finite weight and leaves the bits of NaN and infinities."""
    t = special_weights()[f"{name}.weight"]
    finite = t.double().isfinite()

    assert same_bits(zeroed(t, ~finite), tried({"w.weight": t}, strategy, tmp_path, device))


@pytest.mark.parametrize("name", TORCH_FLOATS)
def test_groups_keep_weights_that_are_not_finite(name: str, tmp_path: Path) -> None:
    """In a group NaN ranks highest, then infinity; zeros of both signs are equal, and the lower index stays."""
    nan, inf = float("nan"), float("inf")
    rows = torch.tensor([[1.0, nan, inf, 2.0], [1.0, 2.0, nan, -0.0], [-0.0, 0.0, -0.0, 0.0]])
    t = rows.to(TORCH_FLOATS[name])
    keep = torch.tensor([[0, 1, 1, 0], [0, 1, 1, 0], [1, 1, 0, 0]], dtype=torch.bool)

    assert same_bits(zeroed(t, keep), tried({"w.weight": t}, TopK(2, 4), tmp_path, None))


@pytest.mark.parametrize("dtype", list(TORCH_FLOATS.values()))
@pytest.mark.parametrize("amount", [0.0, 0.25, 0.5, 1.0])
def test_global_is_right_in_every_dtype(amount: float, dtype: torch.dtype, tmp_path: Path) -> None:
    """Finite weights of every dtype are ranked by decoded value, and ties by position."""
    t = make_weights(3, torch.float32)["fc.weight"].to(dtype)
    (keep,) = expected(Global(amount), [t.double()])

    assert same_bits(zeroed(t, keep), tried({"w.weight": t}, Global(amount), tmp_path, None))


def test_dtypes_are_ranked_together_by_value(tmp_path: Path) -> None:
    """Over tensors of all dtypes at once, the smallest decoded values are pruned."""
    weights = {
        f"{name}.weight": t.clamp(-8, 8).to(TORCH_FLOATS[name])
        for name, t in ((n, make_weights(i)["fc.weight"].mul(10)) for i, n in enumerate(TORCH_FLOATS))
    }
    save_file(weights, tmp_path / "in")
    names = sorted(weights)

    for way in ("device-pages", "threads"):
        run(tmp_path / "in", Global(amount=0.4), tmp_path / "out", OTHERS[way], Selector())

        actual = load_file(tmp_path / "out")
        keeps = expected(Global(amount=0.4), [weights[n].double() for n in names])
        assert not [n for n, k in zip(names, keeps, strict=True) if not same_bits(zeroed(weights[n], k), actual[n])]


@pytest.mark.parametrize("container", list(CONTAINERS))
def test_the_output_does_not_depend_on_time_or_path(container: str, tmp_path: Path) -> None:
    """Pruning a checkpoint twice, to two paths, gives the same bytes."""
    path = make_checkpoint(container, tmp_path)

    first = run(path, Global(amount=0.5), tmp_path / "first", RunOptions(), Selector())

    assert first[0] == run(path, Global(amount=0.5), tmp_path / "second", RunOptions(), Selector())[0]
