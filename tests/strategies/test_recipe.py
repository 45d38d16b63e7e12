"""Recipes: rules that compose as torch's PruningContainer does, and what is said of recipes that are none."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import STRATEGIES, expected, make_weights
from torch.nn.utils import prune as torch_prune

from prunecli import SelectionError, UsageError, prune
from prunecli.cli.main import main
from prunecli.cli.recipe_file import parse_recipe, read_recipe
from prunecli.selection.select import Selector
from prunecli.strategies.mask import Mask
from prunecli.strategies.recipe import Recipe, Rule
from prunecli.strategies.semi_structured import TopK
from prunecli.strategies.structured import Block, Structured
from prunecli.strategies.unstructured import L1, Global, Percentile, Random, Threshold

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from prunecli.strategies.strategy import Strategy

Weights = dict[str, torch.Tensor]


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
    found = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return {**found, "dec.bias": torch.randn(48, generator=generator)}


def followed(folder: Path, weights: Weights, recipe: Recipe, **options: Any) -> Weights:  # noqa: ANN401 - prune's own
    """Return the weights after following a recipe on them as a safetensors file."""
    save_file(weights, folder / "in.safetensors")
    prune(folder / "in.safetensors", recipe, output=folder / "out.safetensors", reports=(), force=True, **options)
    return load_file(folder / "out.safetensors")


def rule(strategy: Strategy, *include: str) -> Rule:
    """Return a rule for tensors whose names match."""
    return Rule(strategy, Selector(include=include))


def test_rules_that_meet_compose_as_torchs_container_does(weights: Weights, tmp_path: Path) -> None:
    """Three rules, of which two meet on a tensor, and one on all."""
    recipe = Recipe(
        (rule(TopK(2, 4), "enc.*"), rule(L1(amount=0.5), "enc.1*", "dec.weight"), Rule(Global(amount=0.25)))
    )
    held = {name: Holder(t) for name, t in weights.items() if t.dim() > 1}
    for name in ("enc.0.weight", "enc.1.weight"):
        torch_prune.custom_from_mask(held[name], "weight", expected(TopK(2, 4), [weights[name]])[0])
    for name in ("enc.1.weight", "dec.weight"):
        torch_prune.l1_unstructured(held[name], "weight", 0.5)
    torch_prune.global_unstructured([(h, "weight") for h in held.values()], torch_prune.L1Unstructured, amount=0.25)

    found = followed(tmp_path, weights, recipe)

    for name, module in held.items():
        assert torch.equal(found[name], module.weight), name
    assert torch.equal(found["dec.bias"], weights["dec.bias"])


@pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)
def test_a_recipe_of_one_rule_is_the_command(strategy: Strategy, tmp_path: Path) -> None:
    """One rule prunes what the strategy does alone."""
    weights = make_weights()
    found = followed(tmp_path, weights, Recipe((Rule(strategy),)))
    prune(tmp_path / "in.safetensors", strategy, output=tmp_path / "alone.safetensors", reports=())

    assert (tmp_path / "alone.safetensors").read_bytes() == (tmp_path / "out.safetensors").read_bytes()
    assert found


@pytest.mark.parametrize("first", [L1(amount=0.3), Structured(amount=0.3), Random(amount=0.3), Threshold(0.5)])
@pytest.mark.parametrize("second", [L1(amount=0.5), Structured(amount=0.5, dim=1), Block(4, 4, amount=0.5), TopK(1, 4)])
def test_a_later_rule_counts_what_is_left(first: Strategy, second: Strategy, weights: Weights, tmp_path: Path) -> None:
    """Two rules in one recipe are two runs with the mask carried on."""
    found = followed(tmp_path, weights, Recipe((Rule(first), Rule(second))))

    one, two, mask = (tmp_path / name for name in ("1.safetensors", "2.safetensors", "mask.safetensors"))
    prune(tmp_path / "in.safetensors", first, output=one, reports=(), mask_out=mask)
    prune(one, second, output=two, reports=(), mask_in=mask)
    wanted = load_file(two)
    for name in weights:
        assert torch.equal(found[name], wanted[name]), name


def test_what_is_gone_before_stays_gone_in_every_layer(weights: Weights, tmp_path: Path) -> None:
    """`of="remaining"` holds for tensors that only a later layer is for, too."""
    weights["dec.weight"][:10] = 0
    recipe = Recipe((rule(L1(amount=0.5), "enc.*"), rule(L1(amount=0.5), "*.weight")))

    found = followed(tmp_path, weights, recipe, of="remaining")

    assert int((found["dec.weight"] == 0).sum()) == 480 + round(0.5 * 38 * 48)
    assert int((found["enc.0.weight"] == 0).sum()) == round(0.75 * 64 * 40)


def test_rules_that_do_not_meet_share_one_pass(weights: Weights, tmp_path: Path) -> None:
    """Each tensor is read as often as its own rule needs, and the report tells each rule."""
    recipe = Recipe((rule(Threshold(0.5), "enc.0*"), rule(Percentile(30), "enc.1*"), rule(TopK(1, 2), "dec.weight")))
    save_file(weights, tmp_path / "in.safetensors")

    class Counter:
        total = 0

        def begin(self, phases: Mapping[str, int]) -> None:
            self.total += sum(phases.values())

        def advance(self, phase: str, count: int) -> None:
            pass

        def note(self, text: str) -> None:
            pass

    counter = Counter()
    report = prune(tmp_path / "in.safetensors", recipe, dry_run=True, progress=counter)

    assert counter.total == (tmp_path / "in.safetensors").stat().st_size + weights["enc.1.weight"].nbytes
    rules = {row.name: row.rule for row in report.rows if row.selected}
    assert rules == {
        "enc.0.weight": "|w| <= 0.5",
        "enc.1.weight": "|w| <= percentile 30",
        "dec.weight": "keeps 1 of every 2 along dim 1",
    }


def test_scores_rank_each_rule_its_own_tensors(weights: Weights, tmp_path: Path) -> None:
    """Scores of other formats than the weights go to the rules they are for, in one layer and over several."""
    scores = {name: torch.randn(t.shape).double() for name, t in weights.items() if t.dim() > 1}
    save_file(scores, tmp_path / "scores.safetensors")
    names = sorted(scores)
    apart = Recipe((rule(L1(amount=0.5), names[0]), rule(Structured(amount=0.5), names[1])))

    found = followed(tmp_path, weights, apart, scores=tmp_path / "scores.safetensors")
    alone = followed(tmp_path, weights, Recipe(apart.rules[:1]), scores=tmp_path / "scores.safetensors")

    assert torch.equal(found[names[0]], alone[names[0]])
    assert not torch.equal(found[names[1]], weights[names[1]])


def test_a_mask_can_be_a_rule(weights: Weights, tmp_path: Path) -> None:
    """A mask rule is for the tensors that its file names."""
    mask = torch.rand(48, 48) > 0.5
    save_file({"dec.weight": mask}, tmp_path / "mask.safetensors")

    found = followed(tmp_path, weights, Recipe((Rule(Mask(str(tmp_path / "mask.safetensors"))),)))

    assert torch.equal(found["dec.weight"], weights["dec.weight"] * mask)
    assert torch.equal(found["enc.0.weight"], weights["enc.0.weight"])


def test_no_layer_leaves_anything_behind(weights: Weights, tmp_path: Path) -> None:
    """The masks between layers are gone when the run ends, well or not."""
    recipe = Recipe((Rule(L1(amount=0.5)), Rule(L1(amount=0.5))))
    followed(tmp_path, weights, recipe)
    weights["dec.weight"][0, 0] = torch.nan
    with pytest.raises(Exception, match="not finite"):
        followed(tmp_path, weights, recipe, strict=True)

    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.safetensors", "out.safetensors"]


# --- the file

GOOD = """
# embeddings keep more
[[rule]]
include = "enc.*"
strategy = "l1"
amount = 0.5
scope = "row"

[[rule]]
strategy = "structured"
include = ["dec.*", "re:^head"]
exclude = ["*.bias"]
min-dim = 2
amount = "25%"
dim = 1
n = "inf"

[[rule]]
strategy = "random"
count = 100
structured = true
"""


def test_rules_are_commands_with_their_options() -> None:
    """Names, numbers, texts and flags are read as on the command line."""
    recipe = parse_recipe(GOOD)

    assert [rule.strategy.describe()["name"] for rule in recipe.rules] == ["l1", "structured", "random"]
    assert recipe.rules[0] == Rule(L1(amount=0.5, scope="row"), Selector(include=("enc.*",)))
    assert recipe.rules[1] == Rule(
        Structured(amount=0.25, dim=1, n=float("inf")),
        Selector(include=("dec.*", "re:^head"), exclude=("*.bias",), min_dim=2),
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "a recipe has at least one rule"),
        ("rule = 1", "the rules of a recipe are tables in a list"),
        ("[[rule]\n", "is not TOML: .*line 1"),
        ("[[rule]]\nstrategy = 'l1'\namuont = 0.5", r"rule 1 \(l1\) has an unknown key 'amuont' \(line 3\)"),
        ("[[rule]]\nstrategy='l1'\namount=0.5\n[[rule]]\n# amount\nstrategy='l9'", r"rule 2 has no .*'l9' \(line 6\)"),
        ("[[rule]]\namount = 0.5", "rule 1 has no strategy"),
        ("[[rule]]\nstrategy = ['l1']", "rule 1 has no strategy"),
        ("title = 'x'\n[[rule]]\nstrategy = 'l1'", r"has an unknown key 'title' \(line 1\)"),
        ("[[rule]]\nstrategy = 'l1'", r"rule 1 \(l1\): l1 needs an amount or a count"),
        ("[[rule]]\nstrategy = 'l1'\namount = 1", r"rule 1 \(l1\): the amount 1 could mean"),
        ("[[rule]]\nstrategy = 'l1'\namount = 1.5", r"rule 1 \(l1\): the amount is 0 to 1"),
        ("[[rule]]\nstrategy = 'l1'\namount = true", r"rule 1 \(l1\): amount is a number or a text, not true"),
        ("[[rule]]\nstrategy = 'l1'\namount = [0.5]", r"rule 1 \(l1\): amount is a number or a text"),
        ("[[rule]]\nstrategy = 'topk'\npattern = '5:4'", r"rule 1 \(topk\): cannot keep 5 of every 4"),
        ("[[rule]]\nstrategy = 'random'\namount = 0.5\nstructured = 'no'", "structured is true or false, not 'no'"),
        ("[[rule]]\nstrategy = 'l1'\namount = 0.5\ninclude = 3", "include is a pattern or a list of patterns"),
        ("[[rule]]\nstrategy = 'l1'\namount = 0.5\nmin_dim = -1", "min_dim is a whole number of 0 or more, not -1"),
        ("[[rule]]\nstrategy = 'structured'\namount = 0.5\nwith_bias = true", "rule 1: a recipe cannot prune biases"),
        ("[[rule]]\nstrategy = 'l1'\namount = 0.5\nmin-dim = 3\nmin_dim = 1", r"has 'min-dim' twice \(line 4\)"),
        ("[[rule]]\nstrategy = 'l1'\namount = 0.5\nmin_numel = '9'", "0 or more, not '9'"),
        ("[[rule]]\nstrategy = 'l1'\ncount = " + "9" * 5000, "a number in the recipe r.toml has too many digits"),
        ("[[rule]]\nstrategy = 'l1'\ncount = 0x" + "f" * 5000, "a number in the recipe r.toml has too many digits"),
        ("[[rule]]\nstrategy = 0x" + "f" * 5000, "a number in the recipe r.toml has too many digits"),
    ],
)
def test_what_is_no_recipe_is_refused_by_rule_and_line(text: str, says: str) -> None:
    """Everything is checked before a checkpoint is looked for, and the message names the place."""
    with pytest.raises(UsageError, match=says):
        parse_recipe(text, "r.toml")


def test_rules_are_rules() -> None:
    """A strategy alone is refused with how to make a rule of it."""
    with pytest.raises(UsageError, match="rule 1 is not a Rule but L1"):
        Recipe((L1(amount=0.5),))  # type: ignore[arg-type] # that is the point


@pytest.mark.parametrize("content", [b"\xff\xfe", b"x = '" + b"a" * (1 << 20) + b"'", b"a" + b"[" * 100_000])
def test_no_file_breaks_the_reader(content: bytes, tmp_path: Path) -> None:
    """Bytes that are no text, and endless ones, are refused in a sentence."""
    (tmp_path / "r.toml").write_bytes(content)

    with pytest.raises(UsageError, match="the recipe"):
        read_recipe(str(tmp_path / "r.toml"))


@pytest.mark.parametrize(
    ("rule", "hint"),
    [
        ("strategy = 'l1'", "amount = 0.5 or count = 1000"),
        ("strategy = 'l1'\namount = 1", 'count = 1 for the number, amount = "100%" for all of them'),
        ("strategy = 'topk'\npattern = '5:4'", "keep = 2 and group = 4"),
        ("strategy = 'topk'", 'keep = 2 and group = 4, or pattern = "2:4"'),
        ("strategy = 'block'\namount = 0.5", 'shape = "4x4"'),
        ("strategy = 'l1'\namount = 0.5\nscope = 'x'", 'scope = "row"'),
        ("strategy = 'random'\namount = 0.5\ndim = 1", "structured = true and dim = 1"),
        ("strategy = 'l1'\namount = [0.5]", "prune l1 -h"),
    ],
)
def test_hints_are_in_the_language_of_recipes(rule: str, hint: str) -> None:
    """What a command hints at with dashes is hinted at in TOML."""
    with pytest.raises(UsageError) as refused:
        parse_recipe(f"[[rule]]\n{rule}")

    assert refused.value.hint == hint


def test_the_example_is_a_recipe() -> None:
    """What an error hints at can be typed as it is."""
    with pytest.raises(UsageError) as refused:
        parse_recipe("nothing = 1")

    assert parse_recipe(str(refused.value.hint)).rules == (Rule(L1(amount=0.5), Selector(include=("*.weight",))),)


def test_a_mark_at_the_beginning_is_no_text(tmp_path: Path) -> None:
    """The byte-order mark that some editors write is passed over."""
    (tmp_path / "r.toml").write_bytes(b"\xef\xbb\xbf[[rule]]\nstrategy = 'l1'\namount = 0.5\n")

    assert read_recipe(str(tmp_path / "r.toml")).rules == (Rule(L1(amount=0.5)),)


@pytest.mark.parametrize("path", ["-", "", "a\0b", "missing.toml", "."])
def test_a_recipe_that_cannot_be_read_is_an_error(path: str) -> None:
    """Whatever is named, there is a sentence and something to type."""
    with pytest.raises(UsageError, match="cannot read the recipe") as refused:
        read_recipe(path)

    assert str(refused.value.hint).startswith("prune run ")


def test_a_count_that_no_tensor_has_is_told_with_its_rule(weights: Weights, tmp_path: Path) -> None:
    """What shapes tell is told before anything is read."""
    with pytest.raises(UsageError, match=r"rule 2 of the recipe: the count 1000000000 is more than the"):
        followed(tmp_path, weights, Recipe((Rule(L1(amount=0.5)), Rule(Random(count=10**9)))))


def test_a_rule_that_matches_nothing_is_an_error(weights: Weights, tmp_path: Path) -> None:
    """The rule is named, and nothing is written."""
    with pytest.raises(SelectionError, match=r"rule 2 of the recipe: .*'nope\*' matches none"):
        followed(tmp_path, weights, Recipe((Rule(L1(amount=0.5)), rule(L1(amount=0.5), "nope*"))))

    assert not (tmp_path / "out.safetensors").exists()


def test_a_rule_that_does_not_fit_is_named(weights: Weights, tmp_path: Path) -> None:
    """A dimension that a tensor does not have is told with the rule that asked for it."""
    with pytest.raises(SelectionError, match=r"rule 1 of the recipe: 'dec.bias' has 1 dimension"):
        followed(tmp_path, weights, Recipe((rule(TopK(2, 4), "dec.*"),)))


def test_the_command_follows_a_recipe(
    weights: Weights, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`prune run RECIPE CKPT` writes the checkpoint and a report with the recipe in it; -n prints the plan alone."""
    monkeypatch.chdir(tmp_path)
    save_file(weights, "in.safetensors")
    (tmp_path / "r.toml").write_text('[[rule]]\nstrategy = "l1"\namount = 0.5\ninclude = "enc.*"\n')

    assert main(["run", "r.toml", "in.safetensors", "-n"]) == 0
    assert "enc.0.weight" in capsys.readouterr().out
    assert not (tmp_path / "in.pruned.safetensors").exists()
    assert main(["run", "r.toml", "in.safetensors", "-q"]) == 0
    report = json.loads((tmp_path / "in.pruned.report.json").read_text())
    assert report["strategy"]["rules"] == [
        {"name": "l1", "amount": 0.5, "count": None, "scope": "tensor", "include": ["enc.*"]}
    ]
    assert main(["run", "missing.toml", "in.safetensors"]) == 2
    assert "cannot read the recipe missing.toml: No such file" in capsys.readouterr().err
    assert main(["run", "r.toml", "in.safetensors", "-i", "dec*", "-f"]) == 2
    assert "the rules of a recipe choose their tensors" in capsys.readouterr().err
