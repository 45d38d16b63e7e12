"""The list of formats has every format of the package, under unique names."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
from support import ROOT, make_checkpoint

import prunecli.formats
from prunecli.formats.format import Format
from prunecli.formats.open import open_checkpoint
from prunecli.formats.registry import FORMATS


def test_every_format_is_in_the_list() -> None:
    """Each value of `Format` in a module `format.py` of a subpackage is in FORMATS."""
    folder = Path(prunecli.formats.__path__[0])
    modules = [
        importlib.import_module(f"prunecli.formats.{path.parent.name}.format") for path in folder.glob("*/format.py")
    ]

    formats = [value for module in modules for value in vars(module).values() if isinstance(value, Format)]

    assert sorted(one.name for one in formats) == sorted(one.name for one in FORMATS)


def test_names_of_formats_are_unique() -> None:
    """Each name belongs to one format."""
    assert len(FORMATS) == len({one.name for one in FORMATS})


def rows(page: str, heading: str) -> list[list[str]]:
    """Return the cells of the first table of a page whose header begins with `heading`, without the header."""
    table = page[page.index(f"| {heading} |") :].partition("\n\n")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


PAGE = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")


def test_the_table_of_formats_has_every_format() -> None:
    """Each row of docs/formats.md names formats of the list, and a folder of tests; no format is missing."""
    named = {name for row in rows(PAGE, "format | read") for name in row[0].partition(":")[0].split(" and ")}

    assert named == {one.name for one in FORMATS}
    assert all((ROOT / row[-1].strip("`")).is_dir() for row in rows(PAGE, "format | read"))


OF_THEIR_OWN_TESTS = {"TorchScript", "torch.export", "Paddle", "pickle of NumPy arrays", "NumPy .npy"}
"""Formats that hold other names than a state_dict, or one array: `tests/laws/` has no container of them."""


@pytest.mark.parametrize("name", [one.name for one in FORMATS if one.name not in OF_THEIR_OWN_TESTS])
def test_the_laws_hold_for_every_format(name: str, tmp_path: Path) -> None:
    """`tests/laws/` tries at least one container of each format."""
    suffixes = {"NumPy .npz": "npz", "DCP": "dcp", "DCP safetensors": "dcp-safetensors", "torch legacy": "legacy"}
    container = suffixes.get(name, name.lower().removeprefix("torch "))

    assert open_checkpoint(make_checkpoint(container, tmp_path)).format == name
