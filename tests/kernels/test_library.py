"""The compiled library: it is there where it can be built, and compilers have nothing to say about its sources."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest
from support.paths import ROOT

from prunecli.kernels.native.library import VARIABLE, library

SOURCES = sorted((ROOT / "prunecli/kernels/native").glob("*.c"))
WARNINGS = ["-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Wvla", "-Werror"]


@pytest.mark.skipif(not any(map(shutil.which, ("cc", "gcc", "clang"))), reason="no compiler")
@pytest.mark.skipif(os.environ.get("PRUNECLI_BUILD_NATIVE") == "0", reason="PRUNECLI_BUILD_NATIVE is 0")
@pytest.mark.skipif(os.environ.get(VARIABLE) == "numpy", reason=f"{VARIABLE} is numpy")
def test_library_is_built_where_there_is_a_compiler() -> None:
    """The tests run with compiled kernels: `python setup.py build_ext --inplace` makes them."""
    assert library() is not None


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_sources_compile_without_a_warning(compiler: str) -> None:
    """All sources are C11 without arrays of variable length, extensions and doubtful code."""
    if shutil.which(compiler) is None:
        pytest.skip(f"no {compiler}")
    ran = subprocess.run([compiler, "-fsyntax-only", *WARNINGS, *SOURCES], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")


@pytest.mark.parametrize("kernels", ["numpy", ""])
def test_every_module_can_be_imported(monkeypatch: pytest.MonkeyPatch, kernels: str) -> None:
    """Programs that import all modules of a package meet no library that Python takes for a module."""
    monkeypatch.setenv("PRUNECLI_KERNELS", kernels)
    program = (
        "import importlib, pkgutil, prunecli.kernels as k\n"
        "for module in pkgutil.walk_packages(k.__path__, 'prunecli.kernels.'):\n"
        "    if 'triton' not in module.name: importlib.import_module(module.name)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
