"""Reading the weights of tensors that hold codes, as codes times their scale.

Only the entries of the scale that a run of codes needs are read with it, so that memory does not depend on the scale.
"""

from __future__ import annotations

from glob import escape
from typing import TYPE_CHECKING

import numpy as np

from prunecli.dtypes import FLOATS
from prunecli.errors import Argument, CheckpointError
from prunecli.io.reader import Reader
from prunecli.kernels import torch_values
from prunecli.kernels.arrays import as_array
from prunecli.kernels.ops import is_tensor
from prunecli.kernels.scales import ScaledRows, code_values, multiply_blocks, scale_values
from prunecli.text.escape import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from prunecli.checkpoint import ScaledBy, TensorInfo
    from prunecli.io.files import Input
    from prunecli.io.threads import Worker
    from prunecli.kernels.native_codes import ScaledCodes
    from prunecli.kernels.ops import Array, Read

SCALE_SLOT = 3
"""The read buffer of a worker for scales."""

SMALLEST, LARGEST = 2.0**-900, 2.0**900
"""The magnitudes of usable scales: products with codes stay normal numbers of float64."""

ALL_BITS = (1 << 64) - 1

_F64 = FLOATS["F64"]


class ScaleReader:
    """Multiplies codes by the scales of a checkpoint, read from its open files."""

    def __init__(self, sources: Sequence[Input]) -> None:
        """Read from `sources`."""
        self._reader = Reader(sources)

    def values(self, worker: Worker, tensor: TensorInfo, codes: Array, first: int, slot: str = "y") -> Array:
        """Return the weights of the run of `codes` from row-major element `first`, where the codes lie.

        On the host they are in the scratch memory `slot` of the worker's scores. Raises CheckpointError where a scale
        is zero, not finite, or too small or large to multiply by.
        """
        dtype, host = FLOATS[tensor.dtype], not is_tensor(codes)
        if host and worker.is_compiled:
            numbers = worker.scoring.scratch(slot, len(codes), np.float64)
            return self._unmultiplied(worker, tensor, codes, first, slot).products(numbers, ALL_BITS)
        numbers = (
            code_values(worker.scoring, as_array(codes), dtype, slot) if host else torch_values.values(codes, dtype)
        )
        for rows in self._rows(worker, tensor, first, first + len(codes)):
            part, shape = numbers[rows.low : rows.high], (len(rows.lines), rows.cols)
            entries = rows.entries[rows.lines]
            if host:
                multiply_blocks(part.reshape(shape), rows.offset, rows.wide, entries)
            else:
                torch_values.multiply_blocks(part, shape, rows.offset, rows.wide, entries)
        return numbers

    def magnitudes(self, worker: Worker, tensor: TensorInfo, codes: Array, first: int, slot: str = "y") -> Array:
        """Return the patterns of the magnitudes of a run, as `values` does, or `ScaledCodes` for compiled kernels."""
        if is_tensor(codes):
            return torch_values.magnitudes(self.values(worker, tensor, codes, first))
        if worker.is_compiled:
            return self._unmultiplied(worker, tensor, codes, first, slot)
        patterns = self.values(worker, tensor, codes, first, slot).view(np.int64)
        return np.bitwise_and(patterns, np.int64(_F64.mask), out=patterns)

    def _unmultiplied(self, worker: Worker, tensor: TensorInfo, codes: Array, first: int, slot: str) -> ScaledCodes:
        from prunecli.kernels.native_codes import ScaledCodes  # noqa: PLC0415 - where there is the library

        count, scale = len(codes), tensor.scale
        if scale is None:
            raise ValueError(tensor.name)
        return ScaledCodes(
            codes,
            FLOATS[tensor.dtype],
            list(self._rows(worker, tensor, first, first + count)),
            (scale.cols, scale.block[1]),
            lambda: worker.scoring.scratch(slot, count, np.int64),
        )

    def range_reader(self, worker: Worker, tensor: TensorInfo, read: Read) -> Read:
        """Return a function that reads the weights [first, stop) as patterns of float64; `read` reads the codes."""
        return lambda first, stop: self.values(worker, tensor, read(first, stop), first).view(np.int64)

    def _rows(self, worker: Worker, tensor: TensorInfo, first: int, stop: int) -> Iterator[ScaledRows]:
        """Yield the rows of the codes [first, stop), or parts of them, with their entries."""
        scale = tensor.scale
        if scale is None:
            raise ValueError(tensor.name)
        for low, high, rows in _parts(scale.cols, first, stop):
            (row, column), cols = divmod(low, scale.cols), (high - low) // rows
            lines, entries = self._entries(worker, tensor, scale, row, column, (rows, cols))
            offset, wide = column % scale.block[1], scale.block[1]
            yield ScaledRows(low - first, high - first, cols, offset, wide, lines, entries)

    def _entries(
        self,
        worker: Worker,
        tensor: TensorInfo,
        scale: ScaledBy,
        row: int,
        column: int,
        shape: tuple[int, ...],
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return the entries for whole rows from `row`, or for a part of one row from `column`: (lines, blocks).

        Before them comes the number of the line of each row.
        """
        (high, wide), (bands, blocks) = scale.block, scale.grid
        rows = np.arange(row, row + shape[0])
        lines = rows // scale.rows * bands + rows % scale.rows // high
        left, right = column // wide, -(-(column + shape[1]) // wide)
        start, stop = int(lines[0]) * blocks + left, int(lines[-1]) * blocks + right
        raw = as_array(self._reader.read_range(worker, scale.tensor, start, stop, slot=SCALE_SLOT))
        entries = scale_values(raw, scale.tensor.dtype)
        _check(tensor, scale, entries)
        return lines - lines[0], entries.reshape(-1, right - left)


def _parts(cols: int, first: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """Yield (low, high, rows): a part of a row, whole rows, and a part of a row that together are [first, stop)."""
    while first < stop:
        column = first % cols
        rows = (stop - first) // cols if not column else 0
        high = first + rows * cols if rows else min(first - column + cols, stop)
        yield first, high, max(rows, 1)
        first = high


def _check(tensor: TensorInfo, scale: ScaledBy, entries: NDArray[np.float64]) -> None:
    sizes = np.abs(entries)
    usable = (sizes >= SMALLEST) & (sizes <= LARGEST)
    if usable.all():
        return
    raise CheckpointError(
        f"the scale {printable(repr(scale.tensor.name))} of {printable(repr(tensor.name))} has the entry "
        f"{entries[~usable][0]:g}, and codes cannot be ranked with it",
        hint=(Argument("exclude", [printable(escape(tensor.name))]), " leaves the tensor as it is"),
    )
