"""Many tensors of one dtype and device, ranked, pruned and counted where they lie, by a few kernels for all of them."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from prunecli.kernels.tally import BLOCK
from prunecli.kernels.torch_blocks import OVERFULL, ZEROS_AFTER
from prunecli.kernels.torch_folds import folding
from prunecli.kernels.torch_many import ManyTensors, follow_each_other
from prunecli.kernels.torch_tables import KernelRule, Table
from prunecli.kernels.torch_totals import totals
from prunecli.kernels.transfers import to_device

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from prunecli.dtypes import Float
    from prunecli.kernels.tally import Statistics
    from prunecli.kernels.torch_blocks import Blocks, Groups
    from prunecli.kernels.torch_ops import TorchOps
    from prunecli.layout import SliceView

Tensor: TypeAlias = Any


class TensorsInPlace(ManyTensors):
    """Tensors of any size. It is best if tensors of one shape follow each other."""

    def __init__(
        self,
        ops: TorchOps,
        tensors: Sequence[Tensor],
        dtype: Float,
        statistics: Sequence[Statistics] = (),
        *,
        copy: bool = False,
    ) -> None:
        """Take integer tensors that are not empty; those with gaps are copied, and with `copy` all of them.

        `ops` have kernels.
        """
        self._ops, self._torch, self._tensors, self._statistics = ops, ops.torch, tensors, statistics
        self.dtype = dtype
        self._kernels: Any = ops.fused
        flat = [(tensor.clone() if copy else tensor).reshape(-1).contiguous() for tensor in tensors]
        self._gaps = [(own, tensor) for own, tensor in zip(flat, tensors, strict=True) if not tensor.is_contiguous()]
        self._table = table = Table(ops.torch, flat)
        self._firsts, self._lengths, self._tensor_of = table.firsts, table.lengths, table.tensor_of
        self._padding = [-tensor.numel() % BLOCK for tensor in tensors]
        self._counted: Tensor = None

    def _equal_in_blocks(self, cuts: Tensor) -> Tensor:
        return self._kernels.count(self._table.tensors[0], cuts, self.dtype, self._table)

    def _below(self, cuts: Tensor) -> Tensor:
        return self._narrow(cuts, 0)[:, 0]

    def _less_and_equal(self, cuts: Tensor) -> Tensor:
        return self._narrow(cuts, 1).T

    def _narrow(self, lows: Tensor, patterns: int) -> Tensor:
        """Return how many weights of each tensor are below its low, and how many are each of `patterns` from it."""
        return self._kernels.ranks.narrow(self._table, lows, patterns, self.dtype)

    def limits(self, cuts: Tensor, ties: Tensor) -> Tensor:
        """Return the position in each tensor of the last of the first `ties` entries at its cut."""
        block, wanted = self._blocks_of_limits(cuts, ties)
        limits = self._kernels.limits(self._table, cuts, block, wanted, self.dtype)
        return self._torch.where(ties > 0, limits, -1)

    def _prune(self, cuts: Tensor, limits: Tensor | None) -> None:
        self._apply(KernelRule(0, cuts=cuts - 1, limits=limits))

    def _apply(self, rule: KernelRule) -> None:
        self._counted = self._numbers(self._kernels.prune(self._table.tensors[0], rule, self.dtype, self._table))

    def prune_flags(self, keep: Tensor) -> None:
        """Prune where `keep`, flags of tensors of one shape, one after the other, has none."""
        flags = keep.view(self._torch.int8) if keep.dtype == self._torch.bool else keep
        self._apply(KernelRule(1, flags=flags, each=self._tensors[0].numel()))

    def prune_groups(self, groups: Groups) -> None:
        """Keep the largest of each group; `groups` fits each tensor as `TorchOps.groups` says."""
        self._apply(KernelRule(2, groups=(groups.group, groups.keep)))

    def prune_slices(self, flags: Sequence[Tensor | bytes], view: SliceView) -> None:
        """Prune the slices of tensors of one shape whose byte is 0."""
        slices = view.after, view.total if view.before == 1 else view.slices
        self._apply(KernelRule(3, flags=self._on_device(flags), slices=slices, each=view.total))

    def prune_blocks(self, flags: Sequence[Tensor | bytes], view: SliceView, block: tuple[int, int]) -> None:
        """Prune the blocks of tensors of one shape, which lie in rows, whose byte is 0."""
        kernels: Any = folding(str(self._lengths.device), "blocks")
        self.prune_flags(kernels.spread(self._on_device(flags).view(len(flags), -1), view, block))

    def _on_device(self, flags: Sequence[Tensor | bytes]) -> Tensor:
        """Return bytes, or tensors of them, one after the other on the device."""
        torch, device, parts = self._torch, self._lengths.device, []
        for on_host, same in groupby(flags, lambda each: isinstance(each, bytes)):
            own: list[Any] = list(same)
            parts.append(to_device(np.frombuffer(b"".join(own), np.int8), device) if on_host else torch.cat(own))
        return torch.cat([part.view(torch.int8).to(device) for part in parts])

    def _whole(self) -> Tensor:
        """Return tensors of one shape, a row for each."""
        return self._torch.stack(self._table.tensors)

    def _numbers(self, blocks: Blocks) -> Tensor:
        """Return a row of `totals` for each tensor, and both numbers of slices without a non-zero."""
        torch = self._torch
        rows = totals(torch, blocks, self._tensor_of, len(self._tensors), self.dtype)
        dead = [torch.cat(column)[:, None] for column in zip(*self._looked_at(blocks, rows), strict=True)]
        return torch.cat([rows, *dead], 1)

    def _looked_at(self, blocks: Blocks, rows: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the numbers of outputs and of inputs without a non-zero, for tensors of one shape together.

        In `rows`, correct whether groups of 4 that do not follow each other have 3 non-zeros.
        """
        table, first = self._table, 0
        for key, same in groupby(self._statistics, lambda s: (s.outputs, s.inputs, s.groups, s.numel)):
            part = slice(first, first + len(list(same)))
            groups, first = key[2], part.stop
            if groups is not None and not follow_each_other(groups):
                rows[part, OVERFULL] = self._kernels.slices.overfull(table, part, groups, self.dtype)
            zeros = blocks.counts[ZEROS_AFTER, table.edges[part.start] : table.edges[part.stop]]
            yield self._dead_of(part, key[0], zeros), self._dead_of(part, key[1], zeros)

    def _dead_of(self, part: slice, view: SliceView | None, zeros: Tensor) -> Tensor:
        if view is None:
            return self._torch.zeros(part.stop - part.start, dtype=self._torch.int64, device=zeros.device)
        return (~self._kernels.slices.alive(self._table, part, view, self.dtype, zeros)).sum(1)

    def store(self) -> None:
        """Copy pruned weights back to tensors with gaps."""
        if self._gaps:
            owns = [own.view(tensor.shape) for own, tensor in self._gaps]
            self._torch._foreach_copy_([tensor for _, tensor in self._gaps], owns)
