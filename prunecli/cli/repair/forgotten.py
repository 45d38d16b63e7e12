"""Find the command of a line that names none: `prune model.pth --amount 0.5`."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from prunecli.cli import command_list
from prunecli.cli.repair.command_line import described, exists, is_flag, is_number
from prunecli.cli.repair.synonyms import COMMANDS, DEVICES, OPTIONS
from prunecli.text.closest import closest

if TYPE_CHECKING:
    from prunecli.cli.repair.command_line import Command
    from prunecli.cli.repair.draft import Draft

_PREFERRED = ("l1", "threshold", "percentile", "topk", "structured", "block", "global", "random", "mask")
_OTHERS = ("inspect", "check", "scan", "diff", "bake")
PATTERN, SHAPE = re.compile(r"\d+:\d+", re.ASCII), re.compile(r"\d+x\d+", re.ASCII)


def name_the_command(draft: Draft) -> Draft | None:
    """Return the draft with its command as the first word, or None if no command is likely."""
    words = draft.words
    named = [index for index, word in enumerate(words) if word in command_list.COMMANDS]
    if named:
        # A word after an option may be its value.
        index = next((index for index in named if not is_flag(words[index - 1])), named[0])
        return replace(draft, words=(words[index], *words[:index], *words[index + 1 :]))
    bare = [index for index, word in enumerate(words) if not is_flag(word)]
    if bare and (name := _misspelt(words[bare[0]])) is not None:
        return replace(draft, words=(name, *words[: bare[0]], *words[bare[0] + 1 :]))
    likely = _likely(words)
    return None if likely is None else replace(draft, words=(likely, *words))


def _misspelt(word: str) -> str | None:
    """Return the command that `word` means; None for a path, a number or a pattern."""
    key = word.lower().replace("_", "-")
    if key in command_list.COMMANDS or key in COMMANDS:
        return COMMANDS.get(key, key) or None
    if is_number(word) or re.search(r"[./:*\\]", word):
        return None
    near = closest(key, [*command_list.COMMANDS, *(name for name in COMMANDS if len(name) > 3)], cutoff=0.7)
    return (COMMANDS.get(near[0], near[0]) or None) if near else None


def _likely(words: tuple[str, ...]) -> str | None:
    """Return the command for these options and arguments, or None where the words give no reason for one."""
    flags = [word.partition("=")[0] for word in words if is_flag(word)]
    bare = [word for word in words if not is_flag(word)]
    if (bare and not _is_path(bare[0]) and _by_value(bare[0]) is None) or not words:
        return None
    if any(word.endswith(".toml") for word in bare):
        return "run"
    values = [word for word in bare if _by_value(word) is not None]
    own = [flag for flag in flags if described("inspect").of_flag(flag) is None]
    if not values and not own:
        return "diff" if len(bare) == 2 and not flags else "inspect"
    wanted = [name for name in map(_by_value, values) if name not in {None, "l1"}]
    order = [*wanted, *_PREFERRED, *_OTHERS]
    return next((name for name in order if name and all(_accepts(described(name), flag) for flag in flags)), "l1")


def _is_path(word: str) -> bool:
    return word == "-" or exists(word) or (re.search(r"[./\\]", word) is not None and not is_number(word))


def _by_value(word: str) -> str | None:
    """Return the command whose value `word` looks like."""
    if PATTERN.fullmatch(word):
        return "topk"
    if SHAPE.fullmatch(word):
        return "block"
    return "l1" if is_number(word) else None


def _accepts(command: Command, flag: str) -> bool:
    key = flag.lstrip("-").lower().replace("_", "-")
    known = command.of_flag(flag) or command.of_flag(f"--{key}") or (key in DEVICES and command.of_name("device"))
    return bool(known) or any(command.of_name(name) for name in OPTIONS.get(key, ()))
