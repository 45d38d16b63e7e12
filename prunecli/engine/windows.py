"""The schedule of the second phase: windows and untouched ranges of all streams, in order, as far as plans exist."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prunecli.io.layout import UntouchedRange, Window
from prunecli.io.threads import Tasks

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

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
        self._pool = pool
        self._submitted: list[Tasks] = []
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
        # As a list: plans that are made later must not add to what `wait_for_earlier` waits for.
        if parts := list(self._planned()):
            self._submit(parts)

    def _submit(self, parts: Iterable[tuple[int, Window | UntouchedRange]]) -> None:
        self._submitted.append(Tasks(self._pool))
        self._submitted[-1].each(self._process, parts)

    def wait_for_earlier(self) -> None:
        """Wait until all submitted parts are done but those that were submitted last."""
        while len(self._submitted) > 1:
            self._submitted.pop(0).wait()

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

    def finish(self) -> None:
        """Process all other parts, which have plans now, and wait until they are done."""
        self._submit(self._planned())
        for tasks in self._submitted:
            tasks.wait()
