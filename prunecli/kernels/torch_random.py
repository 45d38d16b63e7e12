"""The numbers of `prunecli.kernels.random_bits` with torch: Philox 4x64-10 in signed integers, which wrap around."""

from __future__ import annotations

from typing import Any, TypeAlias

Tensor: TypeAlias = Any

FACTORS = 0xD2E7470EE14C6C93, 0xCA5A826395121157
STEPS = 0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B
ROUNDS = 10

_LOW = (1 << 32) - 1


def signed(number: int) -> int:
    """Return the signed integer of 64 bits with the bits of `number`."""
    return (number + (1 << 63)) % (1 << 64) - (1 << 63)


def random_rows(torch: Any, keys: Tensor, firsts: Tensor, steps: int) -> Tensor:  # noqa: ANN401 - the module
    """Return 8 * `steps` numbers in each row, from the number 8 * `firsts` of the stream of the row's key on.

    `keys` (rows, 2) are the halves of the keys, the lower one first; `firsts` has an entry for each row.
    """
    # The generator that NumPy has increments the counter before it enciphers it.
    counter = firsts[:, None] + torch.arange(1, steps + 1, device=firsts.device)
    low, high = keys[:, :1], keys[:, 1:]
    zero = torch.zeros_like(counter)
    words = [counter, zero, zero, zero]
    for number in range(ROUNDS):
        first, second = low + signed(number * STEPS[0]), high + signed(number * STEPS[1])
        (upper, lower), (other_upper, other_lower) = (_product(FACTORS[i], words[2 * i]) for i in (0, 1))
        words = [other_upper ^ words[1] ^ first, other_lower, upper ^ words[3] ^ second, lower]
    halves = [(word >> shift & _LOW) >> 1 for word in words for shift in (0, 32)]
    return torch.stack([half.to(torch.int32) for half in halves], 2).reshape(len(firsts), -1)


def _product(factor: int, numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Return the upper and the lower half of the product of unsigned integers."""
    low, high = numbers & _LOW, numbers >> 32 & _LOW
    factor_low, factor_high = factor & _LOW, factor >> 32
    middle = low * factor_high + (low * factor_low >> 32 & _LOW)
    other = high * factor_low + (middle & _LOW)
    return high * factor_high + (middle >> 32 & _LOW) + (other >> 32 & _LOW), numbers * signed(factor)
