"""Rewrite JSON in the style in which it is written: the index of a directory of shards, and headers."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Any

from prunecli.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping

_STYLES: tuple[dict[str, Any], ...] = tuple(
    {"ensure_ascii": ascii_only, "indent": indent, "separators": separators}
    for ascii_only in (False, True)
    for indent, separators in ((None, (",", ":")), (None, (", ", ": ")), (2, None), (4, None), ("\t", None))
)


def rewrite_index(raw: bytes, names: Mapping[str, str | None], sizes: Mapping[str, int], label: str) -> bytes | None:
    """Return the index of shards `raw` with tensors renamed or removed, or None if it lists none of them.

    `names` maps the old name of each tensor to its new one, or to None if it is removed. `sizes` are the bytes of the
    tensors by old name: the index's total is reduced by those that are removed. Raises CheckpointError, naming
    `label`, if the index is not JSON in UTF-8 that can be written again.
    """
    index = parse_json(raw, label)
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not names.keys() & weight_map.keys():
        return None
    new_names = {name: names.get(name, name) for name in weight_map}
    total = index["metadata"].get("total_size") if isinstance(index.get("metadata"), dict) else None
    # The Hub writes the bytes of all tensors here. Other writers leave it out.
    if type(total) is int:
        removed = sum(sizes.get(name, 0) for name, new in new_names.items() if new is None)
        index["metadata"] = {**index["metadata"], "total_size": max(total - removed, 0)}
    index["weight_map"] = {new: weight_map[name] for name, new in new_names.items() if new is not None}
    return format_like(raw, index)


def parse_json(raw: bytes, label: str) -> Any:  # noqa: ANN401 - JSON
    """Return the JSON value `raw`; CheckpointError, naming `label`, if it cannot be parsed and written again."""
    try:
        return json.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as problem:  # also for numbers of thousands of digits, which readers skip
        raise CheckpointError(
            f"{label} cannot be updated: its JSON cannot be written again",
            hint=f"python -m json.tool {shlex.quote(label)}",
        ) from problem


def format_like(raw: bytes, value: object) -> bytes:
    """Return `value` as JSON with the indentation, separators and escapes of `raw`, and its white space at the end.

    The style of the safetensors library is used if no common JSON writer makes the style of `raw`.
    """
    text = raw.decode("utf-8")
    body = text.rstrip()
    before = json.loads(body)
    style = next((style for style in _STYLES if json.dumps(before, **style) == body), _STYLES[0])
    return (json.dumps(value, **style) + text[len(body) :]).encode("utf-8")
