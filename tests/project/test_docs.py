"""The README is true: its examples print what it shows, its help is the real one, and what it names exists."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from prunecli.api import prune
from prunecli.cli.main import main
from prunecli.strategies.unstructured import Global

if TYPE_CHECKING:
    from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
GUIDE = (ROOT / "docs" / "guide.md").read_text(encoding="utf-8")
PRUNING = ("threshold", "percentile", "l1", "global", "topk", "structured", "block", "random", "mask", "run")
LOOKING = ("inspect", "scan", "check", "diff", "bake", "search", "sweep")
COMMANDS = (*PRUNING, *LOOKING)


def script() -> ModuleType:
    """Import scripts/update_readme.py, which is in no package."""
    spec = importlib.util.spec_from_file_location("update_readme", ROOT / "scripts" / "update_readme.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


update_readme = script()
HELP = update_readme.blocks(update_readme.COMMANDS.read_text(encoding="utf-8"))
EXAMPLES = [*update_readme.blocks(README), *update_readme.blocks(GUIDE)]


@pytest.mark.parametrize("block", EXAMPLES, ids=lambda block: block.splitlines()[0])
def test_examples_print_what_is_shown(block: str) -> None:
    """Every shell example, run on a copy of demo/, prints what the page shows, to the letter."""
    assert update_readme.played(block) == block


@pytest.mark.skipif(
    not version("typer").startswith(f"{update_readme.TYPER}."),
    reason=f"the help in docs/commands.md is laid out by Typer {update_readme.TYPER}",
)
@pytest.mark.parametrize("block", HELP, ids=lambda block: block.splitlines()[0])
def test_the_help_shown_is_the_real_one(block: str) -> None:
    """The help blocks are what --help prints; scripts/update_readme.py renews them."""
    assert update_readme.played(block) == block


def test_every_command_has_its_help_block() -> None:
    """docs/commands.md shows the help of `prune` and of each of its commands."""
    printable = [command for block in HELP for command, _ in update_readme.examples(block)]

    assert printable == ["prune --help", *(f"prune {command} --help" for command in COMMANDS)]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_and_option_is_documented(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each command is in the README, and each option its --help names is in docs/commands.md, whatever the layout."""
    main([command, "--help"])

    page = next(block for block in HELP if block.startswith(f"$ prune {command} --help\n"))
    options = set(re.findall(r"(?<![\w-])--?[a-z][a-z0-9-]*", capsys.readouterr().out))
    assert re.search(rf"`(prune )?{command}[ `]", README)
    assert {option for option in options if option not in page} == set()


def test_every_command_is_tested_here(capsys: pytest.CaptureFixture[str]) -> None:
    """The commands these tests know are the commands there are."""
    main(["--help"])

    listed = capsys.readouterr().out.split("Commands:\n")[1].split("\n\n")[0]
    assert re.findall(r"^  (\w+)", listed, re.MULTILINE) == [*COMMANDS]


def test_the_python_example_runs(tmp_path: Path) -> None:
    """The library example prints what its comment says."""
    example = re.findall(r"(?<=^```python\n).*?(?=^```$)", README, re.MULTILINE | re.DOTALL)[0]
    shutil.copytree(ROOT / "demo", tmp_path / "demo", ignore=shutil.ignore_patterns("out"))

    ran = subprocess.run([sys.executable, "-c", example], cwd=tmp_path, capture_output=True, check=True, text=True)

    assert ran.stdout.splitlines() == re.findall(r"print\(.*\)  # (.*)", example)


def test_every_field_of_the_report_is_documented(tmp_path: Path) -> None:
    """Each key of the JSON report is named in the README's section on it."""
    prune(ROOT / "demo" / "digits_conv.pth", Global(amount=0.5), output=tmp_path / "o", reports=[tmp_path / "o.json"])
    report = json.loads((tmp_path / "o.json").read_text())
    section = GUIDE.split("## The report")[1].split("\n## ")[0]

    keys = [*report, *report["input"], *report["output"], *report["on_disk"], *report["tensors"][0]]
    keys += [f"totals.{name}" for name in report["totals"] if name in report["totals"]]
    keys += [key for totals in report["totals"].values() for key in totals]
    named = set(re.findall(r"`([\w.]+)`", section)) | {"totals"}
    assert [key for key in keys if key not in named] == []


def test_what_the_readme_points_to_exists() -> None:
    """Files named in the README and the guide are there."""
    named = set(re.findall(r"(?:tests|scripts|demo|docs)/[\w./]*\w", README + GUIDE)) - {"demo/digits_conv.pruned"}

    missing = {path for path in named if not (ROOT / path).exists() and ".pruned." not in path and "/out/" not in path}
    assert missing == set()


def test_every_test_file_that_holds_a_promise_says_so() -> None:
    """The promises name only tests that are there."""
    table = README.split("which test holds it")[1].split("\n## ")[0]

    assert all((ROOT / path).exists() for path in re.findall(r"`(tests/[^`]*)`", table))


def test_the_changelog_has_this_version() -> None:
    """CHANGELOG.md begins with the version that is installed."""
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")

    assert re.findall(r"^## (\S+)", changelog, re.MULTILINE)[0] == version("prunecli")
