"""Whether a path may be written, decided before any work: every refusal has its sentence here.

Nothing here writes; `output` does, and asks again.
"""

from __future__ import annotations

import os
import shlex
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from prunecli.errors import OutputError
from prunecli.text.escape import printable

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

ELSEWHERE = "write elsewhere with -o PATH"
"""The hint that always helps."""


def check_output(
    target: Path,
    *,
    sources: Iterable[Path],
    force: bool,
    in_place: bool,
    names: Collection[str] | None = None,
) -> None:
    """Refuse before the work what cannot be published after it, and what would hurt an input: OutputError.

    `sources` are the files and directories the run reads; `in_place` allows `target` to be one of them.
    `names` is None for a file; for a directory it holds the relative paths it will have, and an existing
    directory with anything else in it is not replaced.
    """
    _refuse_nul(target)
    read = tuple(sources)
    replaces_input = in_place and any(_same(target, source) for source in read)
    if not replaces_input:
        _refuse_inputs(target, read, directory=names is not None)
    place = destination_for(target, force=force or replaces_input, directory=names is not None)
    if names is not None:
        refuse_losses(place, names)


def check_writable_target(target: Path, *, force: bool, others: Iterable[Path] = ()) -> None:
    """Refuse a report or mask `target` that cannot be written or is one of the run's `others`: OutputError."""
    _refuse_nul(target)
    refuse_overwriting(target, others)
    destination_for(target, force=force, directory=False)


def refuse_overwriting(target: Path, others: Iterable[Path]) -> None:
    """Raise OutputError where `target` is one of the paths that the run reads or writes besides."""
    for other in others:
        if _same(target, other):
            what = f"{_q(other)}, which this run needs" if str(target) != str(other) else "what this run needs"
            raise OutputError(f"{_q(target)} would overwrite {what}", hint="give each output a path of its own")


def _refuse_nul(target: Path) -> None:
    if "\0" in str(target):  # the system calls raise ValueError
        raise OutputError(f"the output {_q(target)} has a NUL character in its path", hint=ELSEWHERE)


def _refuse_inputs(target: Path, sources: Iterable[Path], *, directory: bool) -> None:
    for source in sources:
        if _same(target, source):
            raise OutputError(
                f"the output {_q(target)} is the input itself",
                hint=f"{ELSEWHERE}, or replace the input with --in-place",
            )
        if directory and _real(target) in _real(source).parents:
            raise OutputError(
                f"the output directory {_q(target)} holds the input {_q(source)}",
                hint="write to a directory of its own: -o PATH",
            )


def _same(a: Path, b: Path) -> bool:
    with suppress(OSError):
        if a.samefile(b):
            return True
    return _real(a) == _real(b)


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))  # Path.resolve() raises RuntimeError where links go in a circle


def refuse_losses(place: Path, names: Collection[str]) -> None:
    """Refuse to replace a directory that holds files the new one, with `names`, would not: OutputError."""
    if not place.is_dir():
        return
    old = (p.relative_to(place).as_posix() for p in place.rglob("*") if p.is_symlink() or not p.is_dir())
    lost = sorted(set(old) - set(names))
    if lost:
        more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
        raise OutputError(
            f"replacing {_q(place)} would lose files that the output does not have: {printable(lost[0])}{more}",
            hint="choose another directory with -o, or move those files away",
        )


def destination_for(target: Path, *, force: bool, directory: bool) -> Path:
    """Return the path to publish at, links followed where `force` allows; OutputError where none is fit."""
    try:
        place = _followed(target, force=force)
        _refuse_parent(place, target)
        mode = place.stat().st_mode
    except FileNotFoundError:
        return place
    except OSError as error:
        raise failed("write", target, error) from error
    _refuse_kind(target, mode, directory=directory)
    if not force:
        raise exists(target)
    return place


def _followed(target: Path, *, force: bool) -> Path:
    if not target.is_symlink():
        return target
    real = _real(target)
    if not force:
        raise OutputError(
            f"the output {_q(target)} is a symbolic link",
            hint=f"name the file itself: -o {shlex.quote(_q(real))}",
        )
    return real


def _refuse_parent(place: Path, target: Path) -> None:
    parent = place.parent
    if not parent.is_dir():
        raise OutputError(
            f"there is no directory {_q(parent)} for the output {_q(target)}",
            hint=f"mkdir -p {shlex.quote(_q(parent))}",
        )
    if place != target and parent.name == "blobs":  # a snapshot in Hugging Face's cache links there
        raise OutputError(
            f"the output {_q(target)} links into a cache whose files must not change: {_q(parent)}",
            hint=ELSEWHERE,
        )
    if not os.access(parent, os.W_OK | os.X_OK):
        raise OutputError(f"no permission to write in {_q(parent)}", hint=ELSEWHERE)


def _refuse_kind(target: Path, mode: int, *, directory: bool) -> None:
    if directory and not stat.S_ISDIR(mode):
        raise OutputError(
            f"the output {_q(target)} is a file, and a directory is to be written",
            hint="name a new directory with -o PATH",
        )
    if not directory and stat.S_ISDIR(mode):
        raise OutputError(
            f"the output {_q(target)} is a directory, and a file is to be written",
            hint=f"name a file in it: -o {shlex.quote(_q(target))}/NAME",
        )
    if not directory and not stat.S_ISREG(mode):
        raise OutputError(
            f"the output {_q(target)} is a pipe or a device, not a file", hint="stream to it: -o - > PATH"
        )


def _q(path: Path) -> str:
    return printable(str(path))


def exists(target: Path) -> OutputError:
    """Make the error for an output that is there already."""
    return OutputError(f"the output {_q(target)} exists", hint=f"{ELSEWHERE}, or replace it with --force")


def failed(act: str, path: Path, error: OSError) -> OutputError:
    """Make the error for a system call that failed; `act` is what was tried: "write in"."""
    return OutputError(f"cannot {act} {_q(path)}: {error.strerror or error}", hint=ELSEWHERE)
