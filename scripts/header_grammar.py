"""Generate files of safetensors and NumPy from a grammar of their headers: most are valid but for one or two parts."""

from __future__ import annotations

import io
import json
import pickle
import random
import zipfile
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")
_SIZES = {"F32": 4, "F16": 2, "BF16": 2, "F64": 8, "I64": 8, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "C64": 8, "U16": 2}
_ODD_DTYPES = ["F4", "F6_E2M3", "F8_E8M0", "f32", "F33", "", "C128", "F8_E5M2", "F8_E4M3FNUZ", "I16"]
_ODD_NUMBERS = ["-1", "1.0", "1e0", "true", "null", '"2"', "[2]", "01", "+1", "18446744073709551616", "0", "4294967296"]
_ODD_NUMBERS += ["18446744073709551615", "9223372036854775808", "1E2", "-0", "NaN", "2 ", " 2", "{}", "1_0"]
_SPACES = ["", "", "", " ", "\n", "\t", "  ", "\r", "\x0b", "\xa0", "\x00", "/**/"]
_NAMES = ["a.weight", "b.weight", "", "\u00e9", "a b", "__metadata__", "w\u0000", "\U0001f600", "x" * 300, "A.weight"]
_RAW_NAMES = [r'"\u0061.weight"', r'"\ud800"', r'"\ud83d\ude00"', '"\t"', r'"\x"', r'"a\/b"', "'a'", "a", '"\x7f"']
_DESCRS = ["'<f4'", "'<f4'", "'>f4'", "'|b1'", "'<f8'", "'|u1'", "'<i8'", "'<f2'", "'>i2'", "'<c8'", "'|i1'", "'<u4'"]
_ODD_DESCRS = ["'=f4'", "'f4'", "'|f4'", "'<f3'", "'|O'", "'<U3'", "'|V4'", "'|S3'", "[('a', '<f4')]", "'<m8[s]'", "4"]
_ODD_DESCRS += [
    "'<f4' ",
    '"<f4"',
    "u'<f4'",
    "'>u1'",
    "'<b1'",
    "'?'",
    "'<f16'",
    "'|c8'",
    "None",
    "('<f4',)",
    "'<i4,<f4'",
]
_ODD_SHAPES = [
    "()",
    "(6)",
    "(2L, 3L)",
    "(0, 3)",
    "(-1,)",
    "(2, 3,)",
    "[6]",
    "6",
    "(True, 6)",
    "(2.0, 3)",
    "(6,,)",
    "( 6 ,)",
]
_ODD_SHAPES += [
    "(0x6,)",
    "(0_6,)",
    "(06,)",
    "(3*2,)",
    "(2, 3)L",
    "(9223372036854775807, 0)",
    "(,)",
    "(6L)",
    "(1, 6, 1)",
]


def made(kind: str, seed: int) -> bytes:
    """Return the file of a kind for a seed."""
    return _MAKERS[kind](random.Random(f"{kind} {seed}"))


def _often(rng: random.Random, usual: T, odd: list[T], chance: float = 0.06) -> T:
    return rng.choice(odd) if rng.random() < chance else usual


# --- safetensors


def _safetensors(rng: random.Random) -> bytes:
    space = rng.choice(_SPACES) if rng.random() < 0.4 else ""
    entries, at = list[str](), 0
    for name in rng.sample(_NAMES, rng.randint(0, 4)):
        dtype = rng.choice([*_SIZES])
        shape = [rng.randint(0, 3) for _ in range(rng.randint(0, 3))]
        length = int(np.prod(shape, dtype=int)) * _SIZES[dtype]
        start = at + _often(rng, 0, [-1, 1, 4, -4], 0.03)
        end = start + length + _often(rng, 0, [-1, 1], 0.02)
        at = max(end, 0)
        entries.append(_entry(rng, name, _often(rng, dtype, _ODD_DTYPES, 0.03), (shape, [start, end]), space))
    if rng.random() < 0.3:
        entries.insert(rng.randint(0, len(entries)), f'"__metadata__":{space}{_metadata(rng)}')
    if entries and rng.random() < 0.05:
        entries.append(rng.choice(entries))
    rng.shuffle(entries)
    text = "{" + f",{space}".join(entries) + _often(rng, "}", ["},", "", "}}", ",}", "}\x00", "} x"], 0.02)
    header = (_often(rng, "", [" ", "\ufeff", "\n"], 0.03) + text).encode("utf-8", "surrogatepass")
    header += b" " * rng.choice([0, -len(header) % 8, 3])
    size = len(header) + _often(rng, 0, [-1, 1, 8, 1 << 40], 0.02)
    data = bytes(rng.randrange(256) for _ in range(max(0, at + _often(rng, 0, [-1, 1, 8], 0.03))))
    return max(size, 0).to_bytes(8, "little") + header + data


def _entry(rng: random.Random, name: str, dtype: str, numbers: tuple[list[int], list[int]], space: str) -> str:
    label = _often(rng, json.dumps(name, ensure_ascii=rng.random() < 0.5), _RAW_NAMES, 0.04)
    shape, offsets = (f"[{f',{space}'.join(_number(rng, n) for n in part)}]" for part in numbers)
    fields = [f'"dtype":{space}{json.dumps(dtype)}', f'"shape":{shape}', f'"data_offsets":{space}{offsets}']
    if rng.random() < 0.08:
        odd = ['"x": 1', '"shape": [1]', '"dtype": "U8"', '"x": {"y": [null, {}]}', '"data_offsets": [0, 0]', '"":""']
        fields.append(rng.choice(odd))
    if rng.random() < 0.03:
        fields.pop(rng.randrange(len(fields)))
    rng.shuffle(fields)
    return f"{label}{space}:{space}{{{f'{space},'.join(fields)}}}"


def _number(rng: random.Random, number: int) -> str:
    return _often(rng, str(number), _ODD_NUMBERS, 0.015)


def _metadata(rng: random.Random) -> str:
    odd = [
        "null",
        "[]",
        '"x"',
        '{"a": 1}',
        '{"a": null}',
        '{"a": "b", "a": "c"}',
        '{"\\ud800": ""}',
        '{"a": {"b": ""}}',
    ]
    return _often(rng, '{"format": "pt"}', ["{}", *odd], 0.5)


# --- NumPy


def _npy(rng: random.Random) -> bytes:
    descr, shape = _often(rng, rng.choice(_DESCRS), _ODD_DESCRS, 0.15), rng.choice(["(2, 3)", "(6,)", "(3, 1, 2)"])
    fields = [
        f"'descr': {descr}",
        f"'fortran_order': {_often(rng, rng.choice(['True', 'False']), ['1', '0', 'None', chr(39) * 2, 'true'], 0.05)}",
        f"'shape': {_often(rng, shape, _ODD_SHAPES, 0.15)}",
    ]
    if rng.random() < 0.06:
        fields.append(rng.choice(["'x': 1", *fields]))
    if rng.random() < 0.03:
        fields.pop(rng.randrange(len(fields)))
    if rng.random() < 0.2:
        rng.shuffle(fields)
    space = rng.choice(["", " ", "  ", "\n", "\t", "\\\n"]) if rng.random() < 0.2 else " "
    tail = _often(rng, ", }", ["}", ",}", " }", "", "} ", ", } x", "}#", "};"], 0.2)
    text = "{" + f",{space}".join(fields) + tail
    text = text.replace("'", '"') if rng.random() < 0.05 else text
    version = rng.choice([1, 1, 1, 2, 3, rng.choice([0, 4])])
    raw = text.encode("utf-8" if version == 3 else "latin-1")
    raw += b" " * (-(len(raw) + 11) % rng.choice([16, 64, 64, 1])) + _often(rng, b"\n", [b"", b" ", b"\0"], 0.05)
    size = (len(raw) + _often(rng, 0, [-1, 1, 9], 0.03)).to_bytes(2 if version == 1 else 4, "little")
    data = bytes(rng.randrange(256) for _ in range(rng.choice([6, 12, 24, 48]) + _often(rng, 0, [-1, 1, 8], 0.1)))
    return b"\x93NUMPY" + bytes([version, 0]) + size + raw + data


def _npz(rng: random.Random) -> bytes:
    buffer = io.BytesIO()
    method = rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for _ in range(rng.randint(1, 3)):
            name = rng.choice(["a.npy", "b.npy", "a", "c/d.npy", "a.npy.npy", ".npy", "\u00e9.npy", "x.txt", "A.npy"])
            if name not in archive.namelist():
                archive.writestr(name, b"text" if name == "x.txt" else _valid_npy(rng))
    return _damaged(rng, buffer.getvalue(), 0.3)


def _valid_npy(rng: random.Random) -> bytes:
    if rng.random() < 0.3:
        return _npy(rng)
    buffer = io.BytesIO()
    np.save(buffer, _array(rng))
    return buffer.getvalue()


def _array(rng: random.Random) -> Any:  # noqa: ANN401 - an array
    dtype = rng.choice(["<f4", ">f4", "<f8", "<f2", "<i8", ">i2", "u1", "?", "<c8", "<U2", "i1"])
    shape = tuple(rng.randint(0, 3) for _ in range(rng.randint(0, 3)))
    array = np.arange(np.prod(shape, dtype=int)).astype(dtype).reshape(shape)
    return np.asfortranarray(array) if rng.random() < 0.3 else array.T if rng.random() < 0.2 else array


def _pickle(rng: random.Random) -> bytes:
    shared = _array(rng)
    values: dict[Any, Any] = {f"{i}.weight": _array(rng) for i in range(rng.randint(1, 3))}
    for key in rng.sample([*"abcdef", 1, None, 2.5, b"k"], rng.randint(0, 4)):
        values[key] = rng.choice(
            [
                shared,
                [shared, 1],
                (shared, _array(rng)),
                {"x": shared},
                3,
                "t",
                None,
                {"y": {"z": _array(rng)}},
                1.5,
                b"ab",
            ]
        )
    return _damaged(rng, pickle.dumps(values, rng.choice([2, 3, 4, 4, 5])), 0.5)


def _damaged(rng: random.Random, data: bytes, chance: float) -> bytes:
    """Return `data`, sometimes with a few bytes changed, left out or copied."""
    if rng.random() > chance:
        return data
    raw = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 3])):
        at, length = rng.randrange(len(raw)), rng.choice([1, 1, 2, 5])
        match rng.randrange(4):
            case 0:
                raw[at] = rng.randrange(256)
            case 1:
                del raw[at : at + length]
            case 2:
                raw[at:at] = raw[at : at + length]
            case _:
                raw[at] ^= 1 << rng.randrange(8)
        raw = raw or bytearray(b"x")
    return bytes(raw)


_MAKERS = {"safetensors": _safetensors, "npy": _npy, "npz": _npz, "pickle": _pickle}
