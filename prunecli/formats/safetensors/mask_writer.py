"""Mask files: safetensors with a byte per weight of each pruned tensor, 1 where it stays and 0 where it is gone."""

from __future__ import annotations

import json
from math import prod
from typing import TYPE_CHECKING

from prunecli.io.files import write_all

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from prunecli.checkpoint import TensorInfo

METADATA = {"format": "pt", "content": "mask of prunecli: 1 = kept, 0 = pruned"}


class MaskLayout:
    """Where the mask of each target lies in the file: in the targets' order, under their names."""

    def __init__(self, targets: Sequence[TensorInfo]) -> None:
        """Write the header."""
        header: dict[str, object] = {"__metadata__": METADATA}
        at, starts = 0, []
        for tensor in targets:
            size = prod(tensor.shape)
            header[tensor.name] = {"dtype": "U8", "shape": list(tensor.shape), "data_offsets": [at, at + size]}
            starts.append(at)
            at += size
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        self.head = len(text).to_bytes(8, "little") + text
        self.starts = [len(self.head) + start for start in starts]
        self.size = len(self.head) + at


class MaskSink:
    """A mask file being written, by any thread, in any order."""

    def __init__(self, fd: int, layout: MaskLayout) -> None:
        """Write the header to `fd`."""
        self._fd, self._layout = fd, layout
        write_all(fd, memoryview(layout.head), 0)

    def write(self, target: int, first: int, kept: NDArray[np.uint8]) -> None:
        """Write the ones and zeros of a run of a target's weights, from row-major element `first` on."""
        write_all(self._fd, kept.data, self._layout.starts[target] + first)
