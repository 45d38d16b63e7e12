"""JSON documents: ASCII, finite numbers, keys in the order of the document, a line break at the end."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


encode_text = json.encoder.encode_basestring_ascii
"""Returns a text as JSON."""

encode = json.JSONEncoder(allow_nan=False).encode
"""Returns a value as one line of JSON; ValueError for a number that is not finite."""


def dump_json(document: Mapping[str, object], *, tensors: Iterable[object] | None = None) -> str:
    """Return `document` as JSON text. The records in `tensors` follow under the key "tensors", one record per line.

    Raises ValueError for a number that is not finite.
    """
    return dump_with_lines(document, None if tensors is None else map(encode, tensors))


def dump_with_lines(document: Mapping[str, object], encoded: Iterable[str] | None) -> str:
    """Return `document` as `dump_json` does, with records that are encoded already."""
    text = json.dumps(document, indent=1, allow_nan=False)
    if encoded is not None:
        lines = ",\n  ".join(encoded)
        text = f'{text[:-2]},\n "tensors": [' + (f"\n  {lines}\n ]" if lines else "]") + "\n}"
    return text.replace("\x7f", "\\u007f") + "\n"  # JSON leaves this control character unescaped


def dump_result(command: str, values: Mapping[str, object]) -> str:
    """Return the result of a command as a JSON object; `schema` is the version of its keys."""
    return json.dumps({"schema": 1, "command": command, **values}, indent=2) + "\n"
