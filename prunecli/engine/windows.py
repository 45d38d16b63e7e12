"""The schedule of the second phase: windows and untouched ranges of all streams, in order, as far as plans exist."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prunecli.io.layout import UntouchedRange, Window
from prunecli.io.threads import Tasks

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from prunecli.checkpoint import Checkpoint
    from prunecli.engine.apply import Applier
    from prunecli.io.files import Output
    from prunecli.io.threads import Pool, Worker


class WindowSchedule:
    """The windows and untouched ranges of all streams, submitted to a pool in order."""

    def __init__(
        self, pool: Pool, applier: Applier, checkpoint: Checkpoint, sinks: Sequence[Output | None], window: int
    ) -> None:
        """Lay out all streams in windows of `window` bytes; results go to `sinks` (None: it is only measured)."""
        self._applier, self._sinks = applier, sinks
        self._layouts = applier.layouts(pool, checkpoint, sinks, window=window)
        self._tasks = Tasks(pool)
        self._parts = self._all_parts()
        self._blocked: tuple[int, Window | UntouchedRange] | None = None

    def _all_parts(self) -> Iterator[tuple[int, Window | UntouchedRange]]:
        """Yield the parts of all files in order; long untouched ranges in steps, so that an interrupt takes effect."""
        for number, layout in enumerate(self._layouts):
            for part in layout:
                if isinstance(part, UntouchedRange):
                    yield from ((number, step) for step in part.steps())
                else:
                    yield number, part

    def submit_planned(self) -> None:
        """Submit all parts before the first window that has a tensor without a plan."""
        self._tasks.each(self._process, self._planned())

    def _planned(self) -> Iterator[tuple[int, Window | UntouchedRange]]:
        # One thread at a time runs this: `Tasks` holds a lock while it takes the next item.
        plans = self._applier.context.plans
        while (numbered := self._blocked or next(self._parts, None)) is not None:
            self._blocked = None
            part = numbered[1]
            if isinstance(part, Window) and any(piece.target not in plans for piece in part.pieces):
                self._blocked = numbered
                return
            yield numbered

    def _process(self, worker: Worker, number: int, part: Window | UntouchedRange) -> None:
        sink = self._sinks[number]
        if isinstance(part, UntouchedRange):
            self._applier.copy(number, sink, part)
        else:
            self._applier.apply(worker, number, sink, part)

    def wait(self) -> None:
        """Wait until all submitted parts are done."""
        self._tasks.wait()
