"""Recognize files that this tool wrote: pruned and folded checkpoints by their names, JSON reports by their content."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from prunecli.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Collection

_REPORT_HEAD = 1 << 24  # bytes before the tensors of a report; longer ones are not recognized
_RESULT_FOLDER = r"(?s)(?P<input>.+)\.(pruned|baked|stripped)"
_RESULT = (
    r"(?s).+\.(pruned|baked|packed|stripped)"
    r"\.(safetensors|bin|pth|pt|ckpt|th|pt2|pdparams|np[yz]|gguf|onnx|h5|hdf5|keras)(\.tar)?(\.search\.json)?"
)


@dataclass(frozen=True, slots=True)
class OwnReport:
    """A JSON report of this tool, and the path of the output that it is about (None: no output was written)."""

    output: str | None


def is_own_result(path: Path) -> bool:
    """Return whether the file at `path` is a result of this tool: by its name, or because it is a report."""
    return is_own_name(path.name) or (path.name.endswith(".report.json") and read_report(path) is not None)


def is_own_name(name: str) -> bool:
    """Return whether `name` is the default name of an output, such as `model.pruned.safetensors`."""
    return re.fullmatch(_RESULT, name) is not None


def is_own_folder(name: str, siblings: Collection[str]) -> bool:
    """Return whether `name` is the default name of the output for another folder of `siblings`."""
    match = re.fullmatch(_RESULT_FOLDER, name)
    return match is not None and match["input"] in siblings


def is_report_of(path: Path, output: Path) -> bool:
    """Return whether the file at `path` is a JSON report of this tool about a checkpoint at `output`.

    A report with the default name of the output's report may have moved together with the output, so there only the
    name of the output counts.
    """
    report = None if path.is_symlink() else read_report(path)
    if report is None or report.output is None:
        return False
    if os.path.realpath(report.output) == os.path.realpath(output):
        return True
    return path.name == f"{output.name}.report.json" and Path(report.output).name == output.name


def read_report(path: Path) -> OwnReport | None:
    """Return the report at `path`, or None if the file is missing or is not a JSON report of this tool."""
    try:
        if not path.is_file():  # opening a FIFO would block
            return None
        with path.open("rb") as file:
            head, tensors, _ = file.read(_REPORT_HEAD).partition(b'\n "tensors": [')
        document = json.loads(head.rstrip().removesuffix(b",") + b"}") if tensors else None
    except (OSError, ValueError, RecursionError):
        return None
    match document:
        case {"schema": int(), "tool": {"name": "prunecli"}, "strategy": _, "output": None}:
            return OwnReport(None)
        case {"schema": int(), "tool": {"name": "prunecli"}, "strategy": _, "output": {"path": str(output)}}:
            return OwnReport(output)
    return None
