"""Arrangements are written from windows of any size: every element reaches its place, with the right checksum."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from support import examples

from prunecli.checkpoint import Span, TensorInfo
from prunecli.io.arrangement import Arrangement, Move, OutputFile, Record
from prunecli.io.layout import Layout, UntouchedRange
from prunecli.io.rearranged import Draft, Rearranged

if TYPE_CHECKING:
    from collections.abc import Sequence

SIZE = 12_000


class Memory:
    """Bytes as an input and as an output."""

    def __init__(self, data: bytes) -> None:
        """Hold a copy of `data`."""
        self.data = bytearray(data)

    def read(self, into: memoryview, offset: int) -> None:
        """Fill `into`."""
        into[:] = self.data[offset : offset + len(into)]

    def write(self, data: memoryview, offset: int) -> None:
        """Store `data`."""
        self.data[offset : offset + len(data)] = data

    def copy(self, source: Memory, start: int, end: int, offset: int) -> None:
        """Copy bytes of `source`."""
        self.data[offset : offset + end - start] = source.data[start:end]


@st.composite
def tensors(draw: st.DrawFn) -> list[TensorInfo]:
    """Return tensors of the input: aligned or not, contiguous or strided, in either byte order, overlapping or not."""
    made = []
    for _ in range(draw(st.integers(1, 6))):
        dtype, size = draw(st.sampled_from([("U8", 1), ("F16", 2), ("F32", 4), ("F64", 8)]))
        shape = tuple(draw(st.lists(st.integers(1, 30), min_size=1, max_size=2)))
        strides = draw(st.permutations(np.cumprod([1, *shape[:0:-1]]).tolist()[: len(shape)][::-1]))
        strides = [stride * draw(st.integers(1, 2)) for stride in strides]
        extent = 1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
        start = draw(st.integers(0, SIZE - extent * size))
        big = draw(st.booleans())
        made.append(TensorInfo("t", dtype, shape, tuple(strides), 0, Span(start, extent * size), 0, big))
    return made


def elements(data: bytes, tensor: TensorInfo) -> bytes:
    """Return the elements of a tensor in row-major order, little-endian, by NumPy."""
    order = ">" if tensor.big_endian else "<"
    flat = np.frombuffer(data, f"{order}u{tensor.itemsize}", tensor.extent, tensor.start)
    view = np.lib.stride_tricks.as_strided(flat, tensor.shape, [s * tensor.itemsize for s in tensor.strides])
    return view.astype(f"<u{tensor.itemsize}").tobytes()


def arranged(infos: Sequence[TensorInfo], crcs: list[int]) -> tuple[Arrangement, list[int]]:
    """Return an arrangement of the tensors one after the other, each with a checksum, and their offsets."""
    starts = np.cumsum([0, *(info.nbytes for info in infos)]).tolist()
    moves = tuple(Move(info, 0, starts[n], info.dtype, n, "t") for n, info in enumerate(infos))

    def finish(found: Sequence[int]) -> list[tuple[int, bytes]]:
        crcs.extend(found)
        return []

    records = tuple(Record(info.nbytes) for info in infos)
    return Arrangement("", (OutputFile("", starts[-1], (), records, finish),), moves), starts


@settings(max_examples=examples(60))
@given(
    infos=tensors(), window=st.sampled_from([1, 7, 64, 1000, 4096]), offset=st.integers(0, 4096), seed=st.integers(0, 9)
)
def test_every_element_reaches_its_place(infos: list[TensorInfo], window: int, offset: int, seed: int) -> None:
    """Windows may end inside elements, unless a tensor must come whole."""
    data = np.random.default_rng(seed).bytes(SIZE)
    crcs: list[int] = []
    arrangement, starts = arranged(infos, crcs)
    source, target = Memory(data), Memory(bytes(starts[-1]))
    draft = Draft(arrangement, [target])  # type: ignore[list-item]
    output = Rearranged(draft, 0, source, ())  # type: ignore[arg-type]

    position = 0
    wholes = sorted(output.wholes)
    while position < SIZE:
        end = min(SIZE, position + (window if position else max(offset, 1)))
        for _ in wholes:
            end = max([end, *(stop for start, stop in wholes if start < end and stop > position)])
        output.write(memoryview(bytearray(data[position:end])), position)
        position = end
    output.finish()

    expected = [elements(data, info) for info in infos]
    assert b"".join(expected) == bytes(target.data)
    assert [zlib.crc32(part) for part in expected] == crcs


@settings(max_examples=examples(40))
@given(infos=tensors(), window=st.sampled_from([4096, 8192]))
def test_the_layout_gives_each_output_what_it_needs(infos: list[TensorInfo], window: int) -> None:
    """Bytes that must be read come in windows, and those of a strided tensor in one of them."""
    arrangement, _ = arranged(infos, [])
    output = Rearranged(Draft(arrangement, None), 0, Memory(b""), ())  # type: ignore[arg-type]

    parts = list(Layout(SIZE, [], output.reads, output.wholes, window=window))

    windows = [(part.start, part.end) for part in parts if not isinstance(part, UntouchedRange)]
    assert all(any(a <= start and end <= b for a, b in windows) for start, end in output.wholes)
    untouched = [(part.start, part.end) for part in parts if isinstance(part, UntouchedRange)]
    assert not any(a < end and start < b for a, b in untouched for start, end in output.reads)
