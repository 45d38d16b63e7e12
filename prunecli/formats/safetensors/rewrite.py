"""Safetensors files and indexes of shards with some tensors renamed and others taken out.

Keys, metadata and everything else of the JSON keep their order, and its spelling where it is one that JSON writers
use. No tensor data is read.
"""

from __future__ import annotations

import json
import math
import shlex
from typing import TYPE_CHECKING, Any, BinaryIO

from prunecli.dtypes import BITS
from prunecli.errors import CheckpointError
from prunecli.formats.safetensors.reader import read_safetensors
from prunecli.io.parts import FilePlan

if TYPE_CHECKING:
    from collections.abc import Mapping

    from prunecli.checkpoint import TensorInfo

_ALIGNMENT = 8  # what the safetensors library fills its headers up to, with spaces

_STYLES: tuple[dict[str, Any], ...] = tuple(
    {"ensure_ascii": ascii_only, "indent": indent, "separators": separators}
    for ascii_only in (False, True)
    for indent, separators in ((None, (",", ":")), (None, (", ", ": ")), (2, None), (4, None), ("\t", None))
)


def rewrite_safetensors(file: BinaryIO, label: str, names: Mapping[str, str | None]) -> FilePlan:
    """Return the plan of the safetensors `file` with the tensors `names` renamed, or gone where the name is None.

    The data keeps its order, unless a tensor would leave the alignment it had: then wider elements come first, as
    the safetensors library writes them. Raises CheckpointError, naming `label`, for what the format does not allow.
    """
    tensors = read_safetensors(file, label).tensors
    file.seek(0)
    raw = file.read(int.from_bytes(file.read(8), "little"))
    kept = _ordered([tensor for tensor in tensors if names.get(tensor.name, tensor.name) is not None], 8 + len(raw))
    offsets: dict[str, list[int]] = {}
    end = 0
    for tensor in kept:
        offsets[tensor.name] = [end, end + tensor.span.length]
        end += tensor.span.length
    header: dict[str, Any] = {}
    for name, entry in _parsed(raw, label).items():
        if name not in offsets:
            if name == "__metadata__":
                header[name] = entry
            continue
        header[names.get(name) or name] = {**entry, "data_offsets": offsets[name]}
    text = spelled_alike(raw, header).rstrip()
    text += b" " * (-len(text) % _ALIGNMENT)
    return FilePlan((len(text).to_bytes(8, "little") + text, *(tensor.span for tensor in kept)))


def _parsed(raw: bytes, label: str) -> Any:  # noqa: ANN401 - JSON
    try:
        return json.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as problem:  # of numbers past all reason, too, which readers may pass over
        raise CheckpointError(
            f"{label} cannot be brought up to date: its JSON cannot be written again",
            hint=f"python -m json.tool {shlex.quote(label)}",
        ) from problem


def _ordered(tensors: list[TensorInfo], base: int) -> list[TensorInfo]:
    """Return `tensors`, whose data begins at `base`, in the order in which their data is to follow each other."""
    kept = sorted(tensors, key=lambda tensor: (tensor.span.start, tensor.span.end))
    at = 0
    for tensor in kept:
        width = math.ceil(BITS[tensor.dtype] / 8)
        if at % width and not (tensor.span.start - base) % width:
            return sorted(kept, key=lambda tensor: -BITS[tensor.dtype])
        at += tensor.span.length
    return kept


def rewrite_index(raw: bytes, names: Mapping[str, str | None], sizes: Mapping[str, int], label: str) -> bytes | None:
    """Return the index of shards `raw` with `names` renamed or gone, or None where it tells of none of them.

    `sizes` are the bytes of the tensors that are gone: the index's total gets smaller by those it listed. Raises
    CheckpointError, naming `label`, where it is not JSON in UTF-8 that can be written again.
    """
    index = _parsed(raw, label)
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not names.keys() & weight_map.keys():
        return None
    kept = {name: names.get(name, name) for name in weight_map}
    total = index["metadata"].get("total_size") if isinstance(index.get("metadata"), dict) else None
    if type(total) is int:
        gone = sum(sizes.get(name, 0) for name, new in kept.items() if new is None)
        index["metadata"] = {**index["metadata"], "total_size": max(total - gone, 0)}
    index["weight_map"] = {new: weight_map[name] for name, new in kept.items() if new is not None}
    return spelled_alike(raw, index)


def spelled_alike(raw: bytes, value: object) -> bytes:
    """Spell `value` as JSON in the manner in which `raw` is spelled, white space at the end included."""
    text = raw.decode("utf-8")
    body = text.rstrip()
    before = json.loads(body)
    style = next((style for style in _STYLES if json.dumps(before, **style) == body), _STYLES[0])
    return (json.dumps(value, **style) + text[len(body) :]).encode("utf-8")
