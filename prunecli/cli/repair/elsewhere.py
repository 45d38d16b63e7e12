"""Give a meaning to an option that the command does not have and another one has: `prune convert A -o B`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from prunecli.cli.command_list import COMMANDS, GATE, LOOK, PRUNING
from prunecli.cli.repair.command_line import VARIED, Item, described, is_flag
from prunecli.cli.repair.synonyms import DEVICES, OPTIONS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prunecli.cli.repair.command_line import Command, Option
    from prunecli.cli.repair.draft import Draft

_GENERAL = frozenset({"output", "format", "json", "dry_run", "verbose"})
"""Options that commands of several kinds have: they do not say which command is meant."""

_SHOWN = frozenset(
    {"quiet", "verbose", "no_progress", "color", "top", "all_tensors", "threads", "device", "report", "no_report"}
)
"""Options without which a command writes the same checkpoint."""

_WRITTEN = frozenset({"output", "dry_run", "force", "in_place"})
"""Options without which a command that writes no checkpoint does the same."""


def key_of(word: str) -> str:
    """Return the name of an option as people spell it: without dashes, in lower case."""
    return word.lstrip("-").lower().replace("_", "-")


def renamed(command: Command, word: str) -> tuple[str, ...] | None:
    """Return the option that has another name or spelling here."""
    key = key_of(word)
    if (option := command.of_flag(f"--{key}")) is not None:
        return (option.flag,)
    if (device := command.of_name("device")) is not None and key in DEVICES:
        return device.flag, DEVICES[key]
    for name in OPTIONS.get(key, ()):
        # For a strategy this is a gate on the result, and not what it does.
        is_gate = name == "min_sparsity" and command.name != "check"
        if not is_gate and (option := command.of_name(name)) is not None:
            return (option.flag,)
    return None


def is_known(word: str) -> bool:
    """Return whether a command has the option `word`."""
    return any(described(name).of_flag(word) is not None for name in COMMANDS)


def place_option(draft: Draft, index: int, word: str) -> Draft | None:
    """Return the draft in which the option `word`, which is item `index`, has a meaning; None if there is none."""
    return _as_argument(draft, index) or _other_command(draft, word) or _without(draft, index, word)


def _as_argument(draft: Draft, index: int) -> Draft | None:
    """Return the draft with the value of `-o` as the argument that names the output."""
    command, items = draft.command, draft.items()
    flag, has_value, value = items[index].words[0].partition("=")
    key = key_of(flag)
    if "OUTPUT" not in command.arguments or not (key == "o" or "output" in {key, *OPTIONS.get(key, ())}):
        return None
    after = items[index + 1 :]
    value = value if has_value else after[0].words[0] if after else ""
    bare = [item for item in [*items[:index], *after] if item.bare]
    if len(bare) + bool(has_value) > len(command.arguments) or value.lower() in {"", "fp16", "bf16"}:
        return None
    return draft.with_items([*items[:index], *([Item((value,))] if has_value else []), *after])


def _other_command(draft: Draft, word: str) -> Draft | None:
    """Return the draft with the command that has this option and all the others.

    A command that zeroes no weights becomes one that does only by an option that says which weights.
    """
    if draft.command.name in VARIED:
        return None
    flags = {item.words[0].partition("=")[0] for item in draft.items() if is_flag(item.words[0])} - {word}
    for name in _likely(draft.command.name):
        other = described(name)
        option = _option(other, word)
        says = option is not None and option.own and option.name not in _GENERAL
        if option is not None and (says or draft.command.name in PRUNING) and all(map(other.of_flag, flags)):
            return replace(draft, words=(name, *draft.words[1:]))
    return None


def _likely(name: str) -> Iterator[str]:
    """Yield the other commands, those first that zero weights if `name` does, and last if it does not."""
    others = [other for other in COMMANDS if other not in VARIED]
    yield from others if name in PRUNING else sorted(others, key=lambda other: other in PRUNING)


def _option(command: Command, word: str) -> Option | None:
    flags = None if is_known(word) else renamed(command, word)
    return command.of_flag(word) or (None if flags is None else command.of_flag(flags[0]))


def _without(draft: Draft, index: int, word: str) -> Draft | None:
    """Return the draft without an option that changes nothing that the command writes."""
    option = next((found for name in COMMANDS if (found := described(name).of_flag(word)) is not None), None)
    looks = COMMANDS[draft.command.name].group in {LOOK, GATE}
    if option is None or option.name not in (_SHOWN | _WRITTEN if looks else _SHOWN):
        return None
    items = draft.items()
    end = index + 1
    if option.has_value and "=" not in items[index].words[0] and items[end : end + 1] and items[end].bare:
        end += 1
    json = draft.command.of_name("json") if option.name == "report" else None
    kept = [*items[:index], *items[end:]]
    given = any(item.option == json for item in kept)
    return draft.with_items([*kept, *([Item((json.flag,), json)] if json is not None and not given else [])])
