"""The model of a checkpoint: its files, the position of each tensor in them, and their checksums.

Holds metadata only. Nothing here reads a file or depends on a format.
"""

from __future__ import annotations

import os
from dataclasses import field, replace
from functools import lru_cache
from math import prod
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from prunecli.dtypes import BITS
from prunecli.layout import TensorLayout, assumed_layout
from prunecli.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from prunecli.assembly import Assembly
    from prunecli.io.inflated import Inflated

PathLike: TypeAlias = str | os.PathLike[str]
"""A path as users pass it to functions."""

Keys: TypeAlias = "str | Sequence[str] | None"
"""The keys of state_dicts as users pass them: dotted paths or globs over them; None looks for the state_dict."""

MAX_RANK = 64
"""The largest number of dimensions that a tensor may have; NumPy has the same limit."""

MAX_SIZE = (1 << 63) - 1
"""The largest size, stride or offset of a tensor, in elements; torch and NumPy have the same limit."""

OUTSIDE = "outside the state_dict"
"""The `TensorInfo.unprunable_reason` of a tensor that is elsewhere in a nested checkpoint."""


class Span(NamedTuple):
    """A run of bytes in a file: `start` (bytes from the start of the file) and `length` (bytes)."""

    start: int
    length: int

    @property
    def end(self) -> int:
        """The offset of the first byte after the span."""
        return self.start + self.length


_UNKNOWN = assumed_layout(0)


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """The name, type, shape and position of one tensor.

    Attributes:
        name: The name in the state_dict, or the full path of a tensor outside it.
        dtype: A key of `prunecli.dtypes.BITS`, such as "F32".
        shape: The size of each dimension.
        strides: The step of each dimension, in elements.
        file: An index into `Checkpoint.streams`.
        span: The bytes of the storage that holds the elements. Several tensors may share one storage.
        offset: The position of element [0, ..., 0] in the storage, in elements.
        big_endian: Whether the elements are stored in big-endian byte order.
        unprunable_reason: A phrase that says why the tensor is never pruned, or None.
        key: The dotted path of its state_dict if the name starts with it: if several state_dicts are taken, or if this
            one is not taken. Else "".
        layout: Its role and the meaning of its dimensions. By default those of Linear and Conv are assumed.
        scale: The scale that its elements are multiplied by, or None if they are the weights themselves.
        packed: The weights that its numbers hold, or None if each element is one weight or part of one.
        numel: The number of elements, which follows from the shape. It is stored because it is asked for often.
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
    key: str = ""
    layout: TensorLayout = field(default=_UNKNOWN, compare=False, repr=False)
    scale: ScaledBy | None = field(default=None, compare=False, repr=False)
    packed: PackedWeights | None = field(default=None, compare=False, repr=False)
    numel: int = field(default=0, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Count the elements, and assume a layout if none is given."""
        object.__setattr__(self, "numel", prod(self.shape))
        if self.layout is _UNKNOWN:
            object.__setattr__(self, "layout", assumed_layout(len(self.shape)))

    @property
    def value_dtype(self) -> str:
        """The dtype of the weights: float64 for codes, whose products with a scale it holds, else `dtype`."""
        return self.dtype if self.scale is None else "F64"

    @property
    def value_size(self) -> int:
        """The bytes of a weight as it is ranked: 8 for codes with a scale, else `itemsize`."""
        return BITS[self.value_dtype] // 8

    @property
    def codes(self) -> TensorInfo:
        """The tensor without its scale, to read the elements themselves."""
        return self if self.scale is None else replace(self, scale=None)

    @property
    def local_name(self) -> str:
        """The name inside the state_dict."""
        return self.name[len(self.key) + 1 :] if self.key else self.name

    @property
    def itemsize(self) -> int:
        """Bytes per element; 0 for dtypes of less than a byte, whose elements are never read."""
        return BITS[self.dtype] // 8

    @property
    def nbytes(self) -> int:
        """Bytes that the elements take without gaps."""
        return self.numel * BITS[self.dtype] // 8

    @property
    def extent(self) -> int:
        """The number of elements of the storage from the first to the last that the tensor uses; 0 if it is empty."""
        numel = self.numel
        if not numel or self.contiguous:
            return numel
        return 1 + sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True))

    @property
    def start(self) -> int:
        """The offset in the file of element [0, ..., 0], in bytes."""
        return self.span.start + self.offset * self.itemsize

    @property
    def end(self) -> int:
        """The offset in the file of the first byte after the last element."""
        return self.start + self.extent * self.itemsize

    @property
    def contiguous(self) -> bool:
        """Whether the elements lie in row-major order without gaps."""
        return _is_row_major(self.shape, self.strides)

    @property
    def overlaps_itself(self) -> bool:
        """Whether two positions may be the same element, as in an expanded view."""
        return not self.contiguous and self_overlap(self.shape, self.strides) is not None

    def with_layout(self, layout: TensorLayout) -> TensorInfo:
        """Return the tensor with another layout."""
        return self if layout is self.layout else self._like(self.dtype, layout)

    def with_dtype(self, dtype: str) -> TensorInfo:
        """Return the tensor with another dtype."""
        return self if dtype == self.dtype else self._like(dtype, self.layout)

    def _like(self, dtype: str, layout: TensorLayout) -> TensorInfo:
        """Return a copy: in a fifth of the time of `replace`, for many small tensors."""
        return TensorInfo(
            self.name,
            dtype,
            self.shape,
            self.strides,
            self.file,
            self.span,
            self.offset,
            self.big_endian,
            self.unprunable_reason,
            self.key,
            layout,
            self.scale,
            self.packed,
        )


@dataclass(frozen=True, slots=True)
class ScaledBy:
    """The scale of a tensor of codes: each weight is a code times an entry of the scale.

    The codes are seen as (stacks, rows, cols) in row-major order. Every stack is cut into blocks, of which those at
    its edges may be smaller. The scale has one entry per block, in row-major order.

    Attributes:
        tensor: The scale.
        rows: The rows of a stack.
        cols: The columns of a stack.
        block: The (rows, columns) of a block.
    """

    tensor: TensorInfo
    rows: int
    cols: int
    block: tuple[int, int]

    @property
    def grid(self) -> tuple[int, int]:
        """The (rows, columns) of blocks of a stack."""
        return -(-self.rows // self.block[0]), -(-self.cols // self.block[1])


@dataclass(frozen=True, slots=True)
class PackedWeights:
    """The weights that a tensor of packed or quantized numbers holds: their number, and the format ("GPTQ, 4 bits")."""

    format: str
    weights: int


@dataclass(frozen=True, slots=True)
class Checksum:
    """A CRC-32 over the bytes of `span`.

    The file repeats its `value` as four little-endian bytes at each offset in `places` (bytes from the file's start).
    """

    span: Span
    value: int
    places: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class CheckpointFile:
    """One file with tensors.

    Attributes:
        path: The file.
        size: Its size in bytes, after its compressed parts are inflated.
        checksums: The checksums that cover tensor data.
        modified: Its modification time (ns) when it was read, or None if it is unknown.
        format: The name of its format, or "" for tensors in memory.
        inflated: The parts of the file if some of them are compressed, else None. All places are those after they are
            inflated.
    """

    path: Path
    size: int
    checksums: tuple[Checksum, ...] = ()
    modified: int | None = None
    format: str = ""
    inflated: Inflated | None = field(default=None, repr=False)

    @property
    def stored_size(self) -> int:
        """The size in bytes of the file as it is stored."""
        return self.size if self.inflated is None else self.inflated.stored_size


IN_MEMORY = "tensors in memory"
"""The format of a checkpoint that is no file."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint file, or a directory of shards.

    Attributes:
        path: The file or directory.
        format: The name of the format, such as "safetensors" or "torch zip".
        files: The files that hold tensors.
        tensors: The tensors, in checkpoint order.
        is_directory: Whether `path` is a directory of shards.
        other_files: The directory's remaining files, relative to it. A copy of the checkpoint includes them.
        index: The index of the shards, relative to the directory, or None.
        keys: The dotted paths of the state_dicts inside a nested checkpoint that are taken; none for the top.
        parts: The keys of the state_dicts that the top consists of, where it is taken as one.
        notes: Sentences about the file that a user may want to know.
        unprunable_entries: The name and kind of each entry that has no plain tensor, such as a sparse tensor.
        model_type: The architecture that `config.json` next to the file names, or "".
        is_module: Whether the state_dict is that of a whole pickled module.
        assembly: The tensors that are cut into chunks of several files, or None.
        metadata: The key-value texts of a safetensors file; none of a directory.
    """

    path: Path
    format: str
    files: tuple[CheckpointFile, ...]
    tensors: tuple[TensorInfo, ...]
    is_directory: bool = False
    other_files: tuple[Path, ...] = ()
    index: Path | None = None
    keys: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    unprunable_entries: tuple[tuple[str, str], ...] = ()
    model_type: str = ""
    is_module: bool = False
    assembly: Assembly | None = None
    metadata: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def stored_size(self) -> int:
        """The size in bytes of the files that hold tensors, as they are stored."""
        return sum(file.stored_size for file in self.files)

    @property
    def inside(self) -> list[TensorInfo]:
        """The tensors of the state_dict."""
        return [tensor for tensor in self.tensors if tensor.unprunable_reason != OUTSIDE]

    @property
    def outside(self) -> list[TensorInfo]:
        """The tensors elsewhere in a nested checkpoint, such as the moments of an optimizer."""
        return [tensor for tensor in self.tensors if tensor.unprunable_reason == OUTSIDE]

    @property
    def streams(self) -> tuple[CheckpointFile, ...]:
        """What `TensorInfo.file` counts: the files, and after them the stream of tensors that are cut into chunks."""
        if self.assembly is None:
            return self.files
        return (*self.files, CheckpointFile(self.path, self.assembly.size, format=self.format))

    @property
    def own_files(self) -> frozenset[str]:
        """The relative paths of the files of a directory that have tensors, and of their index; none of a file."""
        if not self.is_directory:
            return frozenset()
        index = () if self.index is None else (self.index.as_posix(),)
        return frozenset({*(file.path.relative_to(self.path).as_posix() for file in self.files), *index})

    @property
    def key(self) -> str:
        """The key of the state_dict if one is taken, "" for the top or for several."""
        return self.keys[0] if len(self.keys) == 1 else ""


def key_patterns(keys: Keys) -> tuple[str, ...]:
    """Return the keys that a user passes as a tuple; an empty text stands for no key."""
    return tuple(key for key in ([keys] if isinstance(keys, str) else keys or ()) if key)


@lru_cache(maxsize=4096)
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


@lru_cache(maxsize=4096)
def self_overlap(shape: tuple[int, ...], strides: tuple[int, ...]) -> str | None:
    """Return the kind of view if two positions of it may be the same element, or None if all elements are distinct.

    Dimensions are taken from the smallest stride to the largest: each stride must exceed the last element that the
    smaller dimensions reach.
    """
    if not prod(shape):
        return None
    reach = 0  # the last element, from the first, that the dimensions so far can get to
    for stride, n in sorted((stride, n) for n, stride in zip(shape, strides, strict=True) if n > 1):
        if not stride:
            return "expanded view"
        if stride <= reach:
            return "view that overlaps itself"
        reach += stride * (n - 1)
    return None
