"""The keys of dicts in pickles: keys that Python takes for one become one key here too.

Python compares 1, 1.0 and True as equal. A key with a value that a hostile file could use to make a dict slow is
replaced by text: the hashes of texts are random.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import isfinite

_SMALL = 1 << 31  # ints from 0 on that are their own keys: a file cannot have enough of them to make a dict slow
_LONGEST = 1 << 11  # bits of an int, and items of a tuple times 64
_LATIN = {"latin1", "latin-1"}


@dataclass(frozen=True, slots=True)
class Key:
    """A dict key that is no str, small int, bool or None. Keys are equal if their tokens are.

    The token of a value that cannot be compared is a new object, so that the value is never hashed.
    """

    value: object = field(compare=False)
    token: object = field(default_factory=object, repr=False)

    @property
    def comparable(self) -> bool:
        """Whether equal values have equal keys."""
        return type(self.token) is not object


def key_of(value: object) -> object:
    """Return the key for a plain value: itself, or a Key. Items of tuples must be plain values, too."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, int):
        return _number_key(value, value)
    if isinstance(value, float):
        return _key_of_float(value)
    if isinstance(value, bytes):
        return Key(value, ("bytes", value))
    if isinstance(value, tuple) and len(value) <= _LONGEST // 64:
        return _key_of_tuple(value)
    return Key(value)


def encoded_key(value: object, args: tuple[object, ...]) -> Key:
    """Return the key for the call `value` of `_codecs.encode` with `args`: protocol 2 writes bytes so."""
    match args:
        case (str(text), str(encoding)) if encoding in _LATIN:
            return Key(content := text.encode("latin-1", "backslashreplace"), ("bytes", content))
        case _:
            return Key(value)


def _number_key(value: object, number: int) -> object:
    if 0 <= number < _SMALL:
        return value
    return Key(value, f"number {number:x}") if number.bit_length() <= _LONGEST else Key(value)


def _key_of_float(value: float) -> object:
    if isfinite(value) and value.is_integer():
        return _number_key(value, int(value))
    return Key(value, f"number {value.hex()}") if value == value else Key(value)  # noqa: PLR0124 - NaN equals nothing


def _key_of_tuple(value: tuple[object, ...]) -> Key:
    if not all(item is None or isinstance(item, (str, int, float, bytes)) for item in value):
        return Key(value)
    keys = tuple(map(key_of, value))
    return Key(value, keys) if all(not isinstance(key, Key) or key.comparable for key in keys) else Key(value)
