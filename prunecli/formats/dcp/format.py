"""The formats of torch.distributed.checkpoint, as values for the list of formats. A directory has one of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO, NoReturn

from prunecli.errors import CheckpointError
from prunecli.formats.format import Format

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from prunecli.checkpoint import Span

SHARDING_INFO = "DCP_SHARDING_INFO"
"""The key in the metadata of a safetensors file that has parts of tensors."""


def _part(_: BinaryIO, label: str, __: Sequence[str] | Collection[Span]) -> NoReturn:
    raise CheckpointError(f"{label} is part of a distributed checkpoint, which is a directory")


DCP = Format("DCP", "DCP", None, _part, _part)
DCP_SAFETENSORS = Format("DCP safetensors", "DCP", None, _part, _part)
