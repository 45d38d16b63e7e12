#!/usr/bin/env python
"""Print the reference pages of reports and recipes, from the code. `scripts/update_readme.py` writes them to docs/.

python scripts/reference.py report|recipe
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from prunecli.cli import options, recipe_file, strip
from prunecli.cli.pruning import BY_NAME
from prunecli.cli.recipe_strip import KEYS as STRIP_KEYS
from prunecli.report import model

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

SCHEMA = Path(__file__).resolve().parents[1] / "docs" / "report.schema.json"

UNITS = {
    "bytes": "bytes",
    "compressed.bytes_after": "bytes",
    "compressed.bytes_before": "bytes",
    "dense_bytes": "bytes",
    "experts": "dimension, from 0",
    "inputs": "dimension, from 0",
    "outputs": "dimension, from 0",
    "sampled_bytes": "bytes",
    "seconds": "seconds",
    "schema": "version",
    "tensors": "tensors",
    "on_disk.two_four": "tensors",
    "two_four_examined": "tensors",
    "zero_cols": "inputs",
    "zero_rows": "outputs",
}
"""The unit of a field by the end of its path. Other counts are elements, and fractions are 0 to 1."""

SOURCES = {
    "": (model.Report, ""),
    "input": (model.Report, "input_"),
    "output": (model.Report, "output_"),
    "totals.selected": (model.SelectedTotals, ""),
    "totals.all": (model.AllTotals, ""),
    "on_disk": (model.OnDisk, ""),
    "on_disk.compressed": (model.Compressed, ""),
    "tensors[]": (model.Row, ""),
}
"""The class whose docstring describes the fields below a path, and what their names begin with there."""

TITLES = {
    "": "The document",
    "input": "`input`: the checkpoint that was read",
    "output": "`output`: the checkpoint that was written",
    "totals.selected": "`totals.selected`: sums over the selected tensors",
    "totals.all": "`totals.all`: sums over the state_dict",
    "on_disk": "`on_disk`: the selected tensors in several encodings",
    "tensors[]": "`tensors`: one record per tensor",
}
"""The tables of the page: the paths, and their headings. Other objects are part of the table above them."""

SELECTION = {
    "include": options.Include,
    "exclude": options.Exclude,
    "min_dim": options.MinDim,
    "min_numel": options.MinNumel,
    "layout": options.Layout,
}
"""The options of every rule that select tensors."""

STRIP = {"keep": strip.Keep, "to": strip.To, "allow_overflow": options.AllowOverflow}
"""The options of `prune strip` whose texts describe the table `strip`."""

RECIPE = """\
strip = {keep = "model", to = "bf16"}

[[rule]]
include = "model.layers.*.mlp.*"
strategy = "topk"
pattern = "2:4"

[[rule]]
include = ["*.q_proj.weight", "*.k_proj.weight"]
exclude = "model.layers.0.*"
strategy = "l1"
amount = "50%"
"""
"""The example of the page; the tests parse it."""


# --- reports


def report_page() -> str:
    """Return the page on JSON reports, from their schema and the docstrings of prunecli.report.model."""
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    tables = "\n".join(f"## {title}\n\n{_table(schema, path)}" for path, title in TITLES.items())
    return f"""\
# The JSON report

Made by `scripts/reference.py`.

`prune ... --report PATH.json`, `--json` and `Report.to_dict()` give this document. Its JSON schema is
[report.schema.json](report.schema.json); the tests check reports against it. Fields may be added in any version.
`schema` rises when a field is removed or changes its meaning.

Unknown numbers are `null`. A number that is not finite is the string `Infinity`, `-Infinity` or `NaN`. Tensors that are
not selected are not read, so their counts are `null`.

{tables}"""


def _table(schema: Mapping[str, Any], path: str) -> str:
    rows = [
        f"| `{name}` | {_type(schema, spec)} | {_unit(schema, where, spec)} | {_meaning(spec, where)} |"
        for name, where, spec in _fields(schema, path)
    ]
    return "\n".join(("| field | type | unit | meaning |", "|---|---|---|---|", *rows, ""))


def _fields(schema: Mapping[str, Any], path: str) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Yield the fields of the object at `path`: the name in its table, the full path, and the schema."""
    for key, spec in _object(schema, path)["properties"].items():
        where = f"{path}.{key}" if path else key
        yield key, where, spec
        items = _resolved(schema, spec.get("items", {}))
        inner, mark = (items, "[]") if "properties" in items else (spec, "")
        if "properties" in inner and f"{where}{mark}" not in TITLES and where != "totals":
            for name, below in inner["properties"].items():
                yield f"{key}{mark}.{name}", f"{where}{mark}.{name}", below


def _object(schema: Mapping[str, Any], path: str) -> Mapping[str, Any]:
    spec = schema
    for part in filter(None, path.split(".")):
        spec = spec["properties"][part.removesuffix("[]")]
        spec = _resolved(schema, spec["items"]) if part.endswith("[]") else spec
    return spec


def _resolved(schema: Mapping[str, Any], spec: Mapping[str, Any]) -> Mapping[str, Any]:
    reference = spec.get("$ref", "").rpartition("/")[2]
    return {**schema["$defs"][reference], **spec} if reference else spec


def _type(schema: Mapping[str, Any], spec: Mapping[str, Any]) -> str:
    spec = _resolved(schema, spec)
    if "anyOf" in spec:
        return "number, text or null"
    if "const" in spec:
        return f"`{json.dumps(spec['const'])}`"
    kinds = spec["type"] if isinstance(spec["type"], list) else [spec["type"]]
    names = {"string": "text", "integer": "whole number", "array": "list", "boolean": "true or false"}
    return " or ".join(str(names.get(kind, kind)) for kind in kinds)


def _unit(schema: Mapping[str, Any], path: str, spec: Mapping[str, Any]) -> str:
    """Return the unit of a number, "" for other fields; ValueError for a number without one."""
    for end, unit in UNITS.items():
        if path == end or path.endswith(f".{end}"):
            return unit if "list" not in _type(schema, spec) else ""
    kind = spec.get("$ref", spec.get("items", {}).get("$ref", "")).rpartition("/")[2]
    known: dict[str, str] = {
        "count": "elements",
        "count_or_null": "elements",
        "part": "0 to 1",
        "number": "as the weights",
    }
    if not known.get(kind) and "number" in _type(schema, spec):
        raise ValueError(f"{path} has no unit: add one to UNITS")
    return known.get(kind, "")


def _meaning(spec: Mapping[str, Any], path: str) -> str:
    """Return what the schema says about a field, else what the docstring of its class says."""
    text = spec.get("description") or _described(path) or _OTHERS.get(path) or _OTHERS.get(path.rpartition(".")[2])
    if text is None:
        raise ValueError(f"{path} has no description")
    return re.sub(r"\bNone\b", "null", " ".join(text.split())).replace("|", r"\|")


_OTHERS = {
    "schema": "The version of the document.",
    "tool": "What wrote the report.",
    "tool.name": "The name of the tool.",
    "tool.version": "Its version.",
    "strategy.name": "Its command.",
    "input": "See below.",
    "output": "See below; null if nothing was written.",
    "totals": "See below.",
    "totals.selected": "See below.",
    "totals.all": "See below.",
    "note": "A sentence about these numbers.",
    "input.left_alone[].key": "The dotted path of a state_dict that was left alone.",
    "input.left_alone[].tensors": "Its tensors.",
    "input.left_alone[].weights": "Their weights.",
}


def _described(path: str) -> str | None:
    """Return the line of a docstring about the field at `path`."""
    parent, _, key = path.rpartition(".")
    owner, prefix = SOURCES.get(parent, (None, ""))
    if owner is None:
        return None
    found = re.search(
        rf"^    (?:{prefix})?{key}: (.*(?:\n {{5,}}.*)*)", inspect.cleandoc(owner.__doc__ or ""), re.MULTILINE
    )
    if found:
        return found[1]
    member = getattr(owner, key, None)
    return member.__doc__ if isinstance(member, property) else None


# --- recipes


def recipe_page() -> str:
    """Return the page on recipes, from the options of the commands."""
    strategies = "\n".join(_strategy(name) for name in BY_NAME)
    selection = _rows((key, get_args(annotation)) for key, annotation in SELECTION.items())
    stripped = _rows((key, get_args(annotation)) for key, annotation in STRIP.items())
    assert {*STRIP, "unwrap"} == set(STRIP_KEYS)  # noqa: S101 - the page would lack a key
    return f"""\
# Recipes

Made by `scripts/reference.py`.

A recipe is a TOML file for `prune run`: a list of rules, and at most one table `strip`. [The guide](guide.md#recipes)
shows one with its output.

```toml
{RECIPE}```

An unknown key is an error, with its line. Dashes and underscores in keys are the same. Amounts, masks and patterns are
written as on the command line: as a number or as a text. A recipe has at most {recipe_file.RULES_LIMIT:,} rules and
{recipe_file.SIZE_LIMIT:,} bytes.

## Which tensors: the keys of every rule

`strategy` is required: the name of a command that prunes. The other keys select its tensors. If two rules match a
tensor, the later one applies to the weights that are not zero yet.

| key | value | default | meaning |
|---|---|---|---|
{selection}

## Which weights: the keys of each strategy

{strategies}
## `strip`: drop the rest of a training checkpoint

The keys of `prune strip`, in the same pass.

| key | value | default | meaning |
|---|---|---|---|
{stripped}
| `unwrap` | `true` or `false` | true | Remove prefixes such as module. and _orig_mod. from names. |
"""  # noqa: S608 - no SQL


def _strategy(name: str) -> str:
    make = BY_NAME[name]
    parameters = inspect.signature(make, eval_str=True).parameters.items()
    rows = _rows((key, (*get_args(one.annotation), one.default)) for key, one in parameters)
    line = (make.__doc__ or "").splitlines()[0]
    return f"### `{name}`\n\n{line}\n\n| key | value | default | meaning |\n|---|---|---|---|\n{rows}\n"


def _rows(keys: Any) -> str:  # noqa: ANN401 - pairs of a key and what Typer knows about its option
    return "\n".join(_row(key, *known) for key, known in keys)


def _row(key: str, kind: Any, option: Any, default: object = None) -> str:  # noqa: ANN401 - as above
    stated = re.search(r"\s*\[(default: )?([^\]]*)\]$", option.help)
    text = re.sub(r"\s*(Repeatable\.)?\s*(\[[^\]]*\])?$", "", option.help)
    first = False if kind is bool and default is None else 0 if key == "min_numel" else default
    shown = stated[2] if stated else "" if first is None else str(first).lower()
    repeated = " or a list of them" if "Repeatable" in option.help else ""
    escaped = (option.metavar or "").replace("|", r"\|")
    value = "`true` or `false`" if kind is bool else f"`{escaped}`{repeated}"
    return f"| `{key}` | {value} | {shown} | {text.replace('|', chr(92) + '|')} |"


if __name__ == "__main__":
    print({"report": report_page, "recipe": recipe_page}[sys.argv[1]](), end="")
