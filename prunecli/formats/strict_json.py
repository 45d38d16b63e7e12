"""A JSON parser that keeps repeated keys visible and accepts no numbers outside the standard."""

from __future__ import annotations

import json
from typing import NoReturn

from prunecli.errors import CheckpointError

HEADER_LIMIT = 32 * 1024 * 1024
"""The longest JSON text, in bytes, that is read: about 300,000 tensors, which take less than 1 GiB of memory."""

Json = object
"""A parsed JSON value: an object is a tuple of (key, value) pairs, so that repeated keys stay visible."""


def parse_json_object(raw: bytes, what: str) -> tuple[tuple[str, Json], ...]:
    """Parse one JSON object in UTF-8 into its (key, value) pairs; `what` names it in messages.

    Nested objects become tuples of pairs too. An integer that is negative or has more than 20 digits becomes -1, which
    no size can be. Raises CheckpointError if `raw` is not exactly one JSON object.
    """
    try:
        value = _DECODER.decode(raw.decode("utf-8"))
    except RecursionError:
        raise CheckpointError(f"{what} is nested too deeply") from None
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{what} is not UTF-8 text (byte {error.start})") from None
    except ValueError as error:
        raise CheckpointError(f"{what} is not valid JSON: {error}") from None
    if not isinstance(value, tuple):
        raise CheckpointError(f"{what} is not a JSON object but a JSON {type(value).__name__}")
    return value


def _integer(digits: str) -> int:
    # int() takes quadratic time, and raises an error of its own for more than 4,300 digits.
    return int(digits) if len(digits) <= 20 and digits[0] != "-" else -1


def _constant(word: str) -> NoReturn:
    # Python's parser accepts NaN and Infinity. Other readers refuse such a file.
    raise ValueError(f"{word} is not JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=tuple, parse_int=_integer, parse_constant=_constant)
