"""Recipes in TOML: each rule names a pruning command and its options, as on the command line."""

from __future__ import annotations

import inspect
import re
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from prunecli.cli.hints import as_toml
from prunecli.cli.pruning import BY_NAME
from prunecli.cli.recipe_strip import read_strip
from prunecli.cli.repair.synonyms import COMMANDS, OPTIONS
from prunecli.errors import Argument, PruneError, UsageError
from prunecli.layouts.overrides import parse_layout
from prunecli.selection.select import Selector
from prunecli.strategies.recipe import Recipe, Rule
from prunecli.text.closest import closest
from prunecli.text.escape import printable
from prunecli.text.nearest import nearest_whole

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


SIZE_LIMIT = 1 << 20
"""The largest recipe in bytes."""

RULES_LIMIT = 2000
"""The most rules: each is matched with the name of every tensor."""

_PARTS, _LONGEST_KEY = 32, 200
_LONG_KEY = re.compile(
    rf"""(?<![\w"'-])(?:(?:[\w-]{{1,999}}|"[^"\n]{{0,999}}"|'[^'\n]{{0,999}}')[ \t]*\.[ \t]*){{{_PARTS}}}""", re.ASCII
)
"""A dotted key of more parts than that; the parser makes a table of each, and copies the key for each."""

_PATTERNS, _COUNTS = ("include", "exclude", "layout"), ("min_dim", "min_numel")

_EXAMPLE = 'rule = [{include = "*.weight", strategy = "l1", amount = 0.5}]'
"""The shortest recipe, in one line of TOML."""


def read_recipe(path: str) -> Recipe:
    """Return the recipe in the TOML file at `path`; UsageError, with the line or the rule, if it is invalid."""
    content = _content(path)
    if len(content) > SIZE_LIMIT:
        raise UsageError(f"the recipe {printable(path)} is longer than {SIZE_LIMIT:,} bytes", hint=_EXAMPLE)
    try:
        text = content.decode("utf-8-sig")  # some editors write a byte order mark
    except UnicodeDecodeError as error:
        raise UsageError(f"the recipe {printable(path)} is not UTF-8 text", hint=_EXAMPLE) from error
    return parse_recipe(text, path)


def _content(path: str) -> bytes:
    """Return the bytes of the file, at most one more than a recipe may have."""
    try:
        with Path(path).open("rb") as file:
            return file.read(SIZE_LIMIT + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the path
        reason = getattr(error, "strerror", None) or str(error)
        hint = "prune run /dev/stdin CKPT < RECIPE.toml" if path == "-" else "prune run RECIPE.toml CKPT"
        name = printable(path) or "with an empty name"
        raise UsageError(f"cannot read the recipe {name}: {reason}", hint=hint) from error


def parse_recipe(text: str, path: str = "") -> Recipe:
    """Return the recipe in `text`; UsageError, with the line or the rule, if it is invalid."""
    try:
        return _recipe(text, path)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UsageError(f"the recipe {printable(path)} is not TOML: {printable(str(error))}", hint=_EXAMPLE) from error
    except ValueError as error:  # Python does not convert numbers of more than 4,300 digits
        raise UsageError(f"a number in the recipe {printable(path)} has too many digits", hint=_EXAMPLE) from error


def _recipe(text: str, path: str) -> Recipe:
    if _LONG_KEY.search(text):
        raise UsageError(f"a key in the recipe {printable(path)} has more than {_PARTS} parts", hint=_EXAMPLE)
    document = tomllib.loads(text)
    for key in document:
        if key not in {"rule", "strip"}:
            raise UsageError(
                f"the recipe has an unknown key {printable(repr(key))}{_line(text, key, 0)}: it is a list of rules",
                hint=_EXAMPLE,
            )
    rules = document.get("rule", [])
    if not isinstance(rules, list) or not all(isinstance(rule, dict) for rule in rules):
        hint = "[[rule]], with two brackets on each side" if isinstance(rules, dict) else _EXAMPLE
        raise UsageError("the rules of a recipe are tables in a list", hint=hint)
    if not rules:
        raise UsageError("a recipe has at least one rule", hint=_EXAMPLE)
    if len(rules) > RULES_LIMIT:
        message = f"the recipe {printable(path)} has {len(rules):,} rules, more than {RULES_LIMIT:,}"
        raise UsageError(message, hint="one pattern can choose many tensors: *.weight")
    strip = read_strip(document["strip"]) if "strip" in document else None
    return Recipe(tuple(_rule(rule, number, text) for number, rule in enumerate(rules, 1)), path, strip)


# --- one rule


def _rule(table: Mapping[str, Any], number: int, text: str) -> Rule:
    name = _strategy(table, number, text)
    parsers = _parsers(name)
    values = _values(table, [*_PATTERNS, *_COUNTS, *parsers], f"rule {number} ({name})", number, text)
    try:
        options = {key: parse(values[key]) for key, parse in parsers.items() if key in values}
        return Rule(BY_NAME[name](**options), _selection(values))
    except PruneError as error:
        raise type(error)(f"rule {number} ({name}): {error}", hint=error.hint_as(as_toml, " and ")) from error


def _strategy(table: Mapping[str, Any], number: int, text: str) -> str:
    name = table.get("strategy")
    if isinstance(name, str) and name in BY_NAME:
        return name
    got = "" if name is None else f" {printable(repr(name))}{_line(text, 'strategy', number)}"
    near = COMMANDS.get(str(name)) or (*closest(str(name)[:100].lower(), BY_NAME), None)[0]
    hint = f'strategy = "{near}"' if near in BY_NAME else f"strategy = one of {', '.join(BY_NAME)}"
    raise UsageError(f"rule {number} has no strategy{got}", hint=hint)


def _values(table: Mapping[str, Any], known: list[str], label: str, number: int, text: str) -> dict[str, Any]:
    """Return the values of a rule by argument name; a key may have dashes for the underscores."""
    values: dict[str, Any] = {}
    for key, value in table.items():
        name = key.replace("-", "_")
        if name not in {"strategy", *known}:
            raise UsageError(
                f"{label} has an unknown key {printable(repr(key))}{_line(text, key, number)}",
                hint=_nearest_key(name, value, known),
            )
        if name in values:
            dashed = name.replace("_", "-")
            raise UsageError(
                f"{label} has {printable(repr(dashed))} twice{_line(text, dashed, number)}",
                hint=f"leave out {dashed}, or {name}",
            )
        values[name] = value
    return values


def _nearest_key(name: str, value: object, known: list[str]) -> str:
    """Return the key that was meant, with its value, or all keys that the strategy takes."""
    meant = [key for key in OPTIONS.get(name.lower().replace("_", "-"), ()) if key in known]
    near = meant or closest(name[:100].lower(), known, cutoff=0.7)
    if near and isinstance(value, (str, int, float)):
        return as_toml(Argument(near[0], value))
    return f"it takes {', '.join(known)}"


@cache
def _parsers(name: str) -> dict[str, Callable[[object], object]]:
    """Return a parser of TOML values for each option of a pruning command.

    The command's signature is the only list of its options and of their parsers, so it is read here as well.
    """
    parameters = inspect.signature(BY_NAME[name], eval_str=True).parameters
    return {key: _parser(name, key, parameter.annotation) for key, parameter in parameters.items()}


def _parser(command: str, name: str, annotation: Any) -> Callable[[object], object]:  # noqa: ANN401 - an Annotated type
    type_, option = get_args(annotation)
    parse = getattr(option, "parser", None) or str

    def convert(value: object) -> object:
        if type_ is bool and isinstance(value, bool):
            return value
        if type_ is bool:
            near = str(value).lower() not in {"false", "no", "off", "0"}
            raise UsageError(f"{name} is true or false, not {printable(repr(value))}", hint=Argument(name, near))
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            wrong = str(value).lower() if isinstance(value, bool) else str(value)
            raise UsageError(f"{name} is a number or a text, not {printable(wrong)}", hint=f"prune {command} -h")
        return parse(str(value))

    return convert


def _selection(values: Mapping[str, Any]) -> Selector:
    patterns = {key: _patterns(key, values.get(key, [])) for key in _PATTERNS}
    for key in _COUNTS:
        value = values.get(key, 0)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            message = f"{key} is a whole number of 0 or more, not {printable(repr(value))}"
            raise UsageError(message, hint=Argument(key, max(nearest_whole(str(value), 2), 0)))
    return Selector(
        patterns["include"],
        patterns["exclude"],
        values.get("min_dim"),
        values.get("min_numel", 0),
        dict(map(parse_layout, patterns["layout"])),
    )


def _patterns(key: str, value: object) -> tuple[str, ...]:
    patterns = [value] if isinstance(value, str) else value
    if not isinstance(patterns, list) or not all(isinstance(pattern, str) for pattern in patterns):
        raise UsageError(f"{key} is a pattern or a list of patterns", hint=Argument(key, ["encoder.*"]))
    return tuple(patterns)


def _line(text: str, key: str, rule: int) -> str:
    """Return " (line N)" for the line of `key` in rule number `rule` (0: anywhere), or "" if it is not found."""
    current = 0
    if len(key) > _LONGEST_KEY:  # its expression takes seconds to compile
        return ""
    for number, line in enumerate(text.splitlines(), 1):
        current += bool(re.match(r"\s*\[\[\s*rule\s*\]\]", line))
        if (not rule or current == rule) and re.match(rf"""\s*\[*\s*["']?{re.escape(key)}["']?\s*[=.\]]""", line):
            return f" (line {number})"
    return ""
