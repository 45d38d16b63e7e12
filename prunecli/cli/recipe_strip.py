"""The table `strip` of a recipe: what is dropped in the pass that prunes."""

from __future__ import annotations

from collections.abc import Mapping

from prunecli.cli.hints import as_toml
from prunecli.errors import Argument, UsageError
from prunecli.strategies.strip import Strip
from prunecli.text.closest import closest
from prunecli.text.escape import printable

_FLAGS = ("allow_overflow", "unwrap")
KEYS = ("keep", "to", *_FLAGS)

_EXAMPLE = 'strip = {keep = "model", to = "fp16"}'


def read_strip(table: object) -> Strip:
    """Return the strip that a table of a recipe asks for; UsageError if it is invalid."""
    if not isinstance(table, Mapping):
        raise UsageError("strip is a table of a recipe", hint=_EXAMPLE)
    values = {str(key).replace("-", "_"): value for key, value in table.items()}
    for key, value in values.items():
        _check(key, value)
    try:
        return Strip(**values)
    except UsageError as error:
        raise UsageError(f"strip: {error}", hint=error.hint_as(as_toml, " and ")) from error


def _check(key: str, value: object) -> None:
    if key not in KEYS:
        near = closest(key[:100], KEYS)
        hint = f"{near[0]} = ..." if near else f"it takes {', '.join(KEYS)}"
        raise UsageError(f"strip has an unknown key {printable(repr(key))}", hint=hint)
    texts = value if isinstance(value, list) and key == "keep" else [value]
    right = isinstance(value, bool) if key in _FLAGS else all(isinstance(text, str) for text in texts)
    if not right:
        kind = "true or false" if key in _FLAGS else "a text"
        example = Argument(key, True) if key in _FLAGS else Argument(key, "model" if key == "keep" else "fp16")
        raise UsageError(f"strip: {key} is {kind}, not {printable(repr(value))}", hint=as_toml(example))
