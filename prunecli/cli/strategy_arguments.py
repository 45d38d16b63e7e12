"""Command lines that name a strategy whose amount is to be varied: `CKPT STRATEGY` with the options of both.

The strategies are those of the pruning commands that take an amount or a percentile; each parses its own options.
Nothing here knows what the amounts are tried for.
"""

from __future__ import annotations

import difflib
import inspect
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer
from typer.main import get_command

from prunecli.cli import pruning as commands
from prunecli.errors import UsageError
from prunecli.text.escape import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from prunecli.strategies.unstructured import Strategy

SETTINGS: dict[str, Any] = {"help_option_names": [], "ignore_unknown_options": True, "allow_interspersed_args": False}
"""The `context_settings` to register a command with that passes all its words on to `invoke`."""

Words: TypeAlias = Annotated[list[str] | None, typer.Argument(metavar="CKPT [OPTIONS] STRATEGY [OPTIONS]")]
"""All that stands after such a command's name."""

MakeStrategy: TypeAlias = "Callable[[float], Strategy]"
"""A function from an amount (0-1) to a strategy."""

_AMOUNTS = ("amount", "count", "q")


def _name(make: Callable[..., Strategy]) -> str:
    return make.__name__.rstrip("_")


def varied() -> dict[str, Callable[..., Strategy]]:
    """Return the strategy functions that take an amount, by the names of their commands."""
    return {_name(make): make for make in commands.ALL if {"amount", "q"} & inspect.signature(make).parameters.keys()}


def invoke(context: typer.Context, words: Sequence[str], shared: Callable[..., int]) -> int:
    """Parse `words` as a command of the signature of `shared` plus the named strategy's options, and run it.

    `shared` takes `vary`, a function from an amount (0-1) to a strategy, and its options; among them are `ckpt` and
    `strategy`, in this order. Raise UsageError, or Typer's, for words that make no sense; return what `shared` does.
    """
    make = varied().get(_strategy_in(context, words, shared))
    command = _command(shared, make)
    with command.make_context(context.info_name, list(words), parent=context.parent, obj=context.obj) as inner:
        return int(command.invoke(inner) or 0)


def _strategy_in(context: typer.Context, words: Sequence[str], shared: Callable[..., int]) -> str:
    """Return the first word after the checkpoint that names a strategy and is no option's value, or ""."""
    lenient = {"resilient_parsing": True, "ignore_unknown_options": True, "allow_extra_args": True}
    command = _command(shared, None)
    with command.make_context(context.info_name, list(words), **lenient) as found:
        names = [found.params.get("strategy"), *found.args]
    return next((name for name in names if name in varied()), "")


def _command(shared: Callable[..., int], make: Callable[..., Strategy] | None) -> Any:  # noqa: ANN401 - Typer's own
    """Return a Typer command with the options of `shared` and, after the arguments, those of `make`."""
    parameters = dict(inspect.signature(shared, eval_str=True).parameters)
    del parameters["vary"]
    own = {} if make is None else dict(inspect.signature(make, eval_str=True).parameters)
    hidden = {name: _refused(p) for name, p in own.items() if name in _AMOUNTS}

    def run(**given: Any) -> int:  # noqa: ANN401 - typed by the signature below
        mine = {name: given.pop(name) for name in own}
        if make is None:
            raise _unknown(given["strategy"])
        _refuse_amounts({name: mine.pop(name) for name in hidden})
        return shared(vary=_varying(make, mine), **given)

    typed = [p.replace(kind=p.KEYWORD_ONLY) for p in {**parameters, **own, **hidden}.values()]
    typed.sort(key=lambda p: p.name not in {"ckpt", "strategy"} and p.name not in own)  # the strategy's own come first
    run.__signature__ = inspect.Signature(typed)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in typed}
    run.__doc__ = shared.__doc__
    app = typer.Typer(
        rich_markup_mode=None, add_completion=False, context_settings={"help_option_names": ["-h", "--help"]}
    )
    app.command(epilog=_epilog())(run)
    return get_command(app)


def _epilog() -> str:
    return f"STRATEGY is one of {', '.join(varied())}. Name it before --help to see its own options as well."


def _refused(parameter: inspect.Parameter) -> inspect.Parameter:
    """Return an option of the same name that the help leaves out: the amount is what is varied."""
    option = typer.Option(f"--{parameter.name}", hidden=True)
    return parameter.replace(annotation=Annotated[str | None, option], default=None)


def _refuse_amounts(given: dict[str, str | None]) -> None:
    for name, value in given.items():
        if value is not None:
            raise UsageError(f"--{name} is what is varied here, so it cannot be given", hint=f"leave out --{name}")


def _varying(make: Callable[..., Strategy], own: dict[str, Any]) -> Callable[[float], Strategy]:
    """Return the function from an amount to the strategy that `make` makes of it and of its `own` options."""
    if "amount" in inspect.signature(make).parameters:
        return lambda amount: make(**own, amount=amount)
    return lambda amount: make(**own, q=round(100 * amount, 12))


def _unknown(name: str) -> UsageError:
    known = varied()
    if name.startswith("-"):
        return UsageError(f"{printable(name)} stands where the strategy is expected", hint=f"one of {', '.join(known)}")
    if name in {_name(make) for make in commands.ALL}:
        return UsageError(f"{name} has no amount that could be varied", hint=f"one of {', '.join(known)}")
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"closest is {near[0]}" if near else f"one of {', '.join(known)}"
    return UsageError(f"there is no strategy {printable(repr(name))}", hint=hint)
