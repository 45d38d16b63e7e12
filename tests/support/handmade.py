"""Checkpoints built byte by byte, valid or not: safetensors, torch zips, legacy files and their pickles."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

W = struct.pack("<4f", 0.1, 2, 0.25, -3)
"""Four weights, F32: two rows of two."""

P = struct.pack("<4f", 0, 2, 0, -3)
"""The same weights after pruning with a threshold of 0.5."""

# --- safetensors


def container(header: Mapping[str, object] | str | bytes, data: bytes = b"", length: int | None = None) -> bytes:
    """Return a container with a header, dumped as JSON unless it is text, and `data`, without any check."""
    text = header if isinstance(header, str | bytes) else json.dumps(header, separators=(",", ":"))
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def entry(shape: Sequence[int] = (2, 2), offsets: Sequence[int] = (0, 16), dtype: str = "F32") -> dict[str, object]:
    """Return the header entry of a tensor, by default of four weights."""
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


# --- torch zips and pickles


def number(value: int) -> bytes:
    """Return the opcode that pushes a number."""
    return pickle.dumps(value, 2)[2:-1]


def text(value: str | bytes) -> bytes:
    """Return the opcode that pushes a text."""
    raw = value.encode() if isinstance(value, str) else value
    return b"X" + struct.pack("<I", len(raw)) + raw


def rebuilt(
    *,
    key: str = "0",
    numel: int = 4,
    offset: int = 0,
    size: Sequence[int] = (2, 2),
    strides: Sequence[int] = (2, 1),
    storage: str = "FloatStorage",
    location: str = "cpu",
) -> bytes:
    """Return the opcodes that rebuild a tensor, by default of four weights in the record data/0."""
    dims = [b"(" + b"".join(map(number, values)) + b"t" for values in (size, strides)]
    kind = b"ctorch\n" + storage.encode() + b"\n"
    pid = b"(" + text("storage") + kind + text(key) + text(location) + number(numel) + b"tQ"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + pid + number(offset) + dims[0] + dims[1] + b"\x89}tR"


def state_dict(tensors: Mapping[str, bytes]) -> bytes:
    """Return the pickle of a dict whose values are given as opcodes."""
    return b"\x80\x02}(" + b"".join(text(name) + value for name, value in tensors.items()) + b"u."


def archive(records: Mapping[str, bytes] | list[tuple[str, bytes]], method: int = zipfile.ZIP_STORED) -> bytes:
    """Return a zip archive of the records, in the same order."""
    buffer = io.BytesIO()
    pairs = records if isinstance(records, list) else list(records.items())
    with zipfile.ZipFile(buffer, "w", method) as target:
        for name, content in pairs:
            target.writestr(zipfile.ZipInfo(name), content, method)
    return buffer.getvalue()


def checkpoint(opcodes: bytes | None = None, data: bytes = W, **records: bytes) -> bytes:
    """Return a torch zip: a pickle (by default of one tensor), its storage data/0, and more records by name."""
    opcodes = state_dict({"a.weight": rebuilt()}) if opcodes is None else opcodes
    return archive({"m/data.pkl": opcodes, "m/data/0": data, **{f"m/{name}": value for name, value in records.items()}})


def with_tensor(**fields: Any) -> bytes:  # noqa: ANN401 - those of rebuilt
    """Return a torch zip with one tensor, described by `fields` of `rebuilt`."""
    return checkpoint(state_dict({"a.weight": rebuilt(**fields)}))


def patched(data: bytes, find: bytes, put: bytes, offset: int = 0, *, last: bool = False) -> bytes:
    """Return `data` with `put` written `offset` bytes after the first (or last) place of `find`."""
    place = (data.rindex(find) if last else data.index(find)) + offset
    return data[:place] + put + data[place + len(put) :]


def legacy(data: bytes, numel: int = 4, tail: bytes = b"") -> bytes:
    """Return the four weights in the legacy format, of torch before 1.6."""
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    head = b"".join(pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, system))
    pid = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + b"K\x04NtQ"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + pid + b"K\0K\2K\2\x86K\2K\1\x86\x89}tR"
    keys = pickle.dumps(["0"], 2)
    return head + state_dict({"a.weight": tensor}) + keys + struct.pack("<q", numel) + data + tail


# --- arrays of NumPy


def npy(text: str | bytes = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2), }", data: bytes = W) -> bytes:
    """Return a .npy file with the text of a header, by default of four weights, and `data`, without any check."""
    raw = text.encode() if isinstance(text, str) else text
    raw += b" " * (-(len(raw) + 11) % 64) + b"\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(raw)) + raw + data


# --- GGUF


def gguf_text(value: str | bytes) -> bytes:
    """Return a text with its length."""
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def gguf_tensor(name: str | bytes = "a.weight", shape: Sequence[int] = (2, 2), kind: int = 0, offset: int = 0) -> bytes:
    """Return the entry of a tensor, by default of four weights; sizes are innermost first."""
    return gguf_text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def gguf(
    *tensors: bytes,
    data: bytes = W,
    metadata: Sequence[bytes] = (),
    counts: tuple[int, int] | None = None,
    version: int = 3,
    alignment: int = 32,
) -> bytes:
    """Return a GGUF file of entries, by default of one tensor, without any check."""
    tensors = tensors or (gguf_tensor(),)
    head = b"GGUF" + struct.pack("<IQQ", version, *(counts or (len(tensors), len(metadata))))
    head += b"".join(metadata) + b"".join(tensors)
    return head + b"\0" * (-len(head) % alignment) + data


# --- ONNX


def varint(value: int) -> bytes:
    """Return a number of variable length; negative ones have ten bytes."""
    value %= 1 << 64
    parts = bytearray()
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])


def proto(*fields: tuple[int, int | bytes]) -> bytes:
    """Return a protobuf message of fields: their numbers, and whole numbers or bytes."""
    return b"".join(
        varint(number << 3) + varint(value)
        if isinstance(value, int)
        else varint(number << 3 | 2) + varint(len(value)) + value
        for number, value in fields
    )


def onnx_tensor(
    name: str | bytes = "a.weight", dims: Sequence[int] = (2, 2), kind: int = 1, *more: tuple[int, int | bytes]
) -> bytes:
    """Return a TensorProto, by default of the four weights."""
    raw = name.encode() if isinstance(name, str) else name
    more = more or ((9, W),)
    return proto(*((1, size) for size in dims), (2, kind), (8, raw), *more)


def onnx(*tensors: bytes, nodes: Sequence[bytes] = ()) -> bytes:
    """Return a model of initializers, by default of one."""
    graph = proto(*((1, node) for node in nodes), *((5, tensor) for tensor in tensors or (onnx_tensor(),)))
    return proto((1, 8), (2, b"test"), (7, graph))
