"""Typer's commands and groups, with conversions of values that need no pydantic.

From 0.29 on, Typer imports pydantic to convert every value, texts as well, which takes as long as half of a small run.
Our options convert their own values. A parameter of another kind is left as it is, and so are all of a version that
is not in `VERSIONS`, because Typer promises nothing about the attribute that is set here.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_origin

import typer
from typer.core import TyperCommand, TyperGroup

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


VERSIONS = ("0.29.",)
"""The beginnings of the versions of Typer whose parameters were seen to work so."""


class _Conversion:
    """What Typer calls to convert the value of a parameter: `typer._coercion.RuntimeParam`."""

    def __init__(self, convert: Callable[[Any], Any], *, is_list: bool) -> None:
        """Convert each value with `convert`."""
        self._convert, self._is_list = convert, is_list

    def coerce(self, value: Any, param: Any, **_: Any) -> Any:  # noqa: ANN401 - as Typer's
        """Return the value of a parameter that was given as a text, or more than once as several."""
        if value is None:
            return () if param.multiple or param.nargs == -1 else None
        return [self._convert(one) for one in value] if self._is_list else self._convert(value)


class LightCommand(TyperCommand):
    """A command of Typer that converts its values without pydantic."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401 - click's context
        """Parse a command line, as Typer does."""
        _lighten(self.get_params(ctx))
        return super().parse_args(ctx, args)


class LightGroup(TyperGroup):
    """A group of commands that converts its own values without pydantic."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401 - click's context
        """Parse a command line, as Typer does."""
        _lighten(self.get_params(ctx))
        return super().parse_args(ctx, args)


def _lighten(params: Iterable[Any]) -> None:
    """Set the conversions that Typer would otherwise make with pydantic."""
    for param in params if typer.__version__.startswith(VERSIONS) else ():
        if getattr(param, "_runtime_param", param) is None and (conversion := _conversion(param.type_descriptor)):
            param._runtime_param = conversion  # noqa: SLF001 - Typer has no other place for it


def _conversion(described: Any) -> _Conversion | None:  # noqa: ANN401 - Typer's description of a type
    annotation, parser = described.annotation, described.parameter_info.parser
    is_list = get_origin(annotation) is list
    kind = get_args(annotation)[0] if is_list else annotation
    convert = parser or {str: str, Path: Path, bool: bool}.get(kind)
    return None if convert is None else _Conversion(convert, is_list=is_list)
