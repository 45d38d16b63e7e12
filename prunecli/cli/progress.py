"""Progress on standard error: a bar on a terminal, otherwise a line every 30 seconds; details with `--verbose`."""

from __future__ import annotations

import sys
import time
from threading import Lock
from typing import TYPE_CHECKING

from prunecli.cli.exit import say
from prunecli.distributed.current import processes
from prunecli.text.numbers import time_left

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
    if processes().rank:
        return Details(verbose=False)
    if not wanted:
        return Details(verbose=verbose)
    terminal = sys.stderr is not None and sys.stderr.isatty()
    return Bars(verbose=verbose, last=last) if terminal else Lines(verbose=verbose)


class Details:
    """Prints details if `verbose`, and no progress."""

    def __init__(self, *, verbose: bool) -> None:
        """Print nothing yet."""
        self.wants_notes = verbose
        self._lock = Lock()

    def __enter__(self) -> Details:  # noqa: PYI034 - typing.Self needs Python 3.11
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Do nothing: plain lines need no clean-up."""

    def begin(self, phases: Mapping[str, int]) -> None:
        """Do nothing."""

    def expect(self, phases: Mapping[str, int]) -> None:
        """Do nothing."""

    def advance(self, phase: str, count: int) -> None:
        """Do nothing."""

    def note(self, text: str) -> None:
        """Print a detail."""
        if self.wants_notes:
            with self._lock:
                self._print(text)

    def _print(self, text: str) -> None:
        say(text)


class Lines(Details):
    """Prints the part of all phases that is done, and the time left, every 30 seconds, for logs."""

    def __init__(self, *, verbose: bool) -> None:
        """Print nothing yet."""
        super().__init__(verbose=verbose)
        self._began = time.monotonic()
        self._next = self._began + FIRST_LINE
        self._phases: dict[str, int] = {}
        self._done: dict[str, int] = {}
        self._expected: dict[str, int] = {}
        self._earlier = 0

    def begin(self, phases: Mapping[str, int]) -> None:
        """Add phases, whose sizes are in bytes, to those before, which are complete."""
        self._earlier += sum(self._phases.values())
        self._phases, self._done = dict(phases), dict.fromkeys(phases, 0)
        for phase in phases:
            self._expected.pop(phase, None)

    def expect(self, phases: Mapping[str, int]) -> None:
        """Add phases that begin later to the total."""
        self._expected.update(phases)

    def advance(self, phase: str, count: int) -> None:
        """Count bytes, and print a line if one is due."""
        with self._lock:
            self._count(phase, count)
            now = time.monotonic()
            if now >= self._next:
                self._next = now + LINES_EVERY
                self._print(self._line(now - self._began))

    def _count(self, phase: str, count: int) -> None:
        self._done[phase] = min(self._done.get(phase, 0) + count, self._phases.get(phase, 0))

    @property
    def total(self) -> int:
        """The bytes of all phases, those that begin later included."""
        return self._earlier + sum(self._phases.values()) + sum(self._expected.values())

    @property
    def completed(self) -> int:
        """The bytes of all phases that are done."""
        return self._earlier + sum(self._done.values())

    @property
    def current(self) -> str:
        """The first phase that is not complete, or the last one."""
        unfinished = (name for name, size in self._phases.items() if self._done[name] < size)
        return next(unfinished, "" if not self._phases else list(self._phases)[-1])

    def _line(self, seconds: float) -> str:
        rate = self.completed / max(seconds, 1e-9)
        left = time_left(max(self.total - self.completed, 0) / max(rate, 1e-9))
        part = self.completed / max(self.total, 1)
        return f"prune: {part:.0%} done, {self.current}; {rate / 1e6:,.0f} MB/s, about {left} left"


class Bars(Lines):
    """Draws one bar for all phases on a terminal, with the phase and the time left."""

    def __init__(self, *, verbose: bool = False, stream: TextIO | None = None, last: str | None = None) -> None:
        """Show nothing yet: Rich is imported when the bar appears.

        `last` labels the bar when all phases are complete, because the run may go on after its last byte.
        """
        super().__init__(verbose=verbose)
        self._stream, self._last = stream, last
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Bars:  # noqa: PYI034 - typing.Self needs Python 3.11
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the bar from the screen, after an interruption as well."""
        with self._lock:
            if self._bar is not None:
                self._bar.stop()

    def begin(self, phases: Mapping[str, int]) -> None:
        """Add phases to the bar."""
        with self._lock:
            super().begin(phases)
            self._update()

    def advance(self, phase: str, count: int) -> None:
        """Count bytes and move the bar."""
        with self._lock:
            self._count(phase, count)
            if self._bar is None and time.monotonic() - self._began > SHOW_AFTER:
                self._show()
            self._update()

    def _update(self) -> None:
        if self._bar is None or self._task is None:
            return
        label = self._last if self._last and self.completed == self.total else self.current
        self._bar.update(self._task, completed=self.completed, total=self.total, description=label)

    def _print(self, text: str) -> None:
        if self._bar is None:
            super()._print(text)
        else:
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _show(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TaskProgressColumn,
            TextColumn,
            TimeRemainingColumn,
        )

        columns = (BarColumn(bar_width=20), TaskProgressColumn(), DownloadColumn(), TimeRemainingColumn(), "left")
        console = Console(stderr=True) if self._stream is None else Console(file=self._stream)
        # The name of a file in a phase is no markup.
        phase = TextColumn("{task.description}", markup=False)
        self._bar = Progress(phase, *columns, console=console, transient=True, redirect_stdout=False)
        self._task = self._bar.add_task(self.current, total=self.total)
        self._bar.start()
