"""The command line: options become a strategy and keyword arguments of `prunecli.api.prune`, errors an exit code.

Knows nothing about tensors or bytes. Nothing heavy is imported before an option has been found wrong: `--help` and
usage errors need neither NumPy nor torch.
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prunecli.cli import options
from prunecli.cli.command_list import LOOKING, PRUNING
from prunecli.cli.exit import (
    BROKEN_PIPE,
    DONE,
    INTERRUPTED,
    WRONG,
    TyperError,
    escape_unencodable,
    exits,
    report_error,
    say,
    silence,
    terminate_cleanly,
)
from prunecli.cli.run_pruning import run_pruning
from prunecli.errors import PruneError
from prunecli.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from prunecli.strategies.recipe import Recipe
    from prunecli.strategies.unstructured import Strategy

_SETTINGS: dict[str, Any] = {
    "name": "prune",
    "help": "Zero weights in checkpoint files: the right ones, and nothing else.",
    "epilog": "Exit codes: 0 done, 1 a check failed, 2 wrong usage or input, 130 interrupted.",
    "pretty_exceptions_enable": False,
    "rich_markup_mode": None,
    "context_settings": {"help_option_names": ["-h", "--help"]},
}
app = typer.Typer(**_SETTINGS)


def main(args: Sequence[str] | None = None) -> int:
    """Run `prune` with `args` (None: the process's own) and return the exit code.

    What a user can cause ends in one sentence on standard error; what nobody foresaw keeps its traceback.
    """
    given = sys.argv[1:] if args is None else list(args)
    escape_unencodable()
    try:
        with terminate_cleanly():
            program = _program(given)
            code = program(given, prog_name="prune", standalone_mode=False, obj=("prune", *given))
            if sys.stdout is not None:
                sys.stdout.flush()
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        silence(sys.stdout)
        return BROKEN_PIPE
    except (PruneError, TyperError, OSError) as error:
        return report_error(error)
    return code if isinstance(code, int) else DONE


@app.callback(invoke_without_command=True)
def _prune_alone(
    context: typer.Context,
    *,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.", is_eager=True)] = False,
) -> None:
    if version:
        print("prune", __version__)  # noqa: T201
        raise typer.Exit
    if context.invoked_subcommand is None:
        say(context.get_help())
        raise typer.Exit(WRONG)


def add_command(make: Callable[..., Strategy | Recipe]) -> None:
    """Register `make`, a function from its own options to a strategy, as a command with the shared options."""
    # Not get_type_hints: before Python 3.11 it wraps what defaults to None once more, and Typer loses the option.
    own, shared = (dict(inspect.signature(f, eval_str=True).parameters) for f in (make, options.SharedOptions))

    def run(**given: Any) -> int:  # noqa: ANN401 - typed by the signature below
        strategy = make(**{name: given.pop(name) for name in own})
        return run_pruning(strategy, options.SharedOptions(**given))

    first = [own[name] for name in own if own[name].default is inspect.Parameter.empty]
    rest = [own[name] for name in own if own[name].default is not inspect.Parameter.empty]
    parameters = [*first, shared.pop("ckpt"), *rest, *shared.values()]
    _register(make, run, parameters)


def add_tool(tool: Callable[..., int], **settings: Any) -> None:  # noqa: ANN401 - Typer's
    """Register `tool`, a function from its options to an exit code, as a command."""
    _register(tool, tool, list(inspect.signature(tool, eval_str=True).parameters.values()), **settings)


def _register(
    named: Callable[..., object],
    work: Callable[..., int],
    parameters: list[inspect.Parameter],
    **settings: Any,  # noqa: ANN401 - Typer's
) -> None:
    def run(**given: Any) -> int:  # noqa: ANN401 - typed by the signature below
        with exits():
            return work(**given)

    typed = [p.replace(kind=p.KEYWORD_ONLY) for p in parameters]
    run.__signature__ = inspect.Signature(typed)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in typed}
    run.__doc__ = named.__doc__
    app.command(named.__name__.rstrip("_"), **settings)(run)


def register(names: Sequence[str]) -> None:
    """Register the commands of these names that are not yet; only their rooms are imported."""
    known = {command.name for command in app.registered_commands}
    for name in names:
        if name not in known and name in PRUNING:
            add_command(_command("cmd_run" if name == "run" else "commands", name))
        elif name not in known:
            varied = {"context_settings": _room("varied").SETTINGS} if name in {"search", "sweep"} else {}
            add_tool(_command(f"cmd_{name}", name), **varied)
    order = {name: at for at, name in enumerate((*PRUNING, *LOOKING))}
    app.registered_commands.sort(key=lambda command: order.get(command.name or "", len(order)))


_MODULES = {
    "cmd_run": "cli.run",
    "commands": "cli.pruning",
    "varied": "cli.strategy_arguments",
    "cmd_inspect": "cli.inspect",
    "cmd_scan": "cli.scan",
    "cmd_check": "cli.check",
    "cmd_diff": "cli.diff",
    "cmd_bake": "cli.bake",
    "cmd_search": "cli.search",
    "cmd_sweep": "cli.sweep",
}


def _room(name: str) -> Any:  # noqa: ANN401 - a module
    return importlib.import_module("prunecli." + _MODULES[name])


def _command(room: str, name: str) -> Callable[..., Any]:
    found: Callable[..., Any] = getattr(_room(room), "global_" if name == "global" else name)
    return found


def _program(given: Sequence[str]) -> typer.Typer:
    """Return what a command line needs: the command it names, or every name with a line of help."""
    first = next((word for word in given if not word.startswith("-")), None)
    if any(name.endswith("_COMPLETE") and name.startswith("_PRUNE") for name in os.environ):
        register((*PRUNING, *LOOKING))
    elif first in {*PRUNING, *LOOKING}:
        register((first,))
    else:
        listed = typer.Typer(**_SETTINGS)
        listed.callback(invoke_without_command=True)(_prune_alone)
        for name, line in {**PRUNING, **LOOKING}.items():
            listed.command(name, help=line)(_listed)
        return listed
    return app


def _listed() -> None:
    """Stand for a command in the list of all: what names one gets the command itself."""
