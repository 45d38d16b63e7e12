"""Before a run, all processes say what they are about to do, and whether they can. One that differs ends the run."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from prunecli.distributed.failures import Failure, ProcessFailedError
from prunecli.errors import UsageError
from prunecli.text.escape import printable, shortened

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from prunecli.checkpoint import Checkpoint
    from prunecli.distributed.group import Group

LONGEST = 100
"""The most characters of a fact in a message."""


def agree(group: Group, facts: Mapping[str, str]) -> None:
    """Return if every process has the same `group.facts` and `facts`, a text by a phrase such as "the options".

    Raises UsageError that names the first process that differs from rank 0 and what it has, and ProcessFailedError if a
    process called `cannot_agree`. All processes raise the same error.
    """
    group.agreed = True
    said = [json.loads(one) for one in group.gather(json.dumps({"facts": {**group.facts, **facts}}).encode())]
    for other in said:
        if "failure" in other:
            raise ProcessFailedError(Failure(**other["failure"]))
    for rank, other in enumerate(said):
        expected, found = said[0]["facts"], other["facts"]
        for phrase in {**expected, **found}:
            if expected.get(phrase) != found.get(phrase):
                raise _difference(group, rank, phrase, expected.get(phrase, "nothing"), found.get(phrase, "nothing"))


def cannot_agree(group: Group, failure: Failure) -> None:
    """Say to the others, which call `agree`, that this process has failed before."""
    group.agreed = True
    group.gather(json.dumps({"failure": asdict(failure)}).encode())


def file_facts(checkpoint: Checkpoint) -> Iterator[tuple[str, str]]:
    """Yield the facts about the files of a checkpoint."""
    for file in checkpoint.files:
        yield f"the file {file.path}", f"{file.size:,} bytes, modified at {file.modified} ns"
    for relative in checkpoint.other_files:
        path = checkpoint.path / relative
        yield f"the file {path}", state(path)


def state(path: Path) -> str:
    """Return what changes if another file is at `path`."""
    status = path.stat()
    return f"{status.st_size:,} bytes, modified at {status.st_mtime_ns} ns"


def _difference(group: Group, rank: int, phrase: str, expected: str, found: str) -> UsageError:
    first, other = (shortened(printable(text), LONGEST) for text in (expected, found))
    return UsageError(
        f"all processes must do the same, and {phrase} of {group.name(rank)} and of {group.name(0)} differ: "
        f"{other} and {first}",
        hint="start all of them with one command, in one directory of a filesystem that all machines share",
    )
