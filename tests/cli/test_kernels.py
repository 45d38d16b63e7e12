"""The choice of kernels by PRUNECLI_KERNELS, and where a run says which kernels computed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from prunecli.cli.command_list import COMMANDS
from prunecli.kernels.native import library

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from support import Prune

ARGUMENTS = {
    "threshold": "CKPT --thr 0.1",
    "percentile": "CKPT --q 50",
    "topk": "CKPT --pattern 2:4",
    "block": "CKPT --shape 2x2 --amount 0.5",
    "mask": "CKPT --mask CKPT",
    "run": "recipe.toml CKPT",
    "inspect": "CKPT",
    "scan": "CKPT",
    "check": "CKPT --pattern 2:4",
    "diff": "CKPT CKPT",
    "search": "CKPT l1 --eval true --metric x --max-drop 1",
    "sweep": "CKPT l1 --eval true --metric x",
    "bake": "CKPT",
    "convert": "CKPT out.safetensors",
    "strip": "CKPT",
    "pack": "CKPT",
    "unpack": "CKPT",
    "doctor": "",
}
"""The required arguments of each command; those not named take an amount."""


@pytest.fixture
def choose(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Return a function that sets PRUNECLI_KERNELS, as if this process had started with it."""

    def set_(value: str) -> None:
        monkeypatch.setenv(library.VARIABLE, value)
        library.library.cache_clear()

    yield set_
    library.library.cache_clear()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_wrong_choice_is_one_sentence(
    prune: Prune, tmp_path: Path, choose: Callable[[str], None], command: str
) -> None:
    """Every command refuses other kernels before it reads a file: there is none."""
    choose("fast")
    words = ARGUMENTS.get(command, "CKPT --amount 0.5").replace("CKPT", str(tmp_path / "missing.pth")).split()

    ran = prune(command, *words)

    assert (ran.code, ran.err) == (2, "error: PRUNECLI_KERNELS is 'fast', and the kernels are native or numpy\n")


def test_native_kernels_that_are_missing_are_an_error(
    prune: Prune, ckpt: Path, choose: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """PRUNECLI_KERNELS=native without a library ends in one sentence, and nothing is written."""
    monkeypatch.setattr(library, "__file__", str(tmp_path / "library.py"))
    choose("native")

    ran = prune("l1", ckpt, "--amount", "0.5", "-o", tmp_path / "out")

    assert (ran.code, ran.err.splitlines()[0]) == (
        2,
        "error: PRUNECLI_KERNELS is native, and this installation has no compiled kernels",
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ("numpy", "numpy"),
        pytest.param(
            "native", "native", marks=pytest.mark.skipif(library.library() is None, reason="the library is not built")
        ),
    ],
)
def test_a_run_says_which_kernels_compute(
    prune: Prune, ckpt: Path, choose: Callable[[str], None], tmp_path: Path, choice: str, words: str
) -> None:
    """The report and `-v` name the kernels."""
    choose(choice)

    ran = prune("l1", ckpt, "--amount", "0.5", "-v", "-o", tmp_path / "out", "--report", tmp_path / "report.json")

    assert json.loads((tmp_path / "report.json").read_bytes())["kernels"].startswith(words)
    assert f"the CPU, with {words}".lower() in ran.err.lower()
