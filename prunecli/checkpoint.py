"""What a checkpoint holds, as values: where each tensor's bytes are and which checksums cover them.

Metadata only, never data; nothing here reads a file or knows any one format.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import lru_cache
from math import prod
from typing import TYPE_CHECKING, TypeAlias

from prunecli.dtypes import BITS

if TYPE_CHECKING:
    from pathlib import Path

PathLike: TypeAlias = str | os.PathLike[str]
"""What functions take as a path."""

OUTSIDE = "outside the state_dict"
"""Why a tensor elsewhere in a nested checkpoint is left as it is: `TensorInfo.fixed`."""


@dataclass(frozen=True, slots=True)
class Span:
    """A run of bytes in a file."""

    start: int  # bytes from the start of the file
    length: int  # bytes

    @property
    def end(self) -> int:
        """One past the last byte."""
        return self.start + self.length


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One named tensor: its type, its shape, and where its elements lie.

    `file` is an index into `Checkpoint.files`. `span` is the storage the tensor looks into; several tensors may
    share one. `strides` and `offset` (of element [0, ..., 0] inside the span) count elements.
    `fixed`, where set, says why the tensor must be left as it is, whatever the patterns say.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    file: int
    span: Span
    offset: int = 0
    big_endian: bool = False
    unprunable_reason: str | None = None

    @property
    def numel(self) -> int:
        """How many elements the tensor has."""
        return prod(self.shape)

    @property
    def itemsize(self) -> int:
        """Bytes per element (whole bytes: the 4- and 6-bit dtypes are never looked into)."""
        return BITS[self.dtype] // 8

    @property
    def nbytes(self) -> int:
        """Bytes the elements take when packed."""
        return self.numel * BITS[self.dtype] // 8

    @property
    def extent(self) -> int:
        """Elements from the first to one past the last that the strides reach; 0 for an empty tensor."""
        if not self.numel:
            return 0
        return 1 + sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True))

    @property
    def start(self) -> int:
        """The byte in the file where element [0, ..., 0] is."""
        return self.span.start + self.offset * self.itemsize

    @property
    def end(self) -> int:
        """One past the last byte in the file that belongs to an element."""
        return self.start + self.extent * self.itemsize

    @property
    def contiguous(self) -> bool:
        """Whether the elements lie in row-major order without gaps."""
        return _is_row_major(self.shape, self.strides)


@dataclass(frozen=True, slots=True)
class Checksum:
    """A CRC-32 over `span`, stored as four little-endian bytes at each of `places` (bytes from the file's start)."""

    span: Span
    value: int
    places: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class CheckpointFile:
    """One file that holds tensors; `modified` is its time of change (ns) when they were looked up, if that is known."""

    path: Path
    size: int
    checksums: tuple[Checksum, ...] = ()
    modified: int | None = None


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A file, or a directory of shards: its tensors in checkpoint order, and what else is beside them.

    `path` is what the user named: the file, or the directory. `companions` are the directory's other files,
    relative to it, that an output directory needs too. `key` is the dotted path of the state_dict inside a
    nested checkpoint ("" for the top). `facts` are sentences about the container worth telling. `others` are
    entries that cannot be pruned where they lie, sparse or quantized: (name, what it is).
    """

    path: Path
    format: str
    files: tuple[CheckpointFile, ...]
    tensors: tuple[TensorInfo, ...]
    is_directory: bool = False
    other_files: tuple[Path, ...] = ()
    key: str = ""
    facts: tuple[str, ...] = field(default=())
    others: tuple[tuple[str, str], ...] = ()


def row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the strides, in elements, of a contiguous tensor of `shape`."""
    strides = []
    step = 1
    for n in reversed(shape):
        strides.append(step)
        step *= max(n, 1)
    return tuple(reversed(strides))


@lru_cache(maxsize=4096)
def _is_row_major(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    return all(n == 1 or s == want for n, s, want in zip(shape, strides, row_major(shape), strict=True))


def why_view(shape: tuple[int, ...], strides: tuple[int, ...]) -> str | None:
    """Say why a view of `shape` and `strides` cannot be pruned, or None where each position is a number of its own."""
    if not prod(shape):
        return None
    reach = 0  # the last element the narrower dimensions touch
    for stride, n in sorted((stride, n) for n, stride in zip(shape, strides, strict=True) if n > 1):
        if not stride:
            return "expanded view"
        if stride <= reach:
            return "view that overlaps itself"
        reach += stride * (n - 1)
    return None


RANK_LIMIT = 64
"""The most dimensions a tensor may have; it is also the most that NumPy can handle."""
