"""`--help`, `--version`, and the flags that the commands declare."""

from __future__ import annotations

import importlib
import inspect
import re
from typing import TYPE_CHECKING, Any, get_args

import pytest
from typer.models import ArgumentInfo, OptionInfo

from prunecli.cli import pruning, search, strategy_arguments, sweep
from prunecli.cli.command_list import COMMANDS as ABOUT
from prunecli.cli.command_list import PANELS, PRUNING, RECIPE
from prunecli.cli.options import SharedOptions

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.command_line import Prune

COMMANDS = list(ABOUT)
OTHER_FLAGS = {"all_tensors": "--all", "converter": "--for", "evaluate": "--eval"}
"""The parameters whose flag is not their name."""


def signature(command: str) -> dict[str, Any]:
    """Return the parameters of a command and their annotations."""
    if command in {"search", "sweep"}:
        parameters = strategy_arguments.parameters_of({"search": search, "sweep": sweep}[command].Arguments)
        return {name: parameter.annotation for name, parameter in parameters.items()}
    module = pruning if command in PRUNING and command != "run" else importlib.import_module(f"prunecli.cli.{command}")
    sources: list[Callable[..., object]] = [getattr(module, "global_" if command == "global" else command)]
    if command in PRUNING:
        sources.append(SharedOptions)
    signatures = [inspect.signature(source, eval_str=True) for source in sources]
    return {name: p.annotation for s in signatures for name, p in s.parameters.items()}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_declares_its_flag(command: str) -> None:
    """Each option names a flag that equals its parameter: Typer 0.27 takes a metavar for the flag otherwise."""
    annotations = [(name, get_args(annotation)[1:]) for name, annotation in signature(command).items()]
    declared = [(name, rest[0]) for name, rest in annotations if rest]

    for name, parameter in declared:
        assert isinstance(parameter, (OptionInfo, ArgumentInfo))
        if isinstance(parameter, OptionInfo):
            # In an annotation, Typer takes the first positional argument of Option for a flag, not for the default.
            declarations = [parameter.default, *(parameter.param_decls or ())]
            flags = [flag for text in declarations if isinstance(text, str) for flag in text.split("/")]
            assert OTHER_FLAGS.get(name, f"--{name.replace('_', '-')}") in flags
    assert [name for name, rest in annotations if not rest] in (["context"], [])


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_goes_to_standard_output(prune: Prune, command: str, flag: str) -> None:
    """Both forms of the help print the usage and every declared flag on standard output, with exit code 0."""
    ran = prune(command, flag)

    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith(f"Usage: prune {command} ")
    for name, annotation in signature(command).items():
        if isinstance(next(iter(get_args(annotation)[1:]), None), OptionInfo):
            assert OTHER_FLAGS.get(name, f"--{name.replace('_', '-')}") in ran.out


def test_the_list_of_commands_is_not_cut(prune: Prune) -> None:
    """`prune --help` names every command with a complete sentence."""
    ran = prune("--help")

    assert (ran.code, ran.err) == (0, "")
    assert [c for c in COMMANDS if re.search(rf"^  {c} +[A-Z].*\.$", ran.out, re.MULTILINE)] == COMMANDS
    assert "..." not in ran.out.replace("[ARGS]...", "")


@pytest.mark.parametrize("command", COMMANDS)
def test_the_list_repeats_the_first_line_of_each_command(prune: Prune, command: str) -> None:
    """The line about a command in `prune --help` is the first line of its own help."""
    assert ABOUT[command].line in re.sub(r"\s+", " ", prune(command, "--help").out)


def test_the_short_help_has_the_own_options_and_one_example(prune: Prune) -> None:
    """`-h` explains what the command does by itself and names the other options; `--help` explains all of them."""
    short, full = prune("l1", "-h").out, prune("l1", "--help").out

    assert "  --amount A " in short
    assert "More options:\n  Which tensors       --include, --exclude, --min-dim" in short
    assert "Only tensors whose name matches" not in short
    assert "Only tensors whose name matches" in full
    assert [text.count("\n  prune l1 model") for text in (short, full)] == [1, 2]
    assert "  prune l1 --help\n" in short
    assert len(short.splitlines()) < 0.6 * len(full.splitlines())


@pytest.mark.parametrize("command", COMMANDS)
def test_the_own_options_come_first(prune: Prune, command: str) -> None:
    """The help has the command's own options before the shared ones, and each panel once."""
    titles = re.findall(r"^(\w[\w ]*):$", prune(command, "--help").out, re.MULTILINE)

    own = ABOUT[command].panel
    assert next(title for title in titles if title != "Arguments") == own
    assert [title for title in titles if title in PANELS and title != own] == [
        title for title in PANELS if title in titles and title != own
    ]
    assert len(set(titles)) == len(titles)


def test_run_shows_a_recipe(prune: Prune) -> None:
    """`prune run --help` has a whole recipe, line by line."""
    assert "".join(f"  {line}".rstrip() + "\n" for line in RECIPE.splitlines()) in prune("run", "--help").out


@pytest.mark.parametrize("width", [60, 80, 120])
def test_an_option_is_never_broken_at_its_dashes(prune: Prune, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """On every terminal the help breaks lines between words, and only lines to copy are longer than it."""
    monkeypatch.setenv("COLUMNS", str(width))

    lines = prune("global", "-h").out.splitlines()

    assert not [line for line in lines if line.endswith("-")]
    assert not [line for line in lines if len(line) > width and "prune " not in line]


def test_help_of_a_command_by_name(prune: Prune) -> None:
    """`prune help l1` is `prune l1 --help`, and `prune help` is `prune --help`."""
    assert prune("help", "l1") == prune("l1", "--help")
    assert prune("help") == prune("--help")


def test_environment_variables_are_defaults(prune: Prune, ckpt: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PRUNE_THREADS and PRUNE_DEVICE are the defaults of their options, which say so; an option overrules them."""
    monkeypatch.setenv("PRUNE_THREADS", "1")
    monkeypatch.setenv("PRUNE_DEVICE", "nowhere")
    assert "PRUNE_THREADS" in prune("check", "--help").out
    assert "PRUNE_DEVICE" in prune("l1", "--help").out

    wrong = prune("l1", ckpt, "--amount", "50%", "-n", "-v")
    right = prune("l1", ckpt, "--amount", "50%", "-n", "-v", "--device", "cpu")

    assert (wrong.code, "nowhere" in wrong.err) == (2, True)
    assert (right.code, "working with 1 threads" in right.err) == (0, True)


def test_prune_alone_is_a_usage_error_with_the_help(prune: Prune) -> None:
    """`prune` prints the help on standard error, because it did nothing, and exits with 2."""
    ran = prune()

    assert (ran.code, ran.out) == (2, "")
    assert ran.err == prune("--help").out


def test_version(prune: Prune) -> None:
    """`prune --version` prints the name and the version."""
    ran = prune("--version")

    assert (ran.code, ran.err) == (0, "")
    assert re.fullmatch(r"prune \d+\.\d+\.\d+\n", ran.out)
