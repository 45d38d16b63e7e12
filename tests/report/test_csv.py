"""A report as CSV (RFC 4180)."""

from __future__ import annotations

import csv
from io import StringIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.reports import EVIL, parsed, report, row, sample_report, skipped

from prunecli.report.csv import FORMULA, to_csv
from prunecli.text.escape import printable


def lines(text: str) -> list[dict[str, str]]:
    """Parse CSV with the standard library's strict reader."""
    return list(csv.DictReader(StringIO(text, newline=""), strict=True))


def test_csv_has_a_line_per_tensor_and_a_column_per_key() -> None:
    """The columns are the keys of a record in the JSON form, and the lines are all tensors, in order."""
    table = lines(to_csv(sample_report()))
    (record, *_) = parsed(sample_report())["tensors"]

    assert list(record) == list(table[0])
    assert [line["name"] for line in table] == [printable(EVIL), "b", "zero", "c", "d"]


def test_csv_cells_read_back() -> None:
    """Numbers read back as the same numbers, booleans are true or false, and unknown values are empty."""
    first, second, *_, last = lines(to_csv(sample_report()))

    assert (first["shape"], first["numel"], first["two_four"], first["selected"]) == ("10x10", "100", "true", "true")
    assert (float(first["l2_kept"]), float(first["sparsity_after"]), first["aliases"]) == (0.25, 0.5, "head; '=x")
    assert (second["cut"], second["largest_pruned"], float(second["smallest_kept"])) == ("Infinity", "nan", 1e-300)
    assert (last["selected"], last["zeros_after"], last["reason"]) == ("false", "", "fewer than 2 dimensions")


def test_csv_is_rfc_4180() -> None:
    """Lines end in CRLF, and commas, quotes and line breaks in names stay in their cells."""
    text = to_csv(report(row('a,"b"'), row("c\r\nd")))

    assert text.count("\r\n") == text.count("\n") == 3
    assert [line["name"] for line in lines(text)] == ['a,"b"', r"c\r\nd"]


@pytest.mark.parametrize("start", FORMULA)
def test_csv_has_no_formula(start: str) -> None:
    """A name, an alias or a reason that a spreadsheet would run becomes text."""
    evil = f"{start}cmd|' /C calc'!A0"
    first, second = lines(to_csv(report(row(evil, aliases=(evil,)), skipped("b", evil))))

    for cell in (first["name"], first["aliases"], second["reason"]):
        assert not cell.startswith(FORMULA)
        assert cell.removeprefix("'") == printable(evil)


@pytest.mark.parametrize("start", FORMULA)
@pytest.mark.parametrize("before", [";", "; ", 'a;"', 'a"; "', ";;"])
def test_csv_has_no_formula_after_a_semicolon(before: str, start: str) -> None:
    """A spreadsheet that splits lines at semicolons finds no cell that it would run."""
    evil = f"{before}{start}cmd|' /C calc'!A0"

    text = to_csv(report(row("a", aliases=(evil, f"{start}1")), skipped(evil, evil)))

    for part in text.replace("\r\n", ";").split(";"):
        assert not part.lstrip(' "').startswith(FORMULA)


@given(name=st.text(st.characters(codec="utf-8"), max_size=50))
def test_csv_keeps_any_name_in_its_cell(name: str) -> None:
    """The file has one line for any name, and the cell shows the name."""
    (line,) = lines(to_csv(report(row(name))))

    assert line["name"].replace("'", "") == printable(name).replace("'", "")
    assert line["dtype"] == "F32"
