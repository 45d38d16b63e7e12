"""Arrange a safetensors file: the header and the order of the tensors are those of the safetensors library."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from prunecli.dtypes import BITS
from prunecli.errors import Argument, CheckpointError
from prunecli.formats.safetensors.reader import FORMAT_LIMIT
from prunecli.io.arrangement import Move, OutputFile, movable
from prunecli.text.escape import quoted
from prunecli.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from prunecli.checkpoint import TensorInfo

ORDER = (
    *("U64", "I64", "F64", "C64", "F32", "U32", "I32", "BF16", "F16", "U16", "I16", "F8_E5M2FNUZ", "F8_E4M3FNUZ"),
    *("F8_E8M0", "F8_E4M3", "F8_E5M2", "I8", "U8", "F6_E3M2", "F6_E2M3", "F4", "BOOL"),
)
"""The dtypes of the format in the order in which the library writes them."""

_RANK = {dtype: rank for rank, dtype in enumerate(ORDER)}
_METADATA = "__metadata__"


@dataclass(frozen=True, slots=True)
class NewTensor:
    """A tensor of a new file: its name and dtype there, and its elements in the input."""

    name: str
    tensor: TensorInfo
    dtype: str

    @property
    def nbytes(self) -> int:
        """Its bytes in the new file."""
        return self.tensor.numel * BITS[self.dtype] // 8


def arrange_safetensors(
    tensors: Sequence[NewTensor], metadata: Mapping[str, str], *, name: str, output: int
) -> tuple[OutputFile, list[Move]]:
    """Return the file number `output` with these tensors and this metadata.

    Raises CheckpointError for a tensor that the format cannot hold.
    """
    for tensor in tensors:
        _check(tensor)
    ordered = sorted(tensors, key=lambda tensor: (_RANK[tensor.dtype], tensor.name))
    header: dict[str, object] = {_METADATA: dict(metadata)} if metadata else {}
    end, starts = 0, []
    for tensor in ordered:
        starts.append(end)
        end += tensor.nbytes
        shape = list(tensor.tensor.shape)
        header[tensor.name] = {"dtype": tensor.dtype, "shape": shape, "data_offsets": [starts[-1], end]}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > FORMAT_LIMIT:
        raise CheckpointError(
            f"a safetensors header of {len(text):,} bytes is longer than the format allows, {FORMAT_LIMIT:,}",
            hint=("write shards: ", Argument("max_shard_size", "5GB")),
        )
    head = len(text).to_bytes(8, "little") + text
    moves = [_move(tensor, output, len(head) + start) for tensor, start in zip(ordered, starts, strict=True)]
    return OutputFile(name, len(head) + end, ((0, head),)), moves


def _move(new: NewTensor, output: int, offset: int) -> Move:
    elements = movable(new.tensor)
    dtype = elements.dtype if new.dtype == new.tensor.dtype else new.dtype
    return Move(elements, output, offset, dtype, None, new.name)


def _check(tensor: NewTensor) -> None:
    if tensor.dtype not in _RANK:
        raise CheckpointError(
            f"safetensors cannot hold {quoted(tensor.name)}: it has no dtype {tensor.dtype}",
            hint=("write a torch file: ", Argument("output", "OUTPUT.pth")),
        )
    if tensor.name == _METADATA:
        raise CheckpointError(
            f"safetensors cannot hold a tensor named {quoted(tensor.name)}: the format keeps its texts there",
            hint=("write a torch file: ", Argument("output", "OUTPUT.pth")),
        )
