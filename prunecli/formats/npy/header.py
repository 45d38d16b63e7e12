"""Read the header of a NumPy array: its dtype, its shape and its memory order (numpy/lib/format.py).

The header is the text of a Python dict. It is matched as text and never evaluated.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from prunecli.checkpoint import row_major
from prunecli.dtypes import NUMPY_DTYPES
from prunecli.formats.npy.format import MAGIC
from prunecli.formats.pickle.tensors import dimensions, usual_strides

TEXT_LIMIT = 10_000
"""The longest text of a header, in bytes: NumPy reads no longer one unless it trusts the file."""

LIMIT = len(MAGIC) + 6 + TEXT_LIMIT
"""The most bytes of a header: the magic number, the version, the length and the text."""

_FIELD = re.compile(
    r"""\s*(['"])(?P<key>descr|fortran_order|shape)\1\s*:\s*"""
    r"""(?P<value>'[^']*'|"[^"]*"|True|False|\([\d\s,L]*\)|\[.*\])\s*(?:,|(?=\s*\}))""",
    re.DOTALL,
)
_SIZE = re.compile(r"\s*(0+|[1-9]\d{0,19})L?\s*")  # Python 2 wrote L after long integers


@dataclass(frozen=True, slots=True)
class ArrayHeader:
    """The header of an array.

    Attributes:
        descr: The dtype as NumPy writes it, such as "<f4"; the text of a list for a structured one.
        shape: The size of each dimension.
        strides: The step of each dimension, in elements.
        size: The length of the header, in bytes: the numbers follow it.
    """

    descr: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    size: int

    @property
    def dtype(self) -> str | None:
        """The dtype by its name in safetensors, or None if it has none."""
        return NUMPY_DTYPES.get(self.descr[1:])

    @property
    def big_endian(self) -> bool:
        """Whether the numbers are stored in big-endian byte order."""
        return self.descr[:1] == ">"

    @property
    def kind(self) -> str:
        """What an array without such a dtype is, in words."""
        letter = self.descr[1:2]
        if self.descr.startswith("["):
            return "structured array"
        kinds = {"O": "array of Python objects", "U": "array of texts", "S": "array of texts"}
        if letter == "V":  # ml_dtypes stores bfloat16 and float8 so
            return f"array of raw bytes ({self.descr}), whose dtype .npy does not name"
        return kinds.get(letter, f"array of dtype {self.descr}")


def read_header(data: bytes) -> ArrayHeader:
    """Return the header at the start of `data`, of which LIMIT bytes are enough; ValueError if there is none."""
    if not data.startswith(MAGIC):
        raise ValueError("it does not begin as a NumPy array")
    version, prefix = data[6:7], 10 if data[6:7] == b"\1" else 12
    if version not in {b"\1", b"\2", b"\3"} or len(data) < prefix:
        raise ValueError("its header has an unknown version")
    length = int.from_bytes(data[8:prefix], "little")
    if length > TEXT_LIMIT:
        raise ValueError(f"its header has {length:,} bytes, at most {TEXT_LIMIT:,}")
    text = data[prefix : prefix + length]
    if len(text) < length:
        raise ValueError("its header is cut short")
    fields = _fields(text.decode("utf-8" if version == b"\3" else "latin-1"))
    shape = _shape(fields["shape"])
    strides = tuple(reversed(row_major(shape[::-1]))) if fields["fortran_order"] == "True" else row_major(shape)
    return ArrayHeader(fields["descr"].strip("'\""), shape, usual_strides(shape, strides), prefix + length)


def _fields(text: str) -> dict[str, str]:
    """Return the three fields of a header as text; ValueError unless it has exactly these."""
    problem = ValueError("its header is not the one of a NumPy array")
    if not text.startswith("{"):
        raise problem
    fields: dict[str, str] = {}
    place = 1
    while match := _FIELD.match(text, place):
        if match["key"] in fields:
            raise problem
        fields[match["key"]] = match["value"]
        place = match.end()
    quotes = fields.get("descr", "")[:1], fields.get("shape", "")[:1]
    if len(fields) != 3 or text[place:].strip() != "}" or quotes[0] not in {"'", '"', "["} or quotes[1] != "(":
        raise problem
    if fields["fortran_order"] not in {"True", "False"}:
        raise problem
    return fields


def _shape(text: str) -> tuple[int, ...]:
    parts = text[1:-1].split(",")
    if len(parts) == 1 and parts[0].strip():
        raise ValueError("its shape is no tuple")
    if not parts[-1].strip():
        parts.pop()
    sizes = [_SIZE.fullmatch(part) for part in parts]
    return dimensions([size and int(size[1]) for size in sizes])
