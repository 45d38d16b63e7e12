"""The list of formats has every format of the package, under unique names."""

from __future__ import annotations

import importlib
from pathlib import Path

import prunecli.formats
from prunecli.formats.format import Format
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
