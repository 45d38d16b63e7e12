"""Write mask files: safetensors with one byte per weight of each pruned tensor, 1 for kept and 0 for pruned."""

from __future__ import annotations

import json
from math import prod
from typing import TYPE_CHECKING

from prunecli.io.transfer import write_all

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prunecli.checkpoint import TensorInfo
    from prunecli.kernels.ops import Array

METADATA = {"format": "pt", "content": "mask of prunecli: 1 = kept, 0 = pruned"}


class MaskLayout:
    """The header of a mask file, and the position of each target's mask: in the order of the targets.

    Attributes:
        head: The bytes of the file before the data.
        starts: The offset of each target's mask, in bytes from the start of the file.
        size: The size of the file in bytes.
    """

    def __init__(self, targets: Sequence[TensorInfo]) -> None:
        """Lay out the masks of `targets`."""
        header: dict[str, object] = {"__metadata__": METADATA}
        end, starts = 0, []
        for tensor in targets:
            size = prod(tensor.shape)
            header[tensor.name] = {"dtype": "U8", "shape": list(tensor.shape), "data_offsets": [end, end + size]}
            starts.append(end)
            end += size
        text = json.dumps(header, separators=(",", ":")).encode()
        # The safetensors library pads its headers in the same way.
        text += b" " * (-len(text) % 8)
        self.head = len(text).to_bytes(8, "little") + text
        self.starts = [len(self.head) + start for start in starts]
        self.size = len(self.head) + end


class MaskSink:
    """Writes a mask file. Several threads may write at the same time, in any order."""

    def __init__(self, fd: int, layout: MaskLayout) -> None:
        """Write the header to `fd`."""
        self._fd, self._layout = fd, layout
        write_all(fd, memoryview(layout.head), 0)

    def write(self, target: int, first: int, kept: Array) -> None:
        """Write the ones and zeros of a run of a target's weights; `first` is its first row-major element."""
        write_all(self._fd, memoryview(kept), self._layout.starts[target] + first)
