"""The objects of an HDF5 file: their header messages, and the links of groups (HDF5 File Format Specification 3.0)."""

from __future__ import annotations

import os
from struct import unpack_from
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from prunecli.checkpoint import Span
from prunecli.errors import CheckpointError
from prunecli.formats.hdf5.format import SIGNATURE

if TYPE_CHECKING:
    from collections.abc import Iterator

UNDEFINED = (1 << 64) - 1
"""The address of what is not there."""

DATASPACE, LINK_INFO, DATATYPE, EXTERNAL_FILES, LINK, LAYOUT, FILTERS = 1, 2, 3, 7, 6, 8, 11
CONTINUATION, SYMBOL_TABLE = 16, 17
_KEPT = frozenset({DATASPACE, LINK_INFO, DATATYPE, EXTERNAL_FILES, LINK, LAYOUT, FILTERS, CONTINUATION, SYMBOL_TABLE})
"""The types of messages that are looked at; attributes are not."""

MOST_STRUCTURES = 1 << 19
"""The most structures of a file that are read; each object has a few."""

LONGEST = 1 << 24
"""The most bytes of one structure."""

_ENTRY = 40  # bytes of an entry of a symbol table
_HARD = 0  # the type of a link to an object in the same file


class Message(NamedTuple):
    """A message of an object header; `shared` if its content is elsewhere."""

    kind: int
    shared: bool
    data: bytes


class Structures:
    """Reads structures of a file and keeps their places. Addresses count from the start of the file."""

    def __init__(self, file: BinaryIO) -> None:
        """Read from `file`."""
        self._file, self.size = file, file.seek(0, os.SEEK_END)
        self.places: list[Span] = []
        self._nodes: set[int] = set()

    def read(self, address: int, length: int, signature: bytes = b"") -> bytes:
        """Return the bytes at `address`, which begin with `signature`; ValueError if they are not in the file."""
        if length > LONGEST or address + length > self.size:
            raise ValueError(f"a structure of {length:,} bytes at byte {address} is not in it")
        if len(self.places) >= MOST_STRUCTURES:
            raise ValueError(f"it has more than {MOST_STRUCTURES:,} structures")
        self.places.append(Span(address, length))
        self._file.seek(address)
        data = self._file.read(length)
        if len(data) < length or not data.startswith(signature):
            what = signature[:4].decode("ascii", "backslashreplace") or "structure"
            raise ValueError(f"there is no {what} at byte {address}")
        return data

    def enter(self, address: int) -> None:
        """Note a node of a tree; ValueError if it is entered again, because then the tree has a cycle."""
        if address in self._nodes:
            raise ValueError(f"its B-tree enters the node at byte {address} twice")
        self._nodes.add(address)


def root_address(structures: Structures, label: str) -> int:
    """Return the address of the root group, from the superblock; refuse files that are cut short."""
    version = structures.read(0, 16, SIGNATURE)[8]
    old = version < 2
    if version > 3:
        raise ValueError(f"its superblock has the unknown version {version}")
    data = structures.read(0, {0: 96, 1: 100}.get(version, 48))
    sizes = data[13:15] if old else data[9:11]
    if sizes != b"\x08\x08":
        raise ValueError("its addresses do not have 8 bytes")
    base, _, end, _ = unpack_from("<4Q", data, {0: 24, 1: 28}.get(version, 12))
    if base:
        raise ValueError(f"its addresses count from byte {base}")
    if end > structures.size:
        raise CheckpointError(
            f"{label} is truncated: it should have {end:,} bytes and has {structures.size:,}",
            hint="download or copy the file again",
        )
    (root,) = unpack_from("<Q", data, {0: 64, 1: 68}.get(version, 36))
    return int(root)


def messages(structures: Structures, address: int) -> list[Message]:
    """Return the messages of the object header at `address`, of the kinds that are looked at."""
    start = structures.read(address, 16)
    found: list[Message] = []
    if start.startswith(b"OHDR"):
        block, order = _first_block(structures, address)
        blocks = [(block, 4, order)]
    else:
        if start[0] != 1:
            raise ValueError(f"there is no object header at byte {address}")
        (size,) = unpack_from("<I", start, 8)
        blocks = [(structures.read(address + 16, size), 8, False)]
    for block, width, order in blocks:  # it grows: a continuation is one more block
        for message in _in_block(block, width, order=order):
            if message.kind == CONTINUATION:
                structures.enter(unpack_from("<Q", message.data)[0])
                blocks.append((_continued(structures, message.data, old=width == 8), width, order))
            else:
                found.append(message)
    return found


def _first_block(structures: Structures, address: int) -> tuple[bytes, bool]:
    """Return the messages in an object header of version 2, and whether they have an order of creation."""
    head = structures.read(address, 6, b"OHDR")
    version, flags = head[4], head[5]
    if version != 2:
        raise ValueError(f"an object header has the unknown version {version}")
    start = address + 6 + 16 * bool(flags & 32) + 4 * bool(flags & 16)
    width = 1 << (flags & 3)
    size = int.from_bytes(structures.read(start, width), "little")
    return structures.read(start + width, size), bool(flags & 4)


def _continued(structures: Structures, data: bytes, *, old: bool) -> bytes:
    address, length = unpack_from("<2Q", data)
    if old:
        return structures.read(address, length)
    return structures.read(address, length, b"OCHK")[4:-4]  # without its checksum


def _in_block(block: bytes, width: int, *, order: bool) -> Iterator[Message]:
    """Yield the messages of a block; `width` are the bytes before the data of a message."""
    place, extra = 0, 2 * order
    while place + width + extra <= len(block):
        kind, size, flags = unpack_from("<HHB" if width == 8 else "<BHB", block, place)
        place += width + extra
        if place + size > len(block):
            raise ValueError("a message of an object header is cut short")
        if kind in _KEPT:
            yield Message(kind, bool(flags & 2), block[place : place + size])
        place += size


def links(structures: Structures, found: list[Message], label: str) -> Iterator[tuple[str, int]]:
    """Yield the name and the address of each object that a group links to; links by path are passed over."""
    for message in found:
        if message.kind == SYMBOL_TABLE:
            yield from _symbols(structures, *unpack_from("<2Q", message.data))
        elif message.kind == LINK:
            link = _link(message.data)
            if link is not None:
                yield link
        elif message.kind == LINK_INFO and _is_dense(message.data):
            raise CheckpointError(
                f"{label} cannot be pruned in place: one of its groups has its objects in a fractal heap",
                hint="write it again with h5py.File(path, 'w'), without libver='latest' and track_order=True",
            )


def _is_dense(data: bytes) -> bool:
    (heap,) = unpack_from("<Q", data, 10 if data[1] & 1 else 2)
    return bool(heap != UNDEFINED)


def _link(data: bytes) -> tuple[str, int] | None:
    """Return the name and the address of a hard link, None for another one."""
    flags, place = data[1], 2
    kind = data[place] if flags & 8 else _HARD
    place += bool(flags & 8) + 8 * bool(flags & 4) + bool(flags & 16)
    width = 1 << (flags & 3)
    length = int.from_bytes(data[place : place + width], "little")
    place += width
    if kind != _HARD:
        return None
    (address,) = unpack_from("<Q", data, place + length)
    return _decoded(data[place : place + length]), int(address)


def _symbols(structures: Structures, tree: int, heap: int) -> Iterator[tuple[str, int]]:
    """Yield the entries of a group in the form of HDF5 before 1.8: a B-tree of tables, and a heap of names."""
    size, _, start = unpack_from("<3Q", structures.read(heap, 32, b"HEAP"), 8)
    names = structures.read(start, size)
    for table in _tables(structures, tree):
        (count,) = unpack_from("<H", structures.read(table, 8, b"SNOD"), 6)
        data = structures.read(table + 8, _ENTRY * count)
        for place in range(0, len(data), _ENTRY):
            name, address, cache = unpack_from("<2QI", data, place)
            if cache != 2:  # a link by path
                yield _text(names, name), int(address)


def _tables(structures: Structures, root: int) -> Iterator[int]:
    """Yield the addresses of the symbol tables below a node of a B-tree, in order."""
    nodes = [(root, -1)]
    while nodes:
        address, expected = nodes.pop()
        if not expected:  # a child of a node of level 0
            structures.enter(address)
            yield address
            continue
        structures.enter(address)
        kind, level, count = unpack_from("<2BH", structures.read(address, 24, b"TREE"), 4)
        if kind or expected not in {-1, level + 1}:
            raise ValueError(f"the node of a B-tree at byte {address} is not one of a group, or of another level")
        children = unpack_from("<" + "8xQ" * count, structures.read(address + 24, 16 * count))
        nodes += [(child, level) for child in reversed(children)]


def _text(names: bytes, start: int) -> str:
    end = names.find(b"\0", start)
    if start >= len(names) or end < 0:
        raise ValueError("the name of an object is not in its heap")
    return _decoded(names[start:end])


def _decoded(name: bytes) -> str:
    try:
        return name.decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError("the name of an object is not UTF-8 text") from None
