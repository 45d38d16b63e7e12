#!/usr/bin/env python
"""Run the shell examples of README.md and docs/ and insert their output; the tests compare it.

    .venv/bin/python scripts/update_readme.py

A line `$ COMMAND` in a block marked `console` is run by bash in a directory that holds a copy of demo/; the lines
after it, up to the next `$`, are its output.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import man_page
import reference

from prunecli.cli.command_list import COMMANDS as COMMAND_LIST

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
COMMANDS = ROOT / "docs" / "commands.md"
MAN_PAGE = ROOT / "docs" / "prune.1"
REFERENCE = {ROOT / "docs" / "report.md": reference.report_page, ROOT / "docs" / "recipe.md": reference.recipe_page}
PAGES = (README, *sorted((ROOT / "docs").glob("**/*.md")))
"""The pages that may have examples; COMMANDS is generated from the list of commands."""

TYPER = "0.29"
"""The version of Typer whose help texts the pages show; other versions lay them out differently."""

TERMINAL = {"COLUMNS": "80", "NO_COLOR": "1", "TERM": "dumb"}
"""Environment variables of a terminal of 80 columns without colour."""

_BLOCK = re.compile(r"(?<=^```console\n).*?(?=^```$)", re.MULTILINE | re.DOTALL)


def examples(block: str) -> list[tuple[str, str]]:
    """Return the (command, output) pairs of a block."""
    parts = re.split(r"^\$ (.*)\n", block, flags=re.MULTILINE)
    return list(zip(parts[1::2], parts[2::2], strict=True))


def blocks(text: str) -> list[str]:
    """Return the shell examples of a Markdown text."""
    return _BLOCK.findall(text)


def run(command: str, folder: Path) -> str:
    """Run `command` in `folder` and return its standard output and error together."""
    line = f'exec 2>&1; prune() {{ {shlex.quote(sys.executable)} -m prunecli "$@"; }}; {command}'
    environment = {**os.environ, **TERMINAL}
    ran = subprocess.run(["bash", "-c", line], cwd=folder, env=environment, capture_output=True, check=False, text=True)  # noqa: S607
    return timeless(ran.stdout)


def timeless(text: str) -> str:
    """Return `text` with one time in the place of each: the duration of a run is never the same."""
    return re.sub(r", [\d.]+ s(?= ->|;)", ", 0.05 s", text)


def played(block: str) -> str:
    """Return `block` with the current output of its commands, which share a directory."""
    with tempfile.TemporaryDirectory() as place:
        shutil.copytree(ROOT / "demo", Path(place) / "demo", ignore=shutil.ignore_patterns("out"))
        return "".join(f"$ {command}\n{run(command, Path(place))}" for command, _ in examples(block))


def commands_page(names: list[str]) -> str:
    """Return a page with an empty block for the help of `prune` and of each command."""
    helps = ["prune --help", *(f"prune {name} --help" for name in names)]
    blocks = "\n".join(f"```console\n$ {line}\n```\n" for line in helps)
    return f"# All commands and options\n\nMade by `scripts/update_readme.py`.\n\n{blocks}"


def main() -> None:
    """Update the pages."""
    for page, make in REFERENCE.items():
        page.write_text(make(), encoding="utf-8")
    MAN_PAGE.write_text(man_page.page(), encoding="utf-8")
    COMMANDS.write_text(commands_page(list(COMMAND_LIST)), encoding="utf-8")
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        page.write_text(_BLOCK.sub(lambda block: played(block[0]), text), encoding="utf-8")


if __name__ == "__main__":
    main()
