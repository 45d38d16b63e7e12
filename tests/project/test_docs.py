"""The pages: their examples print the output shown, their help is current, and the files they name exist."""

from __future__ import annotations

import ast
import json
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from contextlib import redirect_stderr, redirect_stdout
from importlib.metadata import version
from typing import TYPE_CHECKING

import pytest
from support import DEMO, ROOT, load_script

import prunecli
from prunecli.api import prune
from prunecli.cli.command_list import COMMANDS
from prunecli.cli.main import main
from prunecli.cli.recipe_file import parse_recipe
from prunecli.strategies.unstructured import Global

if TYPE_CHECKING:
    from pathlib import Path

README = (ROOT / "README.md").read_text(encoding="utf-8")
GUARANTEES = (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")

update_readme = load_script("update_readme")
HELP = update_readme.blocks(update_readme.COMMANDS.read_text(encoding="utf-8"))
PAGES = {page.name: page.read_text(encoding="utf-8") for page in update_readme.PAGES}
EXAMPLES = [block for name, text in PAGES.items() if name != "commands.md" for block in update_readme.blocks(text)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to a directory with a copy of demo/, and describe a terminal of 80 columns without colour."""
    shutil.copytree(DEMO, tmp_path / "demo", ignore=shutil.ignore_patterns("out"))
    monkeypatch.chdir(tmp_path)
    for name, value in update_readme.TERMINAL.items():
        monkeypatch.setenv(name, value)
    return tmp_path


def printed(command: str, folder: Path) -> str:
    """Return the output of a command: of `prune` in this process, unless it needs a shell, and of others in bash."""
    if not command.startswith("prune ") or set(command) & set("|;<>&$"):
        text: str = update_readme.run(command, folder)
        return text
    with tempfile.TemporaryFile("w+", encoding="utf-8") as file:
        with redirect_stdout(file), redirect_stderr(file):
            main(shlex.split(command)[1:])
        file.seek(0)
        shown: str = update_readme.timeless(file.read())
        return shown


def played(block: str, folder: Path) -> str:
    """Return `block` with the present output of its commands; they share a directory."""
    return "".join(f"$ {command}\n{printed(command, folder)}" for command, _ in update_readme.examples(block))


@pytest.mark.parametrize("block", EXAMPLES, ids=lambda block: block.splitlines()[0])
def test_examples_print_the_output_shown(block: str, folder: Path) -> None:
    """Every shell example prints exactly the output that the page shows."""
    assert played(block, folder) == block


@pytest.mark.skipif(
    not version("typer").startswith(f"{update_readme.TYPER}."),
    reason=f"the help in docs/commands.md has the layout of Typer {update_readme.TYPER}",
)
@pytest.mark.parametrize("block", HELP, ids=lambda block: block.splitlines()[0])
def test_the_help_shown_is_current(block: str, folder: Path) -> None:
    """The help blocks are the output of --help; scripts/update_readme.py renews them."""
    assert played(block, folder) == block


def test_the_manual_page_is_current_and_correct(tmp_path: Path) -> None:
    """docs/prune.1 has the texts of the help, and `man` has no complaint about it."""
    page = update_readme.MAN_PAGE.read_text(encoding="utf-8")

    if version("typer").startswith(f"{update_readme.TYPER}."):
        assert update_readme.man_page.page() == page
    assert all(f"prune {command}" in page for command in COMMANDS)
    if shutil.which("man") and shutil.which("groff"):
        line = ["man", "--warnings=w", "-l", str(update_readme.MAN_PAGE)]
        shown = subprocess.run(line, cwd=tmp_path, capture_output=True, check=True, text=True)
        assert shown.stderr == ""
        assert "--normalize" in re.sub(r".\x08", "", shown.stdout)


def test_every_command_has_its_help_block() -> None:
    """docs/commands.md shows the help of `prune` and of each of its commands."""
    commands = [command for block in HELP for command, _ in update_readme.examples(block)]

    assert commands == ["prune --help", *(f"prune {command} --help" for command in COMMANDS)]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_and_option_is_documented(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each command is on the page of strategies, and each option in its --help is in docs/commands.md."""
    main([command, "--help"])

    page = next(block for block in HELP if block.startswith(f"$ prune {command} --help\n"))
    options = set(re.findall(r"(?<![\w-])--?[a-z][a-z0-9-]*", capsys.readouterr().out))
    assert re.search(rf"`(prune )?{command}[ `]", PAGES["strategies.md"])
    assert {option for option in options if option not in page} == set()


def test_the_python_example_runs(folder: Path) -> None:
    """The library example prints the text in its comment."""
    example = re.findall(r"(?<=^```python\n).*?(?=^```$)", README, re.MULTILINE | re.DOTALL)[0]

    run = subprocess.run([sys.executable, "-c", example], cwd=folder, capture_output=True, check=True, text=True)

    assert run.stdout.splitlines() == re.findall(r"print\(.*\)  # (.*)", example)


def test_every_field_of_the_report_is_documented(tmp_path: Path) -> None:
    """The reference names each key of the JSON report."""
    prune(DEMO / "digits_conv.pth", Global(amount=0.5), output=tmp_path / "o", reports=[tmp_path / "o.json"])
    report = json.loads((tmp_path / "o.json").read_text())

    keys = [*report, *report["input"], *report["output"], *report["on_disk"], *report["tensors"][0]]
    keys += [f"totals.{name}" for name in report["totals"] if name in report["totals"]]
    keys += [key for totals in report["totals"].values() for key in totals]
    named = set(re.findall(r"`([\w.]+)`", PAGES["report.md"]))
    assert [key for key in keys if key not in named] == []


def test_the_chart_is_drawn_from_the_stored_numbers() -> None:
    """docs/benchmark.svg shows docs/benchmark.json; scripts/pictures.py renews it."""
    pictures = load_script("pictures")

    drawn = pictures.chart(json.loads(pictures.NUMBERS.read_text(encoding="utf-8")))

    assert pictures.CHART.read_text(encoding="utf-8") == drawn


def test_the_pictures_of_the_readme_are_small() -> None:
    """Each picture that the README shows exists and has less than 150 kB."""
    shown = re.findall(r'(?:srcset="|src="|!\[[^\]]*\]\()([\w./-]+)', README)

    assert len(shown) == 4
    assert max((ROOT / name).stat().st_size for name in shown) < 150_000


@pytest.mark.parametrize("page", update_readme.REFERENCE, ids=lambda page: str(page.name))
def test_the_reference_is_current(page: Path) -> None:
    """The pages on reports and recipes are made from the code; scripts/update_readme.py renews them."""
    assert page.read_text(encoding="utf-8") == update_readme.REFERENCE[page]()


def test_the_recipe_of_the_reference_is_valid() -> None:
    """The example has the two rules that the page shows, and a strip."""
    recipe = parse_recipe(re.findall(r"```toml\n(.*?)```", PAGES["recipe.md"], re.DOTALL)[0])

    assert [type(rule.strategy).__name__ for rule in recipe.rules] == ["TopK", "L1"]
    assert recipe.strip is not None


@pytest.mark.parametrize("page", PAGES)
def test_the_files_that_a_page_names_exist(page: str) -> None:
    """Pages name only files that exist."""
    named = set(re.findall(r"(?:tests|scripts|demo|docs)/[\w./-]*\w", PAGES[page])) - {"demo/digits_conv.pruned"}

    missing = {path for path in named if not (ROOT / path).exists() and ".pruned." not in path and "/out/" not in path}
    assert missing == set()


@pytest.mark.parametrize("page", update_readme.PAGES, ids=lambda page: str(page.name))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    """A link to a file names one that exists, and a link to a section one of its headings."""
    for target, anchor in re.findall(r"\]\(([\w./-]*)(?:#([\w-]+))?\)", page.read_text(encoding="utf-8")):
        linked = (page.parent / target) if target else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked.read_text(encoding="utf-8")), f"{target}#{anchor}"


def anchors(text: str) -> set[str]:
    """Return the anchors that headings get."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_readme_is_short() -> None:
    """The README has about 600 words besides its examples."""
    assert len(re.sub(r"```.*?```", "", README, flags=re.DOTALL).split()) < 800


def test_every_public_name_is_in_the_python_reference() -> None:
    """docs/python.md lists each name that the package exports."""
    listed = re.findall(r"auto\w+:: prunecli\.(\w+)", PAGES["python.md"])

    assert sorted(listed) == sorted(set(prunecli.__all__) - {"__version__"})


def test_every_page_is_in_the_index() -> None:
    """docs/index.md links every page of the site."""
    listed = re.findall(r"^([\w-]+)$", PAGES["index.md"], re.MULTILINE)

    assert sorted(listed) == sorted(path.stem for path in (ROOT / "docs").glob("*.md") if path.stem != "index")


def test_the_tests_in_the_guarantees_exist() -> None:
    """The table of guarantees about weights names only files that exist."""
    table = GUARANTEES.split("## Guarantees and their tests")[1]
    paths = re.findall(r"`(tests/[^`]*)`", table)

    assert paths
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_the_changelog_has_this_version() -> None:
    """CHANGELOG.md begins with the installed version."""
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")

    assert re.findall(r"^## (\S+)", changelog, re.MULTILINE)[0] == version("prunecli")


def test_every_test_in_the_table_of_guarantees_exists() -> None:
    """docs/guarantees.md names only tests that exist."""
    named = re.findall(r"`(tests/[\w/.]+)::(\w+)`", GUARANTEES)
    defined = {path: functions(ROOT / path) for path, _ in named}

    assert named
    assert [(path, name) for path, name in named if name not in defined[path]] == []


def functions(path: Path) -> set[str]:
    """Return the names of the functions in a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_every_row_of_the_table_of_guarantees_has_a_test() -> None:
    """Each guarantee in docs/guarantees.md names a test."""
    rows = [
        line
        for line in GUARANTEES.split("## Guarantees and their tests")[0].split("## Not promised")[0].splitlines()
        if line.startswith("| ")
    ]

    assert [row for row in rows[1:] if not re.search(r"`tests/[\w/.]+::\w+`", row)] == []
