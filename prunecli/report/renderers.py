"""The forms of a report file, by the suffix of its path.

The module of a form is imported when the form is needed, because most runs write JSON only.
"""

from __future__ import annotations

from pathlib import PurePath
from typing import TYPE_CHECKING

from prunecli.checkpoint import PathLike
from prunecli.errors import Argument, UsageError
from prunecli.report.plots import SUFFIXES as FIGURES
from prunecli.report.plots import check_figure
from prunecli.text.natural_order import natural_order
from prunecli.text.nearest import nearest_choice

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from prunecli.report.model import Report


def _csv(report: Report) -> str:
    from prunecli.report.csv import to_csv

    return to_csv(report)


def _markdown(report: Report) -> str:
    from prunecli.report.markdown import to_markdown

    return to_markdown(report)


def _figure(report: Report, suffix: str) -> bytes:
    from prunecli.report.plots import bars

    selected = [row for row in report.rows if row.selected]
    rows = [selected[index] for index in natural_order([row.name for row in selected])]
    before, after = ([getattr(row, key) or 0.0 for row in rows] for key in ("sparsity_before", "sparsity_after"))
    title = f"{PurePath(report.input_path).name}, by {report.strategy.get('name')}"
    return bars([row.name for row in rows], before, after, title, suffix)


_RENDERERS: dict[str, Callable[[Report], str]] = {
    ".json": lambda report: report.to_json(),
    ".csv": _csv,
    ".md": _markdown,
    ".html": lambda report: report.to_html(),
}

SUFFIXES = (*_RENDERERS, *FIGURES)
"""The suffixes that the path of a report may have, in lower or upper case."""


def check_suffixes(paths: Iterable[PathLike]) -> None:
    """Raise UsageError for the first of `paths` whose suffix is not in SUFFIXES."""
    for path in paths:
        suffix = PurePath(path).suffix.lower()
        if suffix not in SUFFIXES:
            raise _unknown(PurePath(path))
        if suffix in FIGURES:
            check_figure(path)


def draws_histograms(paths: Iterable[PathLike]) -> bool:
    """Return whether one of the reports at `paths` shows magnitudes, so that a run has to count them."""
    return any(PurePath(path).suffix.lower() == ".html" for path in paths)


def render_report(report: Report, suffix: str) -> bytes:
    """Return the file of `report` in the form of a suffix of SUFFIXES; UsageError for another suffix.

    A character that UTF-8 cannot encode, a lone surrogate, becomes an escape.
    """
    check_suffixes([f"report{suffix}"])
    if suffix.lower() in FIGURES:
        return _figure(report, suffix)
    return _RENDERERS[suffix.lower()](report).encode("utf-8", errors="backslashreplace")


def _unknown(path: PurePath) -> UsageError:
    known = f"{', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"
    actual = repr(path.suffix) if path.suffix else "without a suffix"
    better = path.with_suffix(nearest_choice(path.suffix, SUFFIXES, ".json")) if path.name else PurePath("report.json")
    return UsageError(f"a report is written as {known}, not {actual}", hint=Argument("reports", [str(better)]))
