"""JSON documents: ASCII, finite numbers, keys in the order of the document, a line break at the end."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


def dump_json(document: Mapping[str, object], *, tensors: Iterable[object] | None = None) -> str:
    """Return `document` as JSON text. The records in `tensors` follow under the key "tensors", one record per line.

    Raises ValueError for a number that is not finite.
    """
    encode = json.JSONEncoder(allow_nan=False).encode
    text = json.dumps(document, indent=1, allow_nan=False)
    if tensors is not None:
        lines = ",\n  ".join(map(encode, tensors))
        text = f'{text[:-2]},\n "tensors": [' + (f"\n  {lines}\n ]" if lines else "]") + "\n}"
    return text.replace("\x7f", "\\u007f") + "\n"  # JSON leaves this control character unescaped
