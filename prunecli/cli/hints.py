"""Spell the arguments and calls that hints propose: as options and commands, or as keys of a recipe."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from prunecli.errors import Argument, Call, SameCall, SameCallWith
from prunecli.io.temporary import DESCRIPTORS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from prunecli.errors import HintValue

_FLAGS = {
    "amounts": "--at",
    "converter": "--for",
    "deviations": "--thr-std",
    "evaluate": "--eval",
    "exclude": "-x",
    "include": "-i",
    "output": "-o",
    "reports": "--report",
}
"""The parameters whose option is not `--` and their name, or has a short form that is used more."""


def as_options(part: HintValue, words: Sequence[str] = ()) -> str:
    """Return an argument as options (`--amount 0.5`) or a call as a command (`prune inspect ckpt.pth`).

    `words` are the arguments of the command line, for a hint that repeats them with a change.
    """
    if isinstance(part, SameCall):
        return _same_call(part, words)
    if isinstance(part, SameCallWith):
        return _same_call_with(part, words)
    if isinstance(part, Call):
        paths = [_typed_path(path, words) for path in part.paths]
        return shlex.join(["prune", part.function, *paths, *(w for a in part.arguments for w in option_words(a))])
    if part.name == "output" and words and words[0] == "convert":  # there it is no option
        return "another OUTPUT" if part.value == "PATH" else shell_word(str(part.value))
    if part.name == "unwrap" and words and words[0] != "strip":  # commands that prune do not have it
        return f"prune strip CKPT {option_words(part)[0]}, before it is pruned"
    return " ".join(map(shell_word, option_words(part)))


def _typed_path(path: str, words: Sequence[str]) -> str:
    """Return `path` as it was typed: `-` for a copy of standard input."""
    return "-" if "-" in words and Path(path).parent == DESCRIPTORS else path


def _same_call(call: SameCall, words: Sequence[str]) -> str:
    """Return the command line `words` with the path replaced, or the path alone if no word is the old path."""
    for index, word in enumerate(words):
        flag, equals, value = word.rpartition("=") if word.startswith("-") else ("", "", word)
        if value and Path(value) == Path(call.old):
            return shlex.join(["prune", *words[:index], f"{flag}{equals}{call.new}", *words[index + 1 :]])
    return shlex.quote(call.new)


def _same_call_with(call: SameCallWith, words: Sequence[str]) -> str:
    """Return the command line `words` with an argument in place of other keys; the argument alone without words."""
    if not words:
        return as_options(call.argument)
    kept = list(_without(words, "--key") if call.argument.name == "key" else words)
    forced = not call.replaces or {"-f", "--force", "-n", "--dry-run", "--in-place"} & set(kept)
    return shlex.join(["prune", *kept, *option_words(call.argument), *([] if forced else ["--force"])])


def _without(words: Sequence[str], flag: str) -> Iterator[str]:
    """Yield `words` without `flag` and its values."""
    for before, word in zip(("", *words), words, strict=False):
        if flag not in {word, before} and not word.startswith(f"{flag}="):
            yield word


def shell_word(word: str) -> str:
    """Quote a word for a shell; a word with single quotes gets double quotes, which are easier to read."""
    if "'" in word and "!" not in word:
        return '"' + re.sub(r'([\\"$`])', r"\\\1", word) + '"'
    return shlex.quote(word)


def option_words(argument: Argument) -> list[str]:
    """Return the words of an argument: a flag alone for True or False, else a flag and a value for each element."""
    flag = _FLAGS.get(argument.name, f"--{argument.name.replace('_', '-')}")
    if isinstance(argument.value, bool):
        return [flag if argument.value else f"--no-{flag.removeprefix('--')}"]
    values = _pairs(argument.value)
    values = values if isinstance(values, (list, tuple)) else [values]
    return [word for value in values for word in (flag, str(value))]


def as_toml(part: HintValue) -> str:
    """Return an argument as a key of a recipe (`amount = 0.5`), or a call as a command."""
    if not isinstance(part, Argument):
        return as_options(part)
    name = "thr_std" if part.name == "deviations" else part.name
    return f"{name} = {json.dumps(_pairs(part.value))}"  # JSON spells texts, numbers, booleans and lists as TOML does


def _pairs(value: object) -> object:
    """Return a dict as a list of texts KEY=VALUE, and other values as they are."""
    return [f"{key}={item}" for key, item in value.items()] if isinstance(value, dict) else value
