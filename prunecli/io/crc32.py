"""CRC-32 of concatenated bytes from the CRC-32s of the parts, so that threads can compute the parts in any order.

The arithmetic is that of zlib's `crc32_combine`: appending n zero bytes multiplies the register by x^(8n) modulo the
polynomial.
"""

from __future__ import annotations

from functools import lru_cache

_POLYNOMIAL = 0xEDB88320  # reflected: bit 31 is x^0


def combine(first: int, second: int, length: int) -> int:
    """Return the CRC-32 of two byte strings in sequence; `length` is that of the second, in bytes."""
    return _multiply(_zeros(length), first) ^ second


def _multiply(a: int, b: int) -> int:
    """Return a * b modulo the polynomial, over GF(2)."""
    product, bit = 0, 1 << 31
    while True:
        if a & bit:
            product ^= b
            if not a & (bit - 1):
                return product
        bit >>= 1
        b = (b >> 1) ^ _POLYNOMIAL if b & 1 else b >> 1
        if not bit:
            return product


@lru_cache(maxsize=4096)
def _zeros(length: int) -> int:
    """Return x^(8 * length) modulo the polynomial."""
    factor, power, bits = 1 << 31, 1 << 30, 8 * length
    while bits:
        if bits & 1:
            factor = _multiply(power, factor)
        power = _multiply(power, power)
        bits >>= 1
    return factor
