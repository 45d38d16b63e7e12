"""Scores, activation norms, masks and random numbers: what is ranked besides magnitudes, against torch."""

from __future__ import annotations

import os
import shlex
from math import inf
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from support import CONTAINERS, expected, make_checkpoint, make_weights, state_dict
from support import read as read_back
from torch.nn.utils import prune as torch_prune

from prunecli import CheckpointError, SelectionError, UsageError, prune
from prunecli.engine import planner as planning
from prunecli.kernels.random_bits import draw
from prunecli.strategies.mask import Mask
from prunecli.strategies.semi_structured import TopK
from prunecli.strategies.unstructured import (
    L1,
    Block,
    Global,
    Percentile,
    Random,
    RandomStructured,
    StdThreshold,
    Strategy,
    Structured,
    Threshold,
)

if TYPE_CHECKING:
    from pathlib import Path

Weights = dict[str, torch.Tensor]

RANKING: dict[str, Strategy] = {
    "l1": L1(amount=0.4),
    "l1-row": L1(amount=0.4, scope="row"),
    "global": Global(amount=0.4),
    "topk": TopK(2, 4),
    "topk-wide": TopK(5, 20),
    "structured": Structured(amount=0.4, n=1),
    "structured-inf": Structured(amount=0.4, dim=1, n=inf),
    "block": Block(3, 4, amount=0.4),
    "percentile": Percentile(40),
    "threshold": Threshold(0.3),
}

COUNTED: dict[str, Strategy] = {
    **RANKING,
    "random": Random(amount=0.4),
    "random-slices": RandomStructured(amount=0.4, dim=1),
    "thr-std": StdThreshold(0.5),
}


@pytest.fixture
def weights() -> Weights:
    """Two matrices and a kernel in several dtypes, one of them too large to be ranked in one read."""
    generator = torch.Generator().manual_seed(1)
    return {
        "big.weight": torch.randn(600, 2000, generator=generator),
        "conv.weight": torch.randn(24, 10, 3, 3, generator=generator).to(torch.bfloat16),
        "half.weight": torch.randn(40, 33, generator=generator).half(),
    }


def pruned(folder: Path, weights: Weights, strategy: Strategy, **options: Any) -> Weights:  # noqa: ANN401 - prune's own
    """Return the weights after pruning them as a safetensors file."""
    save_file(weights, folder / "in.safetensors")
    output = folder / "out.safetensors"
    prune(folder / "in.safetensors", strategy, output=output, reports=(), force=True, **options)
    return load_file(output)


def same(found: Weights, wanted: Weights) -> bool:
    """Say whether all tensors are equal."""
    return all(torch.equal(found[name], wanted[name]) for name in wanted)


def stored(folder: Path, name: str, tensors: Weights) -> Path:
    """Save tensors as safetensors and return where."""
    save_file(tensors, folder / f"{name}.safetensors")
    return folder / f"{name}.safetensors"


# --- scores


@pytest.mark.parametrize("strategy", RANKING.values(), ids=RANKING)
def test_scores_are_ranked_in_place_of_weights(strategy: Strategy, weights: Weights, tmp_path: Path) -> None:
    """What goes is what the strategy would prune of the scores, whatever their dtype."""
    generator = torch.Generator().manual_seed(2)
    dtypes = (torch.float16, torch.float32, torch.float64)
    scores = {
        name: torch.randn(t.shape, generator=generator).to(dtype)
        for (name, t), dtype in zip(weights.items(), dtypes, strict=True)
    }

    found = pruned(tmp_path, weights, strategy, scores=stored(tmp_path, "scores", scores))

    order = sorted(weights)
    keeps = dict(zip(order, expected(strategy, [scores[name] for name in order]), strict=True))
    assert same(found, {name: torch.where(keeps[name], t, 0) for name, t in weights.items()})


def test_scores_prune_what_torch_prunes_by_importance(weights: Weights, tmp_path: Path) -> None:
    """`importance_scores` of torch.nn.utils.prune.l1_unstructured choose the same weights."""
    scores = {name: torch.rand(t.shape, generator=torch.Generator().manual_seed(3)) for name, t in weights.items()}

    found = pruned(tmp_path, weights, L1(amount=0.5), scores=stored(tmp_path, "scores", scores))

    for name, t in weights.items():
        mask = torch_prune.L1Unstructured(0.5).compute_mask(scores[name], torch.ones(t.shape))
        assert torch.equal(found[name], t * mask.to(t.dtype)), name


def test_scores_may_lie_in_any_container(tmp_path: Path) -> None:
    """A nested, transposed .pth of scores is read like any checkpoint."""
    weights = {"a.weight": torch.randn(30, 50)}
    scores = torch.randn(50, 30)
    torch.save({"state_dict": {"a.weight": scores.T}}, tmp_path / "scores.pth")

    found = pruned(tmp_path, weights, L1(amount=0.5), scores=tmp_path / "scores.pth")

    (keep,) = expected(L1(amount=0.5), [scores.T])
    assert torch.equal(found["a.weight"], torch.where(keep, weights["a.weight"], 0))


@pytest.mark.parametrize(
    ("scores", "says"),
    [
        ({"b.weight": torch.ones(4, 4)}, "no scores for 'a.weight' in .*, which has 'b.weight'"),
        ({"a.weight": torch.ones(4, 5)}, r"'a.weight' needs scores of shape \[4, 4\], not \[4, 5\] as in .*scores"),
        ({"a.weight": torch.ones(4, 4, dtype=torch.int32)}, "are I32, not floating-point numbers"),
        ({"a.weight": torch.full((4, 4), torch.nan)}, "hold NaN: a score is a number, or infinity"),
    ],
)
def test_scores_that_do_not_fit_are_refused(scores: Weights, says: str, tmp_path: Path) -> None:
    """Missing names, other shapes, integers and NaN: one sentence, and no output."""
    with pytest.raises(CheckpointError, match=says):
        pruned(tmp_path, {"a.weight": torch.ones(4, 4)}, L1(amount=0.5), scores=stored(tmp_path, "scores", scores))

    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize("strategy", [Random(amount=0.5), RandomStructured(amount=0.5), StdThreshold(1.0)])
def test_scores_are_refused_where_nothing_is_ranked(strategy: Strategy, tmp_path: Path) -> None:
    """An option that would be ignored is an error."""
    scores = stored(tmp_path, "scores", {"a.weight": torch.ones(4, 4)})

    with pytest.raises(UsageError, match="ranks nothing, so scores mean nothing to it"):
        pruned(tmp_path, {"a.weight": torch.ones(4, 4)}, strategy, scores=scores)


# --- activation norms


def test_activation_norms_prune_what_wanda_prunes(weights: Weights, tmp_path: Path) -> None:
    """Per row, the k smallest |w| * norm[column] go, the first of equals first."""
    norms = {name: torch.rand(t.shape[1], generator=torch.Generator().manual_seed(4)) for name, t in weights.items()}

    found = pruned(
        tmp_path, weights, L1(amount=0.5, scope="row"), act_norms=stored(tmp_path, "norms", norms), min_dim=2
    )

    for name, t in weights.items():
        shape = (1, -1, *([1] * (t.dim() - 2)))
        (keep,) = expected(L1(amount=0.5, scope="row"), [t.double().abs() * norms[name].double().view(shape)])
        assert torch.equal(found[name], torch.where(keep, t, 0)), name


@pytest.mark.parametrize(
    ("norms", "says"),
    [
        (torch.ones(3), r"'a.weight' needs activation norms of shape \[4\], not \[3\] as in"),
        (torch.tensor([1.0, -1.0, 1.0, 1.0]), "are not all finite and 0 or more"),
        (torch.tensor([1.0, torch.inf, 1.0, 1.0]), "are not all finite and 0 or more"),
    ],
)
def test_activation_norms_that_do_not_fit_are_refused(norms: torch.Tensor, says: str, tmp_path: Path) -> None:
    """A norm is a finite number of 0 or more, one for each column."""
    with pytest.raises(CheckpointError, match=says):
        pruned(
            tmp_path,
            {"a.weight": torch.ones(4, 4)},
            L1(amount=0.5),
            act_norms=stored(tmp_path, "norms", {"a.weight": norms}),
        )


def test_a_norm_of_zero_makes_even_infinity_small(tmp_path: Path) -> None:
    """Infinity times zero is no number: it ranks above all, and nothing is lost but order."""
    weights = {"a.weight": torch.tensor([[torch.inf, 1.0, 2.0, 3.0]])}
    norms = {"a.weight": torch.tensor([0.0, 1.0, 1.0, 1.0])}

    found = pruned(tmp_path, weights, L1(count=1), act_norms=stored(tmp_path, "norms", norms))

    assert found["a.weight"].tolist() == [[torch.inf, 0.0, 2.0, 3.0]]


# --- masks


@pytest.mark.parametrize(
    "dtype",
    [torch.uint8, torch.bool, torch.float32, torch.bfloat16, torch.int64, torch.uint16, torch.uint32, torch.uint64],
)
def test_a_mask_prunes_where_it_is_zero(dtype: torch.dtype, weights: Weights, tmp_path: Path) -> None:
    """custom_from_mask, for masks of any type that holds zeros and ones."""
    generator = torch.Generator().manual_seed(5)
    masks = {name: (torch.rand(t.shape, generator=generator) > 0.5) for name, t in weights.items()}
    file = stored(tmp_path, "mask", {name: mask.to(dtype) for name, mask in masks.items()})

    found = pruned(tmp_path, weights, Mask(str(file)))

    assert same(found, {name: torch.where(masks[name], t, 0) for name, t in weights.items()})


def test_a_mask_says_which_tensors_are_meant(tmp_path: Path) -> None:
    """Tensors that the mask does not name stay; torch's own `weight_mask` names `weight`; biases can be masked."""
    weights = {"a.weight": torch.ones(2, 2), "a.bias": torch.ones(2), "b.weight": torch.ones(2, 2)}
    masks = {"a.weight_mask": torch.tensor([[1.0, 0.0], [1.0, 1.0]]), "a.bias": torch.tensor([0.0, 1.0])}

    found = pruned(tmp_path, weights, Mask(str(stored(tmp_path, "mask", masks))))

    assert found["a.weight"].tolist() == [[1, 0], [1, 1]]
    assert found["a.bias"].tolist() == [0, 1]
    assert torch.equal(found["b.weight"], weights["b.weight"])


@pytest.mark.parametrize(
    ("mask", "error", "says"),
    [
        ({"a.weight": torch.full((4, 4), 0.5)}, CheckpointError, "holds other values than 0 and 1"),
        ({"a.weight": torch.full((4, 4), 2, dtype=torch.uint8)}, CheckpointError, "holds other values than 0 and 1"),
        ({"a.weight": torch.full((4, 4), torch.nan)}, CheckpointError, "holds other values than 0 and 1"),
        ({"a.weight": torch.full((4, 4), -1.0)}, CheckpointError, "holds other values than 0 and 1"),
        ({"a.weight": torch.full((4, 4), -1.0).bfloat16()}, CheckpointError, "holds other values than 0 and 1"),
        ({"a.weight": torch.full((4, 4), -1, dtype=torch.int8)}, CheckpointError, "holds other values than 0 and 1"),
        ({}, CheckpointError, "there is no mask in .*mask"),
        ({"a.weight": torch.ones(4)}, CheckpointError, r"'a.weight' needs a mask of shape \[4, 4\], not \[4\] as in"),
        ({"c.weight": torch.ones(4, 4)}, SelectionError, "has 'c.weight', and the checkpoint has no such tensor"),
    ],
)
def test_masks_that_are_none_are_refused(mask: Weights, error: type[Exception], says: str, tmp_path: Path) -> None:
    """Other values, shapes and names: one sentence, and no output."""
    file = stored(tmp_path, "mask", mask)

    with pytest.raises(error, match=says):
        pruned(tmp_path, {"a.weight": torch.ones(4, 4)}, Mask(str(file)))

    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize("strategy", [L1(amount=0.5), Structured(amount=0.3), Structured(amount=0.3, dim=1, n=1)])
def test_a_mask_carried_on_is_torchs_container(strategy: Strategy, weights: Weights, tmp_path: Path) -> None:
    """Two runs, with the mask of the first in the second, prune what two calls of torch do: 75 % for 0.5 twice."""
    module = torch.nn.Linear(2000, 600, bias=False)
    module.weight.data = weights["big.weight"].clone()
    for _ in range(2):
        if isinstance(strategy, Structured):
            torch_prune.ln_structured(module, "weight", strategy.amount or 0, n=strategy.n, dim=strategy.dim)
        else:
            torch_prune.l1_unstructured(module, "weight", amount=0.5)
    first, second = tmp_path / "1.safetensors", tmp_path / "2.safetensors"

    pruned(tmp_path, weights, strategy, mask_out=first)
    found = pruned(tmp_path, weights, strategy, mask_in=first, mask_out=second)

    assert torch.equal(load_file(second)["big.weight"].bool(), module.weight_mask.bool())
    assert torch.equal(found["big.weight"], module.weight)


@pytest.mark.parametrize("strategy", COUNTED.values(), ids=COUNTED)
def test_amounts_are_of_what_is_left(strategy: Strategy, weights: Weights, tmp_path: Path) -> None:
    """With a mask, the weights it leaves are pruned as if there were no others; slices and tiles as torch does."""
    generator = torch.Generator().manual_seed(6)
    masks = {name: torch.rand(t.shape, generator=generator) > 0.6 for name, t in weights.items()}
    for mask in masks.values():
        mask[:3] = False  # whole slices and tiles are gone, too

    found = pruned(tmp_path, weights, strategy, mask_in=stored(tmp_path, "mask", masks), min_dim=2)

    for name, mask in masks.items():
        assert not (found[name][~mask]).any(), name
        assert torch.equal(found[name][found[name] != 0], weights[name][found[name] != 0])
    if isinstance(strategy, (L1, Random)) and getattr(strategy, "scope", "tensor") == "tensor":
        for name, mask in masks.items():
            left = int(mask.sum())
            assert int((found[name] != 0).sum()) == left - round(0.4 * left)
    if isinstance(strategy, (L1, Percentile, Threshold)) and getattr(strategy, "scope", "tensor") == "tensor":
        for name, mask in masks.items():
            (keep,) = expected(strategy, [weights[name][mask]])
            assert torch.equal(found[name][mask] != 0, keep), name
    if isinstance(strategy, (Structured, RandomStructured)):
        for name, mask in masks.items():
            dims = [d for d in range(mask.dim()) if d != strategy.dim]
            alive, stays = mask.sum(dims) > 0, (found[name] != 0).sum(dims) > 0
            assert int(stays.sum()) == int(alive.sum()) - round(0.4 * int(alive.sum()))


def test_rows_of_different_lengths_lose_their_own_part(tmp_path: Path) -> None:
    """In each row, a part of what the mask leaves of that row goes."""
    weights = {"a.weight": torch.arange(1.0, 13.0).view(2, 6)}
    mask = {"a.weight": torch.tensor([[0, 0, 1, 1, 1, 1], [0, 0, 0, 0, 1, 1]], dtype=torch.uint8)}

    found = pruned(tmp_path, weights, L1(amount=0.5, scope="row"), mask_in=stored(tmp_path, "mask", mask))

    assert found["a.weight"].tolist() == [[0, 0, 0, 0, 5, 6], [0, 0, 0, 0, 0, 12]]


@pytest.mark.parametrize("strategy", COUNTED.values(), ids=COUNTED)
def test_zeros_are_a_mask_with_of_remaining(strategy: Strategy, weights: Weights, tmp_path: Path) -> None:
    """`of="remaining"` prunes what a mask of the non-zeros does."""
    generator = torch.Generator().manual_seed(7)
    holed = {name: t * (torch.rand(t.shape, generator=generator) > 0.6) for name, t in weights.items()}
    masks = stored(tmp_path, "mask", {name: t != 0 for name, t in holed.items()})

    assert same(pruned(tmp_path, holed, strategy, of="remaining"), pruned(tmp_path, holed, strategy, mask_in=masks))


@pytest.mark.parametrize("amount", [0.0, 1.0])
@pytest.mark.parametrize("make", [L1, Global, Structured, Random, RandomStructured])
def test_all_or_nothing_of_what_is_left(make: Any, amount: float, tmp_path: Path) -> None:  # noqa: ANN401
    """0 prunes nothing and 1 everything that a mask leaves, down to a tensor of which nothing is left."""
    weights = {"a.weight": torch.tensor([[1.0, 0.0], [2.0, 3.0]]), "z.weight": torch.zeros(3, 3)}

    found = pruned(tmp_path, weights, make(amount=amount), of="remaining")

    assert same(found, {name: t * (1 - amount) for name, t in weights.items()})


def test_a_count_is_of_what_is_left_too(tmp_path: Path) -> None:
    """More than there is left is refused, with the number there is."""
    weights = {"a.weight": torch.tensor([[1.0, 0.0], [2.0, 3.0]])}

    with pytest.raises(UsageError, match=r"the count 4 is more than the 3 remaining weights of 'a.weight'"):
        pruned(tmp_path, weights, L1(count=4), of="remaining")


@pytest.mark.parametrize("container", CONTAINERS)
def test_the_mask_says_what_stays_in_every_container(container: str, tmp_path: Path) -> None:
    """`mask_out` is 1 exactly where a selected weight was kept, under the tensor's name, whatever its strides."""
    path = make_checkpoint(container, tmp_path, make_weights())
    output = tmp_path / ("out" if path.is_dir() else f"out{path.suffix}")

    prune(path, L1(amount=0.5), output=output, reports=(), mask_out=tmp_path / "mask.safetensors")

    masks, how = load_file(tmp_path / "mask.safetensors"), CONTAINERS[container]
    before, after = (state_dict(container, read_back(p)) for p in (path, output))
    assert masks
    for name, mask in masks.items():
        short = name.removeprefix(how.prefix)
        assert mask.dtype == torch.uint8
        assert torch.equal(after[short], before[short] * mask.to(before[short].dtype)), name
        assert int(mask.sum()) == mask.numel() - round(0.5 * mask.numel())


def test_the_mask_is_written_with_the_checkpoint_or_not_at_all(tmp_path: Path) -> None:
    """A run that is refused leaves neither; an existing mask is kept unless forced; a dry run writes only the mask."""
    weights, mask = {"a.weight": torch.tensor([[1.0, torch.nan]])}, tmp_path / "mask.safetensors"

    with pytest.raises(CheckpointError, match="not finite"):
        pruned(tmp_path, weights, L1(count=1), mask_out=mask, strict=True)
    assert not mask.exists()
    assert not (tmp_path / "out.safetensors").exists()

    prune(tmp_path / "in.safetensors", L1(count=1), dry_run=True, reports=(), mask_out=mask)
    assert load_file(mask)["a.weight"].tolist() == [[0, 1]]
    with pytest.raises(Exception, match=r"mask\.safetensors exists"):
        prune(tmp_path / "in.safetensors", L1(count=1), dry_run=True, reports=(), mask_out=mask)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"scores": "x", "act_norms": "y"}, "--scores and --act-norms are two answers"),
        ({"mask_in": "x", "of": "remaining"}, "--mask-in and --of remaining are two answers"),
        ({"of": "zeros"}, "--of is all or remaining, not 'zeros'"),
    ],
)
def test_two_answers_to_one_question_are_refused(options: dict[str, str], says: str, tmp_path: Path) -> None:
    """What cannot be meant is refused before a file is looked for."""
    with pytest.raises(UsageError, match=says):
        pruned(tmp_path, {"a.weight": torch.ones(2, 2)}, L1(amount=0.5), **options)


@pytest.mark.parametrize("option", ["scores", "act_norms", "mask_in"])
def test_what_goes_along_is_a_file(option: str, tmp_path: Path) -> None:
    """A pipe is refused without being opened, and what is missing is told with what it was wanted for."""
    kind = {"scores": "scores", "act_norms": "activation norms", "mask_in": "mask"}[option]
    os.mkfifo(tmp_path / "pipe")

    for path, says in ((tmp_path / "pipe", "not .*pipe"), ("-", "not standard input"), ("missing", "there is no file")):
        with pytest.raises(CheckpointError, match=f"^{kind}: .*{says}"):
            pruned(tmp_path, {"a.weight": torch.ones(2, 2)}, L1(amount=0.5), **{option: path})


def test_all_that_a_file_lacks_is_told_at_once(tmp_path: Path) -> None:
    """The hint leaves out every tensor without scores, not the first alone."""
    weights = {f"{name}.weight": torch.ones(2, 2) for name in "abc"}
    scores = stored(tmp_path, "scores", {"b.weight": torch.ones(2, 2)})

    with pytest.raises(CheckpointError, match=r"no scores for 'a.weight' and 1 more in ") as refused:
        pruned(tmp_path, weights, L1(amount=0.5), scores=scores)

    assert refused.value.hint == "-x a.weight -x c.weight leaves those tensors as they are"


def test_hints_name_tensors_as_a_shell_and_a_glob_take_them(tmp_path: Path) -> None:
    """What `-x` is hinted with leaves that very tensor out, whatever its name has in it."""
    weights = {"w[0]'s.weight": torch.ones(2, 2), "b.weight": torch.ones(2, 2)}
    scores = stored(tmp_path, "scores", {"b.weight": torch.ones(2, 2)})

    with pytest.raises(CheckpointError) as refused:
        pruned(tmp_path, weights, L1(amount=0.5), scores=scores)

    (_, pattern, *_) = shlex.split(str(refused.value.hint))
    found = pruned(tmp_path, weights, L1(amount=1.0), scores=scores, exclude=(pattern,))
    assert same(found, {"w[0]'s.weight": torch.ones(2, 2), "b.weight": torch.zeros(2, 2)})


@pytest.mark.parametrize("strategy", [L1(amount=0.5, scope="row"), Block(2, 2, amount=0.5), Structured(amount=0.5)])
def test_a_single_number_has_no_rows(strategy: Strategy, tmp_path: Path) -> None:
    """A tensor without dimensions is refused by name, before anything is read, and the hint does without dim -1."""
    with pytest.raises(SelectionError, match=r"'a.weight' has 0 dimensions, so it has no dim 0") as refused:
        pruned(tmp_path, {"a.weight": torch.tensor(1.0)}, strategy, include=("*",))

    assert refused.value.hint == "exclude=['a.weight'] leaves it out"


@pytest.mark.parametrize("make", [L1, Global, Structured, Random, RandomStructured])
@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"amount": 1}, "the amount 1 could mean a part or a number of weights"),
        ({"amount": True}, "the amount True could mean a part or a number of weights"),
        ({"amount": "0.5"}, "the amount is a number from 0 to 1, not '0.5'"),
        ({"count": 1.5}, "the count is a whole number, not 1.5"),
        ({"count": 1.0}, "the count is a whole number, not 1.0"),
    ],
)
def test_an_amount_that_torch_reads_otherwise_is_refused(make: Any, asked: dict[str, Any], says: str) -> None:  # noqa: ANN401
    """Torch's amount of 1 is one weight and of 1.0 all: here a whole number is a count, and says so."""
    with pytest.raises(UsageError, match=says):
        make(**asked)


def test_what_is_no_strategy_is_refused(tmp_path: Path) -> None:
    """The name of a strategy, or a file, is none."""
    with pytest.raises(UsageError, match="a strategy is needed, not 'l1'"):
        pruned(tmp_path, {"a.weight": torch.ones(2, 2)}, "l1")  # type: ignore[arg-type] # that is the point


@pytest.mark.parametrize("strategy", [L1(count=7), Random(count=7)])
def test_a_count_that_is_too_much_is_hinted_with_one_that_works(strategy: Strategy, tmp_path: Path) -> None:
    """The smallest tensor is named, not the first."""
    weights = {"a.weight": torch.ones(2, 3), "b.weight": torch.ones(2, 2), "c.weight": torch.ones(4, 2)}

    with pytest.raises(UsageError, match=r"the count 7 is more than the 4 weights of 'b.weight'") as refused:
        pruned(tmp_path, weights, strategy)

    assert refused.value.hint == "count=4"


# --- random


def test_random_masks_depend_on_seed_name_and_shape_alone(weights: Weights, tmp_path: Path) -> None:
    """Other tensors, dtypes and the number of threads change nothing; another seed or name does."""
    whole = pruned(tmp_path, weights, Random(amount=0.5, seed=1))
    alone = pruned(tmp_path, {"big.weight": weights["big.weight"].double()}, Random(amount=0.5, seed=1), threads=1)
    other = pruned(tmp_path, weights, Random(amount=0.5, seed=2))
    named = pruned(tmp_path, {"bag.weight": weights["big.weight"]}, Random(amount=0.5, seed=1))

    holes = whole["big.weight"] == 0
    assert torch.equal(holes, alone["big.weight"] == 0)
    assert not torch.equal(holes, other["big.weight"] == 0)
    assert not torch.equal(holes, named["bag.weight"] == 0)


@settings(max_examples=40, deadline=None)
@given(rows=st.integers(1, 40), cols=st.integers(1, 40), amount=st.floats(0, 1), seed=st.integers(-5, 5))
def test_random_prunes_exactly_the_amount(
    rows: int, cols: int, amount: float, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """K = round(amount * n), whatever the numbers are."""
    folder = tmp_path_factory.mktemp("random")
    found = pruned(folder, {"a.weight": torch.ones(rows, cols)}, Random(amount=amount, seed=seed))

    assert int((found["a.weight"] == 0).sum()) == round(amount * rows * cols)


def test_random_weights_are_spread_evenly(tmp_path: Path) -> None:
    """Each row and each column of a large matrix loses about its part: within six standard deviations."""
    found = pruned(tmp_path, {"a.weight": torch.ones(1000, 1000)}, Random(amount=0.5))

    for dim in (0, 1):
        lost = (found["a.weight"] == 0).sum(dim)
        assert (lost - 500).abs().max() < 6 * 0.5 * 1000**0.5


def test_random_slices_go_whole(tmp_path: Path) -> None:
    """Half of the columns are zero, and nothing else."""
    found = pruned(tmp_path, {"a.weight": torch.ones(6, 40)}, RandomStructured(amount=0.5, dim=1))

    assert sorted(found["a.weight"].sum(0).tolist()) == [0.0] * 20 + [6.0] * 20


def test_random_numbers_can_be_entered_anywhere() -> None:
    """Any run of the stream is part of the whole."""
    whole = draw(7, 0, 1000)

    assert whole.min() >= 0
    for first, count in [(0, 1), (1, 5), (7, 9), (8, 8), (500, 77), (999, 1)]:
        assert np.array_equal(draw(7, first, count), whole[first : first + count])


# --- biases


def test_biases_go_with_their_rows(tmp_path: Path) -> None:
    """`with_bias` zeroes the bias of each row that goes; biases of another length and excluded ones stay."""
    weights = {
        "a.weight": torch.tensor([[1.0, 1], [2, 2], [3, 3], [4, 4]]),
        "a.bias": torch.ones(4),
        "b.weight": torch.eye(2),
        "b.bias": torch.ones(3),
        "c.weight": torch.tensor([[1.0], [2.0]]),
        "c.bias": torch.ones(2),
    }

    found = pruned(tmp_path, weights, Structured(amount=0.5, with_bias=True), exclude=("c.bias",))

    assert found["a.bias"].tolist() == [0, 0, 1, 1]
    assert found["b.bias"].tolist() == [1, 1, 1]
    assert found["c.bias"].tolist() == [1, 1]
    assert found["c.weight"].tolist() == [[0], [2]]


@pytest.mark.parametrize("option", ["scores", "act_norms", "mask_in"])
def test_biases_follow_whatever_their_rows_are_ranked_by(option: str, tmp_path: Path) -> None:
    """A file that says nothing of biases ranks the rows, and the biases go with them."""
    weights = {"a.weight": torch.tensor([[1.0, 1], [2, 2], [3, 3]]), "a.bias": torch.ones(3)}
    beside = {
        "scores": torch.tensor([[3.0, 3], [1, 1], [2, 2]]),
        "act_norms": torch.ones(2),
        "mask_in": torch.tensor([[1.0, 1], [1, 0], [1, 1]]),
    }[option]

    found = pruned(
        tmp_path,
        weights,
        Structured(count=1, with_bias=True),
        **{option: stored(tmp_path, "beside", {"a.weight": beside})},
    )

    gone = {"scores": [1, 0, 1], "act_norms": [0, 1, 1], "mask_in": [0, 1, 1]}[option]
    assert found["a.bias"].tolist() == gone
    kept = torch.tensor(gone)[:, None] * (beside if option == "mask_in" else 1)
    assert torch.equal(found["a.weight"], weights["a.weight"] * kept)


def test_biases_are_asked_for_in_vain(tmp_path: Path) -> None:
    """Where no bias belongs to a row, and along other dimensions, `with_bias` is an error."""
    with pytest.raises(SelectionError, match="no selected tensor has a bias of one entry per row"):
        pruned(tmp_path, {"a.weight": torch.eye(3)}, Structured(amount=0.5, with_bias=True))
    with pytest.raises(UsageError, match="a bias belongs to dim 0, not to dim 1"):
        Structured(amount=0.5, dim=1, with_bias=True)


# --- the same everywhere


@pytest.mark.parametrize("name", ["l1", "global", "random", "topk", "structured"])
def test_windows_threads_and_devices_do_not_matter(
    name: str, weights: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores and masks are met with the right weights, however the work is cut up and wherever it is done."""
    generator = torch.Generator().manual_seed(8)
    masks = {n: torch.rand(t.shape, generator=generator) > 0.3 for n, t in weights.items()}
    options: dict[str, Any] = {"mask_in": stored(tmp_path, "mask", masks)}
    if name != "random":
        scores = {n: torch.rand(t.shape, generator=generator).half() for n, t in weights.items()}
        options["scores"] = stored(tmp_path, "scores", scores)
    reference = pruned(tmp_path, weights, COUNTED[name], **options)

    monkeypatch.setattr(planning, "SCAN", 5000)
    monkeypatch.setattr(planning, "SMALL", 0)
    monkeypatch.setattr("prunecli.engine.run.HOST_WINDOW", 3 * 4096)
    monkeypatch.setattr("prunecli.api.resolve", lambda _: "cpu")

    assert same(pruned(tmp_path, weights, COUNTED[name], threads=3, **options), reference)
