"""The checks of one output file: only selected weights and checksums differ from the input, and the weights are zero.

The fuzzer and the corpus runner share them. Positions come from the listing of the tensors, contents from the files.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from prunecli.checkpoint import Checksum, TensorInfo

LONGEST = 20_000
"""The most characters of a message."""


class Finding(Exception):  # noqa: N818 - a result of the search
    """The tool broke a promise."""


def elements(array: NDArray[Any], tensor: TensorInfo) -> NDArray[Any]:
    """Return the elements of `tensor` in an array with one entry per byte of its file: its shape, and its item size."""
    shape = (*tensor.shape, tensor.itemsize)
    strides = (*(step * tensor.itemsize for step in tensor.strides), 1)
    return np.lib.stride_tricks.as_strided(array[tensor.start :], shape, strides)


def check_bytes(
    old: NDArray[np.uint8], new: NDArray[np.uint8], selected: Iterable[TensorInfo], checksums: Iterable[Checksum]
) -> None:
    """Raise Finding unless `new` is `old` with weights of `selected` set to zero and `checksums` repaired.

    `checksums` are those that the output lists.
    """
    if len(old) != len(new):
        raise Finding(f"{len(new)} bytes came out of {len(old)}")
    changed = old != new
    may_change = np.zeros(len(old), bool)
    for tensor in selected:
        elements(may_change, tensor)[...] = True
        if elements(new, tensor)[elements(changed, tensor).any(-1)].any():
            raise Finding(f"a weight of {tensor.name!r} became another number than zero")
    for checksum in checksums:
        _check_value(checksum, changed, new)
        for place in checksum.places:
            may_change[place : place + 4] = True
    if (wrong := np.flatnonzero(changed & ~may_change)).size:
        raise Finding(f"bytes changed that must not: {wrong[:10].tolist()}")


def _check_value(checksum: Checksum, changed: NDArray[np.bool_], new: NDArray[np.uint8]) -> None:
    """Raise Finding unless `checksum` is stored at its places, and is right if its bytes changed."""
    check_places(checksum, new)
    start, end = checksum.span.start, checksum.span.end
    if changed[start:end].any() and checksum.value != zlib.crc32(new[start:end].data):
        raise Finding(f"the new {checksum} is wrong")


def check_places(checksum: Checksum, data: bytes | NDArray[np.uint8]) -> None:
    """Raise Finding unless `checksum` is stored at each of its places in `data`."""
    for place in checksum.places:
        if bytes(data[place : place + 4]) != checksum.value.to_bytes(4, "little"):
            raise Finding(f"{checksum} is not where it should be")


def check_refusal(code: int, said: str) -> None:
    """Raise Finding unless a run without an output ended with exit code 2, one sentence, and at most one hint."""
    lines = said.splitlines()
    if code != 2 or not 1 <= len(lines) <= 2 or not lines[0].startswith("error: "):
        raise Finding(f"exit code {code} with {said[:2000]!r}")
    if lines[1:] and not lines[1].startswith("hint: "):
        raise Finding(f"{lines[1]!r} is no hint")
    for line in lines:
        check_sentence(line)


def check_sentence(line: str) -> None:
    """Raise Finding for a message that is too long to read."""
    if len(line) > LONGEST:
        raise Finding(f"a message has {len(line)} characters: {line[:200]}")
