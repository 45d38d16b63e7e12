"""Invalid safetensors files, for the tests of the reader and of the command line."""

from __future__ import annotations

from prunecli.checkpoint import MAX_RANK
from prunecli.formats.safetensors.reader import FORMAT_LIMIT
from support.handmade import container, entry

ONE = {"a": entry([1], [0, 4])}
TWO = '"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'

REFUSED: dict[str, tuple[bytes, str]] = {
    "2 seven bytes": (b"\2\0\0\0\0\0\0", "too small"),
    "3 length zero": (container(b""), "not valid JSON"),
    "4 length beyond the file": (container(b"{}", length=60), "truncated"),
    "5 length 2^63": (container(b"{}", length=1 << 63), "too large"),
    "5 length 2^64-1": (container(b"{}", length=(1 << 64) - 1), "too large"),
    "6 length 100,000,001": (container(b"{}", length=FORMAT_LIMIT + 1), "too large"),
    "8 not UTF-8": (container(b"{\xff}"), "not UTF-8"),
    "8 byte order mark": (container(b"\xef\xbb\xbf{}"), "not valid JSON"),
    "8 list": (container(b"[]"), "not a JSON object"),
    "8 NUL padding": (container(b"{}\0\0"), "not valid JSON"),
    "8 second value": (container(b"{}{}"), "not valid JSON"),
    "8 NaN": (container('{"__metadata__":{"a":NaN}}'), "not valid JSON"),
    "10 duplicate tensor": (container("{" + TWO + "," + TWO + "}", bytes(4)), "twice"),
    "10 duplicate metadata": (container('{"__metadata__":{},"__metadata__":{}}'), "twice"),
    "10 duplicate field": (
        container('{"a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}}', bytes(4)),
        "unique fields",
    ),
    "11 integer in metadata": (container({"__metadata__": {"n": 3}, **ONE}, bytes(4)), "not a string"),
    "13 hole at the start": (container({"a": entry([1], [4, 8])}, bytes(8)), "belong to no tensor"),
    "13 hole between": (container({**ONE, "b": entry([1], [8, 12])}, bytes(12)), "belong to no tensor"),
    "14 trailing bytes": (container(ONE, bytes(5)), "1 bytes after its last tensor"),
    "14 bytes and no tensor": (container({}, bytes(1)), "1 bytes after"),
    "15 truncated data": (container(ONE, bytes(3)), "truncated"),
    "16 same region": (container({**ONE, "b": entry([1], [0, 4])}, bytes(4)), "overlaps"),
    "16 partial overlap": (container({**ONE, "b": entry([1], [2, 6])}, bytes(6)), "overlaps"),
    "16 empty tensor inside another": (container({**ONE, "b": entry([0], [2, 2])}, bytes(4)), "overlaps"),
    "17 reversed offsets": (container({"a": entry([1], [4, 0])}, bytes(4)), "not a start and an end"),
    "17 negative offset": (container({"a": entry([1], [-4, 0])}, bytes(4)), "data_offsets"),
    "17 three offsets": (container({"a": entry([1], [0, 4, 8])}, bytes(4)), "not a start and an end"),
    "18 size is not the shape's": (container({"a": entry([2], [0, 4])}, bytes(4)), "does not match the"),
    "18 bits that are no bytes": (container({"a": entry([3], [0, 1], "F4")}, bytes(1)), "does not match the"),
    "19 shape overflow": (container({"a": entry([2**32, 2**32], [0, 0])}), "too many elements"),
    "19 overflow before a zero": (container({"a": entry([2**62, 2**62, 0], [0, 0])}), "too many elements"),
    "19 bits overflow": (container({"a": entry([2**61], [0, 0])}), "too many elements"),
    "19 dimension 2^64": (container({"a": entry([2**64, 0], [0, 0])}), "the shape"),
    "19 dimension of 5000 digits": (
        container('{"a":{"dtype":"F32","shape":[' + "9" * 5000 + '],"data_offsets":[0,0]}}'),
        "the shape",
    ),
    "19 negative dimension": (container({"a": entry([-1], [0, 4])}, bytes(4)), "the shape"),
    "19 fraction": (container('{"a":{"dtype":"F32","shape":[1.0],"data_offsets":[0,4]}}', bytes(4)), "shape"),
    "19 true is no size": (container({"a": entry([True], [0, 4])}, bytes(4)), "the shape"),
    "19 rank bomb": (container({"a": entry([0] + [2**63] * MAX_RANK, [0, 0])}), "at most 64"),
    "23 unknown dtype": (container({"a": entry([1], [0, 4], "F33")}, bytes(4)), "unknown dtype: 'F33'"),
    "23 C128 is not safetensors'": (container({"a": entry([1], [0, 16], "C128")}, bytes(16)), "unknown dtype"),
    "23 dtype list": (container('{"a":{"dtype":[],"shape":[1],"data_offsets":[0,4]}}', bytes(4)), "dtype"),
    "23 missing field": (container('{"a":{"dtype":"F32","shape":[1]}}', bytes(4)), "data_offsets"),
    "23 entry is a string": (container('{"a":"F32"}'), "not described by a JSON object"),
    "26 list bomb": (container("[" * 100_000), "nested too deeply"),
    "26 object bomb": (container('{"":' * 100_000), "nested too deeply"),
    "26 bomb in an unknown field": (container('{"a":{"x":' + "[" * 100_000), "nested too deeply"),
    "28 tensor called __metadata__": (container({"__metadata__": entry([1], [0, 4])}, bytes(4)), "not a string"),
    "half a surrogate pair": (container('{"\\ud800":' + TWO[4:] + "}", bytes(4)), "not valid Unicode"),
    "control character in JSON": (container('{"a\n":' + TWO[4:] + "}", bytes(4)), "not valid JSON"),
}
"""Invalid files and a part of their messages, numbered as in the list of bad inputs."""
