"""What people type first: the hint is the whole command line that was meant, and it works."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file
from support.children import environment
from support.command_line import Ran, save_two_layers, shell

from prunecli.cli.command_list import PRUNING
from prunecli.cli.main import main
from prunecli.cli.repair.command_line import described
from prunecli.cli.repair.draft import Draft
from prunecli.cli.repair.meant import meant
from prunecli.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from support.command_line import Prune

EVAL = "echo 1 {}"
LINES = [
    # the command is forgotten, misspelt, misplaced, or has another name elsewhere
    ("m.pth", "inspect m.pth"),
    ("m.pth --thresholds", "inspect m.pth --thresholds"),
    ("m.pth --amount .5", "l1 m.pth --amount .5"),
    ("--amount 0.5 m.pth", "l1 --amount 0.5 m.pth"),
    ("m.pth --sparsity 50", "l1 m.pth --amount 50%"),
    ("m.pth 0.5", "l1 m.pth --amount 0.5"),
    ("0.5 m.pth", "l1 m.pth --amount 0.5"),
    ("2:4 m.pth", "topk m.pth --pattern 2:4"),
    ("m.pth --thr 0.1", "threshold m.pth --thr 0.1"),
    ("m.pth --threshold 0.1", "threshold m.pth --thr 0.1"),
    ("m.pth --q 90", "percentile m.pth --q 90"),
    ("m.pth --pattern 2:4", "topk m.pth --pattern 2:4"),
    ("m.pth --shape 4x4 --amount .5", "block m.pth --shape 4x4 --amount .5"),
    ("m.pth r.toml", "run r.toml m.pth"),
    ("m.pth l1 --amount 0.5", "l1 m.pth --amount 0.5"),
    ("--amount 0.5 l1 m.pth", "l1 --amount 0.5 m.pth"),
    ("prune l1 m.pth --amount .5", "l1 m.pth --amount .5"),
    ("prune m.pth", "inspect m.pth"),
    ("treshold m.pth --thr 0.1", "threshold m.pth --thr 0.1"),
    ("L1 m.pth --amount 0.5", "l1 m.pth --amount 0.5"),
    ("magnitude m.pth --amount 0.5", "l1 m.pth --amount 0.5"),
    ("global_unstructured m.pth --amount 0.5", "global m.pth --amount 0.5"),
    ("ln_structured m.pth --amount 0.5 --n 1", "structured m.pth --amount 0.5 --n 1"),
    ("show m.pth", "inspect m.pth"),
    ("m.pth 'a b.pth'", "diff m.pth 'a b.pth'"),
    # the value of a command without its option
    ("threshold m.pth 0.1", "threshold m.pth --thr 0.1"),
    ("l1 m.pth 0.5", "l1 m.pth --amount 0.5"),
    ("l1 0.5 m.pth", "l1 m.pth --amount 0.5"),
    ("l1 m.pth 50", "l1 m.pth --amount 50%"),
    ("l1 'a b.pth' 50%", "l1 'a b.pth' --amount 50%"),
    ("global m.pth 0.5 -n", "global m.pth -n --amount 0.5"),
    ("percentile m.pth 90", "percentile m.pth --q 90"),
    ("topk m.pth 2:4", "topk m.pth --pattern 2:4"),
    ("block m.pth 4x4 0.5", "block m.pth --shape 4x4 --amount 0.5"),
    ("random m.pth 0.3 --seed 3", "random m.pth --seed 3 --amount 0.3"),
    ("check m.pth 0", "check m.pth --min-sparsity 0"),
    # options with another name
    ("l1 m.pth --sparsity 0.5", "l1 m.pth --amount 0.5"),
    ("l1 m.pth --ratio=0.5", "l1 m.pth --amount 0.5"),
    ("l1 m.pth --percent 50", "l1 m.pth --amount 50%"),
    ("threshold m.pth --threshold 0.1", "threshold m.pth --thr 0.1"),
    ("l1 m.pth --amount .5 --output-file 'x y.pth'", "l1 m.pth --amount .5 -o 'x y.pth'"),
    ("l1 m.pth --amount .5 --overwrite", "l1 m.pth --amount .5 --force"),
    ("l1 m.pth --amount .5 --layers 'fc*.weight'", "l1 m.pth --amount .5 -i 'fc*.weight'"),
    ("l1 --model m.pth --amount 0.5", "l1 m.pth --amount 0.5"),
    ("l1 m.pth --amount 0.5 --cpu", "l1 m.pth --amount 0.5 --device cpu"),
    ("topk m.pth --nm 2:4 --axis 1", "topk m.pth --pattern 2:4 --dim 1"),
    ("l1 m.pth --pattern 2:4", "topk m.pth --pattern 2:4"),
    ("l1 m.pth --thr 0.1", "threshold m.pth --thr 0.1"),
    ("sweep m.pth l1 0.5 --eval 'echo 1 {}'", "sweep m.pth l1 --eval 'echo 1 {}' --at 0.5"),
    ("threshold m.pth --sparsity 0.5", "l1 m.pth --amount 0.5"),
    ("topk m.pth --ratio .5 -n", "l1 m.pth --amount .5 -n"),
    ("l1 m.pth --density 0.3", "l1 m.pth --amount 0.7"),
    ("l1 m.pth --keep=30% -n", "l1 m.pth --amount 70% -n"),
    ("m.pth --keep-ratio .25", "l1 m.pth --amount 0.75"),
    ("l1 m.pth --keep 2", "topk m.pth --keep 2 --group 4"),
    ("l1 m.pth --amount .5 --global", "global m.pth --amount .5"),
    ("l1 m.pth --structured --amount .5", "structured m.pth --amount .5"),
    ("l1 m.pth --amount .5 --scope global", "global m.pth --amount .5"),
    # options that another command has
    ("convert m.pth -o new.safetensors", "convert m.pth new.safetensors"),
    ("convert m.pth --output=new.safetensors", "convert m.pth new.safetensors"),
    ("convert m.pth new.safetensors --to fp16", "strip m.pth --to fp16 -o new.safetensors"),
    ("convert m.pth new.safetensors --device cpu", "convert m.pth new.safetensors"),
    ("pack m.pth --to fp16", "strip m.pth --to fp16"),
    ("inspect m.pth -q", "inspect m.pth"),
    ("inspect m.pth --threads 2 --json", "inspect m.pth --json"),
    ("inspect m.pth --in-place", "inspect m.pth"),
    ("scan m.pth --report r.json", "scan m.pth --json"),
    ("scan m.pth --finite", "check m.pth --finite"),
    ("inspect m.pth --pattern 2:4 -n", None),
    ("check m.pth --strict", "check m.pth --finite"),
    ("l1 m.pth --amount .5 --html r.html", "l1 m.pth --amount .5 --report r.html"),
    # options that are misspelt
    ("l1 m.pth --amuont 0.5", "l1 m.pth --amount 0.5"),
    ("l1 m.pth --sparcity 0.5", "l1 m.pth --amount 0.5"),
    ("l1 m.pth -amount 0.5", "l1 m.pth --amount 0.5"),
    ("l1 m.pth --Amount 0.5", "l1 m.pth --amount 0.5"),
    ("l1 m.pth \u2014amount 0.5", "l1 m.pth --amount 0.5"),
    ("l1 m.pth amount=0.5", "l1 m.pth --amount 0.5"),
    ("l1 m.pth sparsity=50%", "l1 m.pth --amount 50%"),
    ("l1 m.pth --amount .5 --dry_run", "l1 m.pth --amount .5 --dry-run"),
    ("l1 m.pth --amount .5 --exlude fc1.weight", "l1 m.pth --amount .5 -x fc1.weight"),
    ("l1 m.pth --amount .5 -output x.pth", "l1 m.pth --amount .5 -o x.pth"),
    # words too many
    ("l1 m.pth --amount .5 -i fc1.weight fc2.weight", "l1 m.pth --amount .5 -i fc1.weight -i fc2.weight"),
    ("l1 -i fc1.weight fc2.weight m.pth --amount .5", "l1 -i fc1.weight -i fc2.weight m.pth --amount .5"),
    ("l1 m.pth --amount .5 -i 'fc1 x' fc2.weight", None),
    ("l1 m.pth --amount .5 'fc*'", "l1 m.pth --amount .5 -i 'fc*'"),
    ("l1 m.pth new.pth --amount .5", "l1 m.pth --amount .5 -o new.pth"),
    ("l1 m.pth --amount .5 r.json", "l1 m.pth --amount .5 --report r.json"),
    ("l1 m.pth --amount .5 --dry-run yes", "l1 m.pth --amount .5 --dry-run"),
    ("l1 m.pth --amount .5 --sha256 false", "l1 m.pth --amount .5"),
    ("l1 m.pth --amount 50 %", "l1 m.pth --amount 50%"),
    ("block m.pth --shape 4 4 --amount .5", "block m.pth --shape 4x4 --amount .5"),
    ("mask m.pth ones.safetensors", "mask m.pth --mask ones.safetensors"),
    # the order of arguments
    ("run m.pth r.toml", "run r.toml m.pth"),
    ("run m.pth r.toml -n", "run r.toml m.pth -n"),
    (f"search l1 m.pth --max-drop 1 --eval '{EVAL}'", f"search m.pth l1 --max-drop 1 --eval '{EVAL}'"),
    (f"sweep l1 m.pth --at 0.5 --eval '{EVAL}'", f"sweep m.pth l1 --at 0.5 --eval '{EVAL}'"),
    # a value is missing
    ("l1 m.pth", "l1 m.pth --amount 0.5"),
    ("l1 m.pth --amount", "l1 m.pth --amount 0.5"),
    ("l1 m.pth --amount --json", "l1 m.pth --amount 0.5 --json"),
    ("inspect m.pth --hist", "inspect m.pth --hist '*weight*'"),
    ("inspect m.pth --html", "inspect m.pth --html page.html"),
    (f"search m.pth l1 --eval '{EVAL}'", f"search m.pth l1 --eval '{EVAL}' --max-drop 0.01"),
    ("threshold m.pth", "threshold m.pth --thr 0.1"),
    ("percentile m.pth", "percentile m.pth --q 60"),
    ("topk m.pth", "topk m.pth --pattern 2:4"),
    ("topk m.pth --keep 2", "topk m.pth --keep 2 --group 4"),
    ("topk m.pth --group 8", "topk m.pth --group 8 --keep 4"),
    ("block m.pth", "block m.pth --shape 4x4 --amount 0.5"),
    ("check m.pth", None),
    (f"search m.pth --max-drop 1 --eval '{EVAL}'", f"search m.pth l1 --max-drop 1 --eval '{EVAL}'"),
    # a value is wrong: the nearest right one
    ("l1 m.pth --amount 50", "l1 m.pth --amount 50%"),
    ("l1 m.pth --amount=50", "l1 m.pth --amount 50%"),
    ("l1 m.pth --amount 96", "l1 m.pth --amount 96%"),
    ("l1 m.pth --amount 1.5", "l1 m.pth --amount 1.5%"),
    ("l1 m.pth --amount 150%", "l1 m.pth --amount 0.5"),
    ("l1 m.pth --amount -0.1", "l1 m.pth --amount 0.1"),
    ("l1 m.pth --amount 0,3", "l1 m.pth --amount 0.3"),
    ("l1 m.pth --amount 1/4", "l1 m.pth --amount 0.25"),
    ("l1 m.pth --amount 30percent", "l1 m.pth --amount 30%"),
    ("l1 m.pth --amount half", "l1 m.pth --amount 0.5"),
    ("l1 m.pth --count 2.5", "l1 m.pth --count 2"),
    ("l1 m.pth --count 2e1", "l1 m.pth --count 20"),
    ("l1 m.pth --count 0.02k", "l1 m.pth --count 20"),
    ("global m.pth --count -9", "global m.pth --count 9"),
    ("global m.pth --count 97", "global m.pth --count 96"),
    ("l1 m.pth --amount .5 --count 3", "l1 m.pth --amount 0.5"),
    ("l1 m.pth --amount .5 --scope rows", "l1 m.pth --amount .5 --scope row"),
    ("l1 m.pth --amount .5 --scope layer", "l1 m.pth --amount .5 --scope tensor"),
    ("l1 m.pth --count 0.5", "l1 m.pth --amount 0.5"),
    ("l1 m.pth --count 50%", "l1 m.pth --amount 50%"),
    ("topk m.pth --keep 0.4", "topk m.pth --keep 2 --group 4"),
    ("l1_unstructured m.pth --amount .5", "l1 m.pth --amount .5"),
    ("l1 m.pth --amount .5 --allocate ERK", "l1 m.pth --amount .5 --allocate erk"),
    ("l1 m.pth --amount .5 --allocate erk --scope row", "l1 m.pth --amount .5 --allocate erk --scope tensor"),
    ("global m.pth --amount .5 --normalize L2", "global m.pth --amount .5 --normalize l2"),
    (
        "global m.pth --amount .5 --min-per-tensor .9 --max-per-tensor .1",
        "global m.pth --amount .5 --min-per-tensor 0.1 --max-per-tensor 0.9",
    ),
    ("structured m.pth --amount .5 --n 3", "structured m.pth --amount .5 --n 2"),
    ("structured m.pth --amount .5 --n L1", "structured m.pth --amount .5 --n 1"),
    ("topk m.pth --pattern 4:2", "topk m.pth --pattern 2:4"),
    ("topk m.pth --pattern 2/4", "topk m.pth --pattern 2:4"),
    ("topk m.pth --pattern '1 of 4'", "topk m.pth --pattern 1:4"),
    ("topk m.pth --keep 4 --group 2", "topk m.pth --keep 2 --group 4"),
    ("topk m.pth --keep 2 --group 4 --pattern 1:4", "topk m.pth --pattern 1:4"),
    ("topk m.pth --pattern 2:4 --tail zeros", "topk m.pth --pattern 2:4 --tail zero"),
    ("topk m.pth --pattern 2:4 --tail drop", "topk m.pth --pattern 2:4 --tail keep"),
    ("block m.pth --amount .5 --shape 4,2", "block m.pth --amount .5 --shape 4x2"),
    ("block m.pth --amount .5 --shape 4", "block m.pth --amount .5 --shape 4x4"),
    ("block m.pth --amount .5 --shape 0x4", "block m.pth --amount .5 --shape 1x4"),
    ("threshold m.pth --thr 0,1", "threshold m.pth --thr 0.1"),
    ("threshold m.pth --thr -0.1", "threshold m.pth --thr 0.1"),
    ("percentile m.pth --q 0.9", "percentile m.pth --q 90"),
    ("percentile m.pth --q 101", "percentile m.pth --q 60"),
    ("percentile m.pth --q -5", "percentile m.pth --q 5"),
    ("l1 m.pth --amount .5 --device CPU", "l1 m.pth --amount .5 --device cpu"),
    ("l1 m.pth --amount .5 --of remaning", "l1 m.pth --amount .5 --of remaining"),
    ("l1 m.pth --amount .5 --threads 1e9", "l1 m.pth --amount .5 --threads 1024"),
    ("l1 m.pth --amount .5 --min-sparsity 30", "l1 m.pth --amount .5 --min-sparsity 30%"),
    (f"sweep m.pth l1 --at 50,90 --eval '{EVAL}'", f"sweep m.pth l1 --at 50%,90% --eval '{EVAL}'"),
    (f"sweep m.pth l1 --at 0.3,60 --eval '{EVAL}'", f"sweep m.pth l1 --at 0.3,60% --eval '{EVAL}'"),
    (f"search m.pth l1 --max-drop 0,5 --eval '{EVAL}'", f"search m.pth l1 --max-drop 0.5 --eval '{EVAL}'"),
    (f"search m.pth l1 --max-drop -1 --eval '{EVAL}'", f"search m.pth l1 --max-drop 1 --eval '{EVAL}'"),
]
NOT_RUN = [
    # with the name of what is missing, or a device that is not here
    ("l1", "prune l1 CKPT --amount 0.5"),
    ("l1 --amount 0.5", "prune l1 CKPT --amount 0.5"),
    ("run m.pth", "prune run RECIPE.toml m.pth"),
    ("run r.toml", "prune run r.toml CKPT"),
    ("diff m.pth", "prune diff m.pth B"),
    ("check m.pth", "prune check m.pth --min-sparsity 50%"),
    ("l1 m.pth --amount .5 --device gpu", "prune l1 m.pth --amount .5 --device cuda"),
    ("l1 m.pth --amount .5 --device cuda1", "prune l1 m.pth --amount .5 --device cuda:1"),
    ("l1 m.pth --amount .5 --gpu", "prune l1 m.pth --amount .5 --device cuda"),
    ("l1 m.pth --amount .5 -i 'fc1 x' fc2.weight", "prune l1 m.pth --amount .5 -i 'fc1 x' -i fc2.weight"),
    ("l1 help", "prune l1 --help"),
    ("treshold m.pth help", "prune threshold --help"),
    ("search m.pth", "prune search m.pth l1 --eval 'python eval.py {}' --max-drop 0.01"),
    ("search m.pth global -n", "prune search m.pth global -n --eval 'python eval.py {}' --max-drop 0.01"),
    ("sweep m.pth global", "prune sweep m.pth global --eval 'python eval.py {}'"),
    # nothing is meant
    ("diff m.pth n.pth 'a b.pth'", "prune diff --help"),
    ("bogus", "prune --help"),
    ("bogus m.pth", "prune --help"),
    ("l1 m.pth --amount .5 --bogus", "prune l1 --help"),
    ("inspect m.pth --frobnicate 3", "prune inspect --help"),
    ("check m.pth --finite --thresholds", "prune check --help"),
    ("check m.pth --finite --thr 1", "prune check --help"),
    ("convert m.pth -i 'fc*' new.pth", "prune convert --help"),
]
LOOPS = [
    ("l1 m.pth 'a b.pth' --amount .5", """for f in m.pth 'a b.pth'; do prune l1 "$f" --amount .5; done"""),
    ("m.pth 'a b.pth' n.pth --amount 50", """for f in m.pth 'a b.pth' n.pth; do prune l1 "$f" --amount 50%; done"""),
    ("run r.toml n.pth m.pth", 'for f in n.pth m.pth; do prune run r.toml "$f"; done'),
    ("inspect n.pth m.pth", 'for f in n.pth m.pth; do prune inspect "$f"; done'),
    ("topk 2:4 n.pth m.pth", 'for f in n.pth m.pth; do prune topk "$f" --pattern 2:4; done'),
]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder with checkpoints, a mask and a recipe."""
    monkeypatch.chdir(tmp_path)
    for name in ("m.pth", "a b.pth", "n.pth"):
        save_two_layers(tmp_path / name)
    save_file({"fc1.weight": np.ones((8, 8), np.uint8)}, tmp_path / "ones.safetensors")
    (tmp_path / "r.toml").write_text('rule = [{strategy = "l1", amount = 0.5}]')
    return tmp_path


def hinted(ran: Ran) -> str:
    """Return the hint of a run that was refused, which printed an error and a hint only."""
    error, hint = ran.err.splitlines()
    assert (ran.code, ran.out) == (2, "")
    assert error.startswith("error: ")
    return hint.removeprefix("hint: ")


@pytest.mark.parametrize(("line", "command"), [(line, command) for line, command in LINES if command])
def test_the_hint_is_the_line_that_was_meant(prune: Prune, line: str, command: str) -> None:
    """A wrong line is refused with the whole right one, and that one does its work."""
    assert hinted(prune(*shlex.split(line))) == f"prune {command}"

    assert prune(*shlex.split(command)).code in ({0, 1} if command.startswith("diff") else {0})


@pytest.mark.parametrize(("line", "hint"), NOT_RUN)
def test_the_hint_names_what_is_missing(prune: Prune, line: str, hint: str) -> None:
    """A line that lacks a file gets the argument's name in its place; one without a meaning gets the help."""
    assert hinted(prune(*shlex.split(line))) == hint


@pytest.mark.parametrize(("line", "loop"), LOOPS)
def test_several_checkpoints_become_a_loop(prune: Prune, line: str, loop: str) -> None:
    """A command takes one checkpoint; the hint is a loop that a shell runs."""
    assert hinted(prune(*shlex.split(line))) == loop

    assert shell(loop).returncode == 0


def test_many_files_of_a_folder_become_a_pattern(prune: Prune, folder: Path) -> None:
    """The loop has a pattern again where the shell expanded one."""
    names = [save_two_layers(folder / f"many{index}.bin").name for index in range(60)]

    assert hinted(prune("l1", *names, "--amount", "0.5")) == 'for f in *.bin; do prune l1 "$f" --amount 0.5; done'
    assert hinted(prune("l1", *names[:10], "--amount", "0.5")).startswith(f"for f in {names[0]} {names[1]} ")


def test_a_strange_name_is_quoted(prune: Prune, folder: Path) -> None:
    """The words of the user are quoted for a shell, and a line with control characters is not proposed."""
    name = "it's $(touch PWNED) & `x`.pth"
    save_two_layers(folder / name)

    command = hinted(prune("l1", name, "0.5"))

    printed = subprocess.run(["bash", "-c", f"printf '%s\n' {command}"], capture_output=True, text=True, check=True)
    assert printed.stdout.splitlines() == ["prune", "l1", name, "--amount", "0.5"]
    assert shell(command).returncode == 0
    assert not (folder / "PWNED").exists()
    assert hinted(prune("l1", "a\x1b[31m.pth", "0.5")) == "prune l1 --help"


@pytest.mark.parametrize("command", ["l1", "inspect", "search", "run"])
def test_help_of_a_command(prune: Prune, command: str) -> None:
    """`prune help COMMAND` prints what `prune COMMAND --help` prints."""
    assert prune("help", command) == prune(command, "--help")


@pytest.mark.parametrize("line", ["l1 m.pth --amount .5 --log-level debug", "quantize m.pth", "global m.pth .5 .6"])
def test_a_line_without_a_likely_meaning_gets_the_help(prune: Prune, line: str) -> None:
    """A guess neither repeats an option nor replaces a command that does something else."""
    assert hinted(prune(*shlex.split(line))).endswith("--help")


def test_a_short_option_may_name_the_key(prune: Prune) -> None:
    """`-k` with a number is a count, and with a name a key."""
    assert hinted(prune("l1", "m.pth", "50%", "-k", "model")) == "prune l1 m.pth --key model --amount 50%"


def test_help_after_a_command(prune: Prune) -> None:
    """`prune topk help` asks for the help of the command."""
    assert hinted(prune("topk", "help")) == "prune topk --help"


def test_an_error_names_no_command_that_its_hint_does_not(prune: Prune) -> None:
    """Typer's guess is left out where there is a line that was meant."""
    error = prune("l1_unstructured", "m.pth", "--amount", ".5").err

    assert "no such command 'l1_unstructured'" in error
    assert "Did you mean" not in error


def test_help_and_version_are_commands(prune: Prune) -> None:
    """`prune help` is `prune --help`; `prune version` and `prune -V` are `prune --version`."""
    assert prune("help") == prune("--help")
    assert prune("version") == prune("-V") == prune("--version")
    assert hinted(prune("help", "treshold")) == "prune threshold --help"


def test_a_percentile_may_have_a_percent_sign(prune: Prune) -> None:
    """`--q 0.9` could mean two percentiles; `0.9%` and `90%` mean one each, and 0 and 1 are what they were."""
    for text in ("0.9%", "90%", "90", "0", "1", "100"):
        assert prune("percentile", "m.pth", "--q", text, "-n", "-q").code == 0
    assert '"q": 0.9' in prune("percentile", "m.pth", "--q", "0.9%", "-n", "--json").out
    assert "0.9 could mean 90 or 0.9%" in prune("percentile", "m.pth", "--q", "0.9").err


@pytest.mark.parametrize("line", [line for line, _ in NOT_RUN[:6] + LOOPS[:2]])
def test_finding_the_line_imports_no_library(line: str) -> None:
    """A hint for wrong usage loads neither NumPy nor torch nor Rich."""
    code = "import sys; from prunecli.cli.main import main; main(sys.argv[1:]); print(*sys.modules)"

    ran = subprocess.run(
        [sys.executable, "-c", code, *shlex.split(line)], env=environment(), capture_output=True, text=True, check=True
    )

    assert not {"numpy", "torch", "rich"} & set(ran.stdout.split())


WORDS = shlex.split(
    "prune l1 threshold topk run search help m.pth n.pth new.pth r.toml 0.5 50 50% 2:4 4x4 --amount --amount=0.5 --thr "
    "--pattern --sparsity --bogus -i -x -o -n -nq --dry-run --json fc1.weight '*' a=b - -- --eval {} true"
)


@given(st.lists(st.sampled_from(WORDS), max_size=7))
def test_every_line_that_is_proposed_can_be_parsed(words: list[str]) -> None:
    """For any words the search for the line ends, and a command that it proposes needs no further hint."""
    line = meant(words, UsageError("wrong"))

    if line is not None:
        proposed = shlex.split(re.sub(r"^for f in .*; do (.*); done$", r"\1", line))
        assert proposed[0] == "prune"
        assert meant(proposed[1:], UsageError("wrong")) is None


def test_the_words_of_a_draft_are_kept() -> None:
    """A draft that needs no repair is the line as it was typed."""
    assert Draft(("l1", "a b", "--amount=0.5")).line() == "prune l1 'a b' --amount=0.5"
    assert main(["help", "version", "--help"]) == 2


def test_no_command_that_zeroes_nothing_becomes_one_that_does_by_an_option_of_all() -> None:
    """The hint for `prune inspect m.pth --in-place` zeroes no weights."""
    pruning = {option.flags[0] for option in described("l1").options if not option.own}
    for name in ("inspect", "scan", "check", "convert", "strip", "pack", "unpack", "bake"):
        for flag in sorted(pruning):
            line = meant([name, "m.pth", flag, "1"], UsageError("wrong"))
            assert line is None or line.split()[1] not in PRUNING, line
