"""Give a meaning to a word that a command has no argument for: `prune threshold m.pth 0.1`."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from prunecli.cli.repair.command_line import Item, exists, is_number
from prunecli.cli.repair.draft import EACH
from prunecli.cli.repair.forgotten import PATTERN, SHAPE
from prunecli.cli.repair.synonyms import OPTIONS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prunecli.cli.repair.command_line import Option
    from prunecli.cli.repair.draft import Draft

_YES, _NO = {"true", "yes", "on", "1"}, {"false", "no", "off", "0"}
_REPORTS = (".json", ".csv", ".md", ".html")
_VALUES = ("thr", "q", "amount", "at", "min_sparsity")
"""The options that take the number of a command, the first that it has."""


def place_extra_word(draft: Draft) -> Draft | None:
    """Return the draft with the first word too many made an option, a value or a file; None if there is none."""
    command, items = draft.command, draft.items()
    bare = [index for index, item in enumerate(items) if item.bare]
    surplus = len(bare) - len(command.arguments)
    if surplus <= 0 or (command.variadic and not _odd(items, bare)):
        return None
    # Files that exist are arguments rather than words that cannot be paths; then the order decides.
    best = sorted(bare, key=lambda index: -_likeness(items[index].words[0]))[: len(command.arguments)]
    extra = next(index for index in bare if index not in best)
    return next(_placed(draft, items, extra), None)


def _odd(items: list[Item], bare: list[int]) -> bool:
    """Return whether a word among several checkpoints is no path."""
    return any(_likeness(items[index].words[0]) < 0 for index in bare)


def _likeness(word: str) -> int:
    """Return how much `word` looks like the path of a checkpoint."""
    if word == EACH or exists(word):
        return 2
    if is_number(word) or PATTERN.fullmatch(word) or SHAPE.fullmatch(word) or "=" in word or "*" in word:
        return -1
    return int(re.search(r"[./\\]", word) is not None)


def _placed(draft: Draft, items: list[Item], index: int) -> Iterator[Draft]:
    """Yield the drafts in which the word has a meaning, the likeliest first."""
    word, before, after = items[index].words[0], items[:index], items[index + 1 :]
    previous = before[-1] if before else Item(("",))
    for new in (
        _after_flag(previous, word),
        _rest_of_value(previous, word),
        _next_value(previous, word),
    ):
        if new is not None:
            yield draft.with_items([*before[:-1], *new, *after])
    if (option := _option_for(draft, items, word)) is not None:
        value = word.partition("=")[2] if "=" in word else word
        yield draft.with_items([*before, *after, Item((option.flag, value))])
    is_given = any(item.option and item.option.name == "output" for item in items)
    if _is_checkpoint(word) and not is_given and draft.command.name != "diff":
        yield _repeated(draft, items)


def _after_flag(previous: Item, word: str) -> list[Item] | None:
    """Return the items for `--force yes`: a flag takes no value."""
    if previous.option is None or previous.option.has_value or word.lower() not in _YES | _NO:
        return None
    return [previous] if word.lower() in _YES else []


def _rest_of_value(previous: Item, word: str) -> list[Item] | None:
    """Return the items for `--amount 50 %` and `--shape 4 4`: a value is one word."""
    if previous.option is None or previous.value is None or len(previous.words) < 2:
        return None
    joint = {"pattern": ":", "shape": "x"}.get(previous.option.name)
    if word == "%":
        joint = ""
    elif joint is None or not (word.isdigit() and previous.value.isdigit()):
        return None
    return [replace(previous, words=(previous.words[0], f"{previous.value}{joint}{word}"))]


def _next_value(previous: Item, word: str) -> list[Item] | None:
    """Return the items for `-i a b`: the option is repeated."""
    if previous.option is None or not previous.option.repeatable or len(previous.words) < 2:
        return None
    return [previous, Item((previous.words[0], word), previous.option, word)]


def _option_for(draft: Draft, items: list[Item], word: str) -> Option | None:
    """Return the option whose value `word` is, if it is not given yet."""
    command = draft.command
    given = {item.option.name for item in items if item.option is not None and not item.option.repeatable}
    found = (command.of_name(name) for name in _names_for(command.name, word))
    return next((option for option in found if option is not None and option.name not in given), None)


def _names_for(command: str, word: str) -> Iterator[str]:
    """Yield the parameters that `word` can be a value of."""
    key, is_pair, _ = word.partition("=")
    if is_pair:
        key = key.lstrip("-").lower()
        yield from (key.replace("-", "_"), *OPTIONS.get(key.replace("_", "-"), ()))
    elif PATTERN.fullmatch(word):
        yield "pattern"
    elif SHAPE.fullmatch(word):
        yield "shape"
    elif is_number(word):
        yield from (("count",) if word.isdecimal() and int(word[:9]) > 100 and command != "threshold" else ())
        yield from (name for name in _VALUES if name != "min_sparsity" or command == "check")
    elif "*" in word or word.startswith("re:") or (word.endswith((".weight", ".bias")) and not exists(word)):
        yield "include"
    elif not exists(word):
        yield from (("report",) if word.endswith(_REPORTS) else ())
        yield from (("mask",) if command == "mask" else ())
        yield from (("output",) if re.search(r"[./\\]", word) else ())
    elif command == "mask":
        yield "mask"


def _repeated(draft: Draft, items: list[Item]) -> Draft:
    """Return the draft that is applied to each of the checkpoints among its words."""
    places = [place for place, item in enumerate(items) if item.bare and _is_checkpoint(item.words[0])]
    kept = [item for place, item in enumerate(items) if place not in set(places[1:])]
    kept[places[0]] = Item((EACH,))
    return replace(draft.with_items(kept), files=tuple(items[place].words[0] for place in places))


def _is_checkpoint(word: str) -> bool:
    return exists(word) and not word.endswith(".toml")
