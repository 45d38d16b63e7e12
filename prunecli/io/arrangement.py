"""A new checkpoint as values: where each output file gets its bytes from.

An arrangement says which elements of the input go where in the output files, and which other bytes these have. It
reads nothing; `io.rearranged` writes it in one pass.
"""

from __future__ import annotations

from dataclasses import field, replace
from typing import TYPE_CHECKING, TypeAlias

from prunecli.checkpoint import Span, TensorInfo
from prunecli.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

Literal: TypeAlias = tuple[int, bytes]
"""Bytes of an output file, after their offset."""

Finish: TypeAlias = "Callable[[Sequence[int]], Iterable[Literal]]"
"""Returns the bytes that depend on the CRC-32 of each record."""


@dataclass(frozen=True, slots=True)
class Move:
    """Elements of the input that go to an output file, in row-major order without gaps, little-endian.

    Attributes:
        tensor: The elements and their place in the input. Bytes that are only copied are a tensor of U8.
        output: The number of the output file.
        offset: The offset of the first element there, in bytes.
        dtype: The dtype of the elements there: that of the tensor, or the one that they are cast to.
        record: The number of the record of the output file that covers them, or None.
        name: The name of the tensor in messages.
    """

    tensor: TensorInfo
    output: int
    offset: int
    dtype: str
    record: int | None = None
    name: str = ""

    @property
    def is_copy(self) -> bool:
        """Whether the bytes of the input are those of the output."""
        tensor = self.tensor
        return tensor.contiguous and self.dtype == tensor.dtype and not (tensor.big_endian and tensor.itemsize > 1)


@dataclass(frozen=True, slots=True)
class Record:
    """A part of an output file with a checksum: its length in bytes, and its CRC-32 if that is known before."""

    length: int
    crc: int | None = None
    source: tuple[int, Span] | None = None
    """The file and the bytes of the input that the record is a copy of, if it is one: `crc` is that of these bytes."""


def no_records(_: Sequence[int]) -> Iterable[Literal]:
    """Return no bytes: the file has no checksums."""
    return ()


@dataclass(frozen=True, slots=True)
class OutputFile:
    """One file: its name in a directory, its size in bytes, its fixed bytes and its records."""

    name: str
    size: int
    literals: tuple[Literal, ...]
    records: tuple[Record, ...] = ()
    finish: Finish = no_records


@dataclass(frozen=True, slots=True)
class Arrangement:
    """The files of a new checkpoint, and the moves that fill them.

    Attributes:
        format: The name of the format.
        outputs: The files with tensors.
        moves: What goes into them; moves may share elements of the input.
        is_directory: Whether the files are in a new directory.
        texts: Other files of the directory, by name.
        other_files: The files of the input directory that are copied, relative to it.
        expected: The name, dtype and shape of each tensor that the files then have.
        keys: The keys of the state_dicts with these tensors.
    """

    format: str
    outputs: tuple[OutputFile, ...]
    moves: tuple[Move, ...]
    is_directory: bool = False
    texts: tuple[tuple[str, bytes], ...] = ()
    other_files: tuple[Path, ...] = field(default=())
    expected: frozenset[tuple[str, str, tuple[int, ...]]] = frozenset()
    keys: tuple[str, ...] = ()

    @property
    def casts(self) -> bool:
        """Whether numbers are cast."""
        return any(move.dtype != move.tensor.dtype for move in self.moves)

    @property
    def names(self) -> set[str] | None:
        """The relative paths of a directory's files and folders; None for a single file."""
        if not self.is_directory:
            return None
        folders = {part.as_posix() for one in self.other_files for part in (one, *one.parents[:-1])}
        return {*(file.name for file in self.outputs), *(name for name, _ in self.texts), *folders}

    @property
    def size(self) -> int:
        """The bytes of all files with tensors."""
        return sum(output.size for output in self.outputs)


def raw(span: Span, file: int) -> TensorInfo:
    """Return bytes of the input as a tensor, to copy them."""
    return TensorInfo("", "U8", (span.length,), (1,), file, span)


def movable(tensor: TensorInfo) -> TensorInfo:
    """Return `tensor` in elements of 1, 2, 4 or 8 bytes: complex numbers are pairs, and packed ones are bytes."""
    tensor = tensor.codes
    if not tensor.itemsize or tensor.dtype == "BOOL":
        return raw(tensor.span, tensor.file) if not tensor.itemsize else replace(tensor, dtype="U8")
    pair = {"C64": "F32", "C128": "F64"}.get(tensor.dtype)
    if pair is None:
        return tensor
    shape, strides = (*tensor.shape, 2), (*(2 * stride for stride in tensor.strides), 1)
    return replace(tensor, dtype=pair, shape=shape, strides=strides, offset=2 * tensor.offset)
