"""What several processes find in a checkpoint, and print, is what one process finds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import save_file

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.together import Together

COMMANDS = {
    "inspect": ["inspect", "A", "--json"],
    "inspect-text": ["inspect", "A", "--no-progress"],
    "scan": ["scan", "A", "--json", "--html", "PAGE", "-f"],
    "check": ["check", "A", "--finite", "--no-all-zero", "--pattern", "2:4", "--only-zeros-added-since", "B"],
    "diff": ["diff", "A", "B", "--json"],
}


def run(forks: Together, size: int, words: list[str], paths: dict[str, Path]) -> tuple[object, ...]:
    """Return the exit codes, what rank 0 prints, and the page that it writes."""
    ended = forks.run(size, [paths.get(word, word) for word in words])
    assert [*ended.stdout[1:], *ended.stderr[1:]] == [""] * (2 * size - 2)
    page = paths["PAGE"].read_bytes() if "PAGE" in words else b""
    return set(ended.codes), ended.stdout[0], ended.stderr[0], page


SELDOM = [pytest.param(name, marks=pytest.mark.slow) for name in ("inspect", "scan")]


@pytest.mark.parametrize("command", ["inspect-text", "check", "diff", *SELDOM])
def test_the_same_result(forks: Together, source: Callable[[str], Path], tmp_path: Path, command: str) -> None:
    """Three processes print what one prints, and only one of them prints it."""
    a, b = source("zip"), source("safetensors-shards")
    paths = {"A": a, "B": b, "PAGE": tmp_path / "scan.html"}
    words = COMMANDS[command]
    if command == "diff":
        paths["B"] = tmp_path / "b.safetensors"
        tensors = torch.load(a)
        first = next(name for name, t in tensors.items() if t.dim() == 2)
        save_file({n: t.clone() if n != first else torch.zeros_like(t) for n, t in tensors.items()}, paths["B"])

    assert run(forks, 3, words, paths) == run(forks, 1, words, paths)


def test_a_process_that_fails(forks: Together, source: Callable[[str], Path]) -> None:
    """A file that one process cannot read is an error of all."""
    code = "import prunecli.inspection.zero_counts as zero_counts\nfrom prunecli.errors import CheckpointError\n"
    code += "def fail(*_, **__): raise CheckpointError('this disk is broken')\n"
    code += "if rank == 1: zero_counts._count = fail\nfrom prunecli.__main__ import main; main()"
    ended = forks.run(2, ["inspect", source("zip")], code)

    assert ended.codes == [2, 2]
    assert ended.stderr[0].startswith("error: rank 1 on ")
    assert ended.stderr[0].endswith(": this disk is broken\n")
    assert ended.stdout == ["", ""]


@pytest.mark.parametrize("words", [["inspect", "-"], ["inspect", "A", "--thresholds"]])
def test_what_needs_one_process(forks: Together, source: Callable[[str], Path], words: list[str]) -> None:
    """Standard input and thresholds are said to need one process, once."""
    ended = forks.run(2, [str(source("zip")) if word == "A" else word for word in words])

    assert ended.codes == [2, 2]
    assert ended.stderr[0].startswith("error: 2 processes run this, and ")
    assert ended.stderr[1] == ""
