"""The 2:4 pattern along the inputs of a tensor, checked chunk by chunk and in any order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from prunecli.kernels.alive_slices import aligned
from prunecli.kernels.groups import nonzeros_per_group

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from prunecli.kernels.tally import Shared

GROUP, MOST = 4, 2
"""The length of a group, and the most non-zeros it may have."""

RUN = 1 << 16
"""Elements checked at once; most tensors without the pattern fail in the first run."""


class TwoFour:
    """Whether every group of 4 along the middle dimension of (outer, length, inner) has at most 2 non-zeros.

    Each thread has one object for a tensor. Groups that lie in several chunks are counted in `shared`.
    """

    def __init__(self, length: int, inner: int, shared: Shared) -> None:
        """Start without a chunk."""
        self._length, self._inner, self._shared = length, inner, shared

    @property
    def holds(self) -> bool:
        """Whether no group so far, of any thread, has too many non-zeros."""
        return not self._shared.overfull

    def add(self, start: int, y: NDArray[Any]) -> None:
        """Add the magnitudes of a chunk from row-major element `start`."""
        if self._shared.overfull:
            return
        slab = self._length * self._inner
        head, body = aligned(start, y.size, slab)
        if head:
            self._add_part(start, y[:head])
        if body:
            self._require(conforms(y[head : head + body].reshape(-1, self._length, self._inner)))
        if head + body < y.size:
            self._add_part(start + head + body, y[head + body :])

    def _add_part(self, start: int, y: NDArray[Any]) -> None:
        """Add a part of one slab: whole groups, and parts of the groups at its edges."""
        slab, unit = self._length * self._inner, GROUP * self._inner
        place = start % slab
        head, body = aligned(place, y.size, unit)
        if place + y.size == slab:  # the last group of a slab may be short
            body = y.size - head
        if body:
            self._require(conforms(y[head : head + body].reshape(1, -1, self._inner)))
        for low, part in ((start, y[:head]), (start + head + body, y[head + body :])):
            if part.size:
                self._add_split(low, part)

    def _add_split(self, start: int, y: NDArray[Any]) -> None:
        """Count the non-zeros of a part of `inner` neighbouring groups; forget the groups once they are complete."""
        place = start % (self._length * self._inner)
        row, inner = place % (GROUP * self._inner), self._inner
        size = min(GROUP * inner, self._length * inner - (place - row))
        counts = np.zeros(inner, np.uint8)
        for low in range(-(row % inner), y.size, inner):  # a part of one row at a time
            nonzero = y[max(low, 0) : low + inner] != 0
            column = max(-low, 0)
            counts[column : column + nonzero.size] += nonzero
        parts = self._shared.join("group", start - row, size, (row, y.size, counts))
        if parts is not None:
            self._require(int(np.sum(parts, axis=0).max()) <= MOST)

    def _require(self, conforming: bool) -> None:  # noqa: FBT001 - the only argument
        if not conforming:
            self._shared.overfull = True


def conforms(y: NDArray[Any]) -> bool:
    """Return whether every group of 4 along axis 1 of (outer, length, inner) has at most 2 non-zeros."""
    _, length, inner = y.shape
    whole = length // GROUP * GROUP
    if whole == length:
        y = y.reshape(-1, GROUP, inner)
    elif whole and length * inner > RUN:
        return all(conforms(slab[None, :whole]) and conforms(slab[None, whole:]) for slab in y)
    step = max(1, RUN // (y.shape[1] * inner))
    runs = (y[first : first + step] != 0 for first in range(0, len(y), step))
    return all(nonzeros_per_group(nonzero, GROUP).max(initial=0) <= MOST for nonzero in runs)
