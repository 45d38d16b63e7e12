"""The command line that was meant: a wrong one is repaired step by step, and proposed only if it can be parsed."""

from __future__ import annotations

import re
from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING

from prunecli.cli import command_list
from prunecli.cli.command_list import PRUNING
from prunecli.cli.hints import option_words
from prunecli.cli.repair.command_line import (
    VARIED,
    Item,
    Option,
    command_for,
    exists,
    is_number,
    rehearse,
)
from prunecli.cli.repair.draft import Draft
from prunecli.cli.repair.elsewhere import is_known, key_of, place_option, renamed
from prunecli.cli.repair.extra_words import place_extra_word
from prunecli.cli.repair.forgotten import name_the_command
from prunecli.cli.repair.synonyms import CHECKPOINTS, COMMANDS, EXAMPLES, KEPT, OPTIONS
from prunecli.errors import Argument
from prunecli.text.closest import closest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


_HELP = {"-h", "--help"}
_STEPS = 30
_LONGEST = 1000
"""The most characters of a line that is proposed."""

_PART = re.compile(r"(0?\.\d{1,9})|(\d{1,2}(?:\.\d{1,9})?)%", re.ASCII)
_EXCLUSIVE = (("amount",), ("count",)), (("thr",), ("thr_std",)), (("pattern",), ("keep", "group"))
"""Parameters of which only one side can be given."""


def meant(words: Sequence[str], error: Exception) -> str | None:
    """Return the line that was meant by `prune WORDS`, which ended in `error`; None if it cannot be found out."""
    if not all(word.isprintable() and len(word) <= _LONGEST for word in words):
        return None
    typed = Draft(tuple(words))
    asks = _HELP & set(words) or ("help" in words and not exists("help"))
    draft = _named(typed) if asks else _repaired(typed, error)
    line = None if draft is None or draft == typed else draft.line()
    return None if line is None or len(line) > _LONGEST else line


def _named(draft: Draft) -> Draft | None:
    """Return the call for the help of the command."""
    for rule in _FIRST:
        draft = rule(draft) or draft
    return None if command_for(draft.words) is None else replace(draft, words=(draft.words[0], "--help"))


def _repaired(draft: Draft, error: Exception | None) -> Draft | None:
    """Return a draft that can be parsed, or None; `error` is what the line as it was typed ended in."""
    for _ in range(_STEPS):
        step = _step(draft)
        if step is None and command_for(draft.words) is None:
            return None
        if step is None:
            error = rehearse(draft.words) or error
            if error is None:
                return None if _is_repeated(draft) else draft
            step = _with_hint(draft, error)
        if step is None or step == draft:
            return None
        draft, error = step, None
    return None


def _is_repeated(draft: Draft) -> bool:
    """Return whether an option that takes one value is given twice."""
    given = [item.option.name for item in draft.items() if item.option is not None and not item.option.repeatable]
    return len(given) > len(set(given))


def _step(draft: Draft) -> Draft | None:
    """Return the draft after the first rule that changes it."""
    step = next((new for rule in _FIRST if (new := rule(draft)) is not None), None)
    if step is not None or command_for(draft.words) is None:
        return step
    return next((new for rule in _RULES if (new := rule(draft)) is not None), None)


# --- the hint of an error


def _with_hint(draft: Draft, error: Exception) -> Draft | None:
    """Return the draft with the arguments that the hint of `error` proposes; None for another kind of hint."""
    hint = getattr(error, "hint_parts", None)
    arguments = hint if isinstance(hint, tuple) else (hint,)
    command = command_for(draft.words)
    if command is None or not hint:
        return None
    for argument in arguments:
        if not isinstance(argument, Argument) or isinstance(argument.value, (list, tuple)):
            return None
        option = command.of_flag(option_words(argument)[0])
        if option is None:
            return None
        draft = draft.with_items(_set(draft.items(), option, option_words(argument)))
    return draft


def _set(items: list[Item], option: Option, words: list[str]) -> list[Item]:
    """Return the items with one option set, and without those that exclude it."""
    dropped = {name for sides in _EXCLUSIVE for side in sides for name in side if _excludes(sides, option.name, name)}
    kept = [item for item in items if item.option is None or item.option.name not in dropped]
    places = [index for index, item in enumerate(kept) if item.option == option]
    new = Item(tuple(words), option, words[-1])
    if not places:
        return [*kept, new]
    given = kept[places[-1]]
    flag = given.words[0].partition("=")[0] if given.words[0].startswith("--") else words[0]
    kept[places[-1]] = replace(new, words=(flag, *words[1:]))
    return kept


def _excludes(sides: tuple[tuple[str, ...], ...], name: str, other: str) -> bool:
    return any(name in side for side in sides) and not any(name in side and other in side for side in sides)


# --- repairs: each changes one fault, or returns None


def _dashes(draft: Draft) -> Draft | None:
    """Replace the long dashes of typeset text."""
    words = tuple(re.sub(r"^[\u2010-\u2015\u2212]+(?=[a-zA-Z])", "--", word) for word in draft.words)
    return None if words == draft.words else replace(draft, words=words)


def _program_name(draft: Draft) -> Draft | None:
    """Drop a second `prune`."""
    if draft.words[:1] in {("prune",), ("prunecli",)} and len(draft.words) > 1:
        return replace(draft, words=draft.words[1:])
    return None


def _option_value(draft: Draft) -> Draft | None:
    """Give a value to an option without one."""
    command, items = draft.command, draft.items()
    for index, item in enumerate(items):
        if item.option is None or not item.option.has_value or item.option.name not in EXAMPLES:
            continue
        example = EXAMPLES[item.option.name]
        if item.value is None:
            return draft.with_items(
                [*items[:index], replace(item, words=(item.words[0], example)), *items[index + 1 :]]
            )
        if len(item.words) > 1 and command.of_flag(item.value) is not None:
            return draft.with_items(
                [*items[:index], Item((item.words[0], example)), Item(item.words[1:]), *items[index + 1 :]]
            )
    return None


def _kept_part(draft: Draft) -> Draft | None:
    """Replace the part of the weights to keep, as in `--density 0.3`, by the amount to prune."""
    items = draft.items()
    words = [item.words[0].partition("=") for item in items] + [("", "", "")]
    index = next((i for i, item in enumerate(items) if item.unknown and key_of(words[i][0]) in KEPT), None)
    if index is None or draft.command.of_name("amount") is None:
        return None
    _, is_joined, joined = words[index]
    match = _PART.fullmatch(joined if is_joined else words[index + 1][0])
    if match is None:
        return None
    amount = f"{1 - Decimal(match[1])}" if match[1] else f"{100 - Decimal(match[2])}%"
    return draft.with_items([*items[:index], Item(("--amount", amount)), *items[index + (1 if is_joined else 2) :]])


def _global_scope(draft: Draft) -> Draft | None:
    """Return the call of `global` for `l1 --scope global`."""
    items = draft.items()
    kept = [item for item in items if not (item.option and item.option.name == "scope" and item.value == "global")]
    return None if len(kept) == len(items) else replace(draft, words=("global", *draft.with_items(kept).words[1:]))


def _unknown_option(draft: Draft) -> Draft | None:
    """Replace an option that the command does not have."""
    items = draft.items()
    index = next((index for index, item in enumerate(items) if item.unknown), None)
    if index is None:
        return None
    word, has_value, value = items[index].words[0].partition("=")
    joined = (value,) if has_value else ()
    after = [item.words[0] for item in items[index + 1 : index + 2]]
    if word == "-k" and not is_number("".join((*joined, *after)[:1])):
        word = "--key"
    is_cast = {"fp16", "bf16"} & {*joined, *after}  # `--to` names an output too
    if (new := renamed(draft.command, word)) is not None and not is_cast:
        return draft.with_items([*items[:index], Item((*new, *joined)), *items[index + 1 :]])
    key = key_of(word)
    if key in CHECKPOINTS:
        return draft.with_items([*items[:index], *(Item((v,)) for v in joined), *items[index + 1 :]])
    return _named_by_flag(draft, index) or place_option(draft, index, word) or _misspelt(draft, index)


def _named_by_flag(draft: Draft, index: int) -> Draft | None:
    """Return the draft with the strategy that a flag names: `l1 --global`."""
    items = draft.items()
    key = key_of(items[index].words[0])
    name = COMMANDS.get(key, key)
    if name not in PRUNING or draft.command.name not in PRUNING:
        return None
    return replace(draft, words=(name, *draft.words[1:])).with_items([*items[:index], *items[index + 1 :]])


def _misspelt(draft: Draft, index: int) -> Draft | None:
    """Replace an unknown option by the most similar one; an option of another command is not misspelt."""
    items, command = draft.items(), draft.command
    word, has_value, value = items[index].words[0].partition("=")
    if is_known(word):
        return None
    own = {flag[2:]: option.flag for option in command.options for flag in option.flags if flag.startswith("--")}
    other = {key: new[0] for key in OPTIONS if len(key) > 3 and (new := renamed(command, key)) is not None}
    known = {**other, **own}
    near = [key for key in own if len(key_of(word)) > 2 and key.startswith(key_of(word))]
    if len(near) != 1:
        near = closest(key_of(word), known, cutoff=0.7)
    if not near:
        return None
    return draft.with_items(
        [*items[:index], Item((known[near[0]], *([value] if has_value else []))), *items[index + 1 :]]
    )


def _swapped(draft: Draft) -> Draft | None:
    """Exchange the recipe and the checkpoint of `run`, or the strategy and the checkpoint of `search`."""
    items = draft.items()
    bare = [index for index, item in enumerate(items) if item.bare]
    if len(bare) < 2:
        return None
    first, second = bare[:2]
    one, two = items[first].words[0], items[second].words[0]
    name = draft.command.name
    is_swapped = (name == "run" and two.endswith(".toml") and not one.endswith(".toml")) or (
        name in VARIED and one in command_list.COMMANDS and two not in command_list.COMMANDS and not exists(one)
    )
    if not is_swapped:
        return None
    items[first], items[second] = items[second], items[first]
    return draft.with_items(items)


def _strategy(draft: Draft) -> Draft | None:
    """Correct the name of the strategy of `search` and `sweep`."""
    items = draft.items()
    bare = [index for index, item in enumerate(items) if item.bare]
    if draft.command.name not in VARIED or len(bare) < 2:
        return None
    from prunecli.cli.strategy_arguments import strategy_functions

    known = strategy_functions()
    word = items[bare[1]].words[0]
    near = closest(key_of(word), known) if word not in known else []
    if not near:
        return None
    items[bare[1]] = Item((near[0],))
    return draft.with_items(items)


def _missing_argument(draft: Draft) -> Draft | None:
    """Put the name of a missing argument at its place."""
    command, items = draft.command, draft.items()
    bare = [item.words[0] for item in items if item.bare]
    if len(bare) >= len(command.arguments):
        return None
    missing = command.arguments[len(bare) :]
    if command.name == "run" and bare and not bare[0].endswith(".toml"):
        return draft.with_items([Item(("RECIPE.toml",)), *items])
    if command.name in VARIED and bare and bare[0] in command_list.COMMANDS:
        return draft.with_items([Item(("CKPT",)), *items])
    place = 1 + max((index for index, item in enumerate(items) if item.bare), default=-1)
    words = ("l1" if metavar == "STRATEGY" else metavar.removesuffix("...") for metavar in missing)
    return draft.with_items([*items[:place], *(Item((word,)) for word in words), *items[place:]])


def _required(draft: Draft) -> Draft | None:
    """Add the options without which `search` and `sweep` do nothing."""
    command, items = draft.command, draft.items()
    given = {item.option.name for item in items if item.option is not None}
    wanted = [command.of_name(name) for name in ("evaluate", "max_drop") if name not in given]
    missing = [option for option in wanted if option is not None]
    if command.name not in VARIED or not missing:
        return None
    return draft.with_items([*items, *(Item((option.flag, EXAMPLES[option.name]), option) for option in missing)])


def _no_name(draft: Draft) -> Draft | None:
    """Find the command of a line without one; the other rules need it."""
    return None if draft.words and draft.words[0] in command_list.COMMANDS else name_the_command(draft)


_FIRST: tuple[Callable[[Draft], Draft | None], ...] = (_dashes, _program_name, _no_name)
_RULES: tuple[Callable[[Draft], Draft | None], ...] = (
    _option_value,
    _global_scope,
    _kept_part,
    _unknown_option,
    _swapped,
    _strategy,
    place_extra_word,
    _missing_argument,
    _required,
)
"""In this order, after those that find the command: a rule may rely on what the rules before it leave."""
