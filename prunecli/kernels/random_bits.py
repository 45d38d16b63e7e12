"""Random numbers of weights, which depend on a seed, the tensor's name and shape, and the place of the weight."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from prunecli.checkpoint import TensorInfo


def random_key(seed: int, tensor: TensorInfo) -> int:
    """Return the 128-bit key of a tensor's random numbers."""
    text = f"{seed}\n{tensor.shape}\n{tensor.local_name}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=16).digest(), "little")


def draw(key: int, first: int, count: int) -> NDArray[np.int32]:
    """Return the numbers [first, first + count) of the stream of `key`, 31 bits each.

    Philox 4x64-10 (Salmon et al., 2011, https://doi.org/10.1145/2063384.2063405) enciphers a counter, so any place of
    the stream can be computed directly. Each step of the counter gives eight numbers.
    """
    step, skip = divmod(first, 8)
    bits = np.random.Philox(key=key, counter=step)
    words: NDArray[np.uint64] = bits.random_raw(-(-(skip + count) // 8) * 4)
    # 31 bits, because patterns are signed integers and -1 marks a pruned weight.
    return (words.astype("<u8", copy=False).view("<u4")[skip : skip + count] >> 1).astype(np.int32)
