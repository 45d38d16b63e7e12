"""The calls of the Triton kernels. Each has a counterpart in plain torch that gives the same bits."""

from __future__ import annotations

import importlib
import importlib.util
from contextlib import nullcontext
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeAlias

from prunecli.kernels.fused_ranks import FusedRanks
from prunecli.kernels.fused_slices import FusedSlices
from prunecli.kernels.fused_tables import columns, of_table, programs, warps
from prunecli.kernels.torch_blocks import Blocks, Cut, Groups
from prunecli.kernels.torch_sums import sure_range
from prunecli.kernels.torch_tables import KernelRule
from prunecli.kernels.transfers import to_device

if TYPE_CHECKING:
    from prunecli.dtypes import Float
    from prunecli.kernels.torch_tables import Table

Tensor: TypeAlias = Any

KINDS = ("cuda", "xpu")
"""The devices that Triton compiles for."""

GROUPS = (2, 4, 8, 16, 32, 64)
"""The sizes of groups that the kernel ranks."""

ROW_LIMIT = 1 << 14
"""The longest row that one program ranks, in its registers."""

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
        self.torch = torch
        self._kernels: Any = importlib.import_module("prunecli.kernels.triton_ops")
        self._random: Any = importlib.import_module("prunecli.kernels.triton_random")
        self._blocks: Any = importlib.import_module("prunecli.kernels.triton_blocks")
        self.slices, self.ranks = FusedSlices(self), FusedRanks(self)

    def on(self, x: Tensor) -> Any:  # noqa: ANN401 - a context
        """Return the context in which the device of `x` is the current one."""
        kind = x.device.type
        return getattr(self.torch, kind).device(x.device) if kind in KINDS else nullcontext()

    @staticmethod
    def constants(x: Tensor, dtype: Float) -> dict[str, Any]:
        """Return the constants of kernels that read magnitudes, and the options of a launch."""
        return {**width_of(x, dtype), **OPTIONS}

    def takes(self, x: Tensor, keep: Tensor) -> bool:
        """Return whether `prune_blocks` can be called."""
        if isinstance(keep, Groups):
            return bool(x.is_contiguous()) and keep.group in GROUPS
        return bool(x.is_contiguous()) and (isinstance(keep, Cut) or bool(keep.is_contiguous()))

    def prune_blocks(self, x: Tensor, keep: Tensor, dtype: Float) -> Blocks:
        """Prune the run `x` in place and return what is counted about its blocks, of which the last may be short."""
        if isinstance(keep, Cut):
            limits = None if keep.limit is None else keep.limit.reshape(1)
            rule = KernelRule(0, cuts=to_device([keep.bits - 1], x.device), limits=limits)
        elif isinstance(keep, Groups):
            rule = KernelRule(2, groups=(keep.group, keep.keep))
        else:
            rule = KernelRule(1, flags=keep.view(self.torch.int8) if keep.dtype == self.torch.bool else keep)
        return self.prune(x, rule, dtype)

    def prune(self, x: Tensor, rule: KernelRule, dtype: Float, table: Table | None = None) -> Blocks:
        """Launch `prune_kernel` for the run `x`, or for the tensors of `table`, of which `x` is the first."""
        torch, (number, _, _) = self.torch, programs(x, table)
        counts = torch.empty((4, number), dtype=torch.int32, device=x.device)
        integer = torch.int64 if dtype.itemsize == 8 else torch.int32
        extremes = torch.empty((2, number), dtype=integer, device=x.device)
        sums = torch.empty((2, number), dtype=torch.float64, device=x.device)
        (low, high), where = sure_range(dtype), of_table(x, table)
        with self.on(x):
            self._blocks.prune_kernel[(number,)](
                x, *(x if part is None else part for part in (rule.flags, rule.cuts, rule.limits)),
                *columns(x, table), counts, extremes, sums, len(x), number, *rule.slices, rule.each,
                MODE=rule.mode, **where, TIES=rule.limits is not None,
                GROUP=rule.groups[0], KEEP=rule.groups[1],
                **width_of(x, dtype), SHIFT=23 - dtype.mantissa, SCALE=scale_of(dtype),
                FINITE=dtype.finite_max, TOP=dtype.top, LOW=low, HIGH=high,
                **OPTIONS | {"num_warps": warps(dtype.itemsize, where, always=8)},
            )  # fmt: skip
        return Blocks(counts, extremes, sums)

    def count(self, x: Tensor, cuts: Tensor, dtype: Float, table: Table | None = None) -> Tensor:
        """Return how many weights of each block are equal to the cut of its tensor.

        There is one cut for the run `x`, or one for each tensor of `table`, of which `x` is the first.
        """
        number, per, grid = programs(x, table)
        counts = self.torch.empty(number, dtype=self.torch.int32, device=x.device)
        with self.on(x):
            self._kernels.count_kernel[grid](
                x, cuts, *columns(x, table), counts, len(x), number, per,
                **of_table(x, table), **self.constants(x, dtype),
            )  # fmt: skip
        return counts

    def limits(self, table: Table, cuts: Tensor, chosen: Tensor, wanted: Tensor, dtype: Float) -> Tensor:
        """Return for each tensor the position of the entry of a block up to which `wanted` ones equal its cut.

        `chosen` are the numbers of the blocks.
        """
        x, out = table.tensors[0], self.torch.empty_like(table.lengths)
        with self.on(x):
            self._kernels.limit_kernel[(len(out),)](
                x, cuts, chosen, wanted, *columns(x, table), out, ALIGNED=table.aligned, **self.constants(x, dtype)
            )
        return out

    def random_rows(self, keys: Tensor, firsts: Tensor, steps: int) -> Tensor:
        """Return the numbers of `torch_random.random_rows`."""
        out = self.torch.empty((len(firsts), 8 * steps), dtype=self.torch.int32, device=firsts.device)
        keys = keys.expand(len(firsts), 2).contiguous()
        size = min(power_of_two(steps), 128)
        tiles = -(-steps // size)
        with self.on(firsts):
            self._random.random_kernel[(len(firsts) * tiles,)](keys, firsts, out, steps, tiles, STEPS=size, **OPTIONS)
        return out

    def keep_rows(self, rows: Tensor, wanted: Tensor, kept: Tensor) -> bool:
        """Fill `kept` as `TorchOps.keep_rows` does; return False for rows that are too long."""
        size = max(1 << (rows.shape[1] - 1).bit_length(), 16)
        if size > ROW_LIMIT or not rows.is_contiguous():
            return False
        options = {**OPTIONS, "num_warps": min(max(size // 1024, 1), 8)}
        bits = 8 * rows.element_size() - 1
        with self.on(rows):
            self._kernels.smallest_kernel[(len(rows),)](
                rows, wanted, kept, rows.shape[1], BITS=bits, SIZE=size, SIZE_BITS=size.bit_length() - 1, **options
            )
        return True


def scale_of(dtype: Float) -> float:
    """Return what a pattern that is moved to the place of a float32 is multiplied by."""
    return 2.0 ** (127 - dtype.bias) if dtype.bias < 127 else 1.0


def power_of_two(number: int) -> int:
    """Return the smallest power of two that is not below `number`."""
    return 1 << (number - 1).bit_length()


def width_of(x: Tensor, dtype: Float) -> dict[str, Any]:
    """Return the width of the integers, and whether -0.0 encodes NaN in them."""
    size = x.element_size()
    return {"WIDTH": size, "FNUZ": size == 1 and dtype.negative_zero_is_nan}
