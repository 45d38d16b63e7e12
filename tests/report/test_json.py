"""A report as JSON, against docs/report.schema.json."""

from __future__ import annotations

import json
import math
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from support import DEMO, ROOT
from support.reports import EVIL, REPORTS, parsed, report, row, sample_report

from prunecli.api import prune
from prunecli.layout import TensorLayout
from prunecli.report.json import to_json
from prunecli.report.model import Row
from prunecli.strategies.semi_structured import TopK
from prunecli.strategies.unstructured import Global

jsonschema = pytest.importorskip("jsonschema")

SCHEMA = json.loads((ROOT / "docs" / "report.schema.json").read_text(encoding="utf-8"))
CHECK = jsonschema.Draft202012Validator(SCHEMA)


def undescribed(schema: dict[str, Any], value: object, path: str = "") -> list[str]:
    """Return the paths of the keys in `value` that `schema` does not describe."""
    schema = SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
    if isinstance(value, list):
        return [key for item in value for key in undescribed(schema.get("items", {}), item, f"{path}[]")]
    if not isinstance(value, dict) or path == ".strategy":
        return []
    known = schema.get("properties", {})
    here = [f"{path}.{key}" for key in value if key not in known]
    return here + [
        name for key, item in value.items() if key in known for name in undescribed(known[key], item, f"{path}.{key}")
    ]


def test_the_schema_is_valid() -> None:
    """docs/report.schema.json is a JSON Schema of the draft that it names."""
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("name", REPORTS)
def test_json_fits_its_schema(name: str) -> None:
    """A report fits the schema, and the schema describes each of its keys."""
    document = json.loads(to_json(REPORTS[name]))

    CHECK.validate(document)
    assert undescribed(SCHEMA, document) == []


@pytest.mark.parametrize("strategy", [Global(amount=0.5), TopK(2, 4)], ids=["global", "topk"])
def test_the_report_of_a_run_fits_the_schema(tmp_path: Path, strategy: Any) -> None:  # noqa: ANN401 - any strategy
    """The report of a run on a real checkpoint fits the schema, hashes and skipped tensors included."""
    path = tmp_path / "r.json"
    prune(DEMO / "digits_conv.pth", strategy, output=tmp_path / "o.pth", reports=[path], sha256=True)
    document = json.loads(path.read_text(encoding="utf-8"))

    CHECK.validate(document)
    assert undescribed(SCHEMA, document) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("schema",), 1),
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
def test_the_schema_rejects_wrong_values(path: tuple[Any, ...], value: object) -> None:
    """The schema finds a wrong version, type, sign or range anywhere in the document."""
    document = deepcopy(json.loads(to_json(sample_report())))
    part = document
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value

    assert [list(error.path) for error in CHECK.iter_errors(document)] == [list(path)]


@pytest.mark.parametrize("key", SCHEMA["required"])
def test_the_schema_requires_every_key(key: str) -> None:
    """A document without one of the keys that a reader may rely on is invalid."""
    document = json.loads(to_json(sample_report()))
    del document[key]

    assert not CHECK.is_valid(document)


def test_keys_have_a_stable_order() -> None:
    """The document has schema 2 and these keys in this order."""
    document = parsed(report(row()))

    assert document["schema"] == 2
    assert list(document) == [
        "schema",
        "tool",
        "command",
        "dry_run",
        "strategy",
        "device",
        "kernels",
        "seconds",
        "input",
        "output",
        "totals",
        "on_disk",
        "warnings",
        "facts",
        "tensors",
    ]


def test_a_record_has_every_field_of_a_row() -> None:
    """A tensor's record has the fields of a row in order, the parts of its layout, and both sparsities."""
    layout = TensorLayout("experts", 2, 1, 0, evidence="config.json: llama4")
    (record,) = parsed(report(row(aliases=("head",), two_four=True, meaning=layout)))["tensors"]

    names = [name for name in Row.__dataclass_fields__ if name != "meaning"]
    of_layout = ["role", "layout", "outputs", "inputs", "experts", "layout_evidence"]
    assert list(record) == [*names, *of_layout, "sparsity_before", "sparsity_after"]
    assert [record[name] for name in of_layout] == ["experts", "experts in-out", 2, 1, 0, "config.json: llama4"]
    assert (record["aliases"], record["two_four"], record["sparsity_after"]) == (["head"], True, 0.5)


def test_json_is_ascii_and_keeps_names() -> None:
    """A name with line breaks, terminal commands and a lone surrogate comes back verbatim from ASCII."""
    name = EVIL + "\udc80"
    text = to_json(report(row(name)))

    assert text.isascii()
    assert "\x1b" not in text
    assert json.loads(text)["tensors"][0]["name"] == name


def test_numbers_that_are_not_finite_are_strings() -> None:
    """NaN and infinity are strings, because JSON has no such numbers."""
    (record,) = parsed(report(row(cut=math.inf, largest_pruned=math.nan, smallest_kept=-math.inf)))["tensors"]

    assert [record[k] for k in ("cut", "largest_pruned", "smallest_kept")] == ["Infinity", "NaN", "-Infinity"]


def test_any_strategy_parameter_is_written() -> None:
    """A path, a tuple or a nested rule among the parameters has a JSON form."""
    strategy = {"name": "run", "path": Path("r.toml"), "shape": (4, 4), "rules": [{"thr": math.inf}]}

    assert parsed(report(row(), strategy=strategy))["strategy"] == {
        "name": "run",
        "path": "r.toml",
        "shape": [4, 4],
        "rules": [{"thr": "Infinity"}],
    }


def test_a_dry_run_has_no_output() -> None:
    """The output is null if no checkpoint was written."""
    assert parsed(REPORTS["dry"])["output"] is None


def test_an_estimate_is_in_the_document_only_if_it_was_made() -> None:
    """`on_disk.compressed` has the method and the bytes, or is absent."""
    assert parsed(sample_report())["on_disk"]["compressed"] == {
        "method": "zstd level 3",
        "sampled_bytes": 100,
        "bytes_before": 190,
        "bytes_after": 80,
    }
    assert "compressed" not in parsed(report(row()))["on_disk"]
