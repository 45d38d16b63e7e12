"""The bytes with which pickle writes one chunk, and one place of a chunk: regular expressions for them.

A `.metadata` has hundreds of thousands of both. What does not match is read opcode by opcode.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prunecli.formats.pickle.reader import Global
from prunecli.formats.pickle.writing import get_opcode

if TYPE_CHECKING:
    from collections.abc import Mapping

MOST_DIMENSIONS = 6
"""Chunks of more dimensions are read opcode by opcode, as are those of scalars."""

CHUNK_MEMOS, PLACE_MEMOS = 8, 7
"""The values that one chunk, and one place without its texts, store in the memo."""

FETCHES = (b"h", b"j")
"""The opcodes that fetch an entry of the memo: every chunk and every place begins with its class."""

_NUMBER = rb"(K.|M..|J....|\x8a\x05.{5}|\x8a\x06.{6})"
_INDEX = rb"(?:K.|M..|J....|N)"
_MADE = rb"\)\x81\x94}\x94\("  # an empty object, and the beginning of its attributes
_SIZE_END = rb"\x94\x85\x94R\x94"
_TUPLES = {1: rb"\x85", 2: rb"\x86", 3: rb"\x87"}

METADATA = "torch.distributed.checkpoint.metadata"
CHUNK, INDEX, PLACE = Global(METADATA, "ChunkStorageMetadata"), Global(METADATA, "MetadataIndex"), "_StorageInfo"
SIZE = Global("torch", "Size")
_ATTRIBUTES = frozenset({"offsets", "sizes", "fqn", "index", "offset", "relative_path", "length"})


@dataclass(frozen=True, slots=True)
class Known:
    """The expressions for one file, whose bytes name classes and attributes by their numbers in the memo.

    The groups of `chunk` are the offsets and the sizes. Those of `place` are the length and the text of the name, or
    else its number; the offsets; the length and the text of the path, or else its number; the start; the length.
    """

    chunk: re.Pattern[bytes]
    place: re.Pattern[bytes] | None


def is_part_of_known(value: object) -> bool:
    """Return whether the expressions depend on the number of `value` in the memo."""
    return isinstance(value, Global) or (isinstance(value, str) and value in _ATTRIBUTES)


def known(memo: Mapping[int, object], rank: int) -> Known | None:
    """Return the expressions for chunks of `rank` dimensions; None if a class or an attribute has no number yet."""
    numbers: dict[object, list[int]] = {}
    for number, value in memo.items():
        if is_part_of_known(value):
            numbers.setdefault(value, []).append(number)

    def fetch(value: object) -> bytes:
        return b"(?:%s)" % b"|".join(re.escape(get_opcode(number)) for number in numbers[value])

    if not {CHUNK, SIZE, "offsets", "sizes"} <= numbers.keys() or not 0 < rank <= MOST_DIMENSIONS:
        return None
    size = fetch(SIZE) + (_NUMBER * rank + _TUPLES[rank] if rank in _TUPLES else rb"\(" + _NUMBER * rank + b"t")
    size += _SIZE_END
    chunk = fetch(CHUNK) + _MADE + fetch("offsets") + size + fetch("sizes") + size + b"ub"
    place = next((value for value in numbers if isinstance(value, Global) and value.name == PLACE), None)
    parts: tuple[object, ...] = (INDEX, place, "fqn", "index", "offset", "relative_path", "length")
    if not numbers.keys() >= set(parts):
        return Known(re.compile(chunk, re.DOTALL), None)
    index, info, name, hint, offset, path, length = map(fetch, parts)
    text = rb"(?:\x8c(.)([ -~]{0,255})\x94|(h.|j....))"
    hint = b"(?:" + hint + _INDEX + b")?"
    key = index + _MADE + name + text + hint + offset + size + hint + b"ub"
    value = info + _MADE + path + text + offset + _NUMBER + length + _NUMBER + b"ub"
    return Known(re.compile(chunk, re.DOTALL), re.compile(key + value, re.DOTALL))


def fetched_number(raw: bytes) -> int:
    """Return the number in the memo that an opcode of `get_opcode` names."""
    return int.from_bytes(raw[1:], "little")


def number(raw: bytes) -> int:
    """Return the integer that an opcode with its argument pushes; ValueError for a negative one."""
    code = raw[0]
    if code == 0x4B:
        return raw[1]
    if code == 0x4D:
        return raw[1] | raw[2] << 8
    value = int.from_bytes(raw[1:] if code == 0x4A else raw[2:], "little", signed=True)
    if value < 0:
        raise ValueError("an offset or a size is negative")
    return value
