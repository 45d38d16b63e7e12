"""The items of a distributed checkpoint: a chunk is a whole archive of torch.save, or bytes of a safetensors file."""

from __future__ import annotations

import os
from math import prod
from typing import TYPE_CHECKING, BinaryIO, cast

from prunecli.assembly import Place
from prunecli.errors import CheckpointError
from prunecli.formats.torch.reader import read_torch_zip
from prunecli.text.escape import quoted

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from prunecli.assembly import Assembly, Box, CutTensor
    from prunecli.checkpoint import TensorInfo
    from prunecli.formats.listing import Listing

_EDGE = 4096  # bytes at both ends of an item that are read at once: all headers of a usual archive


class Locator:
    """Finds the elements of chunks in their items: `archives` are the numbers of the files with archives of torch.save.

    In other files an item is the elements themselves. `labels` name the files in messages.
    """

    def __init__(self, labels: Sequence[str], archives: Collection[int]) -> None:
        """Read nothing yet."""
        self._labels, self._archives = labels, archives

    def __call__(self, read: Callable[[int, int], bytes], assembly: Assembly, chunk: int) -> Place:
        """Return the place of a chunk; CheckpointError if its item is damaged or is another tensor."""
        file, start, length = assembly.files[chunk], assembly.starts[chunk], assembly.lengths[chunk]
        if file not in self._archives:
            return Place(start)
        label = f"{self._labels[file]}, at byte {start:,}"
        item = _Item(read, start, length)
        listing = read_torch_zip(cast("BinaryIO", item), label)
        box, tensor = assembly.box(chunk), assembly.tensor_of(chunk)
        try:
            info = _only_tensor(listing, tensor, box)
        except ValueError as problem:
            raise CheckpointError(f"{label}: the chunk of {quoted(tensor.name)} {problem}") from None
        checksum = next(one for one in listing.checksums if one.span == info.span)
        return Place(start + info.span.start, checksum.value, tuple(start + place for place in checksum.places))


def _only_tensor(listing: Listing, tensor: CutTensor, box: Box) -> TensorInfo:
    """Return the tensor of an item; ValueError unless it is the chunk `box` of `tensor`, in row-major order."""
    if len(listing.tensors) != 1 or listing.unprunable_entries:
        kinds = [kind for _, kind in listing.unprunable_entries] or [f"{len(listing.tensors)} tensors"]
        raise ValueError(f"is not one plain tensor: it is stored as {kinds[0]}")
    if listing.inflated is not None:
        raise ValueError("is stored compressed")
    (info,) = listing.tensors
    if (info.dtype, info.shape) != (tensor.dtype, box.sizes):
        raise ValueError(
            f"is stored as {info.dtype} {list(info.shape)}, and the metadata has {tensor.dtype} {list(box.sizes)}"
        )
    if info.big_endian:
        raise ValueError("is stored in big-endian byte order")
    if not info.contiguous or info.offset or info.span.length != prod(box.sizes) * tensor.itemsize:
        raise ValueError("is stored as a view, not in row-major order: save it with .contiguous()")
    return info


class _Item:
    """A part of a file as a file of its own. Its first and last bytes are read once."""

    def __init__(self, read: Callable[[int, int], bytes], start: int, length: int) -> None:
        self._read, self._start, self._length, self._at = read, start, length, 0
        self._head = read(start, min(length, _EDGE))
        self._tail_at = max(length - _EDGE, 0)
        self._tail = self._head if length <= _EDGE else read(start + self._tail_at, length - self._tail_at)

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = max(0, offset + (0, self._at, self._length)[whence])
        return self._at

    def read(self, count: int = -1) -> bytes:
        left = max(self._length - self._at, 0)
        count = left if count < 0 else min(count, left)
        at, self._at = self._at, self._at + count
        if at + count <= len(self._head):
            return self._head[at : at + count]
        if at >= self._tail_at:
            return self._tail[at - self._tail_at : at - self._tail_at + count]
        return self._read(self._start + at, count)


def part_of_file(file: BinaryIO, start: int, end: int) -> BinaryIO:
    """Return the bytes [start, end) of a file as a file of its own."""

    def read(offset: int, count: int) -> bytes:
        file.seek(offset)
        return file.read(count)

    return cast("BinaryIO", _Item(read, start, end - start))
