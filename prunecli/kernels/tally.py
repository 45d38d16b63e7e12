"""What a report counts about one tensor, chunk by chunk and in any order: the protocol `Tally`.

Each backend of array operations has its own tally. All give the same numbers, however a tensor is cut into chunks.

The sum of squares is exact over blocks. Block b has the elements [BLOCK * b, BLOCK * (b + 1)) in row-major order, and
missing ones at the end count as zero. Its squares are added in float32, or in float64 for a dtype of 8 bytes: those of
the second half to those of the first half, element by element, and so on until one number is left. If that is not
finite or not above `SMALLEST_SINGLE`, and the block has a finite weight that is not zero, the block is summed again in
float64, over its finite weights and in the same order. The sum of all blocks is rounded once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prunecli.dtypes import Float
    from prunecli.kernels.ops import Array, Keep
    from prunecli.layout import SliceView

BLOCK = 1 << 10
"""Elements of a block of the sum of squares."""

SMALLEST_SINGLE = 1e-20
"""A sum of a block in float32 that is not above this may have lost digits of tiny squares."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """What is counted about a tensor.

    Attributes:
        dtype: The format of the magnitudes.
        numel: The number of elements of the tensor.
        outputs: The slices that are its outputs, or None if they are not counted.
        inputs: The same for its inputs.
        groups: `length` and `inner` of the (outer, length, inner) view whose middle dimension has the groups of the 2:4
            pattern, or None if the pattern is not checked.
        bounds: The largest pattern that can be pruned and the smallest that can be kept, where they are known: a tally
            need not search further once it has seen them.
        bins: `shift`, `first` and `last` of the bins of a histogram: bin b holds the finite magnitudes p > 0 with
            p >> shift == b, the first one also all smaller, and the last one all larger; or None.
    """

    dtype: Float
    numel: int
    outputs: SliceView | None = None
    inputs: SliceView | None = None
    groups: tuple[int, int] | None = None
    bounds: tuple[int, int] | None = None
    bins: tuple[int, int, int] | None = None


@dataclass(frozen=True, slots=True)
class Counts:
    """The numbers of a tensor, of all its chunks together.

    Attributes:
        zeros_before: The zeros before pruning.
        zeros_after: The zeros after pruning.
        nonfinite: The weights that are not finite, before pruning.
        squares_before: The sum of squares of the finite weights before pruning; infinity if it overflows.
        squares_after: The same after pruning.
        largest_pruned: The pattern of the largest pruned magnitude; 0 if no weight that is not zero is pruned.
        smallest_kept: The pattern of the smallest magnitude after pruning that is not zero; None if all are zero.
        dead_outputs: The outputs without a non-zero after pruning; None if they are not counted.
        dead_inputs: The same for inputs.
        two_four: Whether every group of 4 has at most 2 non-zeros after pruning; None if that is not checked.
        bins_before: The numbers of magnitudes in the bins before pruning, empty if they are not counted.
        bins_after: The same after pruning.
    """

    zeros_before: int
    zeros_after: int
    nonfinite: int
    squares_before: float
    squares_after: float
    largest_pruned: int
    smallest_kept: int | None
    dead_outputs: int | None = None
    dead_inputs: int | None = None
    two_four: bool | None = None
    bins_before: Sequence[int] = ()
    bins_after: Sequence[int] = ()


class Tally(Protocol):
    """The running counts of one tensor in one thread."""

    def prune(self, x: Array, keep: Keep, first: int, *, write: bool) -> None:
        """Count the weights `x`, a run from row-major element `first`, before and after pruning.

        With `write` those that `keep` drops are zeroed in `x`; a zero of either sign keeps its bits.
        """

    def add(self, y: Array, keep: Keep, first: int) -> None:
        """Count magnitudes `y` in place of weights, such as products of codes and scales; `y` may be overwritten."""

    def merge(self, other: Tally) -> None:
        """Add the counts of the tally of another thread for the same tensor."""

    def counts(self) -> Counts:
        """Return the numbers of all chunks; call it once, after the last chunk."""


@dataclass(slots=True)
class Shared:
    """What the tallies of one tensor share: the parts of blocks that lie in several chunks, until they are complete.

    A part is (offset in the block, magnitudes before, magnitudes after); arrays are those of the backend.
    """

    numel: int
    _parts: dict[int, list[tuple[int, Array, Array]]] = field(default_factory=dict)
    _missing: dict[int, int] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    def join(self, block: int, part: tuple[int, Array, Array], size: int) -> list[tuple[int, Array, Array]] | None:
        """Keep a part of `size` elements; return all parts of its block in order once the block is complete."""
        with self._lock:
            whole = min(BLOCK, self.numel - block * BLOCK)
            missing = self._missing.get(block, whole) - size
            parts = self._parts.setdefault(block, [])
            parts.append(part)
            if missing:
                self._missing[block] = missing
                return None
            del self._parts[block]
            self._missing.pop(block, None)
        return sorted(parts, key=lambda p: p[0])
