"""Command lines and recipes made to hang, to fill memory or the screen, or to end in a traceback."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import save_file
from support.children import environment, run_python
from support.command_line import HALF, Ran, process, save_two_layers

from prunecli.cli import recipe_file
from prunecli.engine import recipe_run
from prunecli.selection import time_limit

if TYPE_CHECKING:
    from pathlib import Path

    from support.command_line import Prune

DIGITS = "9" * 5000


def refused(ran: Ran, sentence: str) -> None:
    """Check that a run printed one error of a few lines and a hint, with exit code 2."""
    assert (ran.code, ran.out) == (2, "")
    error, *hints = ran.err.splitlines()
    assert len(error) < 500
    assert [len(hint) < 1100 for hint in hints] in ([], [True])
    assert ran.err.startswith("error: ")
    assert sentence in ran.err


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (["l1", "--amount", DIGITS], "the amount 999"),
        (["l1", "--amount", f"{DIGITS}%"], "is 0 to 1"),
        (["l1", "--amount", f"0.{DIGITS}x"], "is a fraction or a percentage"),
        (["l1", "--amount", "1e999999999"], "not 1e999999999"),
        (["l1", "--count", DIGITS], "count takes a whole number"),
        (["l1", "--count", DIGITS[:4000]], "is more than the"),
        (["threshold", "--thr", DIGITS], "not inf"),
        (["percentile", "--q", DIGITS], "0 to 100"),
        (["topk", "--pattern", f"{DIGITS}:4"], "the pattern is K:G"),
        (["topk", "--keep", "2", "--group", DIGITS[:4000]], "a group has 1 to 32767 weights"),
        (["topk", "--pattern", "2:4", "--dim", DIGITS[:4000]], "so it has no dim 999"),
        (["block", "--shape", f"4x{DIGITS}", *HALF], "the shape is RxC"),
        (["l1", *HALF, "--threads", "1e9"], "threads takes a whole number"),
        (["l1", *HALF, "--threads", "1000000000"], "threads takes 0 to 1024"),
        (["l1", *HALF, "--min-dim", DIGITS[:4000]], "no tensor to prune"),
        (["l1", *HALF, "--device", DIGITS], "there is no device"),
        (["l1", *HALF, "--key", "k" * 50_000], "which has no key"),
        (["l1", *HALF, f"--{'k' * 50_000}", "3"], "no such option"),
        (["l1", *HALF, "-i", "k" * 50_000], "matches none of 3 tensors"),
        (["l1", *HALF, "-i", "re:" + "(" * 5000 + ")" * 5000], "too many groups within groups"),
        (["l1", *HALF, "-i", "re:a{99999999999}"], "not a regular expression: the repetition number is too large"),
        (["l1", *HALF, "-x", "re:(" * 9], "not a regular expression"),
        (["l1", *HALF, "-o", "o" * 50_000], "File name too long"),
    ],
)
def test_no_value_is_too_long_or_too_large(prune: Prune, ckpt: Path, line: list[str], sentence: str) -> None:
    """The error is one sentence, cut to a few lines of the screen."""
    refused(prune(line[0], ckpt, *line[1:]), sentence)


@pytest.mark.parametrize("words", [["k" * 100_000], ["l1", "k" * 100_000, *HALF], ["k" * 999, "l1"] * 99])
def test_no_line_is_too_long(prune: Prune, words: list[str]) -> None:
    """A word of any length, and a line of any number of words, get an error of a few lines."""
    refused(prune(*words), "")


def test_a_pattern_that_takes_for_ever_is_refused(
    prune: Prune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A regular expression with exponential cost for a name ends after the limit, and the timer is removed."""
    path = save_two_layers(tmp_path / "c.safetensors", prefix="a" * 60 + "!")
    monkeypatch.setattr(time_limit, "SECONDS", 0.1)

    refused(prune("l1", path, *HALF, "-i", "re:^(a+)+$"), "takes more than")

    assert prune("l1", path, *HALF, "-n", "-q", "-i", "re:a+.*weight").code == 0


def test_warnings_are_cut(prune: Prune, tmp_path: Path) -> None:
    """A warning about names of any length has a few lines, and so has its hint."""
    path = tmp_path / "c.safetensors"
    save_file({f"{'n' * 900}{i}.weight": torch.ones(2, 2) for i in range(5)}, path)
    for words in (["threshold", "--thr", "0"], ["threshold", "--thr", "2"], ["structured", "--amount", "10%"]):
        ran = prune(words[0], path, *words[1:], "-n", "-q")
        assert ran.err.startswith("warning: "), words
        assert all(len(line) < 1100 for line in ran.err.splitlines())


@pytest.mark.parametrize(
    ("pattern", "sentence"),
    [
        ("(a+)+$", "takes more than"),
        ("(" * 5000 + ")" * 5000, "too many groups within groups"),
        ("a{99999999999}", "not a regular expression"),
    ],
)
def test_a_hostile_pattern_of_a_metric_is_refused(
    prune: Prune, ckpt: Path, monkeypatch: pytest.MonkeyPatch, pattern: str, sentence: str
) -> None:
    """The pattern that reads the output of an evaluation is compiled and matched within limits."""
    monkeypatch.setattr(time_limit, "SECONDS", 0.1)
    evaluation = f"{sys.executable} -I -S -c \"print('{'a' * 60}!')\" {{}}"

    ran = prune("sweep", ckpt, "l1", "--at", "0.5", "--eval", evaluation, "--metric", pattern)

    assert (ran.code, "Traceback" in ran.err) == (2, False)
    assert sentence in ran.err
    assert all(len(line) < 1100 for line in ran.err.splitlines())


@pytest.mark.parametrize(
    ("recipe", "sentence"),
    [
        (f'rule = [{{strategy = "l1", amount = {DIGITS}}}]', "a number in the recipe r.toml has too many digits"),
        (f'rule = [{{strategy = "l1", amount = "{DIGITS}"}}]', "rule 1 (l1): the amount 999"),
        (f'rule = [{{strategy = "l1", count = {DIGITS[:4000]}}}]', "rule 1 of the recipe: the count 999"),
        (".".join("a" * 100_000) + " = 1", "a key in the recipe r.toml has more than 32 parts"),
        ("[" + " . ".join(["'a'"] * 50_000) + "]", "more than 32 parts"),
        ('x = {"b".' + ".".join("a" * 99) + " = 1}", "more than 32 parts"),
        (f"{'k' * 999_000} = 1", "unknown key"),
        (f'rule = [{{strategy = "{"s" * 999_000}"}}]', "has no strategy"),
        (f'rule = [{{strategy = "l1", amount = 0.5, {"k" * 999_000} = 1}}]', "unknown key"),
        ("a = " + "[" * 9999, "is not TOML"),
    ],
)
def test_a_hostile_recipe_is_refused(
    prune: Prune, ckpt: Path, monkeypatch: pytest.MonkeyPatch, recipe: str, sentence: str
) -> None:
    """Numbers of thousands of digits, keys of thousands of parts and long names in a recipe get a short sentence."""
    monkeypatch.chdir(ckpt.parent)
    (ckpt.parent / "r.toml").write_text(recipe)

    refused(prune("run", "r.toml", ckpt.name), sentence)


def test_a_dotted_name_is_no_long_key(prune: Prune, ckpt: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Patterns with some dots are patterns."""
    monkeypatch.chdir(ckpt.parent)
    (ckpt.parent / "r.toml").write_text(f'rule = [{{strategy = "l1", amount = 0.5, exclude = "{".".join("a" * 30)}"}}]')

    assert "matches none" in prune("run", "r.toml", ckpt.name).err


def test_the_number_of_rules_is_limited(prune: Prune, ckpt: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A recipe has at most 2,000 rules, and a tensor at most 100 of them: each reads the file once more."""
    monkeypatch.chdir(ckpt.parent)
    recipe = ckpt.parent / "r.toml"
    rule = '[[rule]]\nstrategy = "l1"\namount = 0.5\n'

    recipe.write_text(rule * (recipe_file.RULES_LIMIT + 1))
    refused(prune("run", "r.toml", ckpt.name), "has 2,001 rules, more than 2,000")
    recipe.write_text(rule * (recipe_run.PASSES_LIMIT + 1))
    refused(prune("run", "r.toml", ckpt.name), "101 rules of the recipe match one tensor, more than 100")
    recipe.write_text(rule * 3)
    assert prune("run", "r.toml", ckpt.name, "-n", "-q").code == 0


def test_modules_of_the_current_folder_are_not_run(ckpt: Path) -> None:
    """`python -m prunecli` in a folder with a file `numpy.py` or `typer.py` imports the installed ones."""
    for name in ("numpy", "typer", "rich", "torch", "safetensors", "tomllib", "shlex", "gc", "jinja2"):
        (ckpt.parent / f"{name}.py").write_text("import pathlib; pathlib.Path('PWNED').touch()")

    ran = process("l1", ckpt.name, *HALF, "-n", cwd=ckpt.parent)

    assert (ran.returncode, ran.stderr) == (0, b"")
    assert not (ckpt.parent / "PWNED").exists()


def test_a_checkout_can_be_run_from_its_folder(ckpt: Path) -> None:
    """The current folder stays on the path of modules if the package itself is there."""
    root = environment()["PYTHONPATH"].split(os.pathsep)[0]
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    ran = run_python("-m", "prunecli", "l1", ckpt, *HALF, "-n", "-q", cwd=root, env=variables)

    assert ran.returncode == 0, sys.version
