"""The items of a distributed checkpoint: a chunk is a whole archive of torch.save, or bytes of a safetensors file."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, cast

from prunecli.assembly import Place
from prunecli.checkpoint import Span
from prunecli.errors import CheckpointError
from prunecli.file_view import FileView
from prunecli.formats.torch.reader import read_torch_zip
from prunecli.formats.zip.directory import read_records
from prunecli.text.escape import quoted

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from prunecli.assembly import Assembly, Box, CutTensor, Shape
    from prunecli.checkpoint import TensorInfo
    from prunecli.formats.listing import Listing
    from prunecli.formats.zip.directory import Record

_CRC = 4  # bytes
_DIGEST = "/.data/serialization_id"
_MOST_FRAMES = 1024
_EDGE = 4096  # bytes at both ends of an item that are read at once: all headers of a usual archive


class Locator:
    """Finds the elements of chunks in their items: `archives` are the numbers of the files with archives of torch.save.

    In other files an item is the elements themselves. `labels` name the files in messages.
    """

    def __init__(self, labels: Sequence[str], archives: Collection[int]) -> None:
        """Read nothing yet."""
        self._labels, self._archives = labels, archives
        self._frames: dict[tuple[str, Shape, int], Frame] = {}

    def __call__(self, read: Callable[[int, int], bytes], assembly: Assembly, chunk: int) -> Place:
        """Return the place of a chunk; CheckpointError if its item is damaged or is another tensor."""
        file, start, length = assembly.files[chunk], assembly.starts[chunk], assembly.lengths[chunk]
        if file not in self._archives:
            return Place(start)
        box, tensor = assembly.box(chunk), assembly.tensor_of(chunk)
        item, key = _Item(read, start, length), (tensor.dtype, box.sizes, length)
        frame = self._frames.get(key)
        crc = None if frame is None else frame.crc_of(item)
        if frame is not None and crc is not None:
            return Place(start + frame.start, crc, tuple(start + place for place in frame.places))
        place, new = self._read(item, tensor, box, f"{self._labels[file]}, at byte {start:,}")
        if new is not None and len(self._frames) < _MOST_FRAMES:
            self._frames[key] = new
        return Place(start + place.start, place.crc, tuple(start + one for one in place.places))

    @staticmethod
    def _read(item: _Item, tensor: CutTensor, box: Box, label: str) -> tuple[Place, Frame | None]:
        """Read an archive completely; return the place of its elements in it, and its frame."""
        listing = read_torch_zip(item.file, label)
        try:
            info = _only_tensor(listing, tensor, box)
        except ValueError as problem:
            raise CheckpointError(f"{label}: the chunk of {quoted(tensor.name)} {problem}") from None
        checksum = next(one for one in listing.checksums if one.span == info.span)
        place = Place(info.span.start, checksum.value, checksum.places)
        return place, frame_of(item, info.span, place, read_records(item.file, label))


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


class Frame(NamedTuple):
    """All bytes of an archive around its elements but those that depend on them: other chunks may have the same.

    `tail` has zeros in the place of these bytes, which are at `varying`, from the end of the elements on.
    """

    head: bytes
    tail: bytes
    start: int
    places: tuple[int, ...]
    varying: tuple[Span, ...]
    size: int

    def crc_of(self, item: _Item) -> int | None:
        """Return the CRC-32 of the elements in an archive with this frame; None if it has another one."""
        end = self.start + self.size
        tail = item.at(end, len(self.tail))
        if item.at(0, self.start) != self.head or _masked(tail, self.varying) != self.tail:
            return None
        found = {tail[place - end : place - end + _CRC] for place in self.places}
        return int.from_bytes(found.pop(), "little") if len(found) == 1 else None


def frame_of(item: _Item, data: Span, place: Place, records: Mapping[str, Record]) -> Frame | None:
    """Return the frame of an archive whose elements are `data`; None if it has parts that other archives do not."""
    varying = [Span(offset, _CRC) for offset in place.places]
    for name, record in records.items():
        if name.endswith(_DIGEST):  # of the other records, which no loader reads
            varying += [record.span, *(Span(offset, _CRC) for offset in record.places)]
    if any(span.start < data.end for span in varying) or item.length - data.length > 2 * _EDGE:
        return None
    spans = tuple(Span(span.start - data.end, span.length) for span in sorted(varying, key=lambda span: span.start))
    tail = _masked(item.at(data.end, item.length - data.end), spans)
    return Frame(item.at(0, data.start), tail, data.start, place.places, spans, data.length)


def _masked(data: bytes, spans: Sequence[Span]) -> bytes:
    """Return `data` with zeros in `spans`."""
    masked = bytearray(data)
    for span in spans:
        masked[span.start : span.end] = bytes(span.length)
    return bytes(masked)


class _Item:
    """A part of a file. Its first and last bytes are read once."""

    def __init__(self, read: Callable[[int, int], bytes], start: int, length: int) -> None:
        self._read, self._start, self.length = read, start, length
        self._head = read(start, min(length, _EDGE))
        self._tail_at = max(length - _EDGE, 0)
        self._tail = self._head if length <= _EDGE else read(start + self._tail_at, length - self._tail_at)

    @property
    def file(self) -> BinaryIO:
        """The part as a file of its own."""
        return cast("BinaryIO", FileView(self.at, self.length))

    def at(self, at: int, count: int) -> bytes:
        """Return `count` bytes from the byte `at` on."""
        if at + count <= len(self._head):
            return self._head[at : at + count]
        if at >= self._tail_at:
            return self._tail[at - self._tail_at : at - self._tail_at + count]
        return self._read(self._start + at, count)


def part_of_file(file: BinaryIO, start: int, end: int) -> BinaryIO:
    """Return the bytes [start, end) of a file as a file of its own."""

    def read(offset: int, count: int) -> bytes:
        file.seek(start + offset)
        return file.read(count)

    return cast("BinaryIO", FileView(read, end - start))
