"""options."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from prunecli.progress import NoProgress, Progress
from prunecli.report.model import Report

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Options:
    """How to work, as opposed to what to do.

    `device` is a torch device, or None for NumPy on the CPU; `threads` 0 means as many as help; `window` bytes are
    worked on at once (0: what suits the device); `direct` writes around the page cache (None: if the output is
    large). `strict` refuses weights that are not finite, `sha256` reads input and output again for the report.
    `masks` is where a mask of what stays goes: a path, or an open descriptor. `verify` is shown the report before
    anything is published, and may raise. `histograms` counts magnitudes for a page, `estimate` compresses a sample.
    """

    device: str | None = None
    threads: int = 0
    window: int = 0
    direct: bool | None = None
    strict: bool = False
    sha256: bool = False
    histograms: bool = False
    estimate: bool = False
    force: bool = False
    command: tuple[str, ...] = ()
    masks: Path | int | None = None
    verify: Callable[[Report], None] | None = None
    progress: Progress = field(default_factory=NoProgress)
