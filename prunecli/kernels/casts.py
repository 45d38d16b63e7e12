"""Casts of floating-point weights to 16 bits, rounded to nearest, half to even, as torch's `.to()` does.

A NaN stays a NaN; torch itself gives it other bits in its vectorised loops than at their ends.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

_NAN = np.uint16(0x7FC0)  # of bfloat16, as torch writes it


@dataclass(frozen=True, slots=True)
class Lost:
    """The weights that a cast loses: finite ones that become infinite, and ones that become zero and were not."""

    overflowed: int = 0
    vanished: int = 0

    def __add__(self, other: Lost) -> Lost:
        """Return the sum of both counts."""
        return Lost(self.overflowed + other.overflowed, self.vanished + other.vanished)


def cast(x: NDArray[Any], source: str, target: str) -> tuple[NDArray[np.uint16], Lost]:
    """Return the patterns of dtype `target` ("F16" or "BF16") for the patterns `x` of dtype `source`, and the losses.

    `x` holds native integers of the width of `source`.
    """
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        single = _singles(x, source)
        made = _to_half(single) if target == "F16" else _to_bfloat(single)
        return made, _lost(x, source, made, target)


def _singles(x: NDArray[Any], source: str) -> NDArray[np.float32]:
    """Return the values as float32: torch casts float64 by way of it."""
    decode: dict[str, Callable[[], NDArray[np.float32]]] = {
        "F64": lambda: x.view(np.float64).astype(np.float32),
        "F32": lambda: x.view(np.float32),
        "F16": lambda: x.view(np.float16).astype(np.float32),
        "BF16": lambda: (x.view(np.uint16).astype(np.uint32) << np.uint32(16)).view(np.float32),
    }
    return decode[source]()


def _to_half(single: NDArray[np.float32]) -> NDArray[np.uint16]:
    half = single.astype(np.float16).view(np.uint16)
    half[np.isnan(single)] |= np.uint16(0x0200)  # a signalling NaN becomes a quiet one, as in hardware
    return half


def _to_bfloat(single: NDArray[np.float32]) -> NDArray[np.uint16]:
    bits = single.view(np.uint32)
    # Half to even: up by a half minus one, and by one more if the last bit that stays is odd. An infinity stays one.
    rounded = bits >> np.uint32(16)
    rounded &= np.uint32(1)
    rounded += np.uint32(0x7FFF)
    rounded += bits
    rounded >>= np.uint32(16)
    made: NDArray[np.uint16] = rounded.astype(np.uint16)
    nan = np.isnan(single)
    if nan.any():
        made[nan] = _NAN
    return made


_INFINITY = {"F16": 0x7C00, "BF16": 0x7F80}


def _lost(x: NDArray[Any], source: str, made: NDArray[np.uint16], target: str) -> Lost:
    magnitude = made & np.uint16(0x7FFF)
    infinite = magnitude == np.uint16(_INFINITY[target])
    zero = magnitude == 0
    overflowed = int(np.count_nonzero(_is_finite(x[infinite], source))) if infinite.any() else 0
    before = int(x.size - np.count_nonzero(_magnitudes(x)))
    return Lost(overflowed, int(np.count_nonzero(zero)) - before)


def _is_finite(x: NDArray[Any], source: str) -> NDArray[np.bool_]:
    values: NDArray[Any] = x.view(np.float64) if source == "F64" else _singles(x, source)
    finite: NDArray[np.bool_] = np.isfinite(values)
    return finite


def _magnitudes(x: NDArray[Any]) -> NDArray[Any]:
    unsigned = x.view(f"u{x.itemsize}")
    magnitudes: NDArray[Any] = unsigned << unsigned.dtype.type(1)  # without the sign, -0.0 is zero too
    return magnitudes
