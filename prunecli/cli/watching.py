"""What a search or a sweep is doing, on standard error: the amount, how many are left, and for how long."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from prunecli.cli import progress
from prunecli.cli.exit import say
from prunecli.text.escape import printable
from prunecli.text.numbers import time_left

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.progress import Progress


class Watching:
    """Shows the evaluation that runs: a line with a clock on a terminal, and in a log a line if it takes long."""

    def __init__(self, *, wanted: bool, verbose: bool) -> None:
        """Show it if `wanted`, and what the evaluation prints if `verbose`."""
        self._wanted, self._verbose = wanted, verbose
        self._began = time.monotonic()
        self._label, self._left = "", 0
        self._times: list[float] = []
        self._bar: Progress | None = None

    @property
    def wants_lines(self) -> bool:
        """Whether the output of the evaluation is shown."""
        return self._verbose

    def upcoming(self, amount: float | None, left: int) -> None:
        """Keep what is tried next."""
        self._label = "the unpruned checkpoint" if amount is None else f"amount {amount:g}"
        self._left = left

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Show what is evaluated while the block runs, and nothing of it afterwards."""
        began = time.monotonic()
        self._show()
        try:
            yield
        finally:
            if self._bar is not None:
                self._bar.stop()
                self._bar = None
        self._times.append(time.monotonic() - began)

    def line(self, text: str) -> None:
        """Print a line of the evaluation's output."""
        if self._bar is None:
            say(f"  | {printable(text)}")
        else:
            self._bar.console.print(f"  | {printable(text)}", markup=False, highlight=False, soft_wrap=True)

    def _show(self) -> None:
        terminal = sys.stderr is not None and sys.stderr.isatty()
        late = time.monotonic() - self._began >= progress.FIRST_LINE
        if self._wanted and terminal:
            self._bar = _clock(self.text())
            self._bar.start()
        elif self._verbose or (self._wanted and late):
            say(f"prune: {self.text()}")

    def text(self) -> str:
        """Return what is evaluated, how many may follow, and about how long all of it takes."""
        more = f", at most {self._left} more" if self._left else ", the last one"
        known = [seconds for seconds in self._times if seconds]
        left = sum(known) / len(known) * (self._left + 1) if known else None
        return f"evaluating {self._label}{more}" + ("" if left is None else f", about {time_left(left)} left")


def _clock(text: str) -> Progress:
    """Return a line with `text` and the time since its start, which disappears when it stops."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    # Standard output is not redirected: the table goes there, and it may be a file.
    bar = Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False)
    bar.add_task(text, total=None)
    return bar
