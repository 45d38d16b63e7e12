"""Runs of recipes: rules compose as in torch.nn.utils.prune.PruningContainer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import STRATEGIES, expected, make_weights
from support.pruning import Weights, pruned
from torch.nn.utils import prune as torch_prune

from prunecli import SelectionError, UsageError, prune
from prunecli.progress import NoProgress
from prunecli.selection.select import Selector
from prunecli.strategies.mask import Mask
from prunecli.strategies.recipe import Recipe, Rule
from prunecli.strategies.semi_structured import TopK
from prunecli.strategies.structured import Block, Structured
from prunecli.strategies.thresholds import Threshold
from prunecli.strategies.unstructured import L1, Global, Percentile, Random

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from prunecli.strategies.strategy import Strategy


class Holder(torch.nn.Module):
    """A module with one weight, for torch to prune."""

    def __init__(self, weight: torch.Tensor) -> None:
        """Take a copy."""
        super().__init__()
        self.weight = torch.nn.Parameter(weight.clone())


@pytest.fixture
def weights() -> Weights:
    """Matrices of two kinds and a bias."""
    generator = torch.Generator().manual_seed(1)
    shapes = {"enc.0.weight": (64, 40), "enc.1.weight": (32, 64), "dec.weight": (48, 48)}
    actual = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return {**actual, "dec.bias": torch.randn(48, generator=generator)}


def rule(strategy: Strategy, *include: str) -> Rule:
    """Return a rule for tensors whose names match."""
    return Rule(strategy, Selector(include=include))


def test_rules_for_one_tensor_compose_as_in_torchs_container(weights: Weights, tmp_path: Path) -> None:
    """Of three rules two match one tensor, and the third matches all."""
    recipe = Recipe(
        (rule(TopK(2, 4), "enc.*"), rule(L1(amount=0.5), "enc.1*", "dec.weight"), Rule(Global(amount=0.25)))
    )
    modules = {name: Holder(t) for name, t in weights.items() if t.dim() > 1}
    for name in ("enc.0.weight", "enc.1.weight"):
        torch_prune.custom_from_mask(modules[name], "weight", expected(TopK(2, 4), [weights[name]])[0])
    for name in ("enc.1.weight", "dec.weight"):
        torch_prune.l1_unstructured(modules[name], "weight", 0.5)
    torch_prune.global_unstructured([(h, "weight") for h in modules.values()], torch_prune.L1Unstructured, amount=0.25)

    actual = pruned(tmp_path, weights, recipe)

    for name, module in modules.items():
        assert torch.equal(actual[name], module.weight), name
    assert torch.equal(actual["dec.bias"], weights["dec.bias"])


@pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)
def test_a_recipe_of_one_rule_is_the_command(strategy: Strategy, tmp_path: Path) -> None:
    """A recipe of one rule writes the same bytes as the strategy alone."""
    weights = make_weights()
    actual = pruned(tmp_path, weights, Recipe((Rule(strategy),)))
    prune(tmp_path / "in.safetensors", strategy, output=tmp_path / "alone.safetensors", reports=())

    assert (tmp_path / "alone.safetensors").read_bytes() == (tmp_path / "out.safetensors").read_bytes()
    assert actual


@pytest.mark.parametrize("first", [L1(amount=0.3), Structured(amount=0.3), Random(amount=0.3), Threshold(0.5)])
@pytest.mark.parametrize("second", [L1(amount=0.5), Structured(amount=0.5, dim=1), Block(4, 4, amount=0.5), TopK(1, 4)])
def test_a_later_rule_applies_to_the_remaining_weights(
    first: Strategy, second: Strategy, weights: Weights, tmp_path: Path
) -> None:
    """Two rules for one tensor are two runs, the second with the mask of the first."""
    actual = pruned(tmp_path, weights, Recipe((Rule(first), Rule(second))))

    one, two, mask = (tmp_path / name for name in ("1.safetensors", "2.safetensors", "mask.safetensors"))
    prune(tmp_path / "in.safetensors", first, output=one, reports=(), mask_out=mask)
    prune(one, second, output=two, reports=(), mask_in=mask)
    wanted = load_file(two)
    for name in weights:
        assert torch.equal(actual[name], wanted[name]), name


def test_zeros_stay_pruned_in_every_pass(weights: Weights, tmp_path: Path) -> None:
    """`of="remaining"` also applies to tensors that only a later pass prunes."""
    weights["dec.weight"][:10] = 0
    recipe = Recipe((rule(L1(amount=0.5), "enc.*"), rule(L1(amount=0.5), "*.weight")))

    actual = pruned(tmp_path, weights, recipe, of="remaining")

    assert int((actual["dec.weight"] == 0).sum()) == 480 + round(0.5 * 38 * 48)
    assert int((actual["enc.0.weight"] == 0).sum()) == round(0.75 * 64 * 40)


def test_rules_for_different_tensors_share_one_pass(weights: Weights, tmp_path: Path) -> None:
    """Each tensor is read as often as its own rule needs, and the report has the rule of each."""
    recipe = Recipe((rule(Threshold(0.5), "enc.0*"), rule(Percentile(30), "enc.1*"), rule(TopK(1, 2), "dec.weight")))
    save_file(weights, tmp_path / "in.safetensors")

    class Counter(NoProgress):
        total = 0

        def begin(self, phases: Mapping[str, int]) -> None:
            self.total += sum(phases.values())

    counter = Counter()
    report = prune(tmp_path / "in.safetensors", recipe, dry_run=True, progress=counter)

    assert counter.total == (tmp_path / "in.safetensors").stat().st_size + weights["enc.1.weight"].nbytes
    rules = {row.name: row.rule for row in report.rows if row.selected}
    assert rules == {
        "enc.0.weight": "|w| <= 0.5",
        "enc.1.weight": "|w| <= percentile 30",
        "dec.weight": "keeps 1 of every 2 inputs",
    }


def test_scores_are_ranked_by_the_rule_of_each_tensor(weights: Weights, tmp_path: Path) -> None:
    """Scores of another dtype than the weights are used by every rule of one pass."""
    scores = {name: torch.randn(t.shape).double() for name, t in weights.items() if t.dim() > 1}
    save_file(scores, tmp_path / "scores.safetensors")
    names = sorted(scores)
    apart = Recipe((rule(L1(amount=0.5), names[0]), rule(Structured(amount=0.5), names[1])))

    actual = pruned(tmp_path, weights, apart, scores=tmp_path / "scores.safetensors")
    alone = pruned(tmp_path, weights, Recipe(apart.rules[:1]), scores=tmp_path / "scores.safetensors")

    assert torch.equal(actual[names[0]], alone[names[0]])
    assert not torch.equal(actual[names[1]], weights[names[1]])


def test_a_rule_can_be_a_mask(weights: Weights, tmp_path: Path) -> None:
    """Such a rule prunes the tensors that its file names."""
    mask = torch.rand(48, 48) > 0.5
    save_file({"dec.weight": mask}, tmp_path / "mask.safetensors")

    actual = pruned(tmp_path, weights, Recipe((Rule(Mask(str(tmp_path / "mask.safetensors"))),)))

    assert torch.equal(actual["dec.weight"], weights["dec.weight"] * mask)
    assert torch.equal(actual["enc.0.weight"], weights["enc.0.weight"])


def test_passes_leave_no_temporary_files(weights: Weights, tmp_path: Path) -> None:
    """The masks between passes are removed on success and on error."""
    recipe = Recipe((Rule(L1(amount=0.5)), Rule(L1(amount=0.5))))
    pruned(tmp_path, weights, recipe)
    weights["dec.weight"][0, 0] = torch.nan
    with pytest.raises(Exception, match="not finite"):
        pruned(tmp_path, weights, recipe, strict=True)

    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.safetensors", "out.safetensors"]


@pytest.mark.parametrize(
    ("rules", "error", "message"),
    [
        ((Rule(L1(amount=0.5)), Rule(Random(count=10**9))), UsageError, "the count 1000000000 is more than the"),
        ((Rule(L1(amount=0.5)), rule(L1(amount=0.5), "nope*")), SelectionError, r".*'nope\*' matches none"),
        ((Rule(L1(amount=0.5)), rule(TopK(2, 4), "dec.bias")), SelectionError, "'dec.bias' has 1 dimension"),
    ],
)
def test_errors_name_the_rule(
    rules: tuple[Rule, ...], error: type[Exception], message: str, weights: Weights, tmp_path: Path
) -> None:
    """A count that is too large, a rule without tensors and a missing dimension are found before a file is written."""
    with pytest.raises(error, match=f"rule 2 of the recipe: {message}"):
        pruned(tmp_path, weights, Recipe(rules))

    assert not (tmp_path / "out.safetensors").exists()
