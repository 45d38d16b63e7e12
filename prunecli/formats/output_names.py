"""output names."""

from __future__ import annotations

import os
from pathlib import Path

from prunecli.checkpoint import PathLike
from prunecli.errors import CheckpointError
from prunecli.formats.shards import is_index


def default_output(checkpoint_path: PathLike) -> Path:
    """Name the output for a checkpoint: `.pruned` before the suffix of a file, after the name of a directory.

    An index stands for its directory. Raise CheckpointError where the path has no name, as `/` has none.
    """
    path = Path(checkpoint_path)
    folder = path.parent if is_index(path) else path
    if folder.name in {"", ".."}:
        folder = Path(os.path.realpath(folder))
    if not folder.name:
        raise CheckpointError(f"{folder} has no name to derive the output's from", hint="-o OUTPUT")
    if folder.is_dir():
        return folder.with_name(f"{folder.name}.pruned")
    suffix = _suffix(folder.name)
    return folder.with_name(f"{folder.name.removesuffix(suffix)}.pruned{suffix}")


def default_report(output: PathLike) -> Path:
    """Name the report for an output: `.report.json` in place of a file's suffix, after a directory's name."""
    path = Path(output)
    if path.name in {"", ".."}:
        path = Path(os.path.realpath(path))
    stem = path.name if path.is_dir() else path.name.removesuffix(_suffix(path.name))
    return path.with_name(f"{stem}.report.json") if path.name else path / "report.json"


def _suffix(name: str) -> str:
    """Return what follows a file's stem: `.pth`, `.pth.tar`, or nothing where the last dot is a version's."""
    stem, dot, last = name.rpartition(".")
    if not stem or not last[:1].isalpha() or last == "pruned":
        return ""
    return f"{_suffix(stem)}.tar" if last == "tar" else dot + last
