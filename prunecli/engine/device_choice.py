"""The choice between the CPU and a device for "auto": by the arithmetic of the strategies and the size of the weights.

A device saves the arithmetic of the CPU as far as it takes longer than reading and writing, which go on meanwhile. It
costs its start. The numbers were measured with bfloat16 on servers; docs/performance.md has them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from prunecli.io.threads import available_cpus, default_threads
from prunecli.kernels.backend import has_native
from prunecli.kernels.devices import resolve

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prunecli.engine.options import RunOptions
    from prunecli.selection.select import Selection
    from prunecli.strategies.strategy import Strategy

START = 4.0
"""Seconds until torch is imported and a device computes."""

READ_AND_WRITE = 0.3
"""Seconds in which a gigabyte is read and written, from and to memory or a fast disk."""

NATIVE, NUMPY = (0.15, 1.0), (2.5, 5.0)
"""Seconds of one core for the arithmetic of a gigabyte: usually, and for weights ranked in rows or long groups."""


def choose_device(
    pruned_by: Iterable[tuple[Strategy, Iterable[int]]], selection: Selection, options: RunOptions
) -> str | None:
    """Return the device that "auto" means for targets and their strategies, or None for the CPU; note the reason.

    torch is imported only where a device would be worth its start.
    """
    cores = min(options.threads or default_threads(), available_cpus())
    costs, saved = NATIVE if has_native() else NUMPY, 0.0
    for strategy, members in pruned_by:
        gigabytes = sum(selection.targets[member].tensor.nbytes for member in members) / 1e9
        saved += gigabytes * max(0.0, costs[strategy.ranks_within_rows] / cores - READ_AND_WRITE)
    device = resolve("auto") if saved > START else None
    name = device or "the CPU"
    reason = f"a device saves about {saved:.1f} s of arithmetic, and takes about {START:.0f} s to start"
    if device is None and saved > START:
        reason = "there is no other device"
    options.progress.note(f"auto chooses {name}: {reason}")
    return device
