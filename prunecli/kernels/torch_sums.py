"""Sums of squares of blocks with torch, and their exact sum in integers, with the bits of `prunecli.kernels.squares`.

An exact sum is a table of bins. Bin b has the mantissas of the numbers with the exponent fields 8 * b to 8 * b + 7
above the first one, shifted to the lowest of them and split into 32 low bits and the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prunecli.dtypes import FLOATS
from prunecli.kernels.tally import BLOCK, SMALLEST_SINGLE

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from prunecli.dtypes import Float

FIRST_EXPONENT, BINS = 720, 72
"""The exponent field of the smallest float64 that is a square of a format of up to 4 bytes, rounded; and the bins."""

BINS_OF_DOUBLES = 257
"""The bins of sums for a format of 8 bytes, from the exponent field 1; the last one counts infinities."""

FEW_BLOCKS = 2
"""So many blocks are always summed in both ways: to look whether they need it is to wait for the device."""

CAREFUL_BLOCKS = 1 << 12
"""Blocks that are summed again in float64 at once."""


def bins_of(dtype: Float) -> tuple[int, int]:
    """Return the exponent field of the first bin, and the number of bins."""
    return (1, BINS_OF_DOUBLES) if dtype.itemsize == 8 else (FIRST_EXPONENT, BINS)


def sure_range(dtype: Float) -> tuple[int, int]:
    """Return the patterns [low, high) of sums of blocks that need no second, careful sum."""
    single = FLOATS["F64" if dtype.itemsize == 8 else "F32"]
    return single.floor(SMALLEST_SINGLE) + 1, single.finite_max + 1


def wide(torch: Any, y: Any, dtype: Float) -> Any:  # noqa: ANN401 - the module, and tensors
    """Return magnitudes as float32, or as float64 if they are; in formats of 8 bits NaN for what is not finite."""
    if dtype.itemsize >= 4:
        return y.view(torch.float64 if dtype.itemsize == 8 else torch.float32)
    if dtype.name == "BF16":  # the upper half of a float32
        return (y.to(torch.int32) << 16).view(torch.float32)
    if dtype.name == "F16":
        return y.view(torch.float16).to(torch.float32)
    moved = (y.to(torch.int32) << (23 - dtype.mantissa)).view(torch.float32) * 2.0 ** (127 - dtype.bias)
    return moved.masked_fill_(y > dtype.finite_max, float("nan"))


def block_sums(torch: Any, y: Any, dtype: Float, alive: Any) -> Any:  # noqa: ANN401 - the module, and tensors
    """Return the sums of squares of the rows of `y` (blocks, BLOCK) as float64; `alive` says which have a non-zero."""
    sums = halved(wide(torch, y, dtype).square())
    low, high = sure_range(dtype)
    bits = sums.view(torch.int64 if dtype.itemsize == 8 else torch.int32)
    unsure = ((bits < low) | (bits >= high)) & alive
    y, unsure, sums = _in_doubles(torch, y, unsure, sums)
    if len(sums) <= FEW_BLOCKS:
        return torch.where(unsure, _careful_sums(torch, y.to(sums.device), dtype), sums)
    if bool(unsure.any()):
        for places in unsure.nonzero().flatten().split(CAREFUL_BLOCKS):
            sums[places] = _careful_sums(torch, y[places.to(y.device)].to(sums.device), dtype)
    return sums


def _in_doubles(torch: Any, y: Any, unsure: Any, sums: Any) -> tuple[Any, Any, Any]:  # noqa: ANN401 - as above
    """Return the same with sums in float64: on the host for a device that has no such numbers."""
    if y.device.type == "mps":
        return y, unsure.cpu(), sums.cpu().to(torch.float64)
    return y, unsure, sums.to(torch.float64)


def _careful_sums(torch: Any, y: Any, dtype: Float) -> Any:  # noqa: ANN401 - as above
    finite = wide(torch, y.masked_fill(y > dtype.finite_max, 0), dtype).to(torch.float64)
    return halved(finite.square_())


def halved(squares: Any) -> Any:  # noqa: ANN401 - tensors
    """Return the sum of each row: the second half is added to the first one until one number is left."""
    half = squares.shape[1] // 2
    while half:
        squares = squares[:, :half] + squares[:, half : 2 * half]
        half //= 2
    return squares[:, 0]


def exact_bins(torch: Any, sums: Any, dtype: Float, segments: Any, count: int) -> Any:  # noqa: ANN401 - as above
    """Return the tables of exact sums of `sums` (rows, numbers), shape (count, rows, bins, 2).

    `segments` is the table of each column, of `count` ones.
    """
    first, bins = bins_of(dtype)
    bits = sums.view(torch.int64)
    exponents = bits >> 52
    mantissas = (bits & ((1 << 52) - 1)) | ((exponents > 0).to(torch.int64) << 52)
    places = exponents.clamp_(min=first) - first
    if bins == BINS_OF_DOUBLES:  # infinities have a bin of their own
        places += (exponents == (1 << 11) - 1).to(torch.int64) << 1
    mantissas <<= places & 7
    rows = len(sums)
    row = torch.arange(rows, device=sums.device)[:, None]
    index = ((segments[None] * rows + row) * bins + (places >> 3)).flatten()
    table = torch.zeros((2, count * rows * bins), dtype=torch.int64, device=sums.device)
    table[0].index_add_(0, index, (mantissas & 0xFFFFFFFF).flatten())
    table[1].index_add_(0, index, (mantissas >> 32).flatten())
    return table.reshape(2, count, rows, bins).permute(1, 2, 3, 0)


def exact_units(tables: NDArray[np.int64], dtype: Float) -> list[int | None]:
    """Return the sum in each row of `tables`, a flat table of `exact_bins`: in units of 2**-1074, None for infinity."""
    first, bins = bins_of(dtype)
    units = [0] * len(tables)
    rows, places = tables.nonzero()
    numbers = tables[rows, places].tolist()
    for row, place, number in zip(rows.tolist(), places.tolist(), numbers, strict=True):
        units[row] += number << (8 * (place >> 1) + 32 * (place & 1) + first - 1)
    if bins < BINS_OF_DOUBLES:
        return [*units]
    infinite: list[bool] = (tables[:, -2:] != 0).any(1).tolist()
    return [None if overflowed else number for number, overflowed in zip(units, infinite, strict=True)]


def whole_blocks(torch: Any, y: Any) -> Any:  # noqa: ANN401 - as above
    """Return flat `y` as rows of BLOCK entries, with zeros behind the last one."""
    missing = -len(y) % BLOCK
    if missing:
        y = torch.nn.functional.pad(y, (0, missing))
    return y.reshape(-1, BLOCK)
