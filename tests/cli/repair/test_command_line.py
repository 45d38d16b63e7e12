"""The commands as the hints for wrong lines see them: the parser's options, without a parser for each command."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from support.children import environment

from prunecli.cli import main, search, strategy_arguments, sweep
from prunecli.cli.command_list import COMMANDS
from prunecli.cli.repair.command_line import VARIED, Command, Option, command_for

if TYPE_CHECKING:
    from collections.abc import Sequence

LINES = [(name,) for name in COMMANDS] + [(name, "m.pth", how) for name in VARIED for how in ("l1", "percentile")]

MODULES = """
import sys
from prunecli.cli.main import main
main(sys.argv[1:])
print(*sorted(name.partition("prunecli.cli.")[2] for name in sys.modules if name.startswith("prunecli.cli.")))
"""


def parser_of(words: Sequence[str]) -> Any:  # noqa: ANN401 - Typer's own
    """Return the parser that Typer makes for a command."""
    from typer.main import get_command

    if words[0] in VARIED:
        return strategy_arguments.command_for({"search": search, "sweep": sweep}[words[0]].Arguments, words[1:])
    return get_command(main.application_of(words[0]))


def seen_by(name: str, parser: Any) -> Command:  # noqa: ANN401 - Typer's own
    """Return the command that a parser accepts."""
    arguments = [p for p in parser.params if p.param_type_name == "argument"]
    options = [p for p in parser.params if p.param_type_name == "option" and not p.hidden]
    return Command(
        name,
        tuple(p.metavar for p in arguments),
        any(p.nargs < 0 for p in arguments),
        tuple(
            Option(
                p.name,
                tuple(sorted(p.opts, key=len, reverse=True)),
                not p.is_flag,
                p.multiple,
                p.metavar or "",
                not p.rich_help_panel,
            )
            for p in options
        ),
    )


@pytest.mark.parametrize("words", LINES, ids=" ".join)
def test_a_command_has_the_options_of_its_parser(words: tuple[str, ...]) -> None:
    """A command as the hints see it accepts what Typer's parser accepts."""
    assert seen_by(words[0], parser_of(words)) == command_for(words)


@pytest.mark.parametrize(
    "line", ["tresh m.pth", "threshold m.pth", "threshold m.pth --thr", "threshold m.pth --amount 1"]
)
def test_a_wrong_line_imports_no_command_but_those_that_prune(line: str) -> None:
    """The hint for a wrong line imports the module of the command that is meant, and of no other."""
    command = [sys.executable, "-c", MODULES, *line.split()]
    run = subprocess.run(command, capture_output=True, text=True, check=True, env=environment())

    assert "hint: prune " in run.stderr
    assert {"pruning"} == ({*COMMANDS, "pruning"} - {"doctor"}) & set(run.stdout.split())
