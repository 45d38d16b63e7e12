"""Operations on arrays of keys in memory: counts in bins, extraction, and the key at a rank.

A key is a pattern of a magnitude or of a score, or -1. An array is anything with the buffer protocol. The compiled
kernels compute, or NumPy where there are none.
"""

from __future__ import annotations

import importlib
from array import array
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from prunecli.kernels.backend import has_native

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prunecli.dtypes import Float

Keys = Any
"""A flat contiguous array of signed integers, or of unsigned ones of 1 byte."""

COUNTED = 512
"""Up to this many patterns of a bracket are counted one by one; of a larger bracket they are extracted."""

CODES: dict[int, Literal["B", "h", "i", "q"]] = {1: "B", 2: "h", 4: "i", 8: "q"}
"""The codes of such integers by their size, for `memoryview.cast`."""


def _native() -> Any:  # noqa: ANN401 - the module
    """Return the compiled kernels of ranking, or None."""
    return _native_ranks() if has_native() else None


@lru_cache(maxsize=1)
def _native_ranks() -> Any:  # noqa: ANN401 - the module
    return importlib.import_module("prunecli.kernels.native_ranks")


def _numpy() -> Any:  # noqa: ANN401 - the module
    """Import NumPy, which the compiled kernels do without."""
    return importlib.import_module("numpy")


def joined(parts: Sequence[Keys]) -> memoryview:
    """Return one or more arrays of integers of the same size as one."""
    size = memoryview(parts[0]).itemsize
    return memoryview(b"".join(memoryview(part).cast("B") for part in parts)).cast(CODES[size])


def magnitudes(raw: bytearray, dtype: Float) -> Keys:
    """Return the magnitudes of weights in native byte order."""
    if native := _native():
        found = memoryview(bytearray(len(raw))).cast(CODES[dtype.itemsize])
        weights = memoryview(raw).cast(CODES[dtype.itemsize])
        native.extract_inside(weights, native.form_of(dtype), 0, dtype.top + 1, found)
        return found
    kernels = importlib.import_module("prunecli.kernels.numpy_ops").NumpyOps()
    return kernels.magnitudes(_numpy().frombuffer(raw, f"i{dtype.itemsize}"), dtype).copy()


def add_to_bins(keys: Keys, low: int, width: int, shift: int, bins: array[int]) -> None:
    """Add 1 to `bins[(key - low) >> shift]` for each key in [low, low + width). `bins` have the code "q"."""
    if native := _native():
        native.count_bins(keys, native.PATTERNS, low, width, shift, bins)
        return
    np = _numpy()
    counts = np.frombuffer(bins, np.int64)
    counts += np.bincount((within(keys, low, width).astype(np.int64) - low) >> shift, minlength=len(counts))


def within(keys: Keys, low: int, width: int) -> Keys:
    """Return the keys in [low, low + width), in their order."""
    if native := _native():
        view = memoryview(keys)
        found = memoryview(bytearray(view.nbytes)).cast(CODES[view.itemsize])
        return found[: native.extract_inside(keys, native.PATTERNS, low, width, found)[1]]
    numbers = _numpy().asarray(keys)
    return numbers[(numbers >= low) & (numbers <= low + (width - 1))]


def smallest(keys: Keys, rank: int) -> tuple[int, int, int]:
    """Return the `rank`-th smallest key (1-based), and the numbers of smaller keys and of those equal to it."""
    if native := _native():
        found: tuple[int, int, int] = native.smallest(keys, native.PATTERNS, rank)
        return found
    numbers = _numpy().asarray(keys)
    key = _numpy().partition(numbers, rank - 1)[rank - 1]
    return int(key), int((numbers < key).sum()), int((numbers == key).sum())


def count_equal(keys: Keys, key: int) -> int:
    """Return the number of keys equal to `key`."""
    bins = array("q", [0])
    add_to_bins(keys, key, 1, 0, bins)
    return bins[0]


def count_from(keys: Keys, row: int, least: int) -> list[int]:
    """Return the number of keys that are at least `least` in each row of `row` keys."""
    size = memoryview(keys).itemsize
    if size > 1 and least >= 1 << (8 * size - 1):  # no key is so large, and the kernels take no such number
        return [0] * (len(keys) // row)
    if native := _native():
        numbers = array("q", bytes(8 * (len(keys) // row)))
        native.count_of_rows(keys, native.PATTERNS, row, least, numbers)
        return numbers.tolist()
    counts: list[int] = (_numpy().asarray(keys).reshape(-1, row) >= least).sum(axis=1).tolist()
    return counts
