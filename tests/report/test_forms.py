"""The forms of a report in Python: one line, a table for notebooks, dicts, data frames and files."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import pytest
from support import DEMO
from support.reports import EVIL, HOSTILE, report, row

import prunecli
from prunecli.errors import OutputError, PruneError, UsageError
from prunecli.report.notebook import MOST_ROWS, to_table

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def half() -> prunecli.Report:
    """Return the report of a dry run."""
    return prunecli.prune(DEMO / "digits_conv.pth", prunecli.Global(amount=0.5), dry_run=True)


class Cells(HTMLParser):
    """Collects the elements and the texts of a page."""

    def __init__(self) -> None:
        """Start with nothing."""
        super().__init__()
        self.elements: set[str] = set()
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        """Note the element; none has attributes."""
        assert attrs == []
        self.elements.add(tag)

    def handle_data(self, data: str) -> None:
        """Note the text."""
        self.texts.append(data)


def test_a_session_shows_one_line(half: prunecli.Report) -> None:
    """The line has the result, the strategy and the place."""
    assert repr(half) == "<Report: 50.0% of 38,160 weights zero in 4 tensors, by global, not written>"


def test_a_line_escapes_names() -> None:
    """Names of files cannot move the cursor."""
    assert "\x1b" not in repr(report(output_path=EVIL))
    assert "\n" not in repr(report(output_path=EVIL))


def test_a_notebook_shows_a_table(half: prunecli.Report) -> None:
    """Each selected tensor has a line, with its zeros before and after."""
    cells = Cells()
    cells.feed(half._repr_html_())

    assert cells.elements == {"p", "table", "tr", "th", "td"}
    assert cells.texts.count("conv1.weight") == 1
    assert cells.texts[8:15] == ["conv1.weight", "F32", "16x1x3x3", "144", "0.0%", "7.6%", "11"]


def test_a_table_is_text_only() -> None:
    """Names and warnings cannot add elements."""
    cells = Cells()
    cells.feed(to_table(report(*map(row, HOSTILE), warnings=HOSTILE)))

    assert cells.elements == {"p", "table", "tr", "th", "td"}


def test_a_table_ends_after_some_tensors() -> None:
    """A notebook does not store thousands of lines."""
    table = to_table(report(*[row(f"{index}.weight") for index in range(MOST_ROWS + 7)]))

    assert table.count("<tr>") == MOST_ROWS + 1
    assert "and 7 more tensors" in table


def test_dicts_and_json_are_the_same(half: prunecli.Report) -> None:
    """The dict is what the JSON form says."""
    assert half.to_dict() == json.loads(half.to_json())


def test_a_data_frame_has_a_line_for_each_tensor(half: prunecli.Report) -> None:
    """Its columns are the attributes of the rows, so that groups and sums need no conversion."""
    frame = half.to_pandas()

    assert list(frame["name"]) == [one.name for one in half.rows]
    assert frame.loc[frame["selected"], "zeros_after"].sum() == half.selected.zeros_after


def test_without_pandas_a_sentence_says_so(half: prunecli.Report, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error has the command that installs it."""
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)

    with pytest.raises(PruneError, match="a data frame needs pandas") as error:
        half.to_pandas()

    assert error.value.hint == "pip install 'prunecli[pandas]'"


@pytest.mark.parametrize("suffix", [".json", ".csv", ".md", ".HTML"])
def test_a_report_is_saved_in_the_form_of_the_suffix(half: prunecli.Report, tmp_path: Path, suffix: str) -> None:
    """An existing file is kept unless `force` is given."""
    path = tmp_path / f"report{suffix}"
    half.save(path)

    with pytest.raises(OutputError):
        half.save(path)
    half.save(path, force=True)

    text = path.read_text(encoding="utf-8")
    assert "conv1.weight" in text
    if suffix == ".HTML":
        assert text == half.to_html()


def test_an_unknown_suffix_is_an_error(half: prunecli.Report, tmp_path: Path) -> None:
    """Nothing is written."""
    with pytest.raises(UsageError, match=r"a report is written as \.json, \.csv, \.md, \.html, \.svg, \.png or \.pdf"):
        half.save(tmp_path / "report.xml")

    assert list(tmp_path.iterdir()) == []
