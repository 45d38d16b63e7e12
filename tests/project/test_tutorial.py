"""The tutorial: its files and its commands run in the order of the page."""

from __future__ import annotations

import os
import re
import shutil
import sys
from typing import TYPE_CHECKING

import pytest
from support import DEMO, ROOT, load_script

if TYPE_CHECKING:
    from pathlib import Path

PAGE = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(python|sh)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.slow
def test_the_tutorial_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each command succeeds, and training brings back most of the accuracy that pruning took."""
    shutil.copytree(DEMO, tmp_path / "demo", ignore=shutil.ignore_patterns("out"))
    command = tmp_path / "bin" / "python"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{command.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    accuracies: list[float] = []
    for kind, text in BLOCK.findall(PAGE):
        if kind == "python":
            (tmp_path / text.split("\n")[0].removeprefix("# ")).write_text(text, encoding="utf-8")
            continue
        for line in text.splitlines():
            output = printed(line, tmp_path)
            accuracies += [float(number) for number in re.findall(r"^accuracy (\S+)$", output, re.MULTILINE)]

    trained, half, pruned, tuned = accuracies
    assert half > trained - 0.05
    assert pruned < trained - 0.1 < tuned


def printed(line: str, folder: Path) -> str:
    """Run a line of the page in bash and return its output; the exit code must be 0, or 1 for `prune diff`."""
    script = load_script("update_readme")
    wanted = "[ $? = 1 ]" if line.startswith("prune diff") else "[ $? = 0 ]"
    output: str = script.run(f"{line}; {wanted} && echo as expected", folder)
    assert output.endswith("as expected\n"), f"{line}\n{output}"
    return output
