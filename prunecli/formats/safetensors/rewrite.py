"""Plan a safetensors file with some tensors renamed and others removed.

Header entries and metadata keep their order and style. No tensor data is read.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, BinaryIO

from prunecli.dtypes import BITS
from prunecli.formats.json_rewrite import format_like, parse_json
from prunecli.formats.safetensors.reader import read_safetensors
from prunecli.io.parts import FilePlan

if TYPE_CHECKING:
    from collections.abc import Mapping

    from prunecli.checkpoint import TensorInfo

_ALIGNMENT = 8  # the safetensors library pads its headers with spaces to a multiple of this


def rewrite_safetensors(file: BinaryIO, label: str, names: Mapping[str, str | None]) -> FilePlan:
    """Return the plan of the safetensors `file` with tensors renamed or removed.

    `names` maps the name of each such tensor to its new name, or to None to remove it. The data keeps its order. If
    a tensor would lose its alignment, wider elements come first, as the safetensors library writes them. Raises
    CheckpointError, naming `label`, if the header is invalid.
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
    header = {
        names.get(name) or name: {**entry, "data_offsets": offsets[name]} if name in offsets else entry
        for name, entry in parse_json(raw, label).items()
        if name in offsets or name == "__metadata__"
    }
    return FilePlan((_header(raw, header), *(tensor.span for tensor in kept)))


def _header(raw: bytes, header: dict[str, Any]) -> bytes:
    text = format_like(raw, header).rstrip()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def _ordered(tensors: list[TensorInfo], base: int) -> list[TensorInfo]:
    """Return the tensors in the order of their new data; the old data starts at offset `base`."""
    kept = sorted(tensors, key=lambda tensor: (tensor.span.start, tensor.span.end))
    offset = 0
    for tensor in kept:
        width = math.ceil(BITS[tensor.dtype] / 8)
        if offset % width and not (tensor.span.start - base) % width:
            return sorted(kept, key=lambda tensor: -BITS[tensor.dtype])
        offset += tensor.span.length
    return kept
