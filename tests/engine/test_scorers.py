"""Scores and activation norms in place of magnitudes, against torch.nn.utils.prune and Wanda."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support import expected
from support.pruning import COUNTED, RANKING, Weights, pruned, same, stored
from torch.nn.utils import prune as torch_prune

from prunecli import CheckpointError, UsageError, prune
from prunecli.engine import rank_planner, scored_tensors
from prunecli.strategies.strategy import Strategy
from prunecli.strategies.structured import RandomStructured
from prunecli.strategies.thresholds import StdThreshold
from prunecli.strategies.unstructured import L1, Random


@pytest.mark.parametrize("strategy", RANKING.values(), ids=RANKING)
def test_scores_are_ranked_in_place_of_weights(strategy: Strategy, weights: Weights, tmp_path: Path) -> None:
    """The pruned weights are those that the strategy would prune of the scores, for any dtype."""
    generator = torch.Generator().manual_seed(2)
    dtypes = (torch.float16, torch.float32, torch.float64)
    scores = {
        name: torch.randn(t.shape, generator=generator).to(dtype)
        for (name, t), dtype in zip(weights.items(), dtypes, strict=True)
    }

    actual = pruned(tmp_path, weights, strategy, scores=stored(tmp_path, "scores", scores))

    order = sorted(weights)
    keeps = dict(zip(order, expected(strategy, [scores[name] for name in order]), strict=True))
    assert same(actual, {name: torch.where(keeps[name], t, 0) for name, t in weights.items()})


def test_scores_prune_what_torch_prunes_by_importance(weights: Weights, tmp_path: Path) -> None:
    """`importance_scores` of torch.nn.utils.prune.l1_unstructured choose the same weights."""
    scores = {name: torch.rand(t.shape, generator=torch.Generator().manual_seed(3)) for name, t in weights.items()}

    actual = pruned(tmp_path, weights, L1(amount=0.5), scores=stored(tmp_path, "scores", scores))

    for name, t in weights.items():
        mask = torch_prune.L1Unstructured(0.5).compute_mask(scores[name], torch.ones(t.shape))
        assert torch.equal(actual[name], t * mask.to(t.dtype)), name


def test_scores_can_be_in_any_container(tmp_path: Path) -> None:
    """A nested, transposed .pth of scores is read like any checkpoint."""
    weights = {"a.weight": torch.randn(30, 50)}
    scores = torch.randn(50, 30)
    torch.save({"state_dict": {"a.weight": scores.T}}, tmp_path / "scores.pth")

    actual = pruned(tmp_path, weights, L1(amount=0.5), scores=tmp_path / "scores.pth")

    (keep,) = expected(L1(amount=0.5), [scores.T])
    assert torch.equal(actual["a.weight"], torch.where(keep, weights["a.weight"], 0))


def test_large_tensors_with_other_strides_are_sampled_in_row_major_order(tmp_path: Path) -> None:
    """Scores and masks of a large transposed tensor give the result of the same tensor in row-major order."""
    generator = torch.Generator().manual_seed(9)
    weight = torch.randn(1300, 1100, generator=generator)
    mask = {"a.weight": torch.rand(weight.shape, generator=generator) > 0.4}
    options = {
        "act_norms": stored(tmp_path, "norms", {"a.weight": torch.rand(1100, generator=generator)}),
        "mask_in": stored(tmp_path, "mask", mask),
    }
    torch.save({"a.weight": weight.T.contiguous().T}, tmp_path / "in.pth")

    prune(tmp_path / "in.pth", L1(amount=0.4), output=tmp_path / "out.pth", reports=(), **options)

    assert same(torch.load(tmp_path / "out.pth"), pruned(tmp_path, {"a.weight": weight}, L1(amount=0.4), **options))


@pytest.mark.parametrize(
    ("option", "file", "message"),
    [
        ("scores", {"b.weight": torch.ones(4, 4)}, "no scores for 'a.weight' in .*, which has 'b.weight'"),
        (
            "scores",
            {"a.weight": torch.ones(4, 5)},
            r"'a.weight' needs scores of shape \[4, 4\], not \[4, 5\] as in .*scores",
        ),
        ("scores", {"a.weight": torch.ones(4, 4, dtype=torch.int32)}, "are I32, not floating-point numbers"),
        ("scores", {"a.weight": torch.full((4, 4), torch.nan)}, "contain NaN: a score is a number or infinity"),
        (
            "act_norms",
            {"a.weight": torch.ones(3)},
            r"'a.weight' needs activation norms of shape \[4\] for its inputs \(dim 1\), not \[3\] as in",
        ),
        ("act_norms", {"a.weight": torch.tensor([1.0, -1.0, 1.0, 1.0])}, "are not all finite and 0 or more"),
        ("act_norms", {"a.weight": torch.tensor([1.0, torch.inf, 1.0, 1.0])}, "are not all finite and 0 or more"),
    ],
)
def test_files_that_do_not_fit_are_refused(option: str, file: Weights, message: str, tmp_path: Path) -> None:
    """Missing names, other shapes, integers, NaN and invalid norms are errors, and no output is written."""
    with pytest.raises(CheckpointError, match=message):
        pruned(tmp_path, {"a.weight": torch.ones(4, 4)}, L1(amount=0.5), **{option: stored(tmp_path, "scores", file)})

    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize(("bias", "hint"), [((), "layout={'a.weight': 'in-out'}"), ((3,), "exclude=['a.weight']")])
def test_norms_of_the_other_dimension_hint_at_the_layout(bias: tuple[int, ...], hint: str, tmp_path: Path) -> None:
    """Where the layout is assumed, norms as long as the outputs may mean that they are the inputs."""
    weights = {"a.weight": torch.ones(3, 5), **({"a.bias": torch.ones(bias)} if bias else {})}
    norms = stored(tmp_path, "norms", {"a.weight": torch.ones(3)})

    with pytest.raises(CheckpointError) as caught:
        pruned(tmp_path, weights, L1(amount=0.5), act_norms=norms)

    assert hint in str(caught.value.hint)


@pytest.mark.parametrize("strategy", [Random(amount=0.5), RandomStructured(amount=0.5), StdThreshold(1.0)])
def test_scores_are_refused_for_strategies_that_rank_nothing(strategy: Strategy, tmp_path: Path) -> None:
    """A file that would have no effect is an error."""
    scores = stored(tmp_path, "scores", {"a.weight": torch.ones(4, 4)})

    with pytest.raises(UsageError, match=r"\) does not rank weights, so scores have no effect on it"):
        pruned(tmp_path, {"a.weight": torch.ones(4, 4)}, strategy, scores=scores)


def test_activation_norms_prune_what_wanda_prunes(weights: Weights, tmp_path: Path) -> None:
    """In each row the k smallest |w| * norm[column] are pruned, ties by position."""
    norms = {name: torch.rand(t.shape[1], generator=torch.Generator().manual_seed(4)) for name, t in weights.items()}

    actual = pruned(
        tmp_path, weights, L1(amount=0.5, scope="row"), act_norms=stored(tmp_path, "norms", norms), min_dim=2
    )

    for name, t in weights.items():
        shape = (1, -1, *([1] * (t.dim() - 2)))
        (keep,) = expected(L1(amount=0.5, scope="row"), [t.double().abs() * norms[name].double().view(shape)])
        assert torch.equal(actual[name], torch.where(keep, t, 0)), name


def test_infinity_times_a_norm_of_zero_ranks_highest(tmp_path: Path) -> None:
    """Infinity times zero is NaN, whose pattern is above all others, so the weight is kept."""
    weights = {"a.weight": torch.tensor([[torch.inf, 1.0, 2.0, 3.0]])}
    norms = {"a.weight": torch.tensor([0.0, 1.0, 1.0, 1.0])}

    actual = pruned(tmp_path, weights, L1(count=1), act_norms=stored(tmp_path, "norms", norms))

    assert actual["a.weight"].tolist() == [[torch.inf, 0.0, 2.0, 3.0]]


@pytest.mark.parametrize("name", ["l1", "global", "random", "topk", "structured"])
def test_windows_threads_and_devices_change_nothing(
    name: str, weights: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores and masks are applied to the right weights for any size of windows, threads and device."""
    generator = torch.Generator().manual_seed(8)
    masks = {n: torch.rand(t.shape, generator=generator) > 0.3 for n, t in weights.items()}
    options: dict[str, Any] = {"mask_in": stored(tmp_path, "mask", masks)}
    if name != "random":
        scores = {n: torch.rand(t.shape, generator=generator).half() for n, t in weights.items()}
        options["scores"] = stored(tmp_path, "scores", scores)
    reference = pruned(tmp_path, weights, COUNTED[name], **options)

    monkeypatch.setattr(scored_tensors, "SCAN_BYTES", 5000)
    monkeypatch.setattr(rank_planner, "SMALL_TENSOR", 0)
    monkeypatch.setattr("prunecli.engine.run.HOST_WINDOW", 3 * 4096)
    monkeypatch.setattr("prunecli.api.resolve", lambda _: "cpu")

    assert same(pruned(tmp_path, weights, COUNTED[name], threads=3, **options), reference)
