"""The calls of the Triton kernels. Each has a counterpart in plain torch that gives the same bits."""

from __future__ import annotations

import importlib
import importlib.util
from contextlib import nullcontext
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeAlias

from prunecli.kernels.tally import BLOCK
from prunecli.kernels.torch_blocks import ZEROS_AFTER, Blocks, Cut, Groups
from prunecli.kernels.torch_sums import sure_range

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prunecli.dtypes import Float
    from prunecli.layout import SliceView

Tensor: TypeAlias = Any

KINDS = ("cuda", "xpu")
"""The devices that Triton compiles for."""

GROUPS = (2, 4, 8, 16, 32, 64)
"""The sizes of groups that the kernel ranks."""

PROGRAMS, MOST_PER_PROGRAM = 1 << 12, 32
"""With more blocks than PROGRAMS, a program takes several, up to the second number."""

ROW_LIMIT = 1 << 14
"""The longest row that one program ranks, in its registers."""

FIRST_ROWS, ROWS_STEP = 32, 64
"""Rows in which nearly all columns show a non-zero, if they have one; and those of a program after them."""

NARROW, SPREAD = 8, 1024
"""The most patterns that are counted one by one; and places for the numbers of magnitudes below a bracket."""

OPTIONS = {"num_warps": 1, "num_stages": 1, "enable_fp_fusion": False}
"""A block belongs to one warp, and products are rounded before they are added."""


@lru_cache(maxsize=64)
def fused(device: str) -> Fused | None:
    """Return the kernels for a device, None where Triton is missing or does not work."""
    if device.partition(":")[0] not in KINDS or importlib.util.find_spec("triton") is None:
        return None
    from prunecli.dtypes import FLOATS  # noqa: PLC0415 - for devices only

    torch = importlib.import_module("torch")
    x = torch.ones(8, dtype=torch.int16, device=device)
    # Whatever is wrong, such as no C compiler for the launcher, torch computes the same without it.
    try:
        kernels = Fused(torch)
        kernels.prune_blocks(x, Cut(2), FLOATS["BF16"])
    except Exception:  # noqa: BLE001 - as said
        return None
    return kernels if int(x.sum()) == 0 else None


class Fused:
    """The kernels of `triton_ops`."""

    def __init__(self, torch: Any) -> None:  # noqa: ANN401 - the module
        """Import Triton."""
        self._torch = torch
        self._kernels: Any = importlib.import_module("prunecli.kernels.triton_ops")

    def _on(self, x: Tensor) -> Any:  # noqa: ANN401 - a context
        """Return the context in which the device of `x` is the current one."""
        kind = x.device.type
        return getattr(self._torch, kind).device(x.device) if kind in KINDS else nullcontext()

    def takes(self, x: Tensor, keep: Tensor) -> bool:
        """Return whether `prune_blocks` can be called."""
        if isinstance(keep, Groups):
            return bool(x.is_contiguous()) and keep.group in GROUPS
        return bool(x.is_contiguous()) and (isinstance(keep, Cut) or bool(keep.is_contiguous()))

    def prune_blocks(self, x: Tensor, keep: Tensor, dtype: Float) -> Blocks:
        """Prune the run `x` in place and return what is counted about its blocks, of which the last may be short."""
        torch, mode = self._torch, {Cut: 0, Groups: 2}.get(type(keep), 1)
        flags = x if mode != 1 else keep.view(torch.int8) if keep.dtype == torch.bool else keep
        cuts = limits = None
        if isinstance(keep, Cut):
            cuts = self._vector([keep.bits - 1], x)
            limits = cuts if keep.limit is None else keep.limit.reshape(1)
        ties = isinstance(keep, Cut) and keep.limit is not None
        groups = (keep.group, keep.keep) if isinstance(keep, Groups) else (1, 0)
        return self._prune(x, flags, (cuts, limits, None), dtype, mode=mode, ties=ties, groups=groups)

    def prune_many(self, x: Tensor, cuts: Tensor, limits: Tensor, tensor_of: Tensor, dtype: Float) -> Blocks:
        """Prune whole blocks of many tensors: `cuts` less 1 and `limits` of each, `tensor_of` each block."""
        return self._prune(x, x, (cuts - 1, limits, tensor_of), dtype, mode=0, ties=True, groups=(1, 0))

    def _prune(
        self,
        x: Tensor,
        flags: Tensor,
        cuts: tuple[Tensor, Tensor, Tensor],
        dtype: Float,
        *,
        mode: int,
        ties: bool,
        groups: tuple[int, int],
    ) -> Blocks:
        torch, number = self._torch, -(-len(x) // BLOCK)
        counts = torch.empty((4, number), dtype=torch.int32, device=x.device)
        integer = torch.int64 if dtype.itemsize == 8 else torch.int32
        extremes = torch.empty((2, number), dtype=integer, device=x.device)
        sums = torch.empty((2, number), dtype=torch.float64, device=x.device)
        per, low_high = _per_program(number), sure_range(dtype)
        bound = [x if part is None else part for part in cuts]
        with self._on(x):
            self._kernels.prune_kernel[(-(-number // per),)](
                x, flags, *bound, counts, extremes, sums, len(x), number, per,
                MODE=mode, MANY=cuts[2] is not None, TIES=ties, GROUP=groups[0], KEEP=groups[1],
                **width_of(x, dtype), SHIFT=23 - dtype.mantissa, SCALE=scale_of(dtype),
                FINITE=dtype.finite_max, TOP=dtype.top, BITS=dtype.top.bit_length(),
                LOW=low_high[0], HIGH=low_high[1], **OPTIONS | {"num_warps": _warps(dtype)},
            )  # fmt: skip
        return Blocks(counts, extremes, sums)

    def _vector(self, numbers: Sequence[int], x: Tensor) -> Tensor:
        """Return integers on the device of `x`."""
        # Filled on the device, or copied from page-locked memory: other copies wait for all kernels before them.
        if len(numbers) == 1:
            return self._torch.full((1,), numbers[0], dtype=self._torch.int64, device=x.device)
        if x.device.type == "cuda":
            return self._torch.tensor(list(numbers), pin_memory=True).to(x.device, non_blocking=True)
        return self._torch.tensor(list(numbers), device=x.device)

    def count_in_blocks(self, x: Tensor, dtype: Float, bits: int) -> Tensor:
        """Return how many weights of each block have the magnitude `bits`."""
        return self._count(x, self._vector([bits], x), None, dtype, less=False)

    def count_many(self, x: Tensor, cuts: Tensor, tensor_of: Tensor, dtype: Float, *, less: bool) -> Tensor:
        """Return how many weights of each block are equal to the cut of its tensor, or with `less` below it."""
        return self._count(x, cuts, tensor_of, dtype, less=less)

    def _count(self, x: Tensor, cuts: Tensor, tensor_of: Tensor, dtype: Float, *, less: bool) -> Tensor:
        number = -(-len(x) // BLOCK)
        counts = self._torch.empty(number, dtype=self._torch.int32, device=x.device)
        per = _per_program(number)
        with self._on(x):
            self._kernels.count_kernel[(-(-number // per),)](
                x, cuts, x if tensor_of is None else tensor_of, counts, len(x), number, per,
                MANY=tensor_of is not None, LESS=less, **width_of(x, dtype), **OPTIONS,
            )  # fmt: skip
        return counts

    def bracket(self, x: Tensor, dtype: Float, low: int, high: int, shift: int, *, marked: bool) -> Tensor:
        """Return the number of magnitudes below `low`, and those of each (magnitude - low) >> shift below `high`."""
        torch, number = self._torch, -(-len(x) // BLOCK)
        per = _per_program(number)
        grid, bins = (-(-number // per),), ((high - 1 - low) >> shift) + 1
        bounds = self._vector([low, high - 1, shift], x)
        with self._on(x):
            if bins <= NARROW and not shift:
                partial = torch.empty((grid[0], 16), dtype=torch.int32, device=x.device)
                self._kernels.narrow_kernel[grid](
                    x, partial, bounds, len(x), per, MARKED=marked, PATTERNS=bins, **width_of(x, dtype), **OPTIONS
                )
                return partial.sum(0, dtype=torch.int64)[: bins + 1]
            table = torch.zeros(SPREAD + bins, dtype=torch.int64, device=x.device)
            self._kernels.bracket_kernel[grid](
                x, table, bounds, len(x), per, SPREAD, MARKED=marked, **width_of(x, dtype), **OPTIONS
            )
        return torch.cat([table[:SPREAD].sum()[None], table[SPREAD:]])

    def random_rows(self, keys: Tensor, firsts: Tensor, steps: int) -> Tensor:
        """Return the numbers of `torch_random.random_rows`."""
        out = self._torch.empty((len(firsts), 8 * steps), dtype=self._torch.int32, device=firsts.device)
        keys = keys.expand(len(firsts), 2).contiguous()
        size = min(power_of_two(steps), 128)
        tiles = -(-steps // size)
        with self._on(firsts):
            self._kernels.random_kernel[(len(firsts) * tiles,)](keys, firsts, out, steps, tiles, STEPS=size, **OPTIONS)
        return out

    def mark_alive(
        self, alive: Tensor, after: Tensor, first: int, view: SliceView, dtype: Float, blocks: Blocks
    ) -> bool:
        """Set the flags of slices with a non-zero, where slices are rows or columns; return whether they are."""
        if not after.is_contiguous():
            return False
        row = view.after if view.before == 1 else view.slices
        if row == 1 or first % row or len(after) % row:
            return False
        if view.before == 1:
            self._mark_rows(alive, after, first, row, dtype, blocks)
            return True
        stack = view.before * view.slices
        if view.after > 1 or (view.stacks > 1 and (first % stack or len(after) % stack)):
            return False
        stacks = len(after) // stack if view.stacks > 1 else 1
        flags = alive[first // stack * view.slices :] if view.stacks > 1 else alive
        self._mark_columns(flags.view(self._torch.int8), after, stacks, view.slices, dtype)
        return True

    def _mark_rows(self, alive: Tensor, after: Tensor, first: int, row: int, dtype: Float, blocks: Blocks) -> None:
        number, rows = first // row, len(after) // row
        if row % BLOCK == 0:  # a row has its blocks alone
            found = (blocks.counts[ZEROS_AFTER] < BLOCK).reshape(rows, -1).any(1)
            alive[number : number + rows].logical_or_(found)
            return
        with self._on(after):
            self._kernels.rows_kernel[(rows,)](
                after, alive.view(self._torch.int8), number, row, **width_of(after, dtype), **OPTIONS
            )

    def _mark_columns(self, alive: Tensor, after: Tensor, stacks: int, columns: int, dtype: Float) -> None:
        """Look at the first rows; in the other rows only at columns without a mark."""
        rows = len(after) // (stacks * columns)
        later = max(-(-(rows - FIRST_ROWS) // ROWS_STEP), 0)
        with self._on(after):
            for first, parts, step in ((0, 1, FIRST_ROWS), (FIRST_ROWS, later, ROWS_STEP)):
                if parts:
                    self._kernels.columns_kernel[(-(-columns // 256), parts, stacks)](
                        after, alive, rows, columns, first, step, **width_of(after, dtype), **OPTIONS
                    )

    def keep_rows(self, rows: Tensor, wanted: Tensor, kept: Tensor) -> bool:
        """Fill `kept` as `TorchOps.keep_rows` does; return False for rows that are too long."""
        size = max(1 << (rows.shape[1] - 1).bit_length(), 16)
        if size > ROW_LIMIT or not rows.is_contiguous():
            return False
        options = {**OPTIONS, "num_warps": min(max(size // 1024, 1), 8)}
        bits = 8 * rows.element_size() - 1
        with self._on(rows):
            self._kernels.smallest_kernel[(len(rows),)](
                rows, wanted, kept, rows.shape[1], BITS=bits, SIZE=size, SIZE_BITS=size.bit_length() - 1, **options
            )
        return True


def _warps(dtype: Float) -> int:
    """Return how many warps hold a block in their registers while it is pruned."""
    return 2 if dtype.itemsize == 8 or dtype.negative_zero_is_nan else 1


def scale_of(dtype: Float) -> float:
    """Return what a pattern that is moved to the place of a float32 is multiplied by."""
    return 2.0 ** (127 - dtype.bias) if dtype.bias < 127 else 1.0


def power_of_two(number: int) -> int:
    """Return the smallest power of two that is not below `number`."""
    return 1 << (number - 1).bit_length()


def _per_program(blocks: int) -> int:
    return min(max(blocks // PROGRAMS, 1), MOST_PER_PROGRAM)


def width_of(x: Tensor, dtype: Float) -> dict[str, Any]:
    """Return the width of the integers, and whether -0.0 encodes NaN in them."""
    size = x.element_size()
    return {"WIDTH": size, "FNUZ": size == 1 and dtype.negative_zero_is_nan}
