"""The element types of checkpoints, by safetensors' names, and the bit patterns of their magnitudes.

This module does not import NumPy, so that listing a checkpoint does not either.
"""

from __future__ import annotations

from math import frexp, inf, isfinite, ldexp, nan

from prunecli.values import dataclass


@dataclass(frozen=True, slots=True)
class Float:
    """A floating-point format with the sign in its top bit, so that magnitudes order as integers.

    Attributes:
        name: The name in safetensors ("F32", "BF16").
        itemsize: The size of an element in bytes.
        exponent: The number of exponent bits.
        mantissa: The number of mantissa bits that are stored.
        bias: The exponent bias.
        infinity: The pattern of +inf, or None if the format has no infinity.
        nan: The smallest magnitude pattern that is NaN, or None if no magnitude is (fnuz formats encode their one NaN
            as the pattern of -0.0).
    """

    name: str
    itemsize: int
    exponent: int
    mantissa: int
    bias: int
    infinity: int | None
    nan: int | None

    @property
    def mask(self) -> int:
        """The pattern with all bits set except the sign."""
        return (1 << (8 * self.itemsize - 1)) - 1

    @property
    def finite_max(self) -> int:
        """The pattern of the largest finite magnitude."""
        if self.infinity is not None:
            return self.infinity - 1
        return self.mask if self.nan is None else self.nan - 1

    @property
    def negative_zero_is_nan(self) -> bool:
        """Whether the pattern 0x80 is NaN (the fnuz formats)."""
        return self.nan is None

    @property
    def top(self) -> int:
        """The largest magnitude pattern, NaN included; the NaN of fnuz formats is one above the finite patterns."""
        return self.mask + self.negative_zero_is_nan

    def decode(self, bits: int) -> float:
        """Return the value of the magnitude pattern `bits`."""
        if bits > self.finite_max:
            return inf if bits == self.infinity else nan
        exponent, fraction = bits >> self.mantissa, bits & ((1 << self.mantissa) - 1)
        if exponent == 0:
            return ldexp(fraction, 1 - self.bias - self.mantissa)
        return ldexp(fraction + (1 << self.mantissa), exponent - self.bias - self.mantissa)

    def encode(self, value: float) -> int:
        """Return the pattern nearest to `value` (>= 0, finite), half to even; beyond the range, `finite_max + 1`."""
        n, lowest = self._quanta(value)
        bits = round(n) + (lowest << self.mantissa)
        return min(bits, self.finite_max + 1)

    def floor(self, value: float) -> int:
        """Return the largest finite pattern whose value is at most `value` (>= 0)."""
        if not isfinite(value):
            return self.finite_max
        n, lowest = self._quanta(value)
        return min(int(n) + (lowest << self.mantissa), self.finite_max)

    def ceil(self, value: float) -> int:
        """Return the smallest pattern whose value is at least `value` (>= 0, finite or inf)."""
        bits = self.floor(value)
        return bits if self.decode(bits) >= value else bits + 1

    def _quanta(self, value: float) -> tuple[float, int]:
        """Return `value` in units of the last place, and the exponent field minus one of those units."""
        # frexp returns the exponent 0 for zero, as for 0.5.
        exponent = max(frexp(value)[1] - 1, 1 - self.bias) if value else 1 - self.bias
        return ldexp(value, self.mantissa - exponent), exponent + self.bias - 1


def _ieee(name: str, itemsize: int, exponent: int, mantissa: int) -> Float:
    infinity = ((1 << exponent) - 1) << mantissa
    return Float(name, itemsize, exponent, mantissa, (1 << (exponent - 1)) - 1, infinity, infinity + 1)


FLOATS: dict[str, Float] = {
    f.name: f
    for f in (
        _ieee("F64", 8, 11, 52),
        _ieee("F32", 4, 8, 23),
        _ieee("F16", 2, 5, 10),
        _ieee("BF16", 2, 8, 7),
        _ieee("F8_E5M2", 1, 5, 2),
        Float("F8_E4M3", 1, 4, 3, 7, None, 0x7F),
        Float("F8_E5M2FNUZ", 1, 5, 2, 16, None, None),
        Float("F8_E4M3FNUZ", 1, 4, 3, 8, None, None),
    )
}
"""The dtypes whose weights can be pruned."""

CASTABLE = frozenset({"F64", "F32", "F16", "BF16"})
"""The dtypes whose numbers can be cast to 16 bits."""

_OTHER_DTYPES = {
    4: ("F4",),
    6: ("F6_E2M3", "F6_E3M2"),
    8: ("BOOL", "F8_E8M0", "U8", "I8"),
    16: ("I16", "U16"),
    32: ("I32", "U32"),
    64: ("I64", "U64", "C64"),
    128: ("C128",),
}

BITS: dict[str, int] = {
    **{f.name: 8 * f.itemsize for f in FLOATS.values()},
    **{name: bits for bits, names in _OTHER_DTYPES.items() for name in names},
}
"""The bits of an element of each known dtype, by safetensors' names, and of C128, which only torch has."""

SCALE_DTYPES = frozenset({"F64", "F32", "BF16", "F16", "F8_E8M0"})
"""The dtypes of scales. F8_E8M0 has exponents alone: Open Compute Project, Microscaling Formats 1.0, section 5.4."""

MASK_DTYPES = frozenset(FLOATS) | {"BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64"}
"""The dtypes in which a mask of zeros and ones may be stored; torch.nn.utils.prune stores masks as floats."""


def why_not_prunable(dtype: str) -> str | None:
    """Return why a tensor of `dtype` is not pruned, or None if it can be."""
    if dtype in FLOATS:
        return None
    kinds = {"B": "booleans", "U": "integers", "I": "integers", "C": "complex numbers"}
    return f"{dtype} holds {kinds.get(dtype[0], 'packed or scale-only numbers')}, not weights"


def cast(value: float, dtype: Float) -> int:
    """Return the pattern of `value` (>= 0, finite) when torch compares a tensor of `dtype` with it.

    For the 16- and 8-bit types torch rounds a Python number to float32 first.
    """
    if dtype.itemsize < FLOATS["F32"].itemsize:
        single = FLOATS["F32"].encode(value)
        value = FLOATS["F32"].decode(min(single, FLOATS["F32"].finite_max))
    return dtype.encode(value)


TORCH_DTYPES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "float8_e4m3fnuz": "F8_E4M3FNUZ",
    "float8_e5m2fnuz": "F8_E5M2FNUZ",
    "float8_e8m0fnu": "F8_E8M0",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint64": "U64",
    "uint32": "U32",
    "uint16": "U16",
    "uint8": "U8",
    "bool": "BOOL",
    "complex64": "C64",
    "complex128": "C128",
}
"""The safetensors name of each torch dtype that has one."""

NUMPY_DTYPES = {
    "f8": "F64",
    "f4": "F32",
    "f2": "F16",
    "i8": "I64",
    "i4": "I32",
    "i2": "I16",
    "i1": "I8",
    "u8": "U64",
    "u4": "U32",
    "u2": "U16",
    "u1": "U8",
    "b1": "BOOL",
    "c8": "C64",
    "c16": "C128",
}
"""The safetensors name of each NumPy dtype that has one, by its letter and the bytes of an element."""
