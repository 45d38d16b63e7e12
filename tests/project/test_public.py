"""The names of the package, and that looking at it imports nothing heavy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import prunecli

DEMO = Path(__file__).parents[2] / "demo" / "digits_conv.safetensors"


@pytest.mark.parametrize("name", prunecli.__all__)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    """Each name is found where it lives, is listed, and says what it is."""
    assert name in dir(prunecli)
    assert getattr(prunecli, name).__doc__


def test_other_names_are_not_there() -> None:
    """A name that is not public is an AttributeError, as of any module."""
    with pytest.raises(AttributeError, match="no attribute 'Treshold'"):
        prunecli.Treshold  # noqa: B018


def test_one_call_prunes_and_reports(tmp_path: Path) -> None:
    """`prunecli.prune` does what the command does, and tells."""
    report = prunecli.prune(DEMO, prunecli.Global(amount=0.5), output=tmp_path / "out.safetensors")

    assert report.selected.sparsity_after == 0.5
    assert (tmp_path / "out.safetensors").stat().st_size == DEMO.stat().st_size


def test_a_listing_reads_no_weights() -> None:
    """`prunecli.open_checkpoint` lists the tensors with neither NumPy nor torch."""
    program = (
        "import sys, prunecli\n"
        f"names = [t.name for t in prunecli.open_checkpoint({str(DEMO)!r}).tensors]\n"
        "assert 'conv1.weight' in names\n"
        "assert not {'numpy', 'torch'} & set(sys.modules)\n"
    )

    subprocess.run([sys.executable, "-c", program], check=True)
