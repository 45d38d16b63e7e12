"""The first inputs of the fuzzer, and the damage it does: to bytes, records, opcodes and words.

All random numbers come from the generator that is passed in.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import re
import struct
import tempfile
import warnings
import zipfile
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from fuzz_distributed import METADATA, distributed_seed
from safetensors.torch import save

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

    from numpy.typing import NDArray

NUMBERS = (0, 1, 2, 3, 4, 7, 8, 64, 255, 256, 65535, 2**31 - 1, 2**31, 2**32, 2**53, 2**62, 2**63 - 1, 2**63, 2**64)
"""Numbers close to common limits."""


@dataclass(frozen=True, slots=True)
class Made:
    """An input as the records of a zip, or as a single record without a name."""

    name: str
    records: tuple[tuple[str, bytes], ...]

    def bytes(self) -> bytes:
        """Return the file."""
        if not self.records[0][0]:
            return self.records[0][1]
        buffer = io.BytesIO()
        with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w") as archive:
            warnings.simplefilter("ignore")  # about duplicate names
            for name, content in self.records:
                archive.writestr(name, content)
        return buffer.getvalue()


@cache
def seeds() -> tuple[Made, ...]:
    """Return small checkpoints of each format."""
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(6, 8, generator=generator)
    odd = torch.tensor([[float("nan"), float("inf"), -0.0, 1e-45, -1.0, 2.0]])
    flat = {"fc.weight": w, "fc.bias": w[0].clone(), "odd.weight": odd, "n": torch.tensor(3)}
    dtypes = [torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2, torch.int8]
    every = {f"{i}.weight": (w[i:] * 3).to(dtype) for i, dtype in enumerate(dtypes)}
    views = {
        "a.weight": w,
        "tied.weight": w,
        "t.weight": torch.randn(4, 6).t(),
        "e.weight": torch.ones(1, 8).expand(3, 8),
    }
    nested = {"epoch": 1, "state_dict": flat, "optimizer": {"state": {0: {"exp_avg": w * 2}}, "lr": 0.1}}
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    torch_values: list[object] = [flat, every, views, nested, module, [flat, (w,)], {"np": np.ones(3), **flat}]
    made = [Made("in.safetensors", (("", save(value)),)) for value in (flat, every)]
    made.append(Made("in.safetensors", (("", save(flat, {"format": "pt", "a": "b"})),)))
    for value in torch_values:
        made += [_zipped(_saved(value, protocol=protocol)) for protocol in (2, 4)]
        made += [Made("in.pth", (("", _saved(value, legacy=legacy)),)) for legacy in (False, True)]
    script, program = io.BytesIO(), io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(module.eval()), script)
        torch.export.save(torch.export.export(module.eval(), (torch.ones(2, 3),)), program)
    made += [_zipped(raw.getvalue()) for raw in (script, program)]
    made += [Made("in.pth", (("", raw.getvalue()),)) for raw in (script, program)]
    arrays = {name: t.numpy() for name, t in flat.items()}
    made += [Made("in.pdparams", (("", pickle.dumps(arrays, protocol)),)) for protocol in (2, 3, 4, 5)]
    made.append(Made(METADATA, (("", distributed_seed()[0]),)))
    return (*made, *_of_other_libraries(arrays))


def _of_other_libraries(arrays: dict[str, NDArray[Any]]) -> list[Made]:
    """Return the arrays in the formats of NumPy, and of the libraries that are installed."""
    npy, npz = io.BytesIO(), io.BytesIO()
    np.save(npy, arrays["fc.weight"])
    np.savez(npz, allow_pickle=False, **arrays)
    with zipfile.ZipFile(npz) as archive:
        made = [Made("in.npz", tuple((info.filename, archive.read(info)) for info in archive.infolist()))]
    made += [Made("in.npz", (("", npz.getvalue()),)), Made("in.npy", (("", npy.getvalue()),))]
    writers = {"h5py": _hdf5, "gguf": _gguf, "onnx": _onnx}
    for package, write in writers.items():
        if find_spec(package):
            made += [Made(f"in.{package}", (("", raw),)) for raw in write(arrays)]
    return made


def _hdf5(arrays: dict[str, NDArray[Any]]) -> list[bytes]:
    import h5py  # noqa: PLC0415 - it may be missing

    files = []
    for version in ("earliest", "v108"):
        buffer = io.BytesIO()
        with h5py.File(buffer, "w", libver=version) as file:
            for name, array in arrays.items():
                file.create_dataset(name.replace(".", "/"), data=array)
        files.append(buffer.getvalue())
    return files


def _gguf(arrays: dict[str, NDArray[Any]]) -> list[bytes]:
    import gguf  # noqa: PLC0415 - it may be missing

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "in.gguf")
        writer = gguf.GGUFWriter(path, "llama")
        writer.add_array("tokens", ["a", "b"])
        for name, array in arrays.items():
            writer.add_tensor(name, array)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return [path.read_bytes()]


def _onnx(arrays: dict[str, NDArray[Any]]) -> list[bytes]:
    from onnx import helper, numpy_helper  # noqa: PLC0415 - it may be missing

    nodes = [
        helper.make_node("Transpose", ["fc.weight"], ["t"], perm=[1, 0]),
        helper.make_node("MatMul", ["x", "t"], ["y"]),
        helper.make_node("Constant", [], ["c.weight"], value=numpy_helper.from_array(arrays["fc.weight"])),
    ]
    tensors = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    model: bytes = helper.make_model(helper.make_graph(nodes, "net", [], [], tensors)).SerializeToString()
    return [model]


def _saved(value: object, *, protocol: int = 2, legacy: bool = False) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, pickle_protocol=protocol, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


def _zipped(data: bytes) -> Made:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return Made("in.pth", tuple((info.filename, archive.read(info)) for info in archive.infolist()))


# --- damage


def damaged(made: Made, rng: random.Random, corpus: Sequence[Made]) -> Made:
    """Return `made` with a few random changes."""
    records = list(made.records)
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 6))):
        if records[0][0] and rng.random() < 0.15:
            records = _shuffled(records, rng)
        index = _which(records, rng)
        name, content = records[index]
        records[index] = name, _changed(name, content, rng, rng.choice(corpus))
    if records[0][0] and rng.random() < 0.1:
        return Made(made.name, (("", _bytes(Made(made.name, tuple(records)).bytes(), rng)),))
    return Made(made.name, tuple(records))


def _which(records: Sequence[tuple[str, bytes]], rng: random.Random) -> int:
    """Choose a record, most often one that is parsed as a pickle or as JSON."""
    parsed = [index for index, (name, _) in enumerate(records) if name.endswith((".pkl", ".json"))]
    return rng.choice(parsed) if parsed and rng.random() < 0.8 else rng.randrange(len(records))


def _shuffled(records: list[tuple[str, bytes]], rng: random.Random) -> list[tuple[str, bytes]]:
    """Drop, repeat, swap or rename a record."""
    at, other = rng.randrange(len(records)), rng.randrange(len(records))
    name, content = records[at]
    match rng.randrange(4):
        case 0:
            return records[:at] + records[at + 1 :] or records
        case 1:
            return [*records[:other], (name, content), *records[other:]]
        case 2:
            return [*records[:at], (records[other][0], content), *records[at + 1 :]]
        case _:
            new = rng.choice(
                ("x/data.pkl", f"../{name}", name.replace("archive", "a\x1b[1m"), name.upper(), f"{name}/")
            )
            return [*records[:at], (new, content), *records[at + 1 :]]


def _changed(name: str, content: bytes, rng: random.Random, other: Made) -> bytes:
    if rng.random() < 0.1:  # part of another input in place of a part of this one
        piece, (a, b) = rng.choice(other.records)[1], sorted(rng.randrange(len(content) + 1) for _ in range(2))
        start = rng.randrange(len(piece) + 1)
        return content[:a] + piece[start : start + rng.randrange(64)] + content[b if rng.random() < 0.5 else a :]
    if name.endswith(".json") or content[8:9] == b"{":
        return _json(content, rng)
    if content[:1] == b"\x80" and rng.random() < 0.8:
        return _opcodes(content, rng)
    return _bytes(content, rng)


def _bytes(content: bytes, rng: random.Random) -> bytes:
    """Flip, insert, remove, repeat or cut off bytes, or overwrite them with a number."""
    if not content:
        return rng.randbytes(rng.randrange(9))
    at, length = rng.randrange(len(content)), rng.choice((1, 1, 2, 4, 8, 30))
    before, here, after = content[:at], content[at : at + length], content[at + length :]
    number = struct.pack("<Q", rng.choice(NUMBERS) % 2**64)[:length]
    ways = (
        before + bytes([content[at] ^ 1 << rng.randrange(8)]) + content[at + 1 :],
        before + rng.randbytes(length) + after,
        before + rng.randbytes(length) + here + after,
        before + after,
        before + here * rng.choice((2, 3, 50)) + after,
        before,
        before + number + content[at + len(number) :],
    )
    return rng.choice(ways)


def _json(content: bytes, rng: random.Random) -> bytes:
    """Change a word of JSON text, with its length before it (safetensors) or without."""
    start = 8 if content[8:9] == b"{" else 0
    end = 8 + int.from_bytes(content[:8], "little") if start else len(content)
    words = re.findall(rb'"(?:[^"\\]|\\.)*"|-?[0-9]+|[a-z]+|[^\s]|\s+', content[start:end])
    if not words:
        return _bytes(content, rng)
    at, other = rng.randrange(len(words)), rng.choice(words)
    pool = [
        str(rng.choice(NUMBERS)).encode(),
        b"-1",
        b"1.5",
        b"1e9",
        b"null",
        b"[]",
        b"{}",
        b'"\\ud800"',
        b'"F4"',
        b'"C64"',
    ]
    pool += [other, other, other, b'"__metadata__"', b'"F8_E8M0"', b'"a\\u0000\\u001b[1m\\u202e.weight"', b"[" * 2000]
    match rng.randrange(4):
        case 0:
            del words[at]
        case 1:
            words.insert(at, rng.choice(pool))
        case 2:
            words[at : at + 1] = words[at : at + 3] * 2
        case _:
            words[at] = rng.choice(pool)
    text = b"".join(words)
    return (struct.pack("<Q", len(text)) if start and rng.random() < 0.9 else content[:start]) + text + content[end:]


def _opcodes(content: bytes, rng: random.Random) -> bytes:
    """Remove, repeat, move or replace opcodes of the first pickles in `content`."""
    cuts = _cuts(content)
    if len(cuts) < 3:
        return _bytes(content, rng)
    parts = [content[a:b] for a, b in pairwise(cuts)]
    at, other = rng.randrange(len(parts)), rng.randrange(len(parts))
    match rng.randrange(6):
        case 0:
            del parts[at]
        case 1:
            parts.insert(at, parts[other])
        case 2:
            parts[at], parts[other] = parts[other], parts[at]
        case 3:
            parts.insert(at, _opcode(rng))
        case 4:
            parts[at:at] = parts[other : other + rng.randrange(1, 40)] * rng.choice((1, 2, 30))
        case _:
            parts[at] = _opcode(rng)
    return b"".join(parts) + content[cuts[-1] :]


def _cuts(content: bytes) -> list[int]:
    """Return the offsets of the opcodes of the pickles at the start of `content`, and the end of the last one."""
    stream, cuts = io.BytesIO(content), [0]
    try:
        while stream.tell() < len(content):
            cuts += [place for _, _, place in pickletools.genops(stream) if place]
            cuts.append(stream.tell())
    except Exception:  # noqa: BLE001, S110 - pickletools cannot parse the rest
        pass
    return sorted(set(cuts))


def _opcode(rng: random.Random) -> bytes:
    """Return an opcode with a plausible argument, or a number, or any byte."""
    names = ["torch FloatStorage", "torch._utils _rebuild_tensor_v2", "collections OrderedDict", "torch Size"]
    names += ["torch._utils _rebuild_parameter", "builtins list", "posix system", "torch._tensor _rebuild_from_type_v2"]
    number = rng.choice(NUMBERS) * rng.choice((1, 1, 1, -1))
    choices = (
        b"c" + rng.choice(names).replace(" ", "\n").encode() + b"\n",
        pickle.dumps(number, 2)[2:-1],
        pickle.dumps(rng.choice(("state_dict", "0", "storage", "cpu", "a.weight", "\x1b[1m", 1.5, True, b"x")), 4)[
            11:-2
        ],
        bytes([rng.choice(b"()]}l\x8f0125abetsuQRN\x81\x92\x85\x86\x87\x88\x93\x94io.\x82P\x97")]),
        rng.choice(
            (b"h\0", b"q\0", b"h\1", b"q\1", b"j\xff\xff\xff\xff", b"X\xff\xff\xff\xff", b"\x8b\xff\xff\xff\x7f")
        ),
        bytes([rng.randrange(256)]),
    )
    return rng.choice(choices)
