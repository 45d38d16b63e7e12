"""Check that chunks tile a tensor: no element is in two chunks, and none is in no chunk."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from prunecli.assembly import Box, collapsed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prunecli.assembly import Shape

MAX_STEPS = 10_000_000
"""The most comparisons for one tensor: a grid of 1,000 by 1,000 chunks takes two million."""


def check_tiles(shape: Shape, boxes: Sequence[Box]) -> None:
    """Raise ValueError unless the boxes, none of which is empty, have each element of `shape` once."""
    for box in boxes:
        if any(offset + size > n for offset, size, n in zip(box.offsets, box.sizes, shape, strict=True)):
            raise ValueError(f"a chunk at {list(box.offsets)} of {list(box.sizes)} is larger than {list(shape)}")
    _Check().run(*collapsed(shape, boxes))


class _Check:
    def __init__(self) -> None:
        self._steps = 0

    def run(self, shape: Shape, boxes: Sequence[Box]) -> None:
        """Cut the first dimension into slabs at all edges, and check the other dimensions of each slab."""
        if len(shape) == 1:
            self._check_row(shape[0], boxes)
            return
        rows = [(box.offsets[0], box.offsets[0] + box.sizes[0]) for box in boxes]
        edges = sorted({0, shape[0], *(edge for ends in rows for edge in ends)})
        waiting = sorted(boxes, key=lambda box: box.offsets[0], reverse=True)
        active: list[Box] = []
        for start, _ in pairwise(edges):
            active = [box for box in active if box.offsets[0] + box.sizes[0] > start]
            while waiting and waiting[-1].offsets[0] == start:
                active.append(waiting.pop())
            self._count(len(active))
            self.run(shape[1:], [Box(box.number, box.offsets[1:], box.sizes[1:]) for box in active])

    def _check_row(self, size: int, boxes: Sequence[Box]) -> None:
        end = 0
        self._count(len(boxes))
        for offset, length in sorted((box.offsets[0], box.sizes[0]) for box in boxes):
            if offset != end:
                raise ValueError("two chunks overlap" if offset < end else "its chunks leave a gap")
            end += length
        if end != size:
            raise ValueError("its chunks leave a gap")

    def _count(self, steps: int) -> None:
        self._steps += steps + 1
        if self._steps > MAX_STEPS:
            raise ValueError("its chunks are cut in too many different ways to be checked")
