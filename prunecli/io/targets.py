"""Check output paths before any work starts.

Nothing here writes. `io.publish` writes, and checks again, because the file system may have changed.
"""

from __future__ import annotations

import os
import shlex
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from prunecli.errors import Argument, OutputError, UsageError
from prunecli.remote.path import RemotePath, named_locally
from prunecli.remote.urls import upload_line
from prunecli.text.escape import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    from prunecli.checkpoint import Checkpoint, PathLike


def elsewhere(argument: str = "output") -> tuple[str, Argument]:
    """Return the hint to write to another path, given by `argument`."""
    value = ["PATH.json"] if argument == "reports" else "PATH"
    return "write elsewhere with ", Argument(argument, value)


def refuse_both(output: PathLike | int | None, *, in_place: bool) -> None:
    """Raise UsageError for an output that is named where the input is to be replaced."""
    if in_place and output is not None:
        message = "an output cannot be given together with in-place writing, which replaces the input"
        raise UsageError(message, hint=("leave out ", Argument("output", output)))


def output_target(
    checkpoint: Checkpoint,
    output: PathLike | int | None,
    default: Callable[[], Path],
    *,
    in_place: bool,
    directory: bool | None = None,
) -> Path | int:
    """Return the path or descriptor of the new version of `checkpoint`.

    It is the input if `in_place`, else `output`, or `default()` if that is None. `directory` is whether it is one; None
    means that it is if the input is. Raises UsageError for a directory that would go to a descriptor.
    """
    if in_place:
        if isinstance(checkpoint.path, RemotePath):
            raise _only_local(checkpoint.path)
        return _real(checkpoint.path)
    if isinstance(output, int):
        if checkpoint.is_directory if directory is None else directory:
            raise UsageError("a directory of files cannot go to a pipe", hint=Argument("output", "DIRECTORY"))
        return output
    return default() if output is None else Path(output)


def check_checkpoint_output(
    checkpoint: Checkpoint,
    target: Path,
    *,
    force: bool,
    in_place: bool,
    directory: bool | None = None,
    names: set[str] | None = None,
) -> None:
    """Raise OutputError where `target` cannot take the new version of `checkpoint`; see `check_output`.

    `directory` is whether it is one, and `names` are then the relative paths in it; by default as in the input. In
    place, files with tensors may go, and so may their index.
    """
    if names is None and checkpoint.is_directory and directory is not False:
        names = set(checkpoint.own_files)
        for relative in checkpoint.other_files:
            names.update(part.as_posix() for part in (relative, *relative.parents[:-1]))
    elif names is not None and in_place:
        names = names | checkpoint.own_files
    check_output(target, sources=_input_paths(checkpoint), force=force, in_place=in_place, names=names)


def check_side_outputs(
    checkpoint: Checkpoint,
    target: Sequence[Path],
    reports: Sequence[Path],
    masks: Sequence[Path],
    replaceable: Callable[[Path], bool],
    *,
    folders: Sequence[Path],
) -> None:
    """Raise OutputError where a report or a mask cannot be written, or would overwrite another file of the run.

    `target` holds the path of the checkpoint's output, if there is one. `replaceable` returns whether an existing file
    may be replaced. `folders` are the directories that are checkpoints, which get no other files.
    """
    paths = [*reports, *masks]
    for index, path in enumerate(paths):
        argument = "reports" if index < len(reports) else "mask_out"
        _refuse_directory_of_shards(path, folders, target, argument)
        others = [*_input_paths(checkpoint), *paths[:index], *target]
        check_writable_target(path, force=replaceable(path), others=others, argument=argument)


def _refuse_directory_of_shards(path: Path, folders: Sequence[Path], target: Sequence[Path], argument: str) -> None:
    """Refuse a `path` in a directory of shards: the input as well as the output must not get other files."""
    for folder in folders:
        if _real(folder) in _real(path).parents:
            role = "output" if folder in target else "input"
            together = any(path.parent == one.parent for one in target)  # then the report has its name from the output
            hint = (_argument("output" if together else argument, Path("PATH")), " outside that directory")
            raise OutputError(f"{_q(path)} lies inside the {role} {_q(folder)}", hint=hint)


def _input_paths(checkpoint: Checkpoint) -> list[Path]:
    if isinstance(checkpoint.path, RemotePath):  # no output can be there
        return []
    files = [file.path for file in checkpoint.files]
    return [*files, checkpoint.path] if checkpoint.is_directory else files


def check_output(
    target: Path,
    *,
    sources: Collection[Path],
    force: bool,
    in_place: bool,
    names: Collection[str] | None = None,
) -> None:
    """Raise OutputError where `target` cannot be written, or where writing it would damage an input.

    `sources` are the files and directories the run reads; `in_place` allows `target` to be one of them.
    `names` is None for a file; for a directory it holds the relative paths it will have, and an existing
    directory with anything else in it is not replaced.
    """
    _refuse_nul(target)
    replaces_input = in_place and any(_same(target, source) for source in sources)
    if not replaces_input:
        _refuse_inputs(target, sources, directory=names is not None)
    destination = destination_for(target, force=force or replaces_input, directory=names is not None)
    if names is not None:
        refuse_losses(destination, names)


def check_writable_target(target: Path, *, force: bool, others: Iterable[Path] = (), argument: str = "output") -> None:
    """Raise OutputError where the file `target` cannot be written or is one of the run's `others`.

    `argument` is the argument that gave `target`, for the hint.
    """
    _refuse_nul(target, argument)
    refuse_overwriting(target, others)
    destination_for(target, force=force, directory=False, argument=argument)


def refuse_overwriting(target: Path, others: Iterable[Path]) -> None:
    """Raise OutputError where `target` is one of the other paths that the run reads or writes."""
    for other in others:
        if _same(target, other):
            what = f"{_q(other)}, which this run needs" if str(target) != str(other) else "what this run needs"
            raise OutputError(f"{_q(target)} would overwrite {what}", hint="give each output a path of its own")


def _refuse_nul(target: Path, argument: str = "output") -> None:
    if upload_line(str(target), "") is not None:
        raise _only_local(target, argument)
    if "\0" in str(target):  # the system calls raise ValueError
        raise OutputError(f"the output {_q(target)} has a NUL character in its path", hint=elsewhere(argument))


def _only_local(target: Path, argument: str = "output") -> OutputError:
    """Return the error for an output that is elsewhere; the hint has the command that uploads it."""
    url = RemotePath(target)
    local = named_locally(url)
    upload = upload_line(str(url), str(local))
    after = f", and upload it afterwards: {printable(upload)}" if upload else ", and upload it afterwards"
    return OutputError(
        f"{_q(url)} is elsewhere, and outputs are written to local paths",
        hint=("write here with ", _argument(argument, local), after),
    )


def _refuse_inputs(target: Path, sources: Iterable[Path], *, directory: bool) -> None:
    for source in sources:
        if _same(target, source):
            raise OutputError(
                f"the output {_q(target)} is the input itself",
                hint=(*elsewhere(), ", or replace the input with ", Argument("in_place", True)),
            )
        if directory and _real(target) in _real(source).parents:
            raise OutputError(
                f"the output directory {_q(target)} holds the input {_q(source)}",
                hint=("write to another directory: ", Argument("output", "PATH")),
            )


def _same(a: Path, b: Path) -> bool:
    with suppress(OSError):
        if a.samefile(b):
            return True
    return _real(a) == _real(b)


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))  # Path.resolve() raises RuntimeError where links go in a circle


def refuse_losses(directory: Path, names: Collection[str]) -> None:
    """Raise OutputError where replacing a directory would delete files that are not among `names`."""
    if not directory.is_dir():
        return
    old = (p.relative_to(directory).as_posix() for p in directory.rglob("*") if p.is_symlink() or not p.is_dir())
    lost = sorted(set(old) - set(names))
    if lost:
        more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
        raise OutputError(
            f"replacing {_q(directory)} would lose files that the output does not have: {printable(lost[0])}{more}",
            hint=("choose another directory with ", Argument("output", "PATH"), ", or move those files away"),
        )


def destination_for(target: Path, *, force: bool, directory: bool, argument: str = "output") -> Path:
    """Return the path to write for `target`; with `force` the target of a symbolic link.

    Raises OutputError where `target` exists without `force`, or cannot be written as a file or a `directory`.
    """
    try:
        destination = _followed(target, force=force, argument=argument)
        _refuse_parent(destination, target, argument)
        mode = destination.stat().st_mode
    except FileNotFoundError:
        return destination
    except OSError as error:
        raise failed("write", target, error, argument) from error
    _refuse_file_type(target, mode, directory=directory, argument=argument)
    if not force:
        raise exists(target, argument)
    return destination


def _followed(target: Path, *, force: bool, argument: str) -> Path:
    if not target.is_symlink():
        return target
    real = _real(target)
    if not force:
        raise OutputError(
            f"the output {_q(target)} is a symbolic link",
            hint=("name the file itself: ", _argument(argument, real)),
        )
    return real


def _refuse_parent(destination: Path, target: Path, argument: str) -> None:
    parent = destination.parent
    if not parent.is_dir():
        raise OutputError(
            f"there is no directory {_q(parent)} for the output {_q(target)}",
            hint=f"mkdir -p {shlex.quote(_q(parent))}",
        )
    if destination != target and parent.name == "blobs":  # a snapshot in Hugging Face's cache links there
        raise OutputError(
            f"the output {_q(target)} links into a cache whose files must not change: {_q(parent)}",
            hint=elsewhere(argument),
        )
    if not os.access(parent, os.W_OK | os.X_OK):
        raise OutputError(f"no permission to write in {_q(parent)}", hint=elsewhere(argument))


def _refuse_file_type(target: Path, mode: int, *, directory: bool, argument: str) -> None:
    if directory and not stat.S_ISDIR(mode):
        raise OutputError(
            f"the output {_q(target)} is a file, and a directory is to be written",
            hint=("name a new directory with ", Argument(argument, "PATH")),
        )
    if not directory and stat.S_ISDIR(mode):
        raise OutputError(
            f"the output {_q(target)} is a directory, and a file is to be written",
            hint=("name a file in it: ", _argument(argument, target / "NAME")),
        )
    if not directory and not stat.S_ISREG(mode):
        raise OutputError(f"the output {_q(target)} is a pipe or a device, not a file", hint=elsewhere(argument))


def _q(path: Path) -> str:
    return printable(str(path))


def exists(target: Path, argument: str = "output") -> OutputError:
    """Return the error for an output that exists already."""
    hint = (*elsewhere(argument), ", or replace it with ", Argument("force", True))
    return OutputError(f"the output {_q(target)} exists", hint=hint)


def failed(act: str, path: Path, error: OSError, argument: str = "output") -> OutputError:
    """Return the error for a system call that failed; `act` is the attempted action, such as "write in"."""
    return OutputError(f"cannot {act} {_q(path)}: {error.strerror or error}", hint=elsewhere(argument))


def _argument(name: str, path: Path) -> Argument:
    return Argument(name, [_q(path)] if name == "reports" else _q(path))
