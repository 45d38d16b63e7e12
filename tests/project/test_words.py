"""The words of the project: comments, docstrings, messages, test names and pages avoid vague and figurative ones."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

WORDS = ["things?", "nobody", "somebody", "whoever", "tells", "told", "telling", "rooms?", "house", "beside"]
WORDS += [r"goes\W+by"]
UNWANTED = re.compile(rf"(?<![a-z])({'|'.join(WORDS)})(?![a-z])", re.IGNORECASE)

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("d*/*.md")])
SOURCES = [p for folder in ("prunecli", "scripts", "tests") for p in sorted((ROOT / folder).rglob("*.py"))]
FILES = [path.relative_to(ROOT).as_posix() for path in [*PAGES, *SOURCES] if path != Path(__file__)]


LOADERS = re.compile(
    r"(?:torch|joblib|paddle|pickle|dill|cloudpickle|export|np|numpy)\.load\((?!\.\.\.|mmap=)[^)\n]*\)?|dcp_to_torch"
)
"""Calls that unpickle a file. A user who types one for a stranger's file runs the stranger's code."""


def texts(source: str) -> Iterator[tuple[int, str]]:
    """Yield the line and the text of each comment, string of more than one word, and test name."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value.strip():
            for number, line in enumerate(node.value.splitlines()):
                yield node.lineno + number, line
        elif isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            yield node.lineno, node.name


@pytest.mark.parametrize("name", FILES)
def test_words_are_plain(name: str) -> None:
    """No comment, docstring, message, test name or page has a word of the list."""
    text = (ROOT / name).read_text(encoding="utf-8")
    lines = texts(text) if name.endswith(".py") else enumerate(text.splitlines(), 1)

    assert [f"{name}:{number}: {line}" for number, line in lines if UNWANTED.search(line)] == []


@pytest.mark.parametrize("name", [n for n in FILES if not n.startswith(("tests/", "scripts/", "CHANGELOG"))])
def test_no_text_advises_to_run_the_code_in_a_file(name: str) -> None:
    """No hint, message or page loads a file in a way that unpickles it; torch and NumPy have arguments against it."""
    text = (ROOT / name).read_text(encoding="utf-8")

    safe = ("weights_only=True", "allow_pickle=False")
    assert [found for found in LOADERS.findall(text) if not any(argument in found for argument in safe)] == []
