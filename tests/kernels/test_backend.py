"""The name of the kernels that compute."""

from __future__ import annotations

import subprocess
import sys

import pytest

from prunecli.kernels.native.library import library

PROGRAM = "from prunecli.kernels.backend import kernels_name; print(kernels_name())"


def name_with(monkeypatch: pytest.MonkeyPatch, choice: str) -> str:
    """Return the name in a new process in which the environment chooses the kernels."""
    monkeypatch.setenv("PRUNECLI_KERNELS", choice)
    return subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True).stdout.strip()


def test_numpy_can_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment variable chooses NumPy even where there is a library."""
    assert name_with(monkeypatch, "numpy") == "numpy"


@pytest.mark.skipif(library() is None, reason="the compiled kernels are not built")
def test_native_kernels_are_named_with_their_instruction_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """The name has the instruction set where there are several."""
    assert name_with(monkeypatch, "native") in {"native", "native (AVX2)", "native (AVX-512)"}
