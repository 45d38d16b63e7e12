"""random bits."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from prunecli.checkpoint import TensorInfo


def random_key(seed: int, tensor: TensorInfo) -> int:
    """Return the 128-bit key of a tensor's random numbers."""
    text = f"{seed}\n{tensor.shape}\n{tensor.name}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=16).digest(), "little")


def draw(key: int, first: int, count: int) -> NDArray[np.int32]:
    """Return `count` numbers of 31 bits from place `first` on of a stream that can be entered anywhere.

    Philox 4x64-10 (Salmon et al., 2011): a counter enciphered; each step of it gives eight of them.
    """
    step, skip = divmod(first, 8)
    bits = np.random.Philox(key=key, counter=step)
    words: NDArray[np.uint64] = bits.random_raw(-(-(skip + count) // 8) * 4)
    return (words.astype("<u8", copy=False).view("<u4")[skip : skip + count] >> 1).astype(np.int32)
