"""A command line as items: options with their values, and other words, also where it is wrong.

Typer's parser stops at the first fault. Here a word that no command knows is an item of its own, so that
`prunecli.cli.repair.meant` can give it a meaning.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin

from typer.models import ArgumentInfo, OptionInfo

from prunecli.cli.command_list import COMMANDS
from prunecli.errors import PruneError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from inspect import Parameter

VARIED = ("search", "sweep")
"""The commands that take a strategy as an argument, and its options."""

_NUMBER = re.compile(r"[-+]?(\d[\d_]*\.?\d*|\.\d+)(e[-+]?\d+)?%?", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True, slots=True)
class Option:
    """An option of a command. `name` is its parameter; `flags` are its spellings, the longest first.

    `own` is whether the help lists it among the command's own options, and not among those of several commands.
    """

    name: str
    flags: tuple[str, ...]
    has_value: bool
    repeatable: bool
    metavar: str
    own: bool

    @property
    def flag(self) -> str:
        """The flag as a hint spells it: `-i`, `-x` and `-o` are shorter, the others are words."""
        return next((flag for flag in self.flags if flag in {"-i", "-x", "-o"}), self.flags[0])


@dataclass(frozen=True, slots=True)
class Command:
    """A command: the metavars of its arguments, whether the last one may be repeated, and its options."""

    name: str
    arguments: tuple[str, ...]
    variadic: bool
    options: tuple[Option, ...]

    def of_flag(self, flag: str) -> Option | None:
        """Return the option with this flag."""
        return next((option for option in self.options if flag in option.flags), None)

    def of_name(self, name: str) -> Option | None:
        """Return the option of this parameter."""
        return next((option for option in self.options if option.name == name), None)


@dataclass(frozen=True, slots=True)
class Item:
    """An option of the command with its value, or a word: an unknown option or an argument."""

    words: tuple[str, ...]
    option: Option | None = None
    value: str | None = None

    @property
    def unknown(self) -> bool:
        """Whether this is an option that the command does not have."""
        return self.option is None and is_flag(self.words[0])

    @property
    def bare(self) -> bool:
        """Whether this is a word that is no option."""
        return self.option is None and not is_flag(self.words[0])


def is_flag(word: str) -> bool:
    """Return whether `word` is an option; `-` and negative numbers are not."""
    return len(word) > 1 and word.startswith("-") and not is_number(word)


def is_number(word: str) -> bool:
    """Return whether `word` is a number or a percentage."""
    return _NUMBER.fullmatch(word) is not None


def exists(word: str) -> bool:
    """Return whether `word` is the path of a file or a folder; a word that can be no path is none."""
    return os.path.exists(word)  # noqa: PTH110 - Path.exists raises OSError for a name that is too long


def items_of(command: Command, words: Sequence[str]) -> list[Item]:
    """Return the items of the words after the name of the command."""
    items: list[Item] = []
    rest = list(words)
    while rest:
        item = _item(command, rest)
        items.append(item)
        rest = rest[len(item.words) :]
    return items


def _item(command: Command, words: list[str]) -> Item:
    first, has_equals, joined = words[0].partition("=")
    option = command.of_flag(first) if has_equals and first.startswith("--") else command.of_flag(words[0])
    if option is None:
        return _short(command, words[0])
    if not option.has_value:
        return Item((words[0],), option, joined or None)
    if has_equals and option.flags and words[0] not in option.flags:
        return Item((words[0],), option, joined)
    return Item(tuple(words[:2]), option, words[1] if len(words) > 1 else None)


def _short(command: Command, word: str) -> Item:
    """Return the item of `-oPATH` or `-nq`, or of a word that is no option of the command."""
    unknown = Item((word,))
    if not is_flag(word) or word.startswith("--") or command.of_flag(f"-{word}") is not None:
        return unknown
    first = command.of_flag(word[:2])
    if first is not None and first.has_value:
        return Item((word,), first, word[2:])
    flags = [command.of_flag(f"-{letter}") for letter in word[1:]]
    if first is None or any(flag is None or flag.has_value for flag in flags):
        return unknown
    return Item((word,), first)


# --- the commands that Typer knows


def described(name: str) -> Command:
    """Return the command `name`; `search` and `sweep` have the options of no strategy."""
    return _described(name, ())


def command_for(words: Sequence[str]) -> Command | None:
    """Return the command that the first of `words` names; `search` and `sweep` with the named strategy's options."""
    if not words or words[0] not in COMMANDS:
        return None
    return _described(words[0], tuple(words[1:])) if words[0] in VARIED else described(words[0])


@lru_cache(maxsize=64)
def _described(name: str, words: tuple[str, ...]) -> Command:
    """Return the command from the signature that Typer reads: Typer would take ten times as long for all commands."""
    infos = {p.name: get_args(p.annotation) for p in _parameters(name, words) if get_origin(p.annotation) is Annotated}
    arguments = [(kind, info) for kind, info in infos.values() if isinstance(info, ArgumentInfo)]
    options = {
        own: (kind, info) for own, (kind, info) in infos.items() if isinstance(info, OptionInfo) and not info.hidden
    }
    return Command(
        name,
        tuple(info.metavar or "" for _, info in arguments),
        any(_is_list(kind) for kind, _ in arguments),
        tuple(
            Option(own, _flags(info), kind is not bool, _is_list(kind), info.metavar or "", not info.rich_help_panel)
            for own, (kind, info) in options.items()
        ),
    )


def _parameters(name: str, words: Sequence[str]) -> Iterable[Parameter]:
    if name in VARIED:
        from prunecli.cli import strategy_arguments

        return strategy_arguments.parameters_for(_arguments(name), words)
    from prunecli.cli import main

    return main.parameters_of(name)


def _arguments(name: str) -> Any:  # noqa: ANN401 - a class of the command's module
    return import_module(f"prunecli.cli.{name}").Arguments


def _flags(info: OptionInfo) -> tuple[str, ...]:
    """Return the flags, the longest first, without the second one of `--yes/--no`."""
    # An annotation has no default, and Typer keeps the first flag in its place.
    declared = [info.default, *(info.param_decls or ())]
    return tuple(sorted((str(flag).partition("/")[0] for flag in declared), key=len, reverse=True))


def _is_list(kind: Any) -> bool:  # noqa: ANN401 - a type
    """Return whether a parameter of the type `list[T]` or `list[T] | None` may be given several times."""
    return get_origin(kind) is list or any(get_origin(one) is list for one in get_args(kind))


def typer_command(name: str, words: Sequence[str]) -> Any:  # noqa: ANN401 - Typer's own
    """Return Typer's command; `search` and `sweep` with the options of the strategy that `words` name."""
    from typer.main import get_command

    from prunecli.cli import main, strategy_arguments

    if name in VARIED:
        return strategy_arguments.command_for(_arguments(name), words)
    return get_command(main.application_of(name))


def rehearse(words: Sequence[str]) -> Exception | None:
    """Return the error of this command line, or None. It is parsed and its strategy made, and no file is opened."""
    from prunecli.cli.exit import TyperError
    from prunecli.cli.pruning import BY_NAME

    name, *rest = (word for word in words if word not in {"-h", "--help"})
    try:
        context = typer_command(name, rest).make_context(name, rest)
        if name in BY_NAME:
            make = BY_NAME[name]
            names = make.__code__.co_varnames[: make.__code__.co_argcount]
            make(**{argument: context.params[argument] for argument in names})
    except (PruneError, TyperError) as error:
        return error
    return None
