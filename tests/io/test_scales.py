"""Runs of codes are multiplied by the entries of their blocks, read in any order and size."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from support import examples

from prunecli.checkpoint import ScaledBy, Span, TensorInfo, row_major
from prunecli.io.scales import ScaleReader
from prunecli.io.threads import Worker


class Memory:
    """Bytes in memory as an input; it records the largest read."""

    fd = -1

    def __init__(self, data: bytes) -> None:
        """Read `data`."""
        self.data, self.size, self.largest = data, len(data), 0

    def read(self, into: memoryview, offset: int) -> None:
        """Fill `into` from the byte `offset` on."""
        self.largest = max(self.largest, len(into))
        into[:] = self.data[offset : offset + len(into)]

    def check_unchanged(self) -> None:
        """Do nothing."""


@st.composite
def runs(draw: st.DrawFn) -> tuple[tuple[int, int, int], tuple[int, int], int, int]:
    """Return (stacks, rows, cols), a block, and a run of elements."""
    shape = draw(st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 12)))
    block = draw(st.tuples(st.integers(1, 10), st.integers(1, 13)))
    total = shape[0] * shape[1] * shape[2]
    first = draw(st.integers(0, total - 1))
    return shape, block, first, draw(st.integers(first + 1, total))


@given(runs())
@settings(max_examples=examples(300))
def test_runs_are_multiplied_block_by_block(run: tuple[tuple[int, int, int], tuple[int, int], int, int]) -> None:
    """Element (s, r, c) is multiplied by entry (s, r // high, c // wide), for any run of any stack of matrices."""
    (stacks, rows, cols), (high, wide), first, stop = run
    grid = (stacks, -(-rows // high), -(-cols // wide))
    entries = (np.arange(np.prod(grid)) + 1).astype(np.float32).reshape(grid)
    scale = TensorInfo("x.scale", "F32", grid, row_major(grid), 0, Span(0, entries.nbytes))
    shape = (stacks, rows, cols)
    codes = TensorInfo(
        "x", "F8_E4M3", shape, row_major(shape), 0, Span(0, 0), scale=ScaledBy(scale, rows, cols, (high, wide))
    )
    s, r, c = np.unravel_index(np.arange(first, stop), shape)
    ones = np.full(stop - first, 0xB8, np.uint8).view(np.int8)  # -1.0

    actual = ScaleReader([Memory(entries.tobytes())]).values(Worker(None), codes, ones, first)

    assert actual.tolist() == (-entries[s, r // high, c // wide]).tolist()


def test_only_the_entries_of_a_run_are_read() -> None:
    """A run of a long row reads the entries of its own columns, not those of the row."""
    cols = 1 << 20
    scale = TensorInfo("x.scale", "F32", (1, cols), (cols, 1), 0, Span(0, 4 * cols))
    codes = TensorInfo("x", "F8_E4M3", (2, cols), (cols, 1), 0, Span(0, 0), scale=ScaledBy(scale, 2, cols, (2, 1)))
    memory = Memory(np.ones(cols, np.float32).tobytes())

    ScaleReader([memory]).values(Worker(None), codes, np.zeros(1000, np.int8), cols - 500)

    assert memory.largest < 16_384
