"""Write mask files: safetensors with one bit per weight of each pruned tensor, 1 for kept and 0 for pruned.

A tensor NAME has its bits in `NAME.bitmask`, U8 with a row per row of the tensor, whose dimensions after the first
count as one; the first weight of a row is the lowest bit of its first byte. `NAME.shape`, I64, is the tensor's shape.
This is the layout of compressed-tensors. The metadata has the SHA-256 of the weights that the mask was made of.
"""

from __future__ import annotations

import json
import os
from math import prod
from threading import Lock
from typing import TYPE_CHECKING

from prunecli.io.transfer import read_all, write_all
from prunecli.kernels.bits import pack_bits

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from prunecli.checkpoint import TensorInfo
    from prunecli.kernels.ops import Array

CONTENT = "mask of prunecli: 1 = kept, 0 = pruned; bits from the lowest"
"""The description of a mask in the metadata."""

BASE = "base_sha256"
"""The key of the metadata with the digests: a JSON object of names, and the SHA-256 of their weights.

It is that of the little-endian elements in row-major order, before pruning: `hashlib.sha256(array.tobytes())`.
"""

BITMASK, SHAPE = ".bitmask", ".shape"
"""The ends of the names of the two tensors of a mask."""

_NO_DIGEST = "0" * 64


def bit_rows(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return the (rows, columns) that the mask of a tensor of `shape` has: one row if the tensor has one dimension."""
    return (1, prod(shape)) if len(shape) < 2 else (shape[0], prod(shape[1:]))


def bitmask_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of the bytes that hold the mask of a tensor of `shape`."""
    rows, cols = bit_rows(shape)
    width = -(-cols // 8)
    return (width,) if len(shape) < 2 else (rows, width)


class MaskLayout:
    """The header of a mask file, and the position of each target's mask: in the order of the targets in the files.

    Attributes:
        rows: The (rows, columns) of each target's mask.
        starts: The offset of each target's mask, in bytes from the start of the file.
        size: The size of the file in bytes.
        with_base: Whether the file has the digests of the weights.
    """

    def __init__(self, targets: Sequence[TensorInfo], *, with_base: bool = False) -> None:
        """Lay out the masks of `targets`; with `with_base` the file has the digests of their weights."""
        self._names = [tensor.name for tensor in targets]
        self._shapes = [tensor.shape for tensor in targets]
        self.with_base = with_base
        self.rows = [bit_rows(shape) for shape in self._shapes]
        shapes = offset = 8 * sum(map(len, self._shapes))
        self._edges = [(0, 0)] * len(targets)
        for index in sorted(range(len(targets)), key=lambda index: (targets[index].file, targets[index].start)):
            rows, cols = self.rows[index]
            start, offset = offset, offset + rows * -(-cols // 8)
            self._edges[index] = start, offset
        data = len(self.head({})) - shapes
        self.starts = [data + start for start, _ in self._edges]
        self.size = data + offset

    def head(self, digests: Mapping[str, str]) -> bytes:
        """Return the bytes of the file before the bits; their number does not depend on `digests`."""
        metadata = {"format": "pt", "content": CONTENT}
        if self.with_base:
            base = {name: digests.get(name, _NO_DIGEST) for name in self._names}
            metadata[BASE] = json.dumps(base, separators=(",", ":"))
        header: dict[str, object] = {"__metadata__": metadata}
        end = 0
        for name, shape in zip(self._names, self._shapes, strict=True):
            size = 8 * len(shape)
            header[name + SHAPE] = {"dtype": "I64", "shape": [len(shape)], "data_offsets": [end, end + size]}
            end += size
        for name, shape, (start, stop) in zip(self._names, self._shapes, self._edges, strict=True):
            fields = {"dtype": "U8", "shape": list(bitmask_shape(shape)), "data_offsets": [start, stop]}
            header[name + BITMASK] = fields
        text = json.dumps(header, separators=(",", ":")).encode()
        # The safetensors library pads its headers in the same way.
        text += b" " * (-len(text) % 8)
        sizes = b"".join(size.to_bytes(8, "little") for shape in self._shapes for size in shape)
        return len(text).to_bytes(8, "little") + text + sizes


class MaskSink:
    """Writes a mask file. Several threads may write at the same time, in any order."""

    def __init__(self, fd: int, layout: MaskLayout) -> None:
        """Make `fd`, an empty file that can be read and written, as large as the mask, and write the header."""
        self._fd, self._layout, self._lock = fd, layout, Lock()
        os.ftruncate(fd, layout.size)
        self.finish({})

    @property
    def with_base(self) -> bool:
        """Whether the file has the digests of the weights."""
        return self._layout.with_base

    def finish(self, digests: Mapping[str, str]) -> None:
        """Write the header with the SHA-256 of the weights by name, in hexadecimal."""
        self._put(memoryview(self._layout.head(digests)), 0)

    def write(self, target: int, first: int, kept: Array) -> None:
        """Write the ones and zeros of a run of a target's weights; `first` is its first row-major element."""
        flags = memoryview(kept).cast("B")
        cols = self._layout.rows[target][1]
        width = -(-cols // 8)
        while flags:
            row, column = divmod(first, cols)
            start, whole = self._layout.starts[target] + row * width, 0 if column else len(flags) // cols
            if whole:
                size = whole * cols
                self._put(memoryview(pack_bits(flags[:size], whole, cols)), start)
            else:
                size = min(cols - column, len(flags))
                self._write_part(start + column // 8, column % 8, flags[:size], ends_row=column + size == cols)
            flags, first = flags[size:], first + size

    def _write_part(self, offset: int, lead: int, flags: memoryview, *, ends_row: bool) -> None:
        """Write a part of a row: its first flag is bit `lead` of the byte at `offset`."""
        bits = memoryview(pack_bits(bytes(lead) + flags.tobytes(), 1, lead + len(flags)))
        last = len(bits) - 1
        # The first and the last byte may have bits of other runs.
        shared = {0} if lead else set()
        if (lead + len(flags)) % 8 and not ends_row:
            shared.add(last)
        for index in shared:
            self._merge(offset + index, bits[index])
        begin, end = int(0 in shared), len(bits) - (last in shared)
        self._put(bits[begin:end], offset + begin)

    def _merge(self, offset: int, bits: int) -> None:
        byte = memoryview(bytearray(1))
        with self._lock:
            self._get(byte, offset)
            byte[0] |= bits
            self._put(byte, offset)

    def _get(self, data: memoryview, offset: int) -> None:
        read_all(self._fd, data, offset)

    def _put(self, data: memoryview, offset: int) -> None:
        write_all(self._fd, data, offset)
