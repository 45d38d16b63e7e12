"""The Typer application `prune`: it registers the command that is called, runs it, and maps errors to exit codes.

Imports are late: `--help` and usage errors import neither NumPy nor torch nor Rich, and a command imports no other.
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prunecli.cli.colours import Color, chosen_colour
from prunecli.cli.command_list import COMMANDS, EXIT_CODES, PRUNING
from prunecli.cli.exit import (
    BROKEN_PIPE,
    DONE,
    INTERRUPTED,
    WRONG,
    TyperError,
    escape_unencodable,
    exit_codes,
    report_error,
    say,
    silence,
    terminate_cleanly,
)
from prunecli.cli.help import HelpCommand, HelpGroup
from prunecli.cli.processes import is_follower, run_together, said, says, wait_for_the_speaker
from prunecli.errors import PruneError
from prunecli.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from typer.models import CommandInfo

    from prunecli.strategies.recipe import Recipe
    from prunecli.strategies.strategy import Strategy

_SETTINGS: dict[str, Any] = {
    "name": "prune",
    "help": "Zero weights in checkpoint files: the right ones, and nothing else.",
    "epilog": EXIT_CODES,
    "cls": HelpGroup,
    "pretty_exceptions_enable": False,
    "rich_markup_mode": None,
    "context_settings": {"help_option_names": ["-h", "--help"]},
}
app = typer.Typer(**_SETTINGS)


def main(args: Sequence[str] | None = None) -> int:
    """Run `prune` with `args` (None: the arguments of the process) and return the exit code.

    Errors of usage and input print one sentence on standard error; any other exception keeps its traceback.
    """
    words = _without_help(sys.argv[1:] if args is None else list(args))
    escape_unencodable()
    with chosen_colour(words):
        code = _run(words)
    said()
    return code


def _run(words: list[str]) -> int:
    """Run the command line and return its exit code."""
    try:
        with terminate_cleanly():
            if is_follower():
                silence(sys.stdout)
            program = _program(words)
            code = program(words, prog_name="prune", standalone_mode=False, obj=("prune", *words))
            if sys.stdout is not None:
                sys.stdout.flush()
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        silence(sys.stdout)
        return BROKEN_PIPE
    except (PruneError, TyperError, OSError) as error:
        if says(error):
            return report_error(error, words)
        wait_for_the_speaker()
        return WRONG
    return code if isinstance(code, int) else DONE


@app.callback(invoke_without_command=True)
def _prune_alone(
    context: typer.Context,
    *,
    version: Annotated[bool, typer.Option("-V", "--version", help="Show the version and exit.", is_eager=True)] = False,
) -> None:
    if version:
        print("prune", __version__)  # noqa: T201
        raise typer.Exit
    if context.invoked_subcommand is None:
        say(context.get_help())
        raise typer.Exit(WRONG)


# --- the commands


def add_pruning_command(make: Callable[..., Strategy | Recipe]) -> None:
    """Register `make`, a function from its own options to a strategy, as a command with the shared options.

    Typer reads the options of a command from its signature, so the signatures of `make` and of `SharedOptions` are
    joined: required arguments first, then the checkpoint, the command's own options, and the shared ones.
    """
    from prunecli.cli.options import SharedOptions

    # Not get_type_hints: before Python 3.11 it adds Optional to a parameter whose default is None, and Typer then
    # overlooks the option.
    own, shared = (dict(inspect.signature(f, eval_str=True).parameters) for f in (make, SharedOptions))

    def run(**arguments: Any) -> int:  # noqa: ANN401 - typed by the signature below
        from prunecli.cli.run_pruning import run_pruning

        strategy = make(**{name: arguments.pop(name) for name in own})
        return run_pruning(strategy, SharedOptions(**arguments))

    required = [parameter for parameter in own.values() if parameter.default is inspect.Parameter.empty]
    optional = [parameter for parameter in own.values() if parameter.default is not inspect.Parameter.empty]
    _register(make, run, [*required, shared.pop("ckpt"), *optional, *shared.values()])


def add_command(command: Callable[..., int], **settings: Any) -> None:  # noqa: ANN401 - Typer's
    """Register `command`, a function from its options to an exit code."""
    _register(command, command, list(inspect.signature(command, eval_str=True).parameters.values()), **settings)


def _register(
    function: Callable[..., object],
    run: Callable[..., int],
    parameters: list[inspect.Parameter],
    **settings: Any,  # noqa: ANN401 - Typer's
) -> None:
    """Register `run` with the name and the help of `function` and with these parameters."""
    name = function.__name__.rstrip("_")

    def command(**arguments: Any) -> int:  # noqa: ANN401 - typed by the signature below
        from prunecli.kernels.backend import kernels_name

        arguments.pop("color", None)  # `chosen_colour` has read it
        with exit_codes():
            kernels_name()  # a wrong choice of kernels is an error before anything is read
            return run_together(name, partial(run, **arguments))

    color = inspect.Parameter("color", inspect.Parameter.KEYWORD_ONLY, default="auto", annotation=Color)
    # A command that parses its words itself has the option there.
    own = [] if settings.get("context_settings") else [color]
    keywords = [*(parameter.replace(kind=parameter.KEYWORD_ONLY) for parameter in parameters), *own]
    command.__signature__ = inspect.Signature(keywords)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in keywords}
    command.__doc__ = function.__doc__
    app.command(name, **{"cls": HelpCommand, **settings})(command)


def register(names: Sequence[str]) -> None:
    """Register the commands of these names that are not registered yet; their modules are imported."""
    known = {command.name for command in app.registered_commands}
    for name in names:
        if name in known:
            continue
        if name in PRUNING:
            add_pruning_command(_strategy_function(name))
        else:
            module = importlib.import_module(f"prunecli.cli.{name}")
            add_command(getattr(module, name), **getattr(module, "SETTINGS", {}))
    order = list(COMMANDS)
    app.registered_commands.sort(key=lambda command: order.index(command.name or ""))


def _strategy_function(name: str) -> Callable[..., Strategy | Recipe]:
    if name == "run":
        from prunecli.cli.run import run

        return run
    from prunecli.cli.pruning import BY_NAME

    return BY_NAME[name]


def application_of(name: str) -> typer.Typer:
    """Return an application that is the command `name` alone."""
    alone = typer.Typer(rich_markup_mode=None, add_completion=False, pretty_exceptions_enable=False)
    alone.registered_commands = [_registered(name)]
    return alone


def parameters_of(name: str) -> Iterable[inspect.Parameter]:
    """Return the parameters of the command `name` as Typer reads them."""
    return inspect.signature(_registered(name).callback or register).parameters.values()


def _registered(name: str) -> CommandInfo:
    register((name,))
    return next(command for command in app.registered_commands if command.name == name)


def _without_help(words: list[str]) -> list[str]:
    """Return `prune help COMMAND` and `prune version` as the options that they mean."""
    if words[:1] == ["help"]:
        return [*words[1:2], "--help"]
    return ["--version"] if words == ["version"] else words


def _program(words: Sequence[str]) -> typer.Typer:
    """Return the application with the command that `words` name, or with the list of all commands."""
    first = next((word for word in words if not word.startswith("-")), None)
    if any(name.endswith("_COMPLETE") and name.startswith("_PRUNE") for name in os.environ):
        register(tuple(COMMANDS))
    elif first in COMMANDS:
        register((first,))
    else:
        return _list_of_commands()
    return app


def _list_of_commands() -> typer.Typer:
    listed = typer.Typer(**_SETTINGS)
    listed.callback(invoke_without_command=True)(_prune_alone)
    for name, about in COMMANDS.items():
        listed.command(name, help=about.line)(_placeholder)
    return listed


def _placeholder() -> None:
    """Stand for a command in the list of commands. The command itself is imported when it is called."""
