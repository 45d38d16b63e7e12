"""The same bytes and the same report for every window, thread count, way of writing and device, in every dtype."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from support import CONTAINERS, STRATEGIES, examples, expected, files, make_checkpoint, make_weights, same_bits, zeroed

from prunecli.engine import planner as planning
from prunecli.engine.files import prune_files
from prunecli.engine.options import Options
from prunecli.engine.work import alone
from prunecli.formats.open import open_checkpoint
from prunecli.selection.select import Selector, select
from prunecli.strategies.semi_structured import TopK
from prunecli.strategies.unstructured import (
    Global,
    Percentile,
    Random,
    RandomStructured,
    StdThreshold,
    Strategy,
    Threshold,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from prunecli.report.model import Row

FLOATS = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
}
SPECIAL = [float("nan"), float("inf"), -float("inf"), -float("nan"), -0.0, 0.0, 1e-45, -1e-45, 1e-310, 6e-8, -6e-8]
REFERENCE = Options(threads=1, window=1 << 20, direct=False)
OTHERS = {
    "page": replace(REFERENCE, window=4096),
    "pages": replace(REFERENCE, window=3 * 4096, threads=2),
    "threads": replace(REFERENCE, window=4096, threads=4),
    "direct": replace(REFERENCE, window=2 * 4096, threads=3, direct=True),
    "device": replace(REFERENCE, device="cpu"),
    "device-pages": replace(REFERENCE, device="cpu", window=2 * 4096, threads=2),
}
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
    path: Path, strategy: Strategy, output: Path, options: Options, rules: Selector
) -> tuple[list[bytes], list[Row]]:
    """Prune `path` and return the bytes of each output file, and the rows less the one inexact number in them."""
    checkpoint = open_checkpoint(path)
    report = prune_files(
        checkpoint, alone(select(checkpoint, rules), strategy), output, replace(options, force=output.exists())
    )
    return [file.read_bytes() for file in files(output)], [replace(row, l2_kept=None) for row in report.rows]


def special_weights() -> dict[str, torch.Tensor]:
    """Return matrices of several pages in every dtype, with ties, NaN, infinities, -0.0 and denormals in them."""
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for name, dtype in FLOATS.items():
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


@pytest.mark.parametrize("strategy", TRIED)
def test_every_way_of_working_gives_the_same_bytes(strategy: str, special: Path, tmp_path: Path) -> None:
    """Windows, threads, direct writes and torch's kernels change neither a byte nor a row, in any dtype."""
    wanted = run(special, TRIED[strategy], tmp_path / "reference", REFERENCE, Selector())

    for name, options in OTHERS.items():
        assert wanted == run(special, TRIED[strategy], tmp_path / name, options, Selector()), name


@pytest.mark.parametrize("way", ["threads", "direct", "device-pages"])
def test_every_container_gives_the_same_bytes(
    container: str, strategy: str, way: str, source: Callable[[str], Path], tmp_path: Path
) -> None:
    """Strided, shared, old and sharded tensors come out alike however the work is cut."""
    wanted = run(source(container), STRATEGIES[strategy], tmp_path / "reference", REFERENCE, Selector())

    assert wanted == run(source(container), STRATEGIES[strategy], tmp_path / "other", OTHERS[way], Selector())


@pytest.mark.parametrize("small", [0, 1 << 22])
def test_planning_in_batches_gives_the_same_bytes(
    strategy: str, small: int, source: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows laid out before their tensors are planned, and tensors ranked as a stream, come out alike."""
    path = source("safetensors")
    wanted = run(path, STRATEGIES[strategy], tmp_path / "reference", REFERENCE, Selector())
    monkeypatch.setattr(planning, "BATCH", 1)
    monkeypatch.setattr(planning, "SMALL", small)
    monkeypatch.setattr(planning, "SCAN", 512)

    assert wanted == run(path, STRATEGIES[strategy], tmp_path / "other", Options(window=4096, threads=3), Selector())


shapes = st.lists(st.integers(1, 9), min_size=1, max_size=2).map(lambda tail: [7 * 9 * 11, *tail])
ways = st.builds(
    Options,
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
@given(st.sampled_from(list(FLOATS.values())), shapes, strategies, ways, st.integers(0, 2**32 - 1))
def test_any_way_of_working_gives_the_same_bytes(
    tmp_path_factory: pytest.TempPathFactory,
    dtype: torch.dtype,
    shape: list[int],
    strategy: Strategy,
    way: Options,
    seed: int,
) -> None:
    """Law: for any dtype, shape and strategy, any way of working writes what NumPy writes in one window."""
    folder = tmp_path_factory.mktemp("law")
    t = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).mul(0.1).to(dtype)
    save_file({"odd": torch.zeros(3, dtype=torch.uint8), "w.weight": t}, folder / "in")

    wanted = run(folder / "in", strategy, folder / "wanted", REFERENCE, Selector(include=("*.weight",)))

    assert wanted == run(folder / "in", strategy, folder / "found", way, Selector(include=("*.weight",)))


@pytest.mark.parametrize("way", OTHERS)
def test_the_energy_kept_hardly_depends_on_the_way(way: str, special: Path, tmp_path: Path) -> None:
    """Sums of squares are rounded where windows end: the kept part, a fraction of 1, agrees to 2e-6."""
    checkpoint = open_checkpoint(special)
    work = alone(select(checkpoint, Selector()), Percentile(60))
    kept = [
        [row.l2_kept for row in prune_files(checkpoint, work, out, options).rows]
        for out, options in ((tmp_path / "a", REFERENCE), (tmp_path / "b", OTHERS[way]))
    ]

    assert kept[0] == pytest.approx(kept[1], rel=0, abs=2e-6)
    assert len(special_weights()) == len([part for part in kept[0] if part is not None and 0 < part < 1])


# --- special values

EVERY_PATTERN = [name for name, dtype in FLOATS.items() if dtype.itemsize <= 2]


def every_pattern(dtype: torch.dtype) -> torch.Tensor:
    """Return each pattern of an 8- or 16-bit dtype once, in an order that is not theirs."""
    count = 1 << (8 * dtype.itemsize)
    order = np.random.default_rng(0).permutation(count).astype(f"<u{dtype.itemsize}")
    return torch.from_numpy(order.view(f"<i{dtype.itemsize}")).view(dtype).reshape(-1, 16)


def tried(weights: dict[str, torch.Tensor], strategy: Strategy, folder: Path, device: str | None) -> torch.Tensor:
    """Return what becomes of the tensor `w.weight`."""
    save_file(weights, folder / "in")
    run(folder / "in", strategy, folder / "out", replace(REFERENCE, device=device), Selector(include=("w.weight",)))
    return load_file(folder / "out")["w.weight"]


@pytest.mark.parametrize("device", [None, "cpu"])
@pytest.mark.parametrize("thr", [0.0, 1e-7, 0.1, 1.0, 240.0, 1e30])
@pytest.mark.parametrize("name", EVERY_PATTERN)
def test_threshold_is_right_for_every_pattern(name: str, thr: float, device: str | None, tmp_path: Path) -> None:
    """Of all numbers a small dtype has, those at most the threshold in size go, and NaN and infinities stay."""
    t = every_pattern(FLOATS[name])
    cut = torch.tensor(min(thr, torch.finfo(FLOATS[name]).max)).to(FLOATS[name]).float()

    found = tried({"w.weight": t}, Threshold(thr), tmp_path, device)

    wide = t.float().abs()
    assert same_bits(zeroed(t, ~(wide <= cut) | wide.isinf()), found)


@pytest.mark.parametrize("device", [None, "cpu"])
@pytest.mark.parametrize("name", FLOATS)
def test_what_is_not_finite_goes_only_when_forced(name: str, device: str | None, tmp_path: Path) -> None:
    """A count up to the finite weights spares infinities and NaN; one more takes an infinity, or else a NaN."""
    t = special_weights()[f"{name}.weight"]
    rest = ~t.double().isfinite()
    finite = int((~rest).sum())

    for count in (finite, finite + 1):
        found = tried({"w.weight": t}, Global(count=count), tmp_path, device)
        assert t.numel() - count == int((~found.double().isfinite()).sum())
        assert count == int((found.double() == 0).sum())
    if t.double().isinf().any():
        assert int(t.double().isinf().sum()) - 1 == int(found.double().isinf().sum())


@pytest.mark.parametrize("device", [None, "cpu"])
@pytest.mark.parametrize("strategy", [Threshold(1e38), Percentile(100), StdThreshold(1e6)])
@pytest.mark.parametrize("name", FLOATS)
def test_no_cut_reaches_what_is_not_finite(name: str, strategy: Strategy, device: str | None, tmp_path: Path) -> None:
    """The widest cut by value zeroes every finite weight, and leaves NaN and infinities their bits."""
    t = special_weights()[f"{name}.weight"]
    finite = t.double().isfinite()

    assert same_bits(zeroed(t, ~finite), tried({"w.weight": t}, strategy, tmp_path, device))


@pytest.mark.parametrize("name", FLOATS)
def test_groups_keep_what_is_not_finite(name: str, tmp_path: Path) -> None:
    """In a group NaN is the largest, an infinity next, and zeros of either sign are equals: the lower index stays."""
    nan, inf = float("nan"), float("inf")
    rows = torch.tensor([[1.0, nan, inf, 2.0], [1.0, 2.0, nan, -0.0], [-0.0, 0.0, -0.0, 0.0]])
    t = rows.to(FLOATS[name])
    keep = torch.tensor([[0, 1, 1, 0], [0, 1, 1, 0], [1, 1, 0, 0]], dtype=torch.bool)

    assert same_bits(zeroed(t, keep), tried({"w.weight": t}, TopK(2, 4), tmp_path, None))


@pytest.mark.parametrize("dtype", list(FLOATS.values()))
@pytest.mark.parametrize("amount", [0.0, 0.25, 0.5, 1.0])
def test_global_is_right_in_every_dtype(amount: float, dtype: torch.dtype, tmp_path: Path) -> None:
    """Finite weights of every dtype are ranked by what they decode to, ties by position."""
    t = make_weights(3, torch.float32)["fc.weight"].to(dtype)
    (keep,) = expected(Global(amount), [t.double()])

    assert same_bits(zeroed(t, keep), tried({"w.weight": t}, Global(amount), tmp_path, None))


def test_dtypes_are_ranked_together_by_value(tmp_path: Path) -> None:
    """Over tensors of all dtypes at once, the smallest values go, whatever their patterns are."""
    weights = {
        f"{name}.weight": t.clamp(-8, 8).to(FLOATS[name])
        for name, t in ((n, make_weights(i)["fc.weight"].mul(10)) for i, n in enumerate(FLOATS))
    }
    save_file(weights, tmp_path / "in")
    names = sorted(weights)

    for way in ("device-pages", "threads"):
        run(tmp_path / "in", Global(amount=0.4), tmp_path / "out", OTHERS[way], Selector())

        found = load_file(tmp_path / "out")
        keeps = expected(Global(amount=0.4), [weights[n].double() for n in names])
        assert not [n for n, k in zip(names, keeps, strict=True) if not same_bits(zeroed(weights[n], k), found[n])]


@pytest.mark.parametrize("container", list(CONTAINERS))
def test_the_output_does_not_depend_on_when_it_is_made(container: str, tmp_path: Path) -> None:
    """Pruning the same checkpoint twice gives the same bytes: nothing of the clock or the path gets in."""
    path = make_checkpoint(container, tmp_path)

    first = run(path, Global(amount=0.5), tmp_path / "first", Options(), Selector())

    assert first[0] == run(path, Global(amount=0.5), tmp_path / "second", Options(), Selector())[0]
