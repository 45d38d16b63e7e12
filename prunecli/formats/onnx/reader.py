"""List the initializers of an ONNX model, and constants of its graph, by their places (onnx/onnx.proto).

A minimal reader of the protobuf keeps the places of the numbers. The graph says what each of them is.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, BinaryIO

from prunecli.checkpoint import MAX_RANK, Span, TensorInfo, row_major
from prunecli.dtypes import BITS, FLOATS
from prunecli.errors import CheckpointError
from prunecli.formats.listing import Listing
from prunecli.formats.onnx.format import ONNX
from prunecli.formats.onnx.graph import Uses, read_node
from prunecli.formats.onnx.wire import Wire
from prunecli.formats.pickle.tensors import dimensions
from prunecli.text.escape import quoted

if TYPE_CHECKING:
    from collections.abc import Mapping

MOST_INITIALIZERS = 300_000

_DTYPES = {
    1: "F32",
    2: "U8",
    3: "I8",
    4: "U16",
    5: "I16",
    6: "I32",
    7: "I64",
    9: "BOOL",
    10: "F16",
    11: "F64",
    12: "U32",
    13: "U64",
    14: "C64",
    15: "C128",
    16: "BF16",
    17: "F8_E4M3",
    18: "F8_E4M3FNUZ",
    19: "F8_E5M2",
    20: "F8_E5M2FNUZ",
    24: "F8_E8M0",
}
"""The element types of TensorProto by their names in safetensors."""

_OTHER_TYPES = {8: "texts", 21: "4-bit integers", 22: "4-bit integers", 23: "4-bit floats"}
_NAME, _TYPE, _RAW, _LOCATION, _EXTERNAL, _DIMS = 8, 2, 9, 14, 13, 1
_PLACE = frozenset({"location", "offset", "length"})
_NUMBERS = {4: "F32", 10: "F64"}  # fields of numbers that are stored as raw ones would be, if they are packed


@dataclass(slots=True)
class _Tensor:
    """The fields of one TensorProto: `data` are its numbers in this file, by the number of the field."""

    name: str = ""
    kind: int = 0
    dims: list[int] = field(default_factory=list)
    data: dict[int, list[Span]] = field(default_factory=dict)
    external: dict[str, str] = field(default_factory=dict)
    is_external: bool = False
    seen: set[int] = field(default_factory=set)


def read_onnx(file: BinaryIO, label: str) -> Listing:
    """List the initializers of the main graph in file order; those in other files have `file` > 0.

    `Listing.data_files` names these files. Raises CheckpointError, with `label`, if the protobuf is damaged or if an
    initializer does not fit its place.
    """
    wire, size = Wire(file), file.seek(0, os.SEEK_END)
    try:
        graph = _graph(wire, Span(0, size))
        tensors = _initializers(wire, graph)
        uses = _uses(wire, graph, tensors)
        return _listing(tensors, uses)
    except ValueError as problem:
        raise CheckpointError(
            f"{label} is a damaged or truncated ONNX model: {problem}", hint="download or export it again"
        ) from problem


def _graph(wire: Wire, model: Span) -> Span:
    """Return the bytes of the graph of a ModelProto."""
    graphs = [value for number, value in wire.fields(model) if number == 7]
    if len(graphs) != 1 or isinstance(graphs[0], int):  # readers would merge two
        raise ValueError(f"it has {len(graphs)} graphs")
    return graphs[0]


def _initializers(wire: Wire, graph: Span) -> dict[str, _Tensor]:
    tensors: dict[str, _Tensor] = {}
    for number, value in wire.fields(graph):
        if number == 5:
            _add(tensors, _read_tensor(wire, value))
    return tensors


def _add(tensors: dict[str, _Tensor], tensor: _Tensor) -> None:
    if tensor.name in tensors:
        raise ValueError(f"it has two initializers named {quoted(tensor.name)}")
    if len(tensors) >= MOST_INITIALIZERS:
        raise ValueError(f"it has more than {MOST_INITIALIZERS:,} initializers")
    tensors[tensor.name] = tensor


def _read_tensor(wire: Wire, message: int | Span) -> _Tensor:
    """Return the fields of a TensorProto; ValueError for a field that readers could take differently."""
    tensor = _Tensor()
    if isinstance(message, int):
        raise ValueError("an initializer is a number")  # noqa: TRY004 - the file is wrong, not the caller
    for number, value in wire.fields(message):
        if number in {_NAME, _TYPE, _RAW, _LOCATION} and number in tensor.seen:
            raise ValueError(f"a field of the initializer {quoted(tensor.name)} is repeated")
        tensor.seen.add(number)
        if number == _DIMS and len(tensor.dims) <= MAX_RANK:
            tensor.dims += wire.numbers(value)[: MAX_RANK + 1]
        elif number == _NAME:
            tensor.name = wire.text(value)
        elif number == _EXTERNAL:
            key, text = _pair(wire, value)
            if key in _PLACE:
                tensor.external[key] = text
        elif isinstance(value, int) and number in {_TYPE, _LOCATION}:
            tensor.kind, tensor.is_external = (
                (value, tensor.is_external) if number == _TYPE else (tensor.kind, value == 1)
            )
        elif isinstance(value, Span) and number in {_RAW, *_NUMBERS} and len(tensor.data.get(number, ())) < 2:
            tensor.data.setdefault(number, []).append(value)
    return tensor


def _pair(wire: Wire, message: int | Span) -> tuple[str, str]:
    """Return the key and the value of a StringStringEntryProto."""
    texts = {number: wire.text(value) for number, value in wire.fields(message)} if isinstance(message, Span) else {}
    return texts.get(1, ""), texts.get(2, "")


def _uses(wire: Wire, graph: Span, tensors: dict[str, _Tensor]) -> Uses:
    """Return what the nodes do with the initializers; add the tensors of constant nodes to `tensors`."""
    uses = Uses({name: len(tensor.dims) for name, tensor in tensors.items()})
    for number, value in wire.fields(graph):
        if number != 1 or isinstance(value, int):
            continue
        node = read_node(wire, value)
        if node.op == "Constant" and node.outputs and node.value is not None:
            tensor = _read_tensor(wire, node.value)
            tensor.name = node.outputs[0]
            _add(tensors, tensor)
            uses.add_weight(tensor.name, len(tensor.dims))
        uses.add(node)
    return uses


def _listing(tensors: Mapping[str, _Tensor], uses: Uses) -> Listing:
    found: list[TensorInfo] = []
    others: list[tuple[str, str]] = []
    files: dict[str, int] = {}
    for name, tensor in tensors.items():
        entry = _entry(tensor, files)
        if isinstance(entry, TensorInfo):
            found.append(uses.described(entry))
        elif entry:
            others.append((name, entry))
    return Listing(
        ONNX.name, tuple(found), notes=uses.notes(), unprunable_entries=tuple(others), data_files=tuple(files)
    )


def _entry(tensor: _Tensor, files: dict[str, int]) -> TensorInfo | str:
    """Return the tensor, or what it is instead; "" for numbers that are no weights.

    `files` numbers the other files, from 1 on, in the order of their first tensor.
    """
    dtype = _DTYPES.get(tensor.kind)
    if dtype is None:
        return f"tensor of {_OTHER_TYPES.get(tensor.kind, f'the type {tensor.kind}')}"
    shape = _shape(tensor)
    nbytes = prod(shape) * BITS[dtype] // 8
    if tensor.is_external:
        file, span = _external(tensor, nbytes, files)
        return TensorInfo(tensor.name, dtype, shape, row_major(shape), file, span)
    spans = tensor.data.get(_RAW) or next((s for n, s in tensor.data.items() if _NUMBERS.get(n) == dtype), [])
    if len(spans) != 1 and nbytes:
        return "tensor whose numbers are stored one by one" if dtype in FLOATS else ""
    span = spans[0] if spans else Span(0, 0)
    if span.length != nbytes:
        raise ValueError(f"the initializer {quoted(tensor.name)} has {span.length:,} bytes instead of {nbytes:,}")
    return TensorInfo(tensor.name, dtype, shape, row_major(shape), 0, span)


def _shape(tensor: _Tensor) -> tuple[int, ...]:
    try:
        return dimensions(tensor.dims)
    except ValueError as problem:
        raise ValueError(f"the initializer {quoted(tensor.name)}: {problem}") from None


def _external(tensor: _Tensor, nbytes: int, files: dict[str, int]) -> tuple[int, Span]:
    """Return the number of the file with the tensor's bytes, and their place in it."""
    location, what = tensor.external.get("location", ""), f"the initializer {quoted(tensor.name)}"
    if not location:
        raise ValueError(f"{what} is in another file, which has no name")
    offset = _number(tensor.external.get("offset", "0"), what)
    length = _number(tensor.external.get("length", str(nbytes)), what)
    if length != nbytes:
        raise ValueError(f"{what} has {length:,} bytes instead of {nbytes:,}")
    return files.setdefault(location, len(files) + 1), Span(offset, nbytes)


def _number(text: str, what: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise ValueError(f"{what} is at the impossible place {quoted(text)} of another file")
    return int(text)
