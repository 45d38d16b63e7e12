"""windows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prunecli.engine.apply import Applier, overlapping
from prunecli.io.layout import UntouchedRange, Window
from prunecli.io.threads import Pool, Tasks

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from prunecli.checkpoint import CheckpointFile, Checksum
    from prunecli.engine.run import Run
    from prunecli.io.files import Sink, Source
    from prunecli.io.layout import Layout
    from prunecli.io.threads import Worker


class _Windows:
    """The windows of all files, handed out in order as far as the plans reach."""

    def __init__(
        self, run: Run, pool: Pool, applier: Applier, sources: Sequence[Source], sinks: Sequence[Sink | None]
    ) -> None:
        self.applier, self.sources, self.sinks = applier, sources, sinks
        self.files: list[tuple[CheckpointFile, Layout, list[Checksum]]] = [
            (file, applier.layout(at, file, window=run.window), sorted(applier.touched(at, file), key=_start))
            for at, file in enumerate(run.checkpoint.files)
        ]
        self.tasks = Tasks(pool)
        self._parts = self._all_parts()
        self._held: tuple[int, Window | UntouchedRange] | None = None

    def _all_parts(self) -> Iterator[tuple[int, Window | UntouchedRange]]:
        """Yield the parts of all files in order; long untouched ranges in steps, so that an interrupt is heard."""
        for at, (_, layout, _) in enumerate(self.files):
            for part in layout:
                if isinstance(part, UntouchedRange):
                    yield from ((at, step) for step in part.steps())
                else:
                    yield at, part

    def go_on(self) -> None:
        """Let the threads work up to the first window that needs a tensor not planned yet."""
        self.tasks.each(self._do, self._planned())

    def _planned(self) -> Iterator[tuple[int, Window | UntouchedRange]]:
        while (at_part := self._held or next(self._parts, None)) is not None:
            self._held = None
            part = at_part[1]
            if isinstance(part, Window) and any(piece.target not in self.applier.plans for piece in part.pieces):
                self._held = at_part
                return
            yield at_part

    def _do(self, worker: Worker, at: int, part: Window | UntouchedRange) -> None:
        if isinstance(part, UntouchedRange):
            self.applier.copy(at, self.sinks[at], part)
        else:
            self.applier.window(worker, at, self.sinks[at], part, list(overlapping(part, self.files[at][2])))

    def wait(self) -> None:
        """Wait until all that was handed out is done."""
        self.tasks.wait()


def _start(checksum: Checksum) -> int:
    return checksum.span.start
