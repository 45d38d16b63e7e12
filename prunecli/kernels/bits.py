"""Flags as bits, row by row: the first flag of a row is the lowest bit of its first byte.

This is the order of compressed-tensors, and of `numpy.packbits(flags, axis=-1, bitorder="little")`.
"""

from __future__ import annotations

from ctypes import c_int64, c_void_p
from functools import lru_cache
from typing import TYPE_CHECKING

from prunecli.kernels.backend import has_native
from prunecli.kernels.native.library import Function, address, function

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from prunecli.kernels.ops import Array


def pack_bits(flags: bytes | memoryview, rows: int, cols: int) -> bytearray:
    """Return `rows` rows of `cols` flags, each 0 or 1 and a byte, as bits; zeros fill up the last byte of a row."""
    out = bytearray(rows * -(-cols // 8))
    if has_native():
        _kernel()(address(flags), rows, cols, address(out))
        return out
    import numpy as np  # noqa: PLC0415 - the compiled kernels do not need it

    bits = np.packbits(np.frombuffer(flags, np.uint8).reshape(rows, cols), axis=1, bitorder="little")
    return bytearray(bits.tobytes())


@lru_cache(maxsize=1)
def _kernel() -> Function:
    return function("pack_bits", (c_void_p, c_int64, c_int64, c_void_p))


@lru_cache(maxsize=1)
def _unpack() -> Function:
    return function("unpack_bits", (c_void_p, c_int64, c_int64, c_int64, c_void_p))


def unpack_bits(packed: Array, rows: int, cols: int, lead: int = 0) -> NDArray[np.uint8]:
    """Return the flags of `rows` rows of `cols` bits as ones and zeros, without the first `lead` bits of each row."""
    import numpy as np  # noqa: PLC0415 - for masks that are read

    if has_native():
        flags = np.empty(rows * cols, np.uint8)
        _unpack()(address(packed), rows, cols, lead, address(flags))
        return flags
    bits = np.frombuffer(packed, np.uint8).reshape(rows, -(-(lead + cols) // 8))
    return np.unpackbits(bits, axis=1, count=lead + cols, bitorder="little")[:, lead:].reshape(-1)
