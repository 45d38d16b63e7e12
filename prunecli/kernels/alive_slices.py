"""The slices of a tensor that have a non-zero, found chunk by chunk and in any order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from prunecli.layout import SliceView

if TYPE_CHECKING:
    from numpy.typing import NDArray

SHORT_RUN = 32
"""Runs shorter than this are reduced entry by entry: a reduction over few entries costs more than its work."""

FIRST_CYCLES = 32
"""Cycles in which nearly all slices show a non-zero, if they have one."""

SMALL_STACK = 1 << 12
"""Elements of a stack below which whole stacks are reduced together."""


class AliveSlices:
    """Marks the slices of a view (stacks, before, slices, after) that have a non-zero.

    A run is `after` consecutive elements of one slice. A cycle is one run of each slice; a stack has `before` cycles.
    """

    def __init__(self, view: SliceView) -> None:
        """Start without a mark."""
        # With one cycle per stack the slices of all stacks follow each other.
        self._view = view if view.before > 1 else SliceView(1, 1, view.total, view.after)
        self._alive = np.zeros((self._view.stacks, self._view.slices), bool)
        self._complete = np.zeros(self._view.stacks, bool)  # stacks of which every slice is marked

    @property
    def dead(self) -> int:
        """The number of slices without a mark."""
        return int(self._alive.size - np.count_nonzero(self._alive))

    @property
    def flags(self) -> bytes:
        """A byte per slice, 0 for one without a mark."""
        return self._alive.tobytes()

    def merge(self, other: AliveSlices) -> None:
        """Add the marks of another object for the same view."""
        self._alive |= other._alive

    def add(self, start: int, y: NDArray[Any]) -> None:
        """Add the magnitudes of a chunk from row-major element `start`."""
        cycle = self._view.slices * self._view.after
        head, body = aligned(start, y.size, cycle)
        if head:
            self._add_part(start, y[:head])
        if body:
            cycles = y[head : head + body].reshape(-1, self._view.slices, self._view.after)
            self._add_cycles((start + head) // cycle, cycles)
        if head + body < y.size:
            self._add_part(start + head + body, y[head + body :])

    def _add_part(self, start: int, y: NDArray[Any]) -> None:
        """Add a part of one cycle: a part of a run, whole runs, a part of a run."""
        number, place = divmod(start, self._view.slices * self._view.after)
        stack, after = number // self._view.before, self._view.after
        if self._complete[stack]:
            return
        alive = self._alive[stack]
        head, body = aligned(place, y.size, after)
        first = (place + head) // after
        if body:
            alive[first : first + body // after] |= _runs_alive(y[head : head + body].reshape(-1, after))
        for index, part in ((place // after, y[:head]), (first + body // after, y[head + body :])):
            if part.size and not alive[index]:
                alive[index] = bool(part.max())

    def _add_cycles(self, first: int, y: NDArray[Any]) -> None:
        """Add whole cycles (cycles, slices, after), of which `first` is the number of the first one."""
        before, done = self._view.before, 0
        while done < len(y):
            stack, index = divmod(first + done, before)
            count = min(before - index, len(y) - done)
            stacks = (len(y) - done) // before
            if not index and stacks > 1 and before * y[0].size < SMALL_STACK:
                count = stacks * before
                whole = y[done : done + count].reshape(stacks, before, *y.shape[1:])
                self._alive[stack : stack + stacks] |= whole.any(axis=(1, 3))
            elif not self._complete[stack]:
                self._add_to_stack(stack, y[done : done + count])
            done += count

    def _add_to_stack(self, stack: int, y: NDArray[Any]) -> None:
        """Add whole cycles of one stack; after the first ones few slices are without a mark."""
        alive = self._alive[stack]
        alive |= _cycles_alive(y[:2])
        for cycles in (y[2:FIRST_CYCLES], y[FIRST_CYCLES:]):
            dead = np.flatnonzero(~alive)
            if not dead.size:
                self._complete[stack] = True
                return
            if 8 * dead.size > alive.size:  # a copy of many slices takes longer than to reduce all of them
                alive |= _cycles_alive(cycles)
            else:
                alive[dead] = _cycles_alive(cycles[:, dead])


def aligned(start: int, size: int, unit: int) -> tuple[int, int]:
    """Return how many of `size` elements from `start` are before a multiple of `unit`, and are whole units after it."""
    head = min(-start % unit, size)
    return head, (size - head) // unit * unit


def _cycles_alive(y: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which slices of (cycles, slices, after) have a non-zero."""
    return _runs_alive(np.bitwise_or.reduce(y, axis=0))


def _runs_alive(y: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which runs, the rows of `y`, have a non-zero: a long run nearly always has one near its front."""
    runs, length = y.shape
    if length == 1:
        return np.asarray(y[:, 0] != 0)
    if length < SHORT_RUN:
        return np.asarray(np.bitwise_or.reduce([y[:, place] for place in range(length)]) != 0)
    front = SHORT_RUN if length >= 8 * SHORT_RUN else length
    alive: NDArray[np.bool_] = np.maximum.reduce(y[:, :front], axis=1) != 0
    if front == length or np.count_nonzero(alive) == runs:
        return alive
    unknown = np.flatnonzero(~alive)
    if len(unknown) > runs // 4:
        return np.asarray(y.max(axis=1) != 0)
    alive[unknown] = y[unknown].max(axis=1) != 0
    return alive
