"""Spell the arguments and calls that hints propose: as options and commands, or as keys of a recipe."""

from __future__ import annotations

import json
import shlex

from prunecli.errors import Argument, Call

_FLAGS = {
    "amounts": "--at",
    "deviations": "--thr-std",
    "evaluate": "--eval",
    "exclude": "-x",
    "include": "-i",
    "output": "-o",
    "reports": "--report",
}
"""The parameters whose option is not `--` and their name, or has a short form that is used more."""


def as_options(part: Argument | Call) -> str:
    """Return an argument as options (`--amount 0.5`) or a call as a command (`prune inspect ckpt.pth`)."""
    if isinstance(part, Call):
        return shlex.join(["prune", part.function, *part.paths, *(w for a in part.arguments for w in option_words(a))])
    return " ".join(map(_quoted, option_words(part)))


def _quoted(word: str) -> str:
    """Quote a word for a shell; a word with single quotes gets double quotes, which are easier to read."""
    if "'" in word and not set('"`\\!') & set(word):
        return '"' + word.replace("$", "\\$") + '"'
    return shlex.quote(word)


def option_words(argument: Argument) -> list[str]:
    """Return the words of an argument: a flag alone for True, a flag and a value for each element of a list."""
    flag = _FLAGS.get(argument.name, f"--{argument.name.replace('_', '-')}")
    if argument.value is True:
        return [flag]
    values = _pairs(argument.value)
    values = values if isinstance(values, (list, tuple)) else [values]
    return [word for value in values for word in (flag, str(value))]


def as_toml(part: Argument | Call) -> str:
    """Return an argument as a key of a recipe (`amount = 0.5`), or a call as a command."""
    if isinstance(part, Call):
        return as_options(part)
    name = "thr_std" if part.name == "deviations" else part.name
    return f"{name} = {json.dumps(_pairs(part.value))}"  # JSON spells texts, numbers, booleans and lists as TOML does


def _pairs(value: object) -> object:
    """Return a dict as a list of texts KEY=VALUE, and other values as they are."""
    return [f"{key}={item}" for key, item in value.items()] if isinstance(value, dict) else value
