"""A command line that is being repaired."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING

from prunecli.cli.hints import shell_word
from prunecli.cli.repair.command_line import command_for, items_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prunecli.cli.repair.command_line import Command, Item

EACH = "$f"
"""The word for the file in a loop."""

_LISTED = 8
"""The most files that a loop lists."""


@dataclass(frozen=True, slots=True)
class Draft:
    """The words after `prune`, and the files to which the command is applied one after the other, if several."""

    words: tuple[str, ...]
    files: tuple[str, ...] = ()

    @property
    def command(self) -> Command:
        """The command that the first word names."""
        command = command_for(self.words)
        if command is None:
            raise ValueError(self.words[:1])
        return command

    def items(self) -> list[Item]:
        """Return the items after the name of the command."""
        return items_of(self.command, self.words[1:])

    def with_items(self, items: Sequence[Item]) -> Draft:
        """Return the draft with other items after the name of the command."""
        return replace(self, words=(self.words[0], *(word for item in items for word in item.words)))

    def line(self) -> str:
        """Return the line for a shell: the command, or a loop over the files."""
        line = " ".join(
            ["prune", *(f'"{EACH}"' if self.files and word == EACH else shell_word(word) for word in self.words)]
        )
        return f"for f in {self._listed()}; do {line}; done" if self.files else line

    def _listed(self) -> str:
        """Return the files as words of a shell: one pattern if there are many, and it matches just them."""
        first = Path(self.files[0])
        pattern = str(first.parent / f"*{first.suffix}")
        if len(self.files) > _LISTED and sorted(glob(pattern)) == sorted(self.files):  # noqa: PTH207 - texts
            return f"{shlex.quote(str(first.parent))}/*{first.suffix}" if first.parent != Path() else pattern
        return " ".join(map(shell_word, self.files))
