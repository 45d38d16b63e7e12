"""The files around the package: the action, the hook, the citation and the versions that CI runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from support import DEMO, ROOT

from prunecli.version import __version__

if TYPE_CHECKING:
    from pathlib import Path

PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
PYTHONS = ["3.10", "3.11", "3.12", "3.13"]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Return an environment in which the command `prune` runs this package."""
    command = tmp_path / "prune"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m prunecli "$@"\n')
    command.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md")}


def action(environment: dict[str, str], checkpoints: str, conditions: str) -> subprocess.CompletedProcess[str]:
    """Run what action.yml runs."""
    inputs = {"CHECKPOINTS": checkpoints, "CONDITIONS": conditions}
    return subprocess.run(
        [ROOT / "scripts" / "action"], env={**environment, **inputs}, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("conditions", "code", "title"), [("--finite", 0, "passed"), ("--min-sparsity '*conv*=90%'", 1, "failed")]
)
def test_the_action_writes_a_summary(
    environment: dict[str, str], tmp_path: Path, conditions: str, code: int, title: str
) -> None:
    """The exit code is that of the check, and the summary has its output as a block of code."""
    run = action(environment, f"{DEMO / 'digits_conv.safetensors'}\n\n", conditions)

    summary = (tmp_path / "summary.md").read_text()
    assert (run.returncode, summary.splitlines()[0]) == (code, f"### prune check: {title}")
    assert all(line.startswith("    ") for line in summary.splitlines()[2:] if line)
    assert run.stdout.strip().splitlines()[0] in summary


def test_the_inputs_of_the_action_are_words_not_code(environment: dict[str, str], tmp_path: Path) -> None:
    """Substitutions, separators and redirections in the inputs are not run."""
    target = tmp_path / "made"
    for text in (f"$(touch {target})", f"; touch {target}", f"`touch {target}`", f"> {target}"):
        assert action(environment, text, "--finite").returncode == 2
        assert action(environment, str(DEMO / "digits_conv.safetensors"), text).returncode == 2
    assert not target.exists()


def test_an_action_with_a_quote_that_does_not_end_is_an_error(environment: dict[str, str]) -> None:
    """The conditions before the quote alone would pass."""
    run = action(environment, str(DEMO / "digits_conv.safetensors"), "--finite '--min-sparsity 90%")

    assert (run.returncode, run.stderr) == (2, "the input conditions has a quote that does not end\n")


def test_an_action_without_conditions_is_an_error(environment: dict[str, str]) -> None:
    """Blank text has no condition."""
    run = action(environment, str(DEMO / "digits_conv.safetensors"), " \n")

    assert (run.returncode, run.stderr) == (2, "the input conditions is empty\n")


def test_an_action_without_checkpoints_is_an_error(environment: dict[str, str]) -> None:
    """Blank lines name no checkpoint."""
    run = action(environment, " \n", "--finite")

    assert (run.returncode, run.stderr) == (2, "the input checkpoints is empty\n")


def test_the_hook_checks_the_files_of_a_commit(environment: dict[str, str]) -> None:
    """pre-commit runs the entry with the arguments and several files."""
    hook = (ROOT / ".pre-commit-hooks.yaml").read_text(encoding="utf-8")
    entry, args = re.findall(r"^  (?:entry|args): \[?(.*?)\]?$", hook, re.MULTILINE)
    pattern = re.findall(r"^  files: (.*)$", hook, re.MULTILINE)[0]
    files = [DEMO / name for name in ("digits_conv.safetensors", "digits_lstm.pth")]

    run = subprocess.run([*entry.split(), *args.split(", "), *files], env=environment, capture_output=True, check=False)

    assert run.returncode == 0
    assert all(re.search(pattern, str(file)) for file in files)
    assert not re.search(pattern, "model.py")


def test_versions_agree() -> None:
    """The citation has the version of the package; classifiers and CI have the same versions of Python."""
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    tried = (ROOT / "scripts" / "test-pythons").read_text(encoding="utf-8")

    assert f"\nversion: {__version__}\n" in citation
    assert re.findall(r"Python :: (3\.\d+)", PROJECT) == PYTHONS
    assert re.findall(r'"(3\.\d+)"', workflow.split("matrix:")[1].split("]")[0]) == PYTHONS
    assert re.findall(r"python(3\.\d+)", tried.split("pythons=(")[1].split(")")[0]) == PYTHONS


def test_extras() -> None:
    """The extra `all` has all others; hints and pages name extras that exist."""
    extras = PROJECT.split("[project.optional-dependencies]\n")[1].split("\n\n")[0]
    names = re.findall(r"^([a-z]+) = ", extras, re.MULTILINE)
    texts = [*(ROOT / "prunecli").rglob("*.py"), *(ROOT / "docs").glob("*.md"), ROOT / "README.md"]
    named = {name for file in texts for name in re.findall(r"prunecli\[(\w+)\]", file.read_text(encoding="utf-8"))}

    assert f'all = ["prunecli[{",".join(name for name in names if name != "all")}]"]' in extras
    assert {"pandas", "plot", "remote", "torch"} <= named <= set(names)


def test_each_file_of_the_image_exists() -> None:
    """The image is built from the whole checkout, without what is built or downloaded in it."""
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    needed = ["LICENSE", "MANIFEST.in", "README.md", "docs", "prunecli", "pyproject.toml", "setup.py"]

    assert {".git", ".venv*", "build", "**/*.so"} <= set(ignored)
    assert not set(needed) & set(ignored)
    assert all((ROOT / name).exists() for name in needed)


def test_the_lowest_versions_are_those_of_the_project() -> None:
    """Each dependency has one lowest version, with its marker."""
    run = subprocess.run([sys.executable, ROOT / "scripts" / "lowest"], capture_output=True, text=True, check=True)

    lines = run.stdout.splitlines()
    assert [line.split("==")[0] for line in lines] == ["jinja2", "numpy", "rich", "tomli", "typer"]
    assert "numpy==1.26.*" in lines
    assert "tomli==2.0.*; python_version < '3.11'" in lines
