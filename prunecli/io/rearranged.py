"""Write an arrangement in one pass over the input: the bytes of each window go to all places that need them.

The windows are those of a run, so the weights in them may be pruned on the way. Tensors that are not contiguous are
gathered, numbers are cast, and checksums are computed over what is written.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from prunecli.checkpoint import Span, TensorInfo
from prunecli.dtypes import BITS
from prunecli.io.crc32 import combine, crc32
from prunecli.io.files import Source
from prunecli.io.strided import gather, strided_view
from prunecli.kernels.arrays import INTS
from prunecli.kernels.casts import Lost, cast

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from numpy.typing import NDArray

    from prunecli.io.arrangement import Arrangement, Move
    from prunecli.io.descriptors import Descriptor
    from prunecli.io.files import Input, Sink

STRIDED_RUN = 1 << 22
"""The bytes of a run of a tensor that is not contiguous."""


class Draft:
    """The output files of an arrangement, and what was written into them. Several threads may write at once.

    `lost` holds, by the number of a move with a cast, the weights that it lost.
    """

    def __init__(self, arrangement: Arrangement, sinks: Sequence[Sink] | None) -> None:
        """Write to one sink per file; None measures only."""
        self.arrangement, self.sinks = arrangement, sinks
        self.lost: dict[int, Lost] = {}
        self.finished = False
        self._parts: dict[tuple[int, int], list[tuple[int, int, int]]] = {}
        self._lock = Lock()

    def begin(self) -> None:
        """Write the bytes that are known from the start."""
        for number, output in enumerate(self.arrangement.outputs):
            self._write_literals(number, output.literals)

    def write(self, move: Move, data: memoryview, first: int, *, known: bool = False) -> None:
        """Write bytes of `move`, from byte `first` of it on, and note their checksum unless that is known."""
        if self.sinks is None:
            return
        self.sinks[move.output].write(data, move.offset + first)
        if move.record is not None and not known:
            part = (move.offset + first, len(data), crc32(data))
            with self._lock:
                self._parts.setdefault((move.output, move.record), []).append(part)

    def copy(self, move: Move, source: Input, start: int, end: int) -> None:
        """Copy bytes of the input, of a move without a change."""
        if self.sinks is not None:
            self.sinks[move.output].copy_to(move.offset + start - move.tensor.start, source, start, end)

    def add_lost(self, number: int, lost: Lost) -> None:
        """Add to the losses of move `number`."""
        with self._lock:
            self.lost[number] = self.lost.get(number, Lost()) + lost

    def finish(self) -> None:
        """Write the bytes that depend on checksums, once."""
        if self.finished:
            return
        self.finished = True
        for number, output in enumerate(self.arrangement.outputs if self.sinks else ()):
            crcs = [self._crc(number, index) for index in range(len(output.records))]
            self._write_literals(number, output.finish(crcs))

    def _write_literals(self, number: int, literals: Any) -> None:  # noqa: ANN401 - an iterable of Literal
        for offset, data in literals if self.sinks else ():
            self.sinks[number].write(memoryview(data), offset)  # type: ignore[index]

    def _crc(self, number: int, index: int) -> int:
        record = self.arrangement.outputs[number].records[index]
        parts = sorted(self._parts.get((number, index), ()))
        if not parts and record.crc is not None:
            return record.crc
        if sum(length for _, length, _ in parts) != record.length:
            raise RuntimeError(f"record {index} of output {number} is not written completely")
        value = 0
        for _, length, crc in parts:
            value = combine(value, crc, length)
        return value


class Rearranged:
    """The output of one input file: it takes windows of the input, and writes them where the draft needs them.

    Attributes:
        reads: The bytes of the input that must come in windows, because they are changed or have a new checksum.
        wholes: Those of them that must be in one window.
    """

    def __init__(self, draft: Draft, file: int, source: Input, changed: Collection[Span]) -> None:
        """Take the moves of input `file`; the checksums of the storages `changed` are not those of the input."""
        self.draft, self._source = draft, source
        moves = [(number, move) for number, move in enumerate(draft.arrangement.moves) if move.tensor.file == file]
        self._moves = sorted((m for m in moves if m[1].tensor.numel), key=lambda m: m[1].tensor.start)
        self._ends = list(accumulate((move.tensor.end for _, move in self._moves), max))
        # Only a file can be copied by the kernel; a stream of chunks is read.
        copied = [number for number, move in self._moves if self._may_copy(move, changed)]
        self._copied = set(copied if isinstance(source, Source) else ())
        read = [move.tensor for number, move in self._moves if number not in self._copied]
        self.reads = [(tensor.start, tensor.end) for tensor in read]
        self.wholes = [(tensor.start, tensor.end) for tensor in read if not tensor.contiguous]

    def _may_copy(self, move: Move, changed: Collection[Span]) -> bool:
        """Return whether the bytes of a move need not be seen: they stay the same, and so does their checksum."""
        if not move.is_copy or move.record is None:
            return move.is_copy
        record = self.draft.arrangement.outputs[move.output].records[move.record]
        return record.crc is not None and record.source is not None and record.source[1] not in changed

    def finish(self) -> None:
        """Complete the output files, when all inputs are written."""
        self.draft.finish()

    def written(self, _: int) -> Iterator[tuple[Descriptor, int]]:
        """Yield each output file and its size in bytes."""
        outputs = self.draft.arrangement.outputs
        yield from ((sink.file, one.size) for sink, one in zip(self.draft.sinks or (), outputs, strict=False))

    def moved(self, tensors: Sequence[TensorInfo]) -> list[TensorInfo] | None:
        """Return the elements of these tensors, or the storages of them, where they are in the output files."""
        spans = {(tensor.file, tensor.span) for tensor in tensors}
        moves = (m for m in self.draft.arrangement.moves if (m.tensor.file, m.tensor.span) in spans)
        return [_moved(move) for move in moves]

    def _overlapping(self, start: int, end: int) -> Iterator[tuple[int, Move]]:
        for index in range(bisect_right(self._ends, start), len(self._moves)):
            if self._moves[index][1].tensor.start >= end:
                return
            if self._moves[index][1].tensor.end > start:
                yield self._moves[index]

    def copy(self, source: Input, start: int, end: int) -> None:
        """Write the bytes [start, end) of the input, which are not changed and were not read."""
        for _, move in self._overlapping(start, end):
            self.draft.copy(move, source, max(start, move.tensor.start), min(end, move.tensor.end))

    def write(self, data: memoryview, offset: int) -> None:
        """Write `data`, the possibly pruned bytes of the input from `offset` on."""
        for number, move in self._overlapping(offset, offset + len(data)):
            tensor = move.tensor
            if not tensor.contiguous:
                self._gather(number, move, data, offset)
            elif move.is_copy:
                low, high = max(offset, tensor.start), min(offset + len(data), tensor.end)
                known = number in self._copied
                self.draft.write(move, data[low - offset : high - offset], low - tensor.start, known=known)
            else:
                self._change(number, move, data, offset)

    def _gather(self, number: int, move: Move, data: memoryview, offset: int) -> None:
        tensor = move.tensor
        if tensor.start < offset or tensor.end > offset + len(data):
            raise RuntimeError(f"{move.name} is not in one window")
        view = strided_view(data, tensor.start - offset, tensor, 0, tensor.numel)
        step = STRIDED_RUN // tensor.itemsize
        for first in range(0, tensor.numel, step):
            self._put(number, move, gather(view, first, min(first + step, tensor.numel)), first)

    def _change(self, number: int, move: Move, data: memoryview, offset: int) -> None:
        """Write the elements that begin in `data`; bytes of the last one that are not in it come from the input."""
        tensor, size = move.tensor, move.tensor.itemsize
        low = max(0, -(-(offset - tensor.start) // size))
        high = min(tensor.numel, -(-(offset + len(data) - tensor.start) // size))
        missing = tensor.start + high * size - offset - len(data)
        if missing > 0:
            # Windows end between the elements of pruned tensors, so these bytes are the same in the input.
            last = bytearray(missing)
            self._source.read(memoryview(last), offset + len(data))
            data = memoryview(bytes(data[tensor.start + low * size - offset :]) + last)
            offset = tensor.start + low * size
        if low < high:
            view = strided_view(data, tensor.start - offset, tensor, low, high)
            self._put(number, move, view.astype(INTS[size], copy=False), low)

    def _put(self, number: int, move: Move, elements: NDArray[Any], first: int) -> None:
        """Write native elements from row-major element `first` of a move on, cast where it asks for that."""
        if move.dtype != move.tensor.dtype:
            elements, lost = cast(elements, move.tensor.dtype, move.dtype)
            self.draft.add_lost(number, lost)
        little = elements.astype(elements.dtype.newbyteorder("<"), copy=False)
        data = np.ascontiguousarray(little).data.cast("B")
        self.draft.write(move, data, first * BITS[move.dtype] // 8)


def _moved(move: Move) -> TensorInfo:
    count, size = move.tensor.numel, BITS[move.dtype] // 8
    return TensorInfo(move.name, move.dtype, (count,), (1,), move.output, Span(move.offset, count * size))
