"""The errors that a request or its input can cause, and the hints that say what to do next."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from prunecli.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Self


@dataclass(frozen=True, slots=True)
class Argument:
    """An argument that a hint proposes, such as `amount=0.5`.

    A hint holds it as a value, because its spelling depends on the place where the user gives it: `amount=0.5` in
    Python, `--amount 0.5` on the command line, `amount = 0.5` in a recipe. `str()` is the spelling of Python.
    """

    name: str
    value: object

    def __str__(self) -> str:
        """Return `name=value`, as in a Python call."""
        return f"{self.name}={self.value!r}"


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a public function that a hint proposes, such as `prunecli.inspect("ckpt.pth")`.

    `function` is a public name of the package that is also a command; `paths` are its positional arguments. `str()`
    is the spelling of Python.
    """

    function: str
    paths: tuple[str, ...] = ()
    arguments: tuple[Argument, ...] = ()

    def __str__(self) -> str:
        """Return the call as Python code."""
        return f"prunecli.{self.function}({', '.join([*map(repr, self.paths), *map(str, self.arguments)])})"


@dataclass(frozen=True, slots=True)
class SameCall:
    """The user's own call once more, with the path `new` in place of the path `old`.

    On the command line it is the whole command that was typed. `str()` is the spelling of Python: the new path.
    """

    old: str
    new: str

    def __str__(self) -> str:
        """Return the new path as Python code."""
        return repr(self.new)


@dataclass(frozen=True, slots=True)
class SameCallWith:
    """The user's own call once more, with another argument.

    On the command line it is the whole command that was typed; with `replaces` it replaces what the call has written.
    `str()` is the spelling of Python: the argument.
    """

    argument: Argument
    replaces: bool = False

    def __str__(self) -> str:
        """Return the argument as Python code."""
        return str(self.argument)


HintValue: TypeAlias = "Argument | Call | SameCall | SameCallWith"
"""A part of a hint whose spelling depends on the place where the user types it."""

Hint: TypeAlias = "str | HintValue | tuple[str | HintValue, ...]"
"""What to do next: a text, a value, or a sequence of them.

Texts of a sequence contain their own spaces; arguments that follow each other belong together, as in one call.
"""


def spelled(parts: Hint | None, spell: Callable[[HintValue], str], separator: str) -> str | None:
    """Return a hint as text, or None where there is none.

    `spell` writes a value of a hint, and `separator` is put between arguments that follow each other.
    """
    if parts is None:
        return None
    sequence = parts if isinstance(parts, tuple) else (parts,)
    pieces: list[str] = []
    for previous, part in zip(("", *sequence), sequence, strict=False):
        if not isinstance(previous, str) and not isinstance(part, str):
            pieces.append(separator)
        pieces.append(part if isinstance(part, str) else spell(part))
    return "".join(pieces)


class Notice(str):
    """A warning of a report: one sentence, and as `hint_parts` what to do next, if there is something."""

    __slots__ = ("hint_parts",)

    hint_parts: Hint | None

    def __new__(cls, text: str, *, hint: Hint | None = None) -> Self:
        """Keep `text` and `hint` apart, as an error does."""
        notice = super().__new__(cls, text)
        notice.hint_parts = hint
        return notice


class PruneError(Exception):
    """The request or its input is wrong. The command line prints the message and the hint, and exits with code 2.

    The message is one sentence: what is wrong, where, and with which value. The hint is something to type or to look
    at; `hint` is its text as Python spells it, `hint_as` gives it in another spelling.
    """

    def __init__(self, message: str, *, hint: Hint | None = None) -> None:
        """Keep `message` and `hint` apart, because they are printed on separate lines."""
        super().__init__(message)
        self.hint_parts = hint

    @property
    def hint(self) -> str | None:
        """The hint in the spelling of Python, or None."""
        return self.hint_as(str)

    def hint_as(self, spell: Callable[[HintValue], str], separator: str = ", ") -> str | None:
        """Return the hint, or None where there is none.

        `spell` writes a value of a hint, and `separator` is put between arguments that follow each other.
        """
        return spelled(self.hint_parts, spell, separator)


class UsageError(PruneError):
    """Arguments contradict each other or are out of range."""


class CheckpointError(PruneError):
    """The input is not a checkpoint, is damaged, or is of a kind that cannot be pruned."""


class SelectionError(PruneError):
    """The patterns select nothing, or a tensor that cannot be pruned."""


class DeviceError(PruneError):
    """The requested device is not available."""


class OutputError(PruneError):
    """The result cannot be written to the requested place."""
