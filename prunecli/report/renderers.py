"""Which forms a report can be written in, by the suffix of its path.

A form is imported when it is asked for: most runs write JSON alone, and should not wait for the others.
"""

from __future__ import annotations

from pathlib import PurePath
from typing import TYPE_CHECKING

from prunecli.checkpoint import PathLike
from prunecli.errors import UsageError
from prunecli.report.json import to_json

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prunecli.report.model import Report

SUFFIXES = (".json", ".csv", ".md", ".html")
"""The suffixes that a report's path may have, in small or capital letters."""


def check_suffixes(paths: Iterable[PathLike]) -> None:
    """Raise UsageError for the first of `paths` whose suffix is none of SUFFIXES."""
    for path in paths:
        suffix = PurePath(path).suffix
        if suffix.lower() not in SUFFIXES:
            raise _unknown(suffix, PurePath(path))


def draws_histograms(paths: Iterable[PathLike]) -> bool:
    """Tell whether one of the reports at `paths` shows magnitudes, so that they have to be counted."""
    return any(PurePath(path).suffix.lower() == ".html" for path in paths)


def render_report(report: Report, suffix: str) -> str:
    """Return `report` in the form that `suffix` (".json", ".csv", ".md" or ".html") stands for.

    Raises UsageError for another suffix.
    """
    form = suffix.lower()
    if form == ".json":
        return to_json(report)
    if form == ".csv":
        from prunecli.report.csv import to_csv

        return to_csv(report)
    if form == ".md":
        from prunecli.report.markdown import to_markdown

        return to_markdown(report)
    if form == ".html":
        from prunecli.report.html import to_html

        return to_html(report)
    raise _unknown(suffix, PurePath("report"))


def _unknown(suffix: str, path: PurePath) -> UsageError:
    known = f"{', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"
    got = repr(suffix) if suffix else "without a suffix"
    better = path.with_suffix(".json") if path.name else "report.json"
    return UsageError(f"a report is written as {known}, not {got}", hint=f"--report {better}")
