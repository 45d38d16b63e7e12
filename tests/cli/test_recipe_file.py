"""Recipes in TOML: what is read from them, errors with rule and line, and `prune run`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import save_file

from prunecli import UsageError
from prunecli.cli.main import main
from prunecli.cli.recipe_file import parse_recipe, read_recipe
from prunecli.selection.select import Selector
from prunecli.strategies.recipe import Rule
from prunecli.strategies.structured import Structured
from prunecli.strategies.unstructured import L1

if TYPE_CHECKING:
    from pathlib import Path


Weights = dict[str, torch.Tensor]

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
    """Names, numbers, texts and flags are parsed as on the command line."""
    recipe = parse_recipe(GOOD)

    assert [rule.strategy.describe()["name"] for rule in recipe.rules] == ["l1", "structured", "random"]
    assert recipe.rules[0] == Rule(L1(amount=0.5, scope="row"), Selector(include=("enc.*",)))
    assert recipe.rules[1] == Rule(
        Structured(amount=0.25, dim=1, n=float("inf")),
        Selector(include=("dec.*", "re:^head"), exclude=("*.bias",), min_dim=2),
    )


@pytest.mark.parametrize(
    ("text", "message"),
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
def test_invalid_recipes_are_refused_with_rule_and_line(text: str, message: str) -> None:
    """The error names the rule, and the line where it is known."""
    with pytest.raises(UsageError, match=message):
        parse_recipe(text, "r.toml")


@pytest.mark.parametrize("content", [b"\xff\xfe", b"x = '" + b"a" * (1 << 20) + b"'", b"a" + b"[" * 100_000])
def test_files_that_are_not_recipes_are_refused(content: bytes, tmp_path: Path) -> None:
    """Bytes that are not text, a very long file and deep nesting are usage errors."""
    (tmp_path / "r.toml").write_bytes(content)

    with pytest.raises(UsageError, match="the recipe"):
        read_recipe(str(tmp_path / "r.toml"))


@pytest.mark.parametrize(
    ("rule", "hint"),
    [
        ("strategy = 'l1'\nsparsity = 0.3", "amount = 0.3"),
        ("strategy = 'l1'\ncount = 0.3", 'amount = "0.3"'),
        ("strategy = 'l1'", "amount = 0.5"),
        ("strategy = 'l1'\namount = 1", 'amount = "100%" for all of them, count = 1 for one'),
        ("strategy = 'topk'\npattern = '5:4'", 'pattern = "4:5"'),
        ("strategy = 'topk'", 'pattern = "2:4"'),
        ("strategy = 'block'\namount = 0.5", 'shape = "4x4"'),
        ("strategy = 'l1'\namount = 0.5\nscope = 'x'", 'scope = "row"'),
        ("strategy = 'random'\namount = 0.5\ndim = 1", "structured = true and dim = 1"),
        ("strategy = 'l1'\namount = [0.5]", "prune l1 -h"),
    ],
)
def test_hints_are_spelled_in_toml(rule: str, hint: str) -> None:
    """A hint in a recipe is TOML, not an option of the command line."""
    with pytest.raises(UsageError) as refused:
        parse_recipe(f"[[rule]]\n{rule}")

    assert refused.value.hint == hint


def test_the_example_in_a_hint_is_a_recipe() -> None:
    """The hint of an error can be used as it is."""
    with pytest.raises(UsageError) as refused:
        parse_recipe("nothing = 1")

    assert parse_recipe(str(refused.value.hint)).rules == (Rule(L1(amount=0.5), Selector(include=("*.weight",))),)


def test_a_byte_order_mark_is_ignored(tmp_path: Path) -> None:
    """Some editors write a byte-order mark."""
    (tmp_path / "r.toml").write_bytes(b"\xef\xbb\xbf[[rule]]\nstrategy = 'l1'\namount = 0.5\n")

    assert read_recipe(str(tmp_path / "r.toml")).rules == (Rule(L1(amount=0.5)),)


@pytest.mark.parametrize("path", ["-", "", "a\0b", "missing.toml", "."])
def test_a_recipe_that_cannot_be_read_is_an_error(path: str) -> None:
    """Any path without a readable file is a usage error, with a command as its hint."""
    with pytest.raises(UsageError, match="cannot read the recipe") as refused:
        read_recipe(path)

    assert str(refused.value.hint).startswith("prune run ")


def test_the_command_follows_a_recipe(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`prune run RECIPE CKPT` writes the checkpoint and a report with the recipe in it; -n prints the plan alone."""
    monkeypatch.chdir(tmp_path)
    save_file({name: torch.ones(2, 3) for name in ("enc.0.weight", "dec.weight")}, "in.safetensors")
    (tmp_path / "r.toml").write_text('[[rule]]\nstrategy = "l1"\namount = 0.5\ninclude = "enc.*"\n')

    assert main(["run", "r.toml", "in.safetensors", "-n"]) == 0
    assert "enc.0.weight" in capsys.readouterr().out
    assert not (tmp_path / "in.pruned.safetensors").exists()
    assert main(["run", "r.toml", "in.safetensors", "-q"]) == 0
    report = json.loads((tmp_path / "in.pruned.safetensors.report.json").read_text())
    assert report["strategy"]["rules"] == [
        {"name": "l1", "amount": 0.5, "count": None, "scope": "tensor", "include": ["enc.*"]}
    ]
    assert main(["run", "missing.toml", "in.safetensors"]) == 2
    assert "cannot read the recipe missing.toml: No such file" in capsys.readouterr().err
    assert main(["run", "r.toml", "in.safetensors", "-i", "dec*", "-f"]) == 2
    assert "the rules of a recipe choose their tensors" in capsys.readouterr().err
