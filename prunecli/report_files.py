"""Which forms a report can be written in, by the suffix of its path."""

from __future__ import annotations

from pathlib import PurePath
from typing import TYPE_CHECKING

from prunecli.errors import UsageError
from prunecli.report import to_json
from prunecli.report_csv import to_csv
from prunecli.report_html import to_html
from prunecli.report_markdown import to_markdown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from os import PathLike

    from prunecli.report import Report

_FORMS: dict[str, Callable[[Report], str]] = {
    ".json": to_json,
    ".csv": to_csv,
    ".md": to_markdown,
    ".html": to_html,
}

SUFFIXES = tuple(_FORMS)
"""The suffixes that a report's path may have, in small or capital letters."""


def check_suffixes(paths: Iterable[str | PathLike[str]]) -> None:
    """Raise UsageError for the first of `paths` whose suffix is none of SUFFIXES."""
    for path in paths:
        suffix = PurePath(path).suffix
        if suffix.lower() not in _FORMS:
            raise _unknown(suffix, PurePath(path))


def draws_histograms(paths: Iterable[str | PathLike[str]]) -> bool:
    """Tell whether one of the reports at `paths` shows magnitudes, so that they have to be counted."""
    return any(PurePath(path).suffix.lower() == ".html" for path in paths)


def render_report(report: Report, suffix: str) -> str:
    """Return `report` in the form that `suffix` (".json", ".csv", ".md" or ".html") stands for.

    Raises UsageError for another suffix.
    """
    form = _FORMS.get(suffix.lower())
    if form is None:
        raise _unknown(suffix, PurePath("report"))
    return form(report)


def _unknown(suffix: str, path: PurePath) -> UsageError:
    known = f"{', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"
    got = repr(suffix) if suffix else "without a suffix"
    better = path.with_suffix(".json") if path.name else "report.json"
    return UsageError(f"a report is written as {known}, not {got}", hint=f"--report {better}")
