"""How far the work is, on standard error: bars on a terminal, a line now and then elsewhere, and details if asked."""

from __future__ import annotations

import sys
import time
from threading import Lock
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import TextIO

    from rich.progress import Progress, TaskID

PATIENCE = 1.0
"""Seconds before bars show: most runs are over by then."""

FIRST_LINE, LINES_EVERY = 10.0, 30.0
"""Seconds before the first line where there is no terminal, and from one to the next."""


class Details:
    """Prints what is worth telling to those who ask for details, and nothing else."""

    def __init__(self, *, verbose: bool) -> None:
        """Tell details if `verbose`."""
        self._verbose = verbose
        self._lock = Lock()

    def __enter__(self) -> Details:  # noqa: PYI034 - nobody asks for more
        """Give itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is on the screen that would have to go."""

    def begin(self, phases: Mapping[str, int]) -> None:
        """Say nothing of what is going to be done."""

    def advance(self, phase: str, count: int) -> None:
        """Say nothing of what is done."""

    def note(self, text: str) -> None:
        """Print a detail."""
        if self._verbose:
            with self._lock:
                self._print(text)

    def _print(self, text: str) -> None:
        if sys.stderr is not None:
            print(text, file=sys.stderr, flush=True)  # noqa: T201


class Lines(Details):
    """Prints a line now and then, for logs."""

    def __init__(self, *, verbose: bool) -> None:
        """Print nothing yet."""
        super().__init__(verbose=verbose)
        self._began = time.monotonic()
        self._next = self._began + FIRST_LINE
        self._phases: dict[str, int] = {}
        self._done: dict[str, int] = {}

    def begin(self, phases: Mapping[str, int]) -> None:
        """`phases` are going to be worked through, each of so many bytes."""
        self._phases, self._done = dict(phases), dict.fromkeys(phases, 0)
        self._began = time.monotonic()

    def advance(self, phase: str, count: int) -> None:
        """`count` bytes more are done."""
        with self._lock:
            self._done[phase] = self._done.get(phase, 0) + count
            now = time.monotonic()
            if now >= self._next:
                self._next = now + LINES_EVERY
                self._print(self._line(now - self._began))

    def _line(self, seconds: float) -> str:
        done, total = sum(self._done.values()), max(sum(self._phases.values()), 1)
        rate = done / max(seconds, 1e-9)
        left = max(total - done, 0) / max(rate, 1e-9)
        parts = [f"{name} {min(self._done[name] / max(size, 1), 1):.0%}" for name, size in self._phases.items() if size]
        return f"prune: {', '.join(parts)}; {rate / 1e6:,.0f} MB/s, about {left:,.0f} s left"


class Bar(Lines):
    """Draws a bar for each phase on a terminal."""

    def __init__(self, *, verbose: bool = False, stream: TextIO | None = None, last: str = "flushing") -> None:
        """Show nothing yet; Rich is imported only when the bars are shown. `last` is what goes on when all is done."""
        super().__init__(verbose=verbose)
        self._stream, self._last = stream, last
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Bar:  # noqa: PYI034 - nobody derives from it
        """Give the bars."""
        return self

    def __exit__(self, *_: object) -> None:
        """Take the bars off the screen."""
        with self._lock:
            if self._bars is not None:
                self._bars.stop()

    def begin(self, phases: Mapping[str, int]) -> None:
        """`phases` are going to be worked through; their bars take the place of those before."""
        with self._lock:
            super().begin(phases)
            if self._bars is not None:
                for task in self._tasks.values():
                    self._bars.remove_task(task)
                self._add_tasks(self._bars)

    def advance(self, phase: str, count: int) -> None:
        """`count` bytes more are done."""
        with self._lock:
            self._done[phase] = min(self._done.get(phase, 0) + count, self._phases.get(phase, 0))
            if self._bars is None and time.monotonic() - self._began > PATIENCE:
                self._show()
            if self._bars is not None and phase in self._tasks:
                whole = self._done == self._phases
                self._bars.update(
                    self._tasks[phase], completed=self._done[phase], description=self._last if whole else phase
                )

    def _print(self, text: str) -> None:
        if self._bars is None:
            super()._print(text)
        else:
            self._bars.console.print(text, markup=False, highlight=False)

    def _show(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

        columns = (BarColumn(bar_width=30), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(), "left")
        console = Console(stderr=True) if self._stream is None else Console(file=self._stream)
        self._bars = Progress("{task.description}", *columns, console=console, transient=True)
        self._add_tasks(self._bars)
        self._bars.start()

    def _add_tasks(self, bars: Progress) -> None:
        sizes = {phase: total for phase, total in self._phases.items() if total}
        self._tasks = {
            phase: bars.add_task(phase, total=total, completed=self._done[phase]) for phase, total in sizes.items()
        }
