"""The default paths of a pruned checkpoint and its report, next to the input."""

from __future__ import annotations

import os
from pathlib import Path

from prunecli.checkpoint import PathLike
from prunecli.errors import Argument, CheckpointError
from prunecli.formats.shards import is_index


def default_output(checkpoint_path: PathLike) -> Path:
    """Return the output path: `.pruned` before a file's suffix, or at the end of a directory's name.

    An index of shards stands for its directory. Raises CheckpointError if the path has no name, such as `/`.
    """
    path = Path(checkpoint_path)
    folder = path.parent if is_index(path) else path
    if folder.name in {"", ".."}:
        folder = Path(os.path.realpath(folder))
    if not folder.name:
        raise CheckpointError(f"{folder} has no name to derive the output name from", hint=Argument("output", "OUTPUT"))
    if folder.is_dir():
        return folder.with_name(f"{folder.name}.pruned")
    suffix = _suffix(folder.name)
    return folder.with_name(f"{folder.name.removesuffix(suffix)}.pruned{suffix}")


def default_report(output: PathLike) -> Path:
    """Return the report path: the whole name of the output and `.report.json`, so that no two outputs share one."""
    path = Path(output)
    if path.name in {"", ".."}:
        path = Path(os.path.realpath(path))
    return path.with_name(f"{path.name}.report.json") if path.name else path / "report.json"


def _suffix(name: str) -> str:
    """Return `.pth`, `.pth.tar` and the like, or "" if the text after the last dot is part of a version number."""
    stem, dot, last = name.rpartition(".")
    if not stem or not last[:1].isalpha() or last == "pruned":
        return ""
    return f"{_suffix(stem)}.tar" if last == "tar" else dot + last
