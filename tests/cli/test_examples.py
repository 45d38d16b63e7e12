"""The examples in the help run, and the recipe in the help is one."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from typing import TYPE_CHECKING

import pytest
import torch
from support import DEMO
from torch.nn.utils.prune import l1_unstructured

from prunecli.cli.command_list import COMMANDS, EXAMPLES, GROUPS, RECIPE
from prunecli.cli.main import main

if TYPE_CHECKING:
    from pathlib import Path

    from support.command_line import Prune

DIFFERENT = ["diff", "model.safetensors", "pruned.safetensors"]
"""The beginning of the line that exits with 1."""

EVALUATION = "import sys, pathlib; print('accuracy', 0.9 * pathlib.Path(sys.argv[1]).exists())\n"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the files that the examples name."""
    folder = tmp_path_factory.mktemp("examples")
    for suffix in ("pth", "safetensors"):
        shutil.copyfile(DEMO / f"digits_conv.{suffix}", folder / f"model.{suffix}")
    source = str(folder / "model.safetensors")
    outputs = ["-o", str(folder / "pruned.safetensors"), "--mask-out", str(folder / "mask.safetensors")]
    assert main(["l1", source, "--amount", "50%", "--no-report", "-q", *outputs]) == 0
    assert main(["pack", str(folder / "model.pth"), "-o", str(folder / "small.packed.pth"), "-q"]) == 0
    layer = torch.nn.Linear(4, 4)
    l1_unstructured(layer, "weight", amount=0.5)
    torch.save(layer.state_dict(), folder / "masked.pth")
    (folder / "recipe.toml").write_text(RECIPE)
    (folder / "eval.py").write_text(EVALUATION)
    return folder


@pytest.fixture
def folder(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to a directory of its own with these files, where the command `python` is this interpreter."""
    shutil.copytree(files, tmp_path, dirs_exist_ok=True)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("line", [example.line for about in COMMANDS.values() for example in about.examples])
def test_every_example_runs(prune: Prune, line: str) -> None:
    """The example of a command does its work, and has a result on standard output; `diff` finds a difference."""
    program, *words = shlex.split(line)

    ran = prune(*words)

    assert (program, ran.code) == ("prune", int(words[:3] == DIFFERENT)), ran.err
    assert ran.out
    assert "error" not in ran.err


@pytest.mark.usefixtures("folder")
def test_the_first_examples_run_one_after_the_other(prune: Prune) -> None:
    """The examples of `prune --help` use the results of those before."""
    codes = [prune(*shlex.split(example.line)[1:]).code for example in EXAMPLES]

    assert codes == [0] * len(EXAMPLES)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_group_and_two_examples(name: str) -> None:
    """A command says in one place where the help lists it, and how it is used; examples fit 80 columns."""
    about = COMMANDS[name]

    assert about.group in GROUPS
    assert len(about.examples) == 2
    assert [shlex.split(example.line)[1] for example in about.examples] == [name, name]
    assert all(len(example.line) < 100 and len(example.purpose) < 70 for example in about.examples)


def test_the_commands_are_in_the_order_of_their_groups() -> None:
    """`prune --help` and docs/commands.md have one order."""
    assert [about.group for about in COMMANDS.values()] == sorted(
        (about.group for about in COMMANDS.values()), key=GROUPS.index
    )
