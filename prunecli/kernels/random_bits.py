"""Random numbers of weights, which depend on a seed, the tensor's name and shape, and the place of the weight."""

from __future__ import annotations

import hashlib
from ctypes import c_int64, c_uint64, c_void_p
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from prunecli.kernels.backend import has_native
from prunecli.kernels.native.library import Function, address, function

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from prunecli.checkpoint import TensorInfo


_WORD = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class RandomNumbers:
    """The random numbers of one tensor, which follow from its `key`."""

    key: int

    def __call__(self, first: int, count: int) -> NDArray[np.int32]:
        """Return the numbers [first, first + count)."""
        return draw(self.key, first, count)


def halves(keys: Sequence[int]) -> NDArray[np.int64]:
    """Return the halves of keys, the lower one first, shape (keys, 2)."""
    return np.array([[key & _WORD, key >> 64] for key in keys], np.uint64).view(np.int64)


def random_key(seed: int, tensor: TensorInfo) -> int:
    """Return the 128-bit key of a tensor's random numbers."""
    text = f"{seed}\n{tensor.shape}\n{tensor.local_name}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=16).digest(), "little")


def draw(key: int, first: int, count: int) -> NDArray[np.int32]:
    """Return the numbers [first, first + count) of the stream of `key`, 31 bits each.

    Philox 4x64-10 (Salmon et al., 2011, https://doi.org/10.1145/2063384.2063405) enciphers a counter, so any place of
    the stream can be computed directly. Each step of the counter gives eight numbers.
    """
    return _native(key, first, count) if has_native() else _numpy(key, first, count)


def _numpy(key: int, first: int, count: int) -> NDArray[np.int32]:
    step, skip = divmod(first, 8)
    bits = np.random.Philox(key=key, counter=step)
    words: NDArray[np.uint64] = bits.random_raw(-(-(skip + count) // 8) * 4)
    # 31 bits, because patterns are signed integers and -1 marks a pruned weight.
    return (words.astype("<u8", copy=False).view("<u4")[skip : skip + count] >> 1).astype(np.int32)


def _native(key: int, first: int, count: int) -> NDArray[np.int32]:
    numbers = np.empty(count, np.int32)
    _kernel()(key & _WORD, key >> 64, first, count, address(numbers))
    return numbers


@lru_cache(maxsize=1)
def _kernel() -> Function:
    return function("random_bits", (c_uint64, c_uint64, c_int64, c_int64, c_void_p))
