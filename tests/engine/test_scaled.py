"""FP8 codes with scales are pruned as the numbers that they stand for: code times scale."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import STRATEGIES, expected, make_checkpoint, read, same_bits, state_dict, zeroed
from support.covering import in_turn
from support.pruning import COUNTED, pruned, same, stored
from support.scaled import CODES, KINDS, dequantized, make_scaled, model
from support.small import saved

from prunecli import CheckpointError, Recipe, Rule, prune, prune_state_dict
from prunecli.engine import rank_planner, scored_tensors
from prunecli.strategies.structured import Block
from prunecli.strategies.thresholds import StdThreshold, Threshold
from prunecli.strategies.unstructured import L1, Global

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from support import Weights

    from prunecli.report.model import Report, Row
    from prunecli.strategies.strategy import Strategy

PRUNED = ("a.weight", "b.weight", "c.weight", "d.weight")
"""The tensors of `model` that are pruned by default."""

NORMALIZED = {score: Global(amount=0.5, normalize=score, min_per_tensor=0.1) for score in ("none", "l2", "rms", "lamp")}


def kept(strategy: Strategy, exact: Weights) -> dict[str, torch.Tensor]:
    """Return which weights of each tensor survive."""
    return dict(zip(PRUNED, expected(strategy, [exact[name] for name in PRUNED]), strict=True))


def assert_pruned(actual: Weights, before: Weights, keep: Mapping[str, torch.Tensor]) -> None:
    """Compare all tensors bit by bit."""
    for name, t in before.items():
        wanted = zeroed(t, keep[name]) if name in keep else t
        assert same_bits(actual[name], wanted), name


@pytest.mark.parametrize(("name", "kind"), in_turn(STRATEGIES, KINDS))
def test_strategies_rank_the_products(name: str, kind: str, tmp_path: Path) -> None:
    """Every strategy prunes the codes whose products it would prune, next to tensors of other dtypes."""
    before, exact = model(kind)

    actual = pruned(tmp_path, before, STRATEGIES[name])

    assert_pruned(actual, before, kept(STRATEGIES[name], exact))


@pytest.mark.parametrize(("kind", "name"), in_turn(KINDS, ["l1", "topk-2-of-4", "structured-l2", "global-amount"]))
def test_scales_of_every_shape(kind: str, name: str, tmp_path: Path) -> None:
    """Each element is multiplied by the entry of its block, whatever the shape of the scale."""
    before, exact = model(kind)

    actual = pruned(tmp_path, before, STRATEGIES[name])

    assert_pruned(actual, before, kept(STRATEGIES[name], exact))


@pytest.mark.parametrize("dtype", CODES, ids=str)
@pytest.mark.parametrize("strategy", [Global(amount=0.5), StdThreshold(0.5)], ids=["global", "std"])
def test_codes_of_every_dtype(strategy: Strategy, dtype: torch.dtype, tmp_path: Path) -> None:
    """All four FP8 formats are decoded before they are multiplied."""
    before, exact = model("blocks of 16, ragged", dtype)

    actual = pruned(tmp_path, before, strategy)

    assert_pruned(actual, before, kept(strategy, exact))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.float8_e8m0fnu])
def test_scales_of_every_dtype(dtype: torch.dtype, tmp_path: Path) -> None:
    """A scale is rounded to its own dtype; F8_E8M0 has powers of two."""
    codes, scale = make_scaled("blocks of 16, ragged")
    scale = scale.to(dtype)
    exact = dequantized("blocks of 16, ragged", codes, scale.double() if dtype.itemsize > 1 else scale.float())

    actual = pruned(tmp_path, {"a.weight": codes, "a.weight_scale": scale}, L1(amount=0.4))

    (keep,) = expected(L1(amount=0.4), [exact])
    assert same_bits(actual["a.weight"], zeroed(codes, keep))


@pytest.mark.parametrize(
    ("weight", "scale"),
    [
        ("x.weight", "x.weight_scale_inv"),
        ("x.weight", "x.weight_scale"),
        ("x.weight", "x.scale"),
        ("x.weight", "x.scale_weight"),
        ("x.weight._data", "x.weight._scale"),
        ("mlp.experts.gate_up_proj", "mlp.experts.gate_up_proj_scale_inv"),
        ("mlp.experts.gate_up_proj", "mlp.experts.gate_up_proj_scale"),
    ],
)
def test_scales_of_every_name(weight: str, scale: str, tmp_path: Path) -> None:
    """The names of DeepSeek, Qwen, compressed-tensors, ModelOpt, ComfyUI and quanto are known."""
    codes, entries = make_scaled("stack of blocks, ragged")

    actual = pruned(tmp_path, {weight: codes, scale: entries}, Threshold(0.01), include=(weight,))

    keep = dequantized("stack of blocks, ragged", codes, entries).abs() > 0.01
    assert same_bits(actual[weight], zeroed(codes, keep))
    assert same_bits(actual[scale], entries)


@pytest.mark.parametrize(
    "container",
    ["safetensors", "safetensors-shards", "zip", "ddp", "bin-shards", "non-contiguous", "sliced", "big-endian"],
)
@pytest.mark.parametrize("name", ["global-amount", "topk-2-of-7"])
def test_containers(container: str, name: str, tmp_path: Path) -> None:
    """The scale may be in another shard than the codes, and both may have other strides."""
    before, exact = model("blocks of 16, ragged")
    path = make_checkpoint(container, tmp_path, before)

    prune(path, STRATEGIES[name], output=tmp_path / f"out{path.suffix}", reports=())

    actual = state_dict(container, read(tmp_path / f"out{path.suffix}"))
    assert_pruned(actual, before, kept(STRATEGIES[name], exact))


@pytest.mark.parametrize("kind", ["blocks of 16, ragged", "per input", "stack of blocks, ragged", "number"])
@pytest.mark.parametrize("name", ["l1", "topk", "structured", "global", "thr-std"])
def test_windows_and_threads_change_nothing(
    kind: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Codes are multiplied by the right entries for any size of windows and any number of threads."""
    before, _ = model(kind)
    reference = pruned(tmp_path, before, COUNTED[name])
    monkeypatch.setattr(scored_tensors, "SCAN_BYTES", 37)
    monkeypatch.setattr(rank_planner, "SMALL_TENSOR", 0)
    monkeypatch.setattr("prunecli.engine.run.HOST_WINDOW", 4096)
    monkeypatch.setattr("prunecli.kernels.norms.RUN", 41)

    actual = pruned(tmp_path, before, COUNTED[name], threads=3)

    assert all(same_bits(actual[n], t) for n, t in reference.items())


def test_a_state_dict_in_memory_is_pruned_alike(tmp_path: Path) -> None:
    """prune_state_dict multiplies by the scales of the dict."""
    before, _ = model("blocks of 16, ragged")
    reference = pruned(tmp_path, before, Global(amount=0.5))

    prune_state_dict(before, Global(amount=0.5))

    assert all(same_bits(before[name], t) for name, t in reference.items())


def test_activation_norms_multiply_the_products(tmp_path: Path) -> None:
    """Wanda's scores are code times scale times norm."""
    codes, scale = make_scaled("blocks of 16, ragged")
    norms = torch.rand(70, generator=torch.Generator().manual_seed(3))
    path = stored(tmp_path, "norms", {"a.weight": norms})

    actual = pruned(tmp_path, {"a.weight": codes, "a.weight_scale": scale}, L1(amount=0.5, scope="row"), act_norms=path)

    scores = dequantized("blocks of 16, ragged", codes, scale).abs() * norms.double()
    (keep,) = expected(L1(amount=0.5, scope="row"), [scores])
    assert same_bits(actual["a.weight"], zeroed(codes, keep))


@pytest.mark.parametrize("name", ["l1", "global", "topk", "structured", "block", "percentile", "thr-std", "random"])
@pytest.mark.parametrize("options", ["mask_in", "remaining"])
def test_already_pruned_codes_do_not_count(name: str, options: str, tmp_path: Path) -> None:
    """Masks and zeros exclude codes as they exclude the products, for every strategy."""
    before, exact = model("blocks of 16, ragged")
    masks = {n: torch.rand(before[n].shape, generator=torch.Generator().manual_seed(9)) > 0.3 for n in PRUNED}
    given: dict[str, Any] = {"of": "remaining"}
    if options == "mask_in":
        given = {"mask_in": stored(tmp_path, "mask", masks)}

    actual = pruned(tmp_path, before, COUNTED[name], **given)

    wanted = pruned(tmp_path, exact, COUNTED[name], **given)
    assert all(torch.equal(actual[n].float() == 0, wanted[n].float() == 0) for n in PRUNED)


def magnitudes(row: Row) -> tuple[object, ...]:
    """Return the columns of a report that are in the units of the weights, or count them."""
    sizes = (row.cut, row.l2_kept, row.largest_pruned, row.smallest_kept)
    counts = (row.zeros_before, row.zeros_after, row.ties, row.ties_pruned, row.nonfinite)
    return (*sizes, *counts, row.zero_rows, row.zero_cols, row.two_four)


def report_of(folder: Path, weights: Weights, strategy: Strategy) -> Report:
    """Prune the weights as a safetensors file."""
    save_file(weights, folder / "in.safetensors")
    return prune(folder / "in.safetensors", strategy, output=folder / "out.safetensors", reports=(), force=True)


@pytest.mark.parametrize("strategy", [*NORMALIZED.values(), *COUNTED.values()], ids=[*NORMALIZED, *COUNTED])
def test_the_report_is_that_of_the_products(strategy: Strategy, tmp_path: Path) -> None:
    """Cuts, sums and extremes are those of a file that holds the products as float64; the scale is named."""
    before, exact = model("blocks of 16, ragged")

    codes = {row.name: row for row in report_of(tmp_path, before, strategy).rows}

    products = {row.name: row for row in report_of(tmp_path, exact, strategy).rows}
    assert {n: magnitudes(codes[n]) for n in PRUNED} == {n: magnitudes(products[n]) for n in PRUNED}
    assert [codes[n].scaled_by for n in PRUNED] == ["a.weight_scale_inv", None, "c.weight_scale_inv", None]


def test_histograms_of_a_report_count_products(tmp_path: Path) -> None:
    """The bins of a report are those of the products."""
    before, exact = model("blocks of 16, ragged")
    reports = []
    for name, weights in (("codes", before), ("products", exact)):
        path = stored(tmp_path, name, weights)
        page, output = tmp_path / f"{name}.html", tmp_path / f"{name}-out.safetensors"
        reports.append(prune(path, L1(amount=0.5), output=output, reports=[page]).histograms)

    assert {n: list(h.before) for n, h in reports[0].items()} == {n: list(h.before) for n, h in reports[1].items()}


def test_equal_products_of_different_blocks_are_ties(tmp_path: Path) -> None:
    """2 times 1 equals 1 times 2: of equal products the first is pruned first, in whatever block."""
    codes = torch.tensor([[1.0, 2.0, 2.0, 1.0]] * 2).to(torch.float8_e4m3fn)
    scale = torch.tensor([[2.0, 1.0]])

    actual = pruned(tmp_path, {"a.weight": codes, "a.weight_scale_inv": scale}, L1(count=4))

    # The products are 2, 4, 2, 1 in each row: the two 1s go, and of the four 2s the first two.
    assert actual["a.weight"].float().tolist() == [[0.0, 2.0, 0.0, 0.0], [1.0, 2.0, 2.0, 0.0]]


def test_negative_scales_and_codes_that_are_not_finite(tmp_path: Path) -> None:
    """A negative scale changes no magnitude; infinity and NaN are kept and counted."""
    codes = torch.tensor([[1.0, -3.0, torch.inf, torch.nan]]).to(torch.float8_e5m2)
    report = report_of(tmp_path, {"a.weight": codes, "a.weight_scale": torch.tensor(-0.5)}, Threshold(0.5))

    assert (report.rows[0].zeros_after, report.rows[0].nonfinite, report.rows[0].smallest_kept) == (1, 2, 1.5)


@pytest.mark.parametrize("entry", [0.0, torch.inf, -torch.inf, torch.nan])
def test_scales_that_cannot_be_used_are_refused(entry: float, tmp_path: Path) -> None:
    """A scale of zero, infinity or NaN is an error that names both tensors; no output is written."""
    codes, scale = make_scaled("blocks of 16, ragged")
    scale[2, 3] = entry

    with pytest.raises(CheckpointError, match=r"the scale 'a.weight_scale' of 'a.weight' has the entry"):
        pruned(tmp_path, {"a.weight": codes, "a.weight_scale": scale}, L1(amount=0.5))

    assert not (tmp_path / "out.safetensors").exists()


def test_recipes_with_two_rules_for_a_scaled_tensor(tmp_path: Path) -> None:
    """Each rule ranks products, the second one those of the codes that are left."""
    before, exact = model("blocks of 16, ragged")
    recipe = Recipe((Rule(Block(4, 4, amount=0.25)), Rule(L1(amount=0.5))))

    actual, wanted = pruned(tmp_path, before, recipe), pruned(tmp_path, exact, recipe)

    assert all(torch.equal(actual[n].float() == 0, wanted[n].float() == 0) for n in PRUNED)


@pytest.mark.parametrize("name", ["topk", "structured", "structured-inf", "block", "l1-row", "global", "random-slices"])
def test_stacks_of_experts_are_pruned_as_their_products(name: str, tmp_path: Path) -> None:
    """Rows, slices, groups and tiles of experts in codes are those of a file with the products."""
    before, exact = {}, {}
    for part in ("gate_up_proj", "down_proj"):
        full = f"mlp.experts.{part}"
        before[full], before[f"{full}_scale_inv"] = make_scaled("stack of blocks, ragged")
        exact[full] = dequantized("stack of blocks, ragged", before[full], before[f"{full}_scale_inv"])

    actual, wanted = pruned(tmp_path, before, COUNTED[name]), pruned(tmp_path, exact, COUNTED[name])

    assert all(torch.equal(actual[full].float() == 0, t.float() == 0) for full, t in wanted.items())


@pytest.mark.parametrize("name", ["global", "topk", "structured", "thr-std"])
def test_devices_prune_the_same_codes(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Products are computed on the CPU, so torch's devices get the same numbers."""
    before, _ = model("blocks of 16, ragged")
    reference = pruned(tmp_path, before, COUNTED[name])
    monkeypatch.setattr("prunecli.api.resolve", lambda _: "cpu")

    actual = pruned(tmp_path, before, COUNTED[name])

    assert all(same_bits(actual[n], t) for n, t in reference.items())


@pytest.mark.parametrize(("order", "dim"), [("out-in", 0), ("in-out", 1)])
def test_a_stated_layout_moves_a_scale_of_outputs(order: str, dim: int, tmp_path: Path) -> None:
    """A vector of scales belongs to the outputs, which the user may state for a square matrix."""
    codes, scale = make_scaled("per output, square")
    exact = codes.float().double() * scale.double().unsqueeze(1 - dim)

    actual = pruned(tmp_path, {"a.weight": codes, "a.weight_scale": scale}, L1(amount=0.5), layout={"a.weight": order})

    (keep,) = expected(L1(amount=0.5), [exact])
    assert same_bits(actual["a.weight"], zeroed(codes, keep))


def test_a_tied_name_finds_the_scale_of_the_other(tmp_path: Path) -> None:
    """Codes with two names are multiplied by the scale that only one name has."""
    codes, scale = make_scaled("per output")
    path = saved(tmp_path / "in.pth", {"a.weight": codes, "b.weight": codes, "b.weight_scale": scale})

    prune(path, L1(amount=0.5), output=tmp_path / "out.pth", reports=())

    (keep,) = expected(L1(amount=0.5), [dequantized("per output", codes, scale)])
    assert same_bits(torch.load(tmp_path / "out.pth")["a.weight"], zeroed(codes, keep))


def test_scales_are_not_pruned_by_any_pattern(tmp_path: Path) -> None:
    """`*` takes weights and biases, and leaves the scales."""
    before, _ = model("blocks of 16, ragged")

    actual = pruned(tmp_path, before, Threshold(1e9), include=("*",), min_dim=0)

    assert same({n: t.float() for n, t in actual.items()}, {n: t.float() for n, t in before.items() if "scale" in n})
    assert not any(t.float().any() for n, t in load_file(tmp_path / "out.safetensors").items() if "scale" not in n)
