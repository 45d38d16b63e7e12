"""The checkpoint that a reading command is given: a path, or `-` for what comes through standard input."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from contextlib import ExitStack
    from pathlib import Path


def readable(stack: ExitStack, ckpt: str) -> tuple[str | Path, str | None]:
    """Return what to open for the argument `ckpt`, and what to call it in messages (None: as it is).

    Standard input is spooled to a temporary file that goes away with `stack`. Raises PruneError, in one of its kinds,
    where there is nothing to read or no room.
    """
    if ckpt != "-":
        return ckpt, None
    from prunecli.cli.pipes import spooled_input

    return stack.enter_context(spooled_input(None)), "standard input"
