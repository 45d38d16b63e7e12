"""The public names of the package, and the imports that a listing needs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest
from support import DEMO

import prunecli

if TYPE_CHECKING:
    from collections.abc import Callable

CHECKPOINT = DEMO / "digits_conv.safetensors"


@pytest.mark.parametrize("name", prunecli.__all__)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    """Each name can be imported, is in dir(), and has a docstring."""
    assert name in dir(prunecli)
    assert getattr(prunecli, name).__doc__


def test_the_lists_of_public_names_agree() -> None:
    """`__all__`, the table of lazy imports and the imports for type checkers have the same names and modules."""
    tree = ast.parse(Path(prunecli.__file__).read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)]
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom) and node.module]
    typed = {(alias.name, node.module) for node in imports for alias in node.names}
    lazy = {(name, f"prunecli.{module}") for module, names in prunecli._PUBLIC.items() for name in names}

    assert {name for name, _ in lazy} | {"__version__"} == set(prunecli.__all__)
    assert {name for name, _ in typed} == {name for name, _ in lazy}
    assert not any(isinstance(getattr(prunecli, name), ModuleType) for name in prunecli.__all__)
    for name, module in typed ^ lazy:
        assert getattr(sys.modules[module], name) is getattr(prunecli, name)  # re-exported by another module


def test_every_module_with_public_names_can_be_the_first_import() -> None:
    """A public name of each module can be the first that a process uses, and is no submodule."""
    names = [names[0] for names in prunecli._PUBLIC.values()]
    program = (
        "import os, sys, numpy\n"
        "for name in sys.argv[1:]:\n"
        "    if not os.fork():\n"
        "        import importlib, prunecli\n"
        "        value = getattr(prunecli, name)\n"
        "        os._exit(isinstance(value, type(os)))\n"
        "    _, status = os.wait()\n"
        "    assert status == 0, name\n"
    )

    subprocess.run([sys.executable, "-c", program, *names], check=True)


def test_other_names_are_attribute_errors() -> None:
    """A name that is not public raises AttributeError, as in any module."""
    with pytest.raises(AttributeError, match="no attribute 'Treshold'"):
        prunecli.Treshold  # noqa: B018


def test_one_call_prunes_and_reports(tmp_path: Path) -> None:
    """`prunecli.prune` writes the output and returns a report."""
    report = prunecli.prune(CHECKPOINT, prunecli.Global(amount=0.5), output=tmp_path / "out.safetensors")

    assert report.selected.sparsity_after == 0.5
    assert (tmp_path / "out.safetensors").stat().st_size == CHECKPOINT.stat().st_size


@pytest.mark.parametrize(
    "call",
    [
        lambda: prunecli.check(CHECKPOINT, [prunecli.Finite()], include="*.weight"),
        lambda: prunecli.diff(CHECKPOINT, CHECKPOINT, exclude="*.weight"),
        lambda: prunecli.inspect(CHECKPOINT, include="*.weight"),
        lambda: prunecli.prune(CHECKPOINT, prunecli.Threshold(0), include="*.weight", dry_run=True),
        lambda: prunecli.scan(CHECKPOINT, exclude="*.weight"),
        lambda: prunecli.search(CHECKPOINT, prunecli.L1, lambda _: 0.0, max_drop=1, include="*.weight", dry_run=True),
        lambda: prunecli.sweep(CHECKPOINT, prunecli.L1, lambda _: 0.0, include="*.weight"),
    ],
)
def test_one_text_is_no_list_of_patterns(call: Callable[[], object]) -> None:
    """A text in place of a list of patterns is an error, because each of its characters would be a pattern."""
    with pytest.raises(prunecli.UsageError, match=r"lists? of patterns, not one text"):
        call()


def test_a_listing_reads_no_weights() -> None:
    """`prunecli.open_checkpoint` lists the tensors with neither NumPy nor torch."""
    program = (
        "import sys, prunecli\n"
        f"names = [t.name for t in prunecli.open_checkpoint({str(CHECKPOINT)!r}).tensors]\n"
        "assert 'conv1.weight' in names\n"
        "assert not {'numpy', 'torch'} & set(sys.modules)\n"
    )

    subprocess.run([sys.executable, "-c", program], check=True)
