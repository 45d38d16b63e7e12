"""Progress on standard error: bars on a terminal, otherwise a line every 30 seconds; details with `--verbose`."""

from __future__ import annotations

import sys
import time
from threading import Lock
from typing import TYPE_CHECKING

from prunecli.cli.exit import say

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import TextIO

    from rich.progress import Progress, TaskID

SHOW_AFTER = 1.0
"""Seconds before the bars appear: most runs end earlier."""

FIRST_LINE, LINES_EVERY = 10.0, 30.0
"""Seconds before the first line where there is no terminal, and between two lines."""


def show_progress(*, wanted: bool, verbose: bool = False, last: str | None = None) -> Details:
    """Return the receiver of progress for this process, a context manager that ends with the work.

    It shows bars or lines if `wanted`, and details if `verbose`. `last` labels a bar whose phases are all complete.
    """
    if not wanted:
        return Details(verbose=verbose)
    terminal = sys.stderr is not None and sys.stderr.isatty()
    return Bars(verbose=verbose, last=last) if terminal else Lines(verbose=verbose)


class Details:
    """Prints details if `verbose`, and no progress."""

    def __init__(self, *, verbose: bool) -> None:
        """Print nothing yet."""
        self._verbose = verbose
        self._lock = Lock()

    def __enter__(self) -> Details:  # noqa: PYI034 - typing.Self needs Python 3.11
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Do nothing: plain lines need no clean-up."""

    def begin(self, phases: Mapping[str, int]) -> None:
        """Do nothing."""

    def advance(self, phase: str, count: int) -> None:
        """Do nothing."""

    def note(self, text: str) -> None:
        """Print a detail."""
        if self._verbose:
            with self._lock:
                self._print(text)

    def _print(self, text: str) -> None:
        say(text)


class Lines(Details):
    """Prints the percentage of each phase every 30 seconds, for logs."""

    def __init__(self, *, verbose: bool) -> None:
        """Print nothing yet."""
        super().__init__(verbose=verbose)
        self._began = time.monotonic()
        self._next = self._began + FIRST_LINE
        self._phases: dict[str, int] = {}
        self._done: dict[str, int] = {}

    def begin(self, phases: Mapping[str, int]) -> None:
        """Replace the phases, whose sizes are in bytes."""
        self._phases, self._done = dict(phases), dict.fromkeys(phases, 0)
        self._began = time.monotonic()

    def advance(self, phase: str, count: int) -> None:
        """Count bytes, and print a line if one is due."""
        with self._lock:
            self._done[phase] = self._done.get(phase, 0) + count
            now = time.monotonic()
            if now >= self._next:
                self._next = now + LINES_EVERY
                self._print(self._line(now - self._began))

    def _line(self, seconds: float) -> str:
        done, total = sum(self._done.values()), max(sum(self._phases.values()), 1)
        rate = done / max(seconds, 1e-9)
        remaining = max(total - done, 0) / max(rate, 1e-9)
        parts = [f"{name} {min(self._done[name] / max(size, 1), 1):.0%}" for name, size in self._phases.items() if size]
        return f"prune: {', '.join(parts)}; {rate / 1e6:,.0f} MB/s, about {remaining:,.0f} s left"


class Bars(Lines):
    """Draws a bar for each phase on a terminal."""

    def __init__(self, *, verbose: bool = False, stream: TextIO | None = None, last: str | None = None) -> None:
        """Show nothing yet: Rich is imported when the bars appear.

        `last` labels a bar when all phases are complete, because the run may go on after its last byte.
        """
        super().__init__(verbose=verbose)
        self._stream, self._last = stream, last
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Bars:  # noqa: PYI034 - typing.Self needs Python 3.11
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the bars from the screen."""
        with self._lock:
            if self._bars is not None:
                self._bars.stop()

    def begin(self, phases: Mapping[str, int]) -> None:
        """Replace the phases and their bars."""
        with self._lock:
            super().begin(phases)
            if self._bars is not None:
                for task in self._tasks.values():
                    self._bars.remove_task(task)
                self._add_tasks(self._bars)

    def advance(self, phase: str, count: int) -> None:
        """Count bytes and move the bar of the phase."""
        with self._lock:
            self._done[phase] = min(self._done.get(phase, 0) + count, self._phases.get(phase, 0))
            if self._bars is None and time.monotonic() - self._began > SHOW_AFTER:
                self._show()
            if self._bars is not None and phase in self._tasks:
                label = self._last if self._last and self._done == self._phases else phase
                self._bars.update(self._tasks[phase], completed=self._done[phase], description=label)

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
