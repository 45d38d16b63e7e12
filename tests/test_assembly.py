"""The runs of an assembly are the elements of its tensors, wherever chunks cut them."""

from __future__ import annotations

from array import array
from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import examples

from prunecli.assembly import PAGE, Assembly, Box, CutTensor, Place, blocks, collapsed


@st.composite
def tilings(draw: st.DrawFn, shape: tuple[int, ...]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Cut an array in two again and again, at any place of any dimension, and return the offsets and sizes."""
    parts = [((0,) * len(shape), shape)]
    for _ in range(draw(st.integers(0, 6))):
        number = draw(st.integers(0, len(parts) - 1))
        offsets, sizes = parts[number]
        dims = [dim for dim, size in enumerate(sizes) if size > 1]
        if not dims:
            continue
        dim = draw(st.sampled_from(dims))
        low = draw(st.integers(1, sizes[dim] - 1))
        parts[number] = offsets, (*sizes[:dim], low, *sizes[dim + 1 :])
        after = (*offsets[:dim], offsets[dim] + low, *offsets[dim + 1 :])
        parts.append((after, (*sizes[:dim], sizes[dim] - low, *sizes[dim + 1 :])))
    return sorted(parts)


shapes = st.lists(st.integers(1, 7), max_size=4).map(tuple)
tensors = st.lists(shapes.flatmap(lambda shape: st.tuples(st.just(shape), tilings(shape))), min_size=1, max_size=3)


def assembled(parts: list[tuple[tuple[int, ...], list[tuple[tuple[int, ...], tuple[int, ...]]]]]) -> Assembly:
    """Return the assembly of tensors of two bytes per element; chunk i begins at byte 1000 i of file i."""
    cut, numbers, first, end = [], array("q"), 0, 0
    for index, (shape, chunks) in enumerate(parts):
        start = -(-end // PAGE) * PAGE
        cut.append(CutTensor(f"t{index}", "F16", shape, 2, start, first, len(chunks), len(numbers)))
        for offsets, sizes in chunks:
            numbers.extend([*offsets, *sizes])
        first, end = first + len(chunks), cut[-1].end
    column = array("q", range(first))
    starts = array("q", (1000 * number for number in range(first)))
    return Assembly(tuple(cut), column, starts, starts, numbers, lambda _, __, chunk: Place(1000 * chunk))


@settings(max_examples=examples(80))
@given(parts=tensors, data=st.data())
def test_runs_are_the_elements_of_the_stream(
    parts: list[tuple[tuple[int, ...], list[tuple[tuple[int, ...], tuple[int, ...]]]]], data: st.DataObject
) -> None:
    """The runs of any range of the stream hold its elements once, in their order in the chunks."""
    assembly = assembled(parts)
    values = [np.arange(prod(shape), dtype="u2").reshape(shape) + 1000 * i for i, (shape, _) in enumerate(parts)]
    stream = np.zeros(assembly.size // 2, "u2")
    for tensor, value in zip(assembly.tensors, values, strict=True):
        stream[tensor.start // 2 : tensor.end // 2] = value.reshape(-1)
    low = data.draw(st.integers(0, len(stream)))
    high = data.draw(st.integers(low, len(stream)))
    found = np.zeros(high - low, "u2")
    stored = [
        np.ascontiguousarray(value[tuple(slice(o, o + n) for o, n in zip(*chunk, strict=True))]).reshape(-1)
        for value, (_, chunks) in zip(values, parts, strict=True)
        for chunk in chunks
    ]

    for run in assembly.runs(2 * low, 2 * high):
        elements = stored[run.chunk][run.offset // 2 : (run.offset + run.length) // 2]
        at = run.at // 2 - low
        if run.block is None:
            found[at : at + len(elements)] += elements
        else:
            block = found[at : at + prod(run.block.shape)].reshape(run.block.shape)[run.block.part]
            block += elements.reshape(block.shape)

    np.testing.assert_array_equal(stream[low:high], found)


def test_ranges_of_rows_are_one_run_each() -> None:
    """A tensor that is cut into ranges of rows has one dimension, so that a range of it is one run of each chunk."""
    assembly = assembled([((6, 5), [((0, 0), (4, 5)), ((4, 0), (2, 5))])])

    runs = list(assembly.runs(2 * 7, 2 * 29))

    assert [(run.chunk, run.offset, run.length, run.block) for run in runs] == [(0, 14, 26, None), (1, 0, 18, None)]


def test_a_chunk_knows_its_tensor() -> None:
    """Chunks are numbered over all tensors, and each has its box."""
    assembly = assembled([((2,), [((0,), (1,)), ((1,), (1,))]), ((3, 2), [((0, 0), (3, 2))])])

    assert [assembly.tensor_of(chunk).name for chunk in range(3)] == ["t0", "t0", "t1"]
    assert Box(1, (1,), (1,)) == assembly.box(1)
    assert assembly.chunk_bytes(2) == 12
    assert list(assembly.chunks_in(PAGE, PAGE + 1)) == [2]


@pytest.mark.parametrize(
    ("sizes", "shape"),
    [([(4, 3, 2), (2, 3, 2)], (36,)), ([(6, 1, 2), (6, 2, 2)], (6, 6)), ([(6, 3, 1), (6, 3, 1)], (18, 2))],
)
def test_dimensions_that_no_chunk_cuts_are_joined(sizes: list[tuple[int, ...]], shape: tuple[int, ...]) -> None:
    """The dimensions behind the last one that a chunk cuts are joined to it."""
    offsets = [(0, 0, 0), tuple(n % m for n, m in zip(sizes[0], (6, 3, 2), strict=True))]
    boxes = [Box(number, *box) for number, box in enumerate(zip(offsets, sizes, strict=True))]

    assert shape == collapsed((6, 3, 2), boxes)[0]


def test_blocks_are_whole_rows_where_they_can_be() -> None:
    """A range that begins and ends inside rows has the end of one, whole rows, and the beginning of one."""
    assert list(blocks((5, 3), 2, 10)) == [((0,), 2, 3), ((), 1, 3), ((3,), 0, 1)]
