"""The curves of `scan` and the histogram of `inspect` as figures for papers."""

from __future__ import annotations

from pathlib import PurePath
from typing import TYPE_CHECKING

from prunecli.inspection.scan_html import NAMED
from prunecli.inspection.thresholds import SPARSITIES
from prunecli.report.plots import Series, curves, histogram

if TYPE_CHECKING:
    from prunecli.inspection.magnitude_histogram import MagnitudeHistogram
    from prunecli.inspection.scan import Scan

_DRAWN = 400  # curves


def draw_scan(scan: Scan, suffix: str) -> bytes:
    """Return the figure: a curve for each tensor, the most sensitive ones with their names."""
    known = [curve for curve in scan.curves if curve.kept is not None][:_DRAWN]
    xs = [0.0, *(sparsity / 100 for sparsity in SPARSITIES), 1.0]
    series = [
        Series(curve.name if index < NAMED else "", xs, [1.0, *(curve.kept or ()), 0.0])
        for index, curve in enumerate(known)
    ]
    title = f"Sensitivity of {PurePath(scan.path).name}"
    return curves(series, title, ("weights of the tensor that are zero", "norm kept"), suffix)


def draw_histogram(counted: MagnitudeHistogram, path: str, suffix: str) -> bytes:
    """Return the figure of the magnitudes that a pattern selected."""
    title = f"Magnitudes of {counted.pattern} in {PurePath(path).name}"
    return histogram(counted.edges, counted.counts, title, suffix)
