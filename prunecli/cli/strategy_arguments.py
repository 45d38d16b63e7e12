"""Parse `CKPT STRATEGY [OPTIONS]` for `search` and `sweep`: their own options and those of the named strategy.

STRATEGY is a pruning command that takes an amount or a percentile. Its options are known only after its name is found,
so Typer parses the words twice: first to find the name, then with the options of both commands.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from copy import copy
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_args, get_type_hints

import typer
from typer.main import get_command

from prunecli.cli.command_list import ZERO
from prunecli.cli.help import HelpCommand
from prunecli.cli.pruning import BY_NAME
from prunecli.errors import UsageError
from prunecli.strategies.strategy import Strategy
from prunecli.text.closest import closest
from prunecli.text.escape import printable

if TYPE_CHECKING:
    from collections.abc import Sequence


def complete_words(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the strategies after the checkpoint, and the values of an option that `ctx` ends with."""
    command, words = _inner(ctx)
    option = next(
        (p for p in command.params if words and words[-1] in p.opts and not getattr(p, "is_flag", True)), None
    )
    if option is not None:
        return [item.value for item in option.shell_complete(_lenient(command, ctx, words[:-1]), incomplete)]
    parsed = _lenient(command, ctx, words).params
    if parsed.get("ckpt") is None or parsed.get("strategy") is not None:
        return []
    return [name for name in strategy_functions() if name.startswith(incomplete)]


class VariedCommand(HelpCommand):
    """A command that passes its words to `parse`, whose options are completed as its own."""

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:  # noqa: ANN401 - Typer's own
        """Return the options that start with `incomplete`: of the command, and of the strategy that is named."""
        command, words = _inner(ctx)
        return list(command.shell_complete(_lenient(command, ctx, words), incomplete))


def _inner(ctx: Any) -> tuple[Any, list[str]]:  # noqa: ANN401 - Typer's own
    """Return the command that parses the words of `search` or `sweep`, and the words before the one to complete."""
    # The argument that is being completed has no value yet, so the parser may leave the words in `args`.
    words = list(ctx.params.get("words") or ctx.args)
    arguments = importlib.import_module(f"prunecli.cli.{ctx.info_name}").Arguments
    return command_for(arguments, words), words


def _lenient(command: Any, ctx: Any, words: Sequence[str]) -> Any:  # noqa: ANN401 - Typer's own
    """Return a context of words that need not be complete."""
    lenient = {"resilient_parsing": True, "ignore_unknown_options": True, "allow_extra_args": True}
    return command.make_context(ctx.info_name, list(words), **lenient)


SETTINGS: dict[str, Any] = {
    "cls": VariedCommand,
    "context_settings": {
        "help_option_names": [],
        "ignore_unknown_options": True,
        "allow_interspersed_args": False,
    },
}
"""The settings of a command that passes all its words to `parse`."""

Words = Annotated[
    list[str] | None,
    typer.Argument(metavar="CKPT [OPTIONS] STRATEGY [OPTIONS]", autocompletion=complete_words),
]
"""All words after the name of such a command."""

MakeStrategy = Callable[[float], Strategy]
"""A function from an amount (0 to 1) to a strategy."""

T = TypeVar("T")

_AMOUNTS = ("amount", "count", "q")


def strategy_functions() -> dict[str, Callable[..., Strategy]]:
    """Return the strategy functions that take an amount, by the names of their commands."""
    return {name: make for name, make in BY_NAME.items() if {"amount", "q"} & inspect.signature(make).parameters.keys()}


def parse(context: typer.Context, words: Sequence[str], arguments: type[T]) -> T:
    """Parse `words` as a command with the fields of `arguments` and the named strategy's options.

    `arguments` is a dataclass whose fields are annotated as Typer's parameters; its docstring is the help. Among the
    fields are `ckpt`, `strategy` (the name) and `make_strategy`, which is set to a MakeStrategy. Raises UsageError, or
    Typer's errors, for words that cannot be parsed.
    """
    name, varied = _strategy_in(context, words, arguments)
    command = _command(arguments, strategy_functions().get(name), varied)
    with command.make_context(context.info_name, list(words), parent=context.parent, obj=context.obj) as inner:
        value: T = command.invoke(inner)
        return value


def command_for(arguments: type[Any], words: Sequence[str]) -> Any:  # noqa: ANN401 - Typer's own
    """Return the Typer command for `words`: that of `arguments`, with the options of a strategy that they name."""
    return _command(arguments, _named_in(words))


def parameters_for(arguments: type[Any], words: Sequence[str]) -> list[inspect.Parameter]:
    """Return the parameters of `command_for`."""
    make = _named_in(words)
    return _parameters(arguments, _own(make), "amount")


def _named_in(words: Sequence[str]) -> Callable[..., Strategy] | None:
    functions = strategy_functions()
    return functions.get(next((word for word in words if word in functions), ""))


def _strategy_in(context: typer.Context, words: Sequence[str], arguments: type[object]) -> tuple[str, str]:
    """Return the first word after the checkpoint that names a strategy, or "", and the argument that is varied.

    Words that are values of options do not count.
    """
    with _lenient(_command(arguments, None), context, words) as parsed:
        names = [parsed.params.get("strategy"), *parsed.args]
    name = next((name for name in names if name in strategy_functions()), "")
    return name, str(parsed.params.get("vary") or "amount")


def parameters_of(arguments: type[T]) -> dict[str, inspect.Parameter]:
    """Return the parameters of the command line from the fields of the dataclass `arguments`.

    The annotations of inherited fields are evaluated in the module of the class that declares them.
    """
    annotations = get_type_hints(arguments, include_extras=True)
    parameters = inspect.signature(arguments).parameters
    return {name: p.replace(annotation=annotations[name]) for name, p in parameters.items() if name != "make_strategy"}


def _command(arguments: type[Any], make: Callable[..., Strategy] | None, varied: str = "amount") -> Any:  # noqa: ANN401 - Typer's own
    """Return a Typer command with the fields of `arguments` and the options of `make`, which cannot set `varied`.

    Typer reads both from one signature, which is written here.
    """
    own = _own(make)
    amounts = _amounts(own, varied)

    def command(**values: Any) -> object:  # noqa: ANN401 - typed by the signature below
        own_values = {name: values.pop(name) for name in own}
        if make is None:
            raise _unknown(values["strategy"])
        _refuse_amounts({name: own_values.pop(name) for name in amounts})
        return arguments(make_strategy=_by_number(make, own_values, varied), **values)

    parameters = _parameters(arguments, own, varied)
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    command.__doc__ = arguments.__doc__
    settings = {"help_option_names": ["-h", "--help"]}
    app = typer.Typer(rich_markup_mode=None, add_completion=False, context_settings=settings)
    app.command(cls=HelpCommand, epilog=_epilog())(command)
    return get_command(app)


def _own(make: Callable[..., Strategy] | None) -> dict[str, inspect.Parameter]:
    """Return the parameters of a strategy's function."""
    return {} if make is None else dict(inspect.signature(make, eval_str=True).parameters)


def _amounts(own: dict[str, inspect.Parameter], varied: str) -> dict[str, inspect.Parameter]:
    """Return those of a strategy's own parameters that the command sets, as hidden options."""
    chosen = _AMOUNTS if varied == "amount" else (varied,)
    return {name: _hidden(parameter) for name, parameter in own.items() if name in chosen}


def _parameters(arguments: type[Any], own: dict[str, inspect.Parameter], varied: str) -> list[inspect.Parameter]:
    """Return the fields of `arguments` and a strategy's own parameters as those of one command."""
    shown = {name: _in_panel(parameter, ZERO) for name, parameter in own.items()}
    joined = {**parameters_of(arguments), **shown, **_amounts(own, varied)}
    parameters = [p.replace(kind=p.KEYWORD_ONLY) for p in joined.values()]
    # The options of the strategy and of the command come first in the help, and the inherited ones last.
    first = ["ckpt", "strategy", *own, "evaluate", *arguments.__annotations__]
    return sorted(parameters, key=lambda p: first.index(p.name) if p.name in first else len(first))


def _epilog() -> str:
    names = ", ".join(strategy_functions())
    return f"STRATEGY is one of {names}. Name it before --help to see its own options as well."


def _hidden(parameter: inspect.Parameter) -> inspect.Parameter:
    """Return an option of the same name that the help does not show, because the command chooses the amount."""
    option = typer.Option(f"--{parameter.name}", hidden=True)
    return parameter.replace(annotation=Annotated[str | None, option], default=None)


def _in_panel(parameter: inspect.Parameter, panel: str) -> inspect.Parameter:
    """Return the option of a strategy under a title of its own in the help."""
    type_, option = get_args(parameter.annotation)
    option = copy(option)
    option.rich_help_panel = panel
    return parameter.replace(annotation=Annotated[type_, option])


def _refuse_amounts(values: dict[str, str | None]) -> None:
    for name, value in values.items():
        if value is not None:
            raise UsageError(f"--{name} cannot be given: this command chooses it", hint=f"leave out --{name}")


def _by_number(make: Callable[..., Strategy], options: dict[str, Any], varied: str) -> MakeStrategy:
    """Return the function from a number to the strategy that `make` returns for `varied` = number and `options`."""
    names = inspect.signature(make).parameters
    if varied in names:
        return lambda number: make(**options, **{varied: number})
    if varied != "amount":
        raise UsageError(f"{make.__name__.rstrip('_')} has no {varied}", hint=f"leave out --vary {varied}")
    return lambda amount: make(**options, q=round(100 * amount, 12))


def _unknown(name: str) -> UsageError:
    known = strategy_functions()
    if name.startswith("-"):
        return UsageError(f"{printable(name)} is at the place of the strategy", hint=f"one of {', '.join(known)}")
    if name in BY_NAME:
        return UsageError(f"{name} takes no amount, so it cannot be varied", hint=f"one of {', '.join(known)}")
    near = closest(name, known)
    hint = f"closest is {near[0]}" if near else f"one of {', '.join(known)}"
    return UsageError(f"there is no strategy {printable(repr(name))}", hint=hint)
