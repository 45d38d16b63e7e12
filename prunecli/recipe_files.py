"""Recipes in TOML: every rule names a command and its options, as on the command line."""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from prunecli import commands
from prunecli.errors import PruneError, UsageError
from prunecli.escape import shown
from prunecli.recipes import Recipe, Rule
from prunecli.selection import Rules

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from prunecli.strategies import Strategy

SIZE_LIMIT = 1 << 20
"""Bytes of the longest recipe that is read."""

_PATTERNS, _COUNTS = ("include", "exclude"), ("min_dim", "min_numel")

_EXAMPLE = '[[rule]] include = ["*"] strategy = "l1" amount = 0.5'


def read_recipe(path: str) -> Recipe:
    """Return the recipe in the TOML file at `path`; UsageError, with the line or the rule, for what is none."""
    try:
        with Path(path).open("rb") as file:
            text = file.read(SIZE_LIMIT + 1).decode()
    except OSError as error:
        raise UsageError(f"cannot read the recipe {shown(path)}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"the recipe {shown(path)} is not UTF-8 text", hint=_EXAMPLE) from error
    if len(text) > SIZE_LIMIT:
        raise UsageError(f"the recipe {shown(path)} is longer than {SIZE_LIMIT:,} characters")
    return parse_recipe(text, path)


def parse_recipe(text: str, path: str = "") -> Recipe:
    """Return the recipe that `text` spells; UsageError, with the line or the rule, for what is none."""
    try:
        found = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UsageError(f"the recipe {shown(path)} is not TOML: {shown(str(error))}", hint=_EXAMPLE) from error
    for key in found:
        if key != "rule":
            raise UsageError(
                f"the recipe knows no {shown(repr(key))}{_line(text, key, 0)}: it is a list of rules", hint=_EXAMPLE
            )
    rules = found.get("rule", [])
    if not isinstance(rules, list) or not all(isinstance(rule, dict) for rule in rules):
        raise UsageError("the rules of a recipe are tables in a list", hint=_EXAMPLE)
    return Recipe(tuple(_rule(rule, number, text) for number, rule in enumerate(rules, 1)), path)


def _rule(given: Mapping[str, Any], number: int, text: str) -> Rule:
    makers = {make.__name__.rstrip("_"): make for make in commands.ALL}
    name = given.get("strategy")
    if not isinstance(name, str) or name not in makers:
        what = (
            "has no strategy"
            if name is None
            else f"has no strategy {shown(repr(name))}{_line(text, 'strategy', number)}"
        )
        raise UsageError(f"rule {number} {what}", hint=f"strategy = one of {', '.join(makers)}")
    own = _parsers(makers[name])
    for key in given:
        if key.replace("-", "_") not in {"strategy", *_PATTERNS, *_COUNTS, *own}:
            raise UsageError(
                f"rule {number} ({name}) knows no {shown(repr(key))}{_line(text, key, number)}",
                hint=f"it takes include, exclude, min_dim, min_numel, {', '.join(own)}",
            )
    values = {key.replace("-", "_"): value for key, value in given.items()}
    try:
        options = {key: parse(values[key]) for key, parse in own.items() if key in values}
        return Rule(makers[name](**options), _selection(values))
    except PruneError as error:
        raise type(error)(f"rule {number} ({name}): {error}", hint=error.hint) from error


def _parsers(make: Callable[..., Strategy]) -> dict[str, Callable[[object], object]]:
    """Return the options of a command, with what turns a TOML value into theirs."""
    return {
        name: _parser(name, parameter.annotation)
        for name, parameter in inspect.signature(make, eval_str=True).parameters.items()
    }


def _parser(name: str, annotation: Any) -> Callable[[object], object]:  # noqa: ANN401 - an Annotated type
    kind, option = get_args(annotation)
    parse = getattr(option, "parser", None) or str

    def value(given: object) -> object:
        if kind is bool and isinstance(given, bool):
            return given
        if kind is bool:
            raise UsageError(f"{name} is true or false, not {shown(repr(given))}", hint=f"{name} = true")
        if isinstance(given, bool) or not isinstance(given, (str, int, float)):
            raise UsageError(f"{name} is a number or a text, not {shown(str(given))}")
        return parse(str(given))

    return value


def _selection(values: Mapping[str, Any]) -> Rules:
    patterns: dict[str, tuple[str, ...]] = {}
    for key in _PATTERNS:
        given = values.get(key, [])
        given = [given] if isinstance(given, str) else given
        if not isinstance(given, list) or not all(isinstance(pattern, str) for pattern in given):
            raise UsageError(f"{key} is a pattern or a list of patterns", hint=f'{key} = ["encoder.*"]')
        patterns[key] = tuple(given)
    for key in _COUNTS:
        if key in values and (isinstance(values[key], bool) or not isinstance(values[key], int) or values[key] < 0):
            raise UsageError(f"{key} is a whole number of 0 or more, not {shown(str(values[key]))}", hint=f"{key} = 2")
    return Rules(patterns["include"], patterns["exclude"], values.get("min_dim"), values.get("min_numel", 0))


def _line(text: str, key: str, rule: int) -> str:
    """Say in which line `key` stands, in rule number `rule` (0: anywhere), where it can be found."""
    at = 0
    for number, line in enumerate(text.splitlines(), 1):
        at += bool(re.match(r"\s*\[\[\s*rule\s*\]\]", line))
        if (not rule or at == rule) and re.match(rf"""\s*\[*\s*["']?{re.escape(key)}["']?\s*[=.\]]""", line):
            return f" (line {number})"
    return ""
