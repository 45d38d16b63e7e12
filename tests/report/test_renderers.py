"""The forms of a report: JSON against its schema, CSV against its RFC, and which suffix means which."""

from __future__ import annotations

import csv
import json
import math
import subprocess
import sys
from copy import deepcopy
from dataclasses import fields
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.reports import EVIL, report, row, skipped

from prunecli.api import prune
from prunecli.errors import UsageError
from prunecli.report.csv import FORMULA, to_csv
from prunecli.report.json import to_json
from prunecli.report.model import Compressed, Report, Row, warnings_for
from prunecli.report.renderers import SUFFIXES, check_suffixes, draws_histograms, render_report
from prunecli.strategies.semi_structured import TopK
from prunecli.strategies.unstructured import Global
from prunecli.text.escape import printable

jsonschema = pytest.importorskip("jsonschema")

ROOT = Path(__file__).parents[2]
SCHEMA = json.loads((ROOT / "docs" / "report.schema.json").read_text(encoding="utf-8"))
CHECK = jsonschema.Draft202012Validator(SCHEMA)


def sample_report() -> Report:
    """Make a report that has something in every place."""
    rows = [
        row(EVIL, shape=(10, 10), two_four=True, l2_kept=0.25, rule="smallest", aliases=("head", "=x"), nonfinite=2),
        row("b", cut=math.inf, largest_pruned=math.nan, smallest_kept=1e-300, file="model-1.safetensors"),
        row("gone", zeros=100),
        skipped("c"),
        skipped("d", dtype="I64", numel=0),
    ]
    found = Compressed("zstd level 3", 100, 190, 80)
    words = ("prune", "l1", EVIL)
    return report(*rows, warnings=warnings_for(rows), facts=("a fact",), compressed=found, command=words)


REPORTS = {"rich": sample_report(), "bare": report(), "dry": report(row(), output_path=None, dry_run=True)}


# --- JSON


def described(schema: dict[str, Any], value: object, path: str = "") -> list[str]:
    """Return the paths of the keys in `value` that `schema` says nothing about."""
    schema = SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
    if isinstance(value, list):
        return [found for item in value for found in described(schema.get("items", {}), item, f"{path}[]")]
    if not isinstance(value, dict) or path == ".strategy":
        return []
    known = schema.get("properties", {})
    here = [f"{path}.{key}" for key in value if key not in known]
    return here + [
        found for key, item in value.items() if key in known for found in described(known[key], item, f"{path}.{key}")
    ]


def test_the_schema_is_one() -> None:
    """docs/report.schema.json is a JSON Schema of the draft it names."""
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("name", REPORTS)
def test_json_fits_its_schema(name: str) -> None:
    """A report fits the schema, and no key of it goes unmentioned there."""
    document = json.loads(to_json(REPORTS[name]))

    CHECK.validate(document)
    assert described(SCHEMA, document) == []


@pytest.mark.parametrize("strategy", [Global(amount=0.5), TopK(2, 4)], ids=["global", "topk"])
def test_a_real_report_fits_the_schema(tmp_path: Path, strategy: Any) -> None:  # noqa: ANN401 - any strategy
    """What a run on a real checkpoint reports fits the schema, hashes and skipped tensors included."""
    paper = tmp_path / "r.json"
    prune(ROOT / "demo" / "digits_conv.pth", strategy, output=tmp_path / "o.pth", reports=[paper], sha256=True)
    document = json.loads(paper.read_text(encoding="utf-8"))

    CHECK.validate(document)
    assert described(SCHEMA, document) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("schema",), 2),
        (("seconds",), "1"),
        (("totals", "selected", "sparsity_after"), 50.0),
        (("totals", "all", "numel"), -1),
        (("tensors", 0, "shape"), "10x10"),
        (("tensors", 0, "cut"), "big"),
        (("tensors", 0, "zeros_after"), 0.5),
        (("output", "sha256"), "not one"),
        (("on_disk", "compressed", "method"), None),
    ],
)
def test_the_schema_refuses_what_is_none(path: tuple[Any, ...], value: object) -> None:
    """The schema finds a wrong version, type, sign or range wherever it is."""
    document = deepcopy(json.loads(to_json(sample_report())))
    at = document
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value

    assert [list(error.path) for error in CHECK.iter_errors(document)] == [list(path)]


@pytest.mark.parametrize("key", SCHEMA["required"])
def test_the_schema_misses_what_is_gone(key: str) -> None:
    """Every key that a reader may rely on is required."""
    document = json.loads(to_json(sample_report()))
    del document[key]

    assert not CHECK.is_valid(document)


def test_an_estimate_is_in_the_json_only_where_it_was_made() -> None:
    """`on_disk.compressed` is there with its method and bytes, or not at all."""
    assert json.loads(to_json(sample_report()))["on_disk"]["compressed"] == {
        "method": "zstd level 3",
        "sampled_bytes": 100,
        "bytes_before": 190,
        "bytes_after": 80,
    }
    assert "compressed" not in json.loads(to_json(report(row())))["on_disk"]


def test_two_four_counts_the_tensors_that_conform() -> None:
    """Of the selected tensors those that fit are counted; where nobody looked, nothing is said."""
    fits = [row("a", two_four=True), row("b", two_four=False), row("c", two_four=True), row("d"), skipped("e")]

    assert report(*fits).on_disk.two_four == 2
    assert report(row()).on_disk.two_four is None


# --- CSV


def lines(text: str) -> list[dict[str, str]]:
    """Read CSV with the standard library's reader, which stops at anything that is not."""
    return list(csv.DictReader(StringIO(text, newline=""), strict=True))


def test_csv_has_a_line_per_tensor_and_a_column_per_field() -> None:
    """The columns are the record's keys in the JSON form, and the lines are all tensors, in order."""
    found = lines(to_csv(sample_report()))
    (record, *_) = json.loads(to_json(sample_report()))["tensors"]

    assert [*record] == [*found[0]]
    assert [line["name"] for line in found] == [printable(EVIL), "b", "gone", "c", "d"]


def test_csv_cells_read_back() -> None:
    """Numbers come back as they were, truth as true or false, and what is unknown is empty."""
    first, second, *_, last = lines(to_csv(sample_report()))

    assert (first["shape"], first["numel"], first["two_four"], first["selected"]) == ("10x10", "100", "true", "true")
    assert (float(first["l2_kept"]), float(first["sparsity_after"]), first["aliases"]) == (0.25, 0.5, "head; =x")
    assert (second["cut"], second["largest_pruned"], float(second["smallest_kept"])) == ("Infinity", "nan", 1e-300)
    assert (last["selected"], last["zeros_after"], last["reason"]) == ("false", "", "fewer than 2 dimensions")


def test_csv_is_rfc_4180() -> None:
    """Lines end in CRLF, and commas, quotes and line breaks in names stay in their cells."""
    text = to_csv(report(row('a,"b"'), row("c\r\nd")))

    assert text.count("\r\n") == text.count("\n") == 3
    assert [line["name"] for line in lines(text)] == ['a,"b"', r"c\r\nd"]


@pytest.mark.parametrize("start", FORMULA)
def test_csv_holds_no_formula(start: str) -> None:
    """A name, an alias or a reason that a spreadsheet would run becomes text."""
    evil = f"{start}cmd|' /C calc'!A0"
    first, second = lines(to_csv(report(row(evil, aliases=(evil,)), skipped("b", evil))))

    for cell in (first["name"], first["aliases"], second["reason"]):
        assert not cell.startswith(FORMULA)
        assert cell.removeprefix("'") == printable(evil)


@given(name=st.text(st.characters(codec="utf-8"), max_size=50))
def test_csv_keeps_any_name_in_its_cell(name: str) -> None:
    """Whatever the name, the file has one line for it and the cell shows it."""
    (found,) = lines(to_csv(report(row(name))))

    assert found["name"].removeprefix("'") == printable(name).removeprefix("'")
    assert found["dtype"] == "F32"


# --- which is which


@pytest.mark.parametrize(
    ("suffix", "begins"),
    [(".json", "{"), (".csv", "name,"), (".md", "### "), (".html", "<!doctype html>"), (".JSON", "{")],
)
def test_the_suffix_chooses_the_form(suffix: str, begins: str) -> None:
    """Each suffix has its form, however it is written."""
    assert render_report(sample_report(), suffix).lstrip().startswith(begins)


@pytest.mark.parametrize("name", REPORTS)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_form_ends_in_a_line_break(name: str, suffix: str) -> None:
    """A report file is text: it ends in one line break, whatever the report lacks."""
    text = render_report(REPORTS[name], suffix)

    assert text.endswith("\n")
    assert not text.endswith("\n\n")


@pytest.mark.parametrize(
    ("path", "hint"), [("a/r.txt", "r.json"), ("r", "r.json"), ("", "report.json"), ("r.", ".json")]
)
def test_another_suffix_is_refused_with_a_hint(path: str, hint: str) -> None:
    """A suffix that means nothing is an error that names those that do."""
    with pytest.raises(UsageError, match=r"\.json, \.csv, \.md or \.html") as caught:
        check_suffixes(["good.md", path])
    assert str(caught.value.hint).startswith("--report ")
    assert str(caught.value.hint).endswith(hint)


def test_rendering_another_suffix_is_refused() -> None:
    """Who asks for a form that is not there gets the same error."""
    with pytest.raises(UsageError, match=r"not '\.txt'"):
        render_report(report(), ".txt")


def test_only_pages_draw_histograms() -> None:
    """Magnitudes have to be counted if one of the reports is a page."""
    assert draws_histograms(["a.json", Path("b.HTML")])
    assert not draws_histograms(["a.json", "b.md", "c.csv", "html"])


def test_new_fields_of_a_row_become_columns() -> None:
    """The columns of a table of records follow the record: nothing is left out silently."""
    assert {f.name for f in fields(Row)} <= set(lines(to_csv(report(row())))[0])


def test_a_form_is_imported_when_it_is_asked_for() -> None:
    """JSON needs none of the other forms, only a page imports Jinja, and no form imports NumPy or Rich."""
    code = (
        "import sys; from prunecli.report.renderers import render_report;"
        "from prunecli.report.model import Report, Row;"
        "r = Report((Row('a','F32',(1,),1),), {}, 'in', 'zip', 1, '0');"
        "render_report(r, '.json'); first = set(sys.modules);"
        "[render_report(r, s) for s in ('.csv', '.md')]; second = set(sys.modules);"
        "render_report(r, '.html');"
        "sys.exit(bool({'csv', 'prunecli.report.html', 'prunecli.report.text'} & first) or 'jinja2' in second"
        " or bool({'rich', 'numpy', 'torch'} & set(sys.modules)))"
    )

    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
