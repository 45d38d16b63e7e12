"""Recipes in TOML: every rule names a command and its options, as on the command line."""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from prunecli.cli import pruning as commands
from prunecli.errors import PruneError, UsageError
from prunecli.selection.select import Selector
from prunecli.strategies.recipe import Recipe, Rule
from prunecli.text.escape import printable

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from prunecli.strategies.unstructured import Strategy

SIZE_LIMIT = 1 << 20
"""Bytes of the longest recipe that is read."""

_PATTERNS, _COUNTS = ("include", "exclude"), ("min_dim", "min_numel")

_EXAMPLE = 'rule = [{include = "*.weight", strategy = "l1", amount = 0.5}]'
"""The shortest recipe, in one line of TOML."""

_WORDS = {"FILE", "erk", "keep", "rms", "row", "zero"}
"""What stands for a value, or is a text, behind an option in a hint."""

_SWITCHES = {"structured", "with_bias"}
"""The options that take no value."""


def read_recipe(path: str) -> Recipe:
    """Return the recipe in the TOML file at `path`; UsageError, with the line or the rule, for what is none."""
    content = _content(path)
    if len(content) > SIZE_LIMIT:
        raise UsageError(f"the recipe {printable(path)} is longer than {SIZE_LIMIT:,} bytes", hint=_EXAMPLE)
    try:
        text = content.decode("utf-8-sig")  # editors of some systems begin a text with a mark
    except UnicodeDecodeError as error:
        raise UsageError(f"the recipe {printable(path)} is not UTF-8 text", hint=_EXAMPLE) from error
    return parse_recipe(text, path)


def _content(path: str) -> bytes:
    """Return what is at `path`, up to a byte more than a recipe may have."""
    try:
        with Path(path).open("rb") as file:
            return file.read(SIZE_LIMIT + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the path
        why = getattr(error, "strerror", None) or str(error)
        hint = "prune run /dev/stdin CKPT < RECIPE.toml" if path == "-" else "prune run RECIPE.toml CKPT"
        raise UsageError(
            f"cannot read the recipe {printable(path) or 'with an empty name'}: {why}", hint=hint
        ) from error


def parse_recipe(text: str, path: str = "") -> Recipe:
    """Return the recipe that `text` spells; UsageError, with the line or the rule, for what is none."""
    try:
        return _recipe(text, path)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UsageError(f"the recipe {printable(path)} is not TOML: {printable(str(error))}", hint=_EXAMPLE) from error
    except ValueError as error:  # Python turns no number of more than 4,300 digits into text or back
        raise UsageError(f"a number in the recipe {printable(path)} has too many digits", hint=_EXAMPLE) from error


def _recipe(text: str, path: str) -> Recipe:
    found = tomllib.loads(text)
    for key in found:
        if key != "rule":
            raise UsageError(
                f"the recipe knows no {printable(repr(key))}{_line(text, key, 0)}: it is a list of rules", hint=_EXAMPLE
            )
    rules = found.get("rule", [])
    if not isinstance(rules, list) or not all(isinstance(rule, dict) for rule in rules):
        hint = "[[rule]], with two brackets on each side" if isinstance(rules, dict) else _EXAMPLE
        raise UsageError("the rules of a recipe are tables in a list", hint=hint)
    return Recipe(tuple(_rule(rule, number, text) for number, rule in enumerate(rules, 1)), path)


def _rule(given: Mapping[str, Any], number: int, text: str) -> Rule:
    makers = {make.__name__.rstrip("_"): make for make in commands.ALL}
    name = given.get("strategy")
    if not isinstance(name, str) or name not in makers:
        what = (
            "has no strategy"
            if name is None
            else f"has no strategy {printable(repr(name))}{_line(text, 'strategy', number)}"
        )
        raise UsageError(f"rule {number} {what}", hint=f"strategy = one of {', '.join(makers)}")
    own = _parsers(makers[name])
    for key in given:
        if key.replace("-", "_") not in {"strategy", *_PATTERNS, *_COUNTS, *own}:
            raise UsageError(
                f"rule {number} ({name}) knows no {printable(repr(key))}{_line(text, key, number)}",
                hint=f"it takes include, exclude, min_dim, min_numel, {', '.join(own)}",
            )
    values = {key.replace("-", "_"): value for key, value in given.items()}
    if len(values) < len(given):
        twice = next(key for key in given if "-" in key and key.replace("-", "_") in given)
        raise UsageError(
            f"rule {number} ({name}) says {printable(repr(twice))} twice{_line(text, twice, number)}",
            hint=f"leave out {twice}, or {twice.replace('-', '_')}",
        )
    try:
        options = {key: parse(values[key]) for key, parse in own.items() if key in values}
        return Rule(makers[name](**options), _selection(values))
    except PruneError as error:
        hint = None if error.hint is None else in_toml(error.hint)
        raise type(error)(f"rule {number} ({name}): {_without_dashes(str(error))}", hint=hint) from error


def in_toml(hint: str) -> str:
    """Return a hint for the command line as one for a recipe: `--amount 50%` is `amount = "50%"` there."""
    apart = re.sub(r"(?<!or) (?=--)", " and ", hint)
    return re.sub(r"--([a-z][a-z-]*)(?: ([^\s,]+))?", _assigned, apart)


def _assigned(found: re.Match[str]) -> str:
    name, value = found[1].replace("-", "_"), found[2] or ""
    if name in _SWITCHES:
        return f"{name} = true {value}".rstrip()
    if re.fullmatch(r"-?[\d.]+", value):
        return f"{name} = {value}"
    if value in _WORDS or re.fullmatch(r"[\d.]+%|\d+:\d+|\d+x\d+", value):
        return f'{name} = "{value}"'
    return f"{name} {value}".rstrip()


def _without_dashes(message: str) -> str:
    return re.sub(r"--([a-z][a-z-]*)", lambda found: found[1].replace("-", "_"), message)


def _parsers(make: Callable[..., Strategy]) -> dict[str, Callable[[object], object]]:
    """Return the options of a command, with what turns a TOML value into theirs."""
    return {
        name: _parser(make.__name__.rstrip("_"), name, parameter.annotation)
        for name, parameter in inspect.signature(make, eval_str=True).parameters.items()
    }


def _parser(command: str, name: str, annotation: Any) -> Callable[[object], object]:  # noqa: ANN401 - an Annotated type
    kind, option = get_args(annotation)
    parse = getattr(option, "parser", None) or str

    def value(given: object) -> object:
        if kind is bool and isinstance(given, bool):
            return given
        if kind is bool:
            raise UsageError(f"{name} is true or false, not {printable(repr(given))}", hint=f"{name} = true")
        if isinstance(given, bool) or not isinstance(given, (str, int, float)):
            wrong = str(given).lower() if isinstance(given, bool) else str(given)
            raise UsageError(f"{name} is a number or a text, not {printable(wrong)}", hint=f"prune {command} -h")
        return parse(str(given))

    return value


def _selection(values: Mapping[str, Any]) -> Selector:
    patterns: dict[str, tuple[str, ...]] = {}
    for key in _PATTERNS:
        given = values.get(key, [])
        given = [given] if isinstance(given, str) else given
        if not isinstance(given, list) or not all(isinstance(pattern, str) for pattern in given):
            raise UsageError(f"{key} is a pattern or a list of patterns", hint=f'{key} = ["encoder.*"]')
        patterns[key] = tuple(given)
    for key in _COUNTS:
        if key in values and (isinstance(values[key], bool) or not isinstance(values[key], int) or values[key] < 0):
            raise UsageError(
                f"{key} is a whole number of 0 or more, not {printable(repr(values[key]))}", hint=f"{key} = 2"
            )
    return Selector(patterns["include"], patterns["exclude"], values.get("min_dim"), values.get("min_numel", 0))


def _line(text: str, key: str, rule: int) -> str:
    """Say in which line `key` stands, in rule number `rule` (0: anywhere), where it can be found."""
    at = 0
    for number, line in enumerate(text.splitlines(), 1):
        at += bool(re.match(r"\s*\[\[\s*rule\s*\]\]", line))
        if (not rule or at == rule) and re.match(rf"""\s*\[*\s*["']?{re.escape(key)}["']?\s*[=.\]]""", line):
            return f" (line {number})"
    return ""
