"""The forms of a report, by the suffix of its path."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support import ROOT
from support.reports import REPORTS, report, sample_report

from prunecli.errors import Argument, UsageError
from prunecli.report.plots import SUFFIXES as FIGURES
from prunecli.report.renderers import SUFFIXES, check_suffixes, draws_histograms, render_report


@pytest.mark.parametrize(
    ("suffix", "begins"),
    [(".json", "{"), (".csv", "name,"), (".md", "### "), (".html", "<!doctype html>"), (".JSON", "{")],
)
def test_the_suffix_selects_the_form(suffix: str, begins: str) -> None:
    """Each suffix has its form, in lower and upper case."""
    assert render_report(sample_report(), suffix).startswith(begins.encode())


@pytest.mark.parametrize("name", REPORTS)
@pytest.mark.parametrize("suffix", [suffix for suffix in SUFFIXES if suffix not in FIGURES])
def test_every_form_ends_in_one_line_break(name: str, suffix: str) -> None:
    """A report file is text that ends in one line break, whatever values the report lacks."""
    text = render_report(REPORTS[name], suffix)

    assert text.endswith(b"\n")
    assert not text.endswith(b"\n\n")


@pytest.mark.parametrize("name", REPORTS)
def test_every_report_has_a_figure(name: str) -> None:
    """A figure is drawn whatever values the report lacks."""
    pytest.importorskip("matplotlib", reason="figures need matplotlib")

    assert render_report(REPORTS[name], ".pdf").startswith(b"%PDF")


@pytest.mark.parametrize(
    ("path", "better"), [("a/r.txt", "a/r.json"), ("r", "r.json"), ("", "report.json"), ("r.", "r..json")]
)
def test_another_suffix_is_an_error_with_a_hint(path: str, better: str) -> None:
    """The error of an unknown suffix lists the known ones, and its hint is a path with one of them."""
    with pytest.raises(UsageError, match=r"\.json, \.csv, \.md, \.html, \.svg, \.png or \.pdf") as caught:
        check_suffixes(["good.md", path])
    assert caught.value.hint_parts == Argument("reports", [better])


def test_rendering_another_suffix_is_an_error() -> None:
    """Rendering raises the same error."""
    with pytest.raises(UsageError, match=r"not '\.txt'"):
        render_report(report(), ".txt")


def test_only_pages_draw_histograms() -> None:
    """Magnitudes have to be counted if one of the reports is a page."""
    assert draws_histograms(["a.json", Path("b.HTML")])
    assert not draws_histograms(["a.json", "b.md", "c.csv", "html"])


def test_a_form_is_imported_when_it_is_needed() -> None:
    """JSON needs no other form, only a page imports Jinja, and neither a form nor plain text imports NumPy or Rich."""
    code = (
        "import sys; from prunecli.report.renderers import render_report;"
        "from prunecli.report.model import Report, Row;"
        "r = Report((Row('a','F32',(1,),1),), {}, 'in', 'zip', 1, '0');"
        "render_report(r, '.json'); first = set(sys.modules);"
        "[render_report(r, s) for s in ('.csv', '.md')]; second = set(sys.modules);"
        "render_report(r, '.html');"
        "import io; from prunecli.report.text import write_report; write_report(r, io.StringIO());"
        "sys.exit(bool({'csv', 'prunecli.report.html', 'prunecli.report.text'} & first) or 'jinja2' in second"
        " or bool({'rich', 'numpy', 'torch'} & set(sys.modules)))"
    )

    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
