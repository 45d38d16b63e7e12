"""Recognize a directory of torch.distributed.checkpoint by its files."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from prunecli.formats.dcp.format import SHARDING_INFO
from prunecli.formats.format import head_of
from prunecli.formats.model_files import is_index_name
from prunecli.formats.shards import file_names

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

PARTS = (".distcp", ".safetensors")
"""The suffixes of files with parts of tensors."""

_METADATA = re.compile(r"(__\d+)?\.metadata")
_WRITER = b"torch.distributed.checkpoint"


def metadata_names(names: Sequence[str]) -> list[str]:
    """Return the names of the files that list the chunks: `.metadata`, or else one file of each rank."""
    found = [name for name in names if _METADATA.fullmatch(name)]
    return [".metadata"] if ".metadata" in found else sorted(found, key=lambda name: (len(name), name))


def is_distributed(directory: Path) -> bool:
    """Return whether a directory is a distributed checkpoint; CheckpointError if it cannot be read."""
    names = file_names(directory)
    if any(name.endswith(".distcp") for name in names):
        return True
    if any(_WRITER in head_of(directory / name) for name in metadata_names(names)):
        return True
    return not any(map(is_index_name, names)) and bool(sharded_names(directory, names))


def sharded_names(directory: Path, names: Sequence[str]) -> list[str]:
    """Return the names of the safetensors files if one of them has parts of tensors, else nothing."""
    parts = [name for name in names if name.endswith(PARTS)]
    return parts if any(SHARDING_INFO.encode() in head_of(directory / name) for name in parts) else []
