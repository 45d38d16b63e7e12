"""The public names of the package, and the imports that a listing needs."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from support import DEMO

import prunecli

if TYPE_CHECKING:
    from pathlib import Path

CHECKPOINT = DEMO / "digits_conv.safetensors"


@pytest.mark.parametrize("name", prunecli.__all__)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    """Each name can be imported, is in dir(), and has a docstring."""
    assert name in dir(prunecli)
    assert getattr(prunecli, name).__doc__


def test_other_names_are_attribute_errors() -> None:
    """A name that is not public raises AttributeError, as in any module."""
    with pytest.raises(AttributeError, match="no attribute 'Treshold'"):
        prunecli.Treshold  # noqa: B018


def test_one_call_prunes_and_reports(tmp_path: Path) -> None:
    """`prunecli.prune` writes the output and returns a report."""
    report = prunecli.prune(CHECKPOINT, prunecli.Global(amount=0.5), output=tmp_path / "out.safetensors")

    assert report.selected.sparsity_after == 0.5
    assert (tmp_path / "out.safetensors").stat().st_size == CHECKPOINT.stat().st_size


def test_a_listing_reads_no_weights() -> None:
    """`prunecli.open_checkpoint` lists the tensors with neither NumPy nor torch."""
    program = (
        "import sys, prunecli\n"
        f"names = [t.name for t in prunecli.open_checkpoint({str(CHECKPOINT)!r}).tensors]\n"
        "assert 'conv1.weight' in names\n"
        "assert not {'numpy', 'torch'} & set(sys.modules)\n"
    )

    subprocess.run([sys.executable, "-c", program], check=True)
