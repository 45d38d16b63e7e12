"""A progress bar on standard error, for work that takes longer than a second."""

from __future__ import annotations

import time
from threading import Lock
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

PATIENCE = 1.0
"""Seconds before the bar shows: most runs are over by then."""


class Bar:
    """`with Bar() as bar`: pass it as `progress`; it draws itself on a terminal's standard error."""

    def __init__(self) -> None:
        """Show nothing yet; Rich is imported only when the bar is shown."""
        self._lock = Lock()
        self._began = time.monotonic()
        self._done = self._total = 0
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Bar:  # noqa: PYI034 - nobody derives from it
        """Give the bar itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Take the bar off the screen."""
        with self._lock:
            if self._bar is not None:
                self._bar.stop()

    def begin(self, total: int) -> None:
        """`total` bytes are going to be read or copied."""
        self._total = total

    def advance(self, count: int) -> None:
        """`count` bytes more are done."""
        with self._lock:
            self._done = min(self._done + count, self._total)
            if self._bar is None and time.monotonic() - self._began > PATIENCE:
                self._show()
            if self._bar is not None and self._task is not None:
                doing = "flushing" if self._done == self._total else "pruning"
                self._bar.update(self._task, completed=self._done, description=doing)

    def _show(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

        columns = (BarColumn(bar_width=30), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(), "left")
        self._bar = Progress("{task.description}", *columns, console=Console(stderr=True), transient=True)
        self._task = self._bar.add_task("pruning", total=self._total)
        self._bar.start()
