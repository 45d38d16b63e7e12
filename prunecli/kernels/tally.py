"""What a report counts about one tensor, chunk by chunk and in any order: the protocol `Tally`.

Each backend of array operations has its own tally. All give the same numbers, however a tensor is cut into chunks.

The sum of squares is exact over blocks. Block b has the elements [BLOCK * b, BLOCK * (b + 1)) in row-major order, and
missing ones at the end count as zero. Its squares are added in float32, or in float64 for a dtype of 8 bytes: those of
the second half to those of the first half, element by element, and so on until one number is left. If that is not
finite or not above `SMALLEST_SINGLE`, and the block has a finite weight that is not zero, the block is summed again in
float64, over its finite weights and in the same order. The sum of all blocks is rounded once.
"""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

from prunecli.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prunecli.dtypes import Float
    from prunecli.kernels.ops import Array, Keep
    from prunecli.layout import SliceView

Part: TypeAlias = Any
"""What a tally keeps about a part of a block or of a group, such as arrays of its backend."""

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


class Counts(NamedTuple):
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


@dataclass(frozen=True, slots=True)
class TallyPart:
    """What is counted of a part of a tensor, to be joined with what other processes count of the other parts.

    Attributes:
        zeros: The zeros before and after pruning.
        nonfinite: The weights that are not finite.
        squares: The sums of squares of whole blocks before and after, in units of 2**-1074, or None if one is infinite.
        largest_pruned: As in `Counts`.
        smallest_kept: As in `Counts`.
        overfull: Whether a group of 4 has more than 2 non-zeros; None if that is not checked.
        outputs: A byte per output, not 0 if it has a non-zero; None if they are not counted.
        inputs: The same for inputs.
    """

    zeros: tuple[int, int]
    nonfinite: int
    squares: tuple[int | None, int | None]
    largest_pruned: int
    smallest_kept: int | None
    overfull: bool | None
    outputs: bytes | None
    inputs: bytes | None


class Tally(Protocol):
    """The running counts of one tensor in one thread."""

    def prune(self, x: Array, keep: Keep, first: int, *, write: bool) -> None:
        """Count the weights `x`, a run from row-major element `first`, before and after pruning.

        With `write` those that `keep` drops are zeroed in `x`; a zero of either sign keeps its bits.
        """

    def add(self, y: Array, keep: Keep, first: int) -> None:
        """Count magnitudes `y` in place of weights, such as products of codes and scales; `y` may be overwritten."""

    def merge(self, other: Any) -> None:  # noqa: ANN401 - a tally of the same backend
        """Add the counts of the tally of another thread for the same tensor."""

    def counts(self) -> Counts:
        """Return the numbers of all chunks; call it once, after the last chunk."""

    def part(self) -> TallyPart:
        """Return the numbers of all chunks of a part of a tensor, in place of `counts`."""


class Shared:
    """What the tallies of one tensor share: the parts of blocks and groups that lie in several chunks."""

    def __init__(self, *, overfull: bool = False) -> None:
        """Start without parts."""
        self.overfull = overfull
        """Whether a group of the 2:4 pattern has too many non-zeros, so that no other group need be checked."""
        self._parts: dict[tuple[str, int], list[tuple[int, Part]]] = {}
        self._missing: dict[tuple[str, int], int] = {}
        self._lock = Lock()

    def rest(self, kind: str) -> list[tuple[int, int, Part]]:
        """Return the parts of one kind that wait for others, as (number of what they belong to, offset, value)."""
        return [
            (number, offset, value)
            for (name, number), parts in self._parts.items()
            if name == kind
            for offset, value in parts
        ]

    @property
    def is_empty(self) -> bool:
        """Whether no part waits for others."""
        return not self._parts

    def join(self, kind: str, number: int, whole: int, part: tuple[int, int, Part]) -> list[Part] | None:
        """Keep a part of something; return all its parts in order once it is complete, and forget them.

        `kind` and `number` name what has `whole` elements; `part` is (offset in it, elements, value of the caller).
        """
        key, (offset, size, value) = (kind, number), part
        with self._lock:
            missing = self._missing.pop(key, whole) - size
            parts = self._parts.pop(key, [])
            parts.append((offset, value))
            if missing:
                self._missing[key], self._parts[key] = missing, parts
                return None
        return [value for _, value in sorted(parts, key=lambda p: p[0])]
