"""Whole tensors that lie in memory: several of them are pruned and measured with one call of the compiled kernels."""

from __future__ import annotations

from ctypes import addressof, c_int64, c_void_p
from struct import Struct
from typing import TYPE_CHECKING, Any, NamedTuple

from prunecli.kernels.native.library import address, function
from prunecli.kernels.native_ranks import group_memory
from prunecli.kernels.native_slices import cycles
from prunecli.kernels.native_tally import NO_MAGNITUDE, new_counts
from prunecli.kernels.tally import Counts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from prunecli.kernels.tally import Statistics

_ITEM, _RESULT = Struct("2PQ9qP"), Struct("3q2d2Q3q")
"""`item_t` and `result_t` of tally.h."""

_prune_each = function("prune_each", (c_void_p, c_int64, *(c_void_p,) * 4))


class Kind:
    """What tensors of one dtype, shape and layout have in common: their counts before the first weight."""

    def __init__(self, statistics: Statistics) -> None:
        """Take what is counted, without a histogram."""
        self._counts = counts = new_counts(statistics)
        self.place, self.dtype, self.numel = addressof(counts), statistics.dtype, statistics.numel
        self.marks = 0
        """The bytes of the marks of its outputs and inputs."""
        for view, marks in ((statistics.outputs, counts.outputs), (statistics.inputs, counts.inputs)):
            if view is not None:
                stacks, *marks.view[:] = cycles(view)
                self.marks += 8 * stacks + -(-view.total // 8) * 8


class Item(NamedTuple):
    """A tensor at an address, and what is dropped of it: see `item_t` of tally.h."""

    kind: Kind
    x: int
    cut: int = 0
    ties: int = 0
    groups: tuple[int, int, int, int, int] = (0, 0, 0, 0, 0)
    view: tuple[int, int, int] = (0, 0, 0)
    alive: bytes = b""


def prune_each(scratch: Callable[[str, int], memoryview], items: Sequence[Item]) -> Iterator[Counts]:
    """Prune tensors where they lie, and return the counts of each; `scratch` returns memory by name and size."""
    raw = b"".join(
        [
            _ITEM.pack(x, kind.place, cut, ties, *groups, *view, address(alive) if alive else 0)
            for kind, x, cut, ties, groups, view, alive in items
        ]
    )
    flags = max((kind.numel for kind, _, _, _, groups, _, alive in items if groups[2] or alive), default=0)
    ranked = max(group_memory(item.groups[2], item.kind.dtype.itemsize) for item in items)
    sizes = {"marks": max(item.kind.marks for item in items), "keep": flags, "groups": ranked}
    results = bytearray(len(items) * _RESULT.size)
    memory = [address(scratch(name, size or 1)) for name, size in sizes.items()]
    _prune_each(raw, len(items), *memory, address(results))
    return map(_counts_of, _RESULT.iter_unpack(results))


def _counts_of(numbers: tuple[Any, ...]) -> Counts:
    zeros_before, zeros_after, nonfinite, squares_before, squares_after, pruned, kept, outputs, inputs, overfull = (
        numbers
    )
    return Counts(
        zeros_before,
        zeros_after,
        nonfinite,
        squares_before,
        squares_after,
        pruned,
        None if kept == NO_MAGNITUDE else kept,
        None if outputs < 0 else outputs,
        None if inputs < 0 else inputs,
        None if overfull < 0 else not overfull,
    )
