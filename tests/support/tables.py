"""The kernels for tensors found by their addresses, computed by plain torch; each call counts as one kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from prunecli.kernels.tally import BLOCK
from prunecli.kernels.torch_blocks import Blocks, Cut, Groups, prune_blocks
from prunecli.kernels.torch_ops import TorchOps
from prunecli.kernels.torch_sums import whole_blocks
from prunecli.kernels.torch_totals import joined
from prunecli.kernels.torch_views import mark_alive

if TYPE_CHECKING:
    from prunecli.kernels.torch_tables import KernelRule
    from support.launches import Launches


class CountedTables:
    """The calls of `Fused` and `FusedSlices` for tables."""

    def __init__(self, counted: Launches) -> None:
        """Count each call as a kernel of `counted`."""
        self._counted, self._plain = counted, TorchOps("cpu")
        self._plain.fused = None

    def prune(self, _: Any, rule: Any, dtype: Any, table: Any) -> Blocks:  # noqa: ANN401 - as `Fused`
        """Prune each tensor."""
        with self._counted.one("prune_kernel"):
            parts = [prune_blocks(torch, x, survivors(rule, at, len(x)), dtype) for at, x in enumerate(table.tensors)]
            return joined(torch, parts)

    def count(self, x: Any, cuts: Any, dtype: Any, table: Any = None) -> Any:  # noqa: ANN401
        """Count in each block, without what is behind the end of a tensor."""
        with self._counted.one("count_kernel"):
            found = []
            for own, cut in zip([x] if table is None else table.tensors, cuts.tolist(), strict=True):
                y = self._plain.magnitudes(own, dtype)
                found.append(whole_blocks(torch, y == cut).sum(1))
            return torch.cat(found)

    def limits(self, table: Any, cuts: Any, chosen: Any, wanted: Any, dtype: Any) -> Any:  # noqa: ANN401
        """Look for a position in one block of each tensor."""
        with self._counted.one("limit_kernel"):
            found = []
            for at, x in enumerate(table.tensors):
                first = (int(chosen[at]) - table.edges[at]) * BLOCK
                if not 0 <= first < len(x):  # a block of another tensor: without equals, nothing uses the result
                    found.append(0)
                    continue
                equal = self._plain.magnitudes(x[first : first + BLOCK], dtype) == cuts[at]
                found.append(first + int((whole_blocks(torch, equal)[0].cumsum(0) < wanted[at]).sum()))
            return torch.tensor(found)

    def alive(self, table: Any, part: slice, view: Any, dtype: Any, _: Any) -> Any:  # noqa: ANN401
        """Mark the slices of each tensor."""
        with self._counted.one("rows or columns kernel"):
            flags = torch.zeros((part.stop - part.start, view.total + 1), dtype=torch.bool)
            for own, x in zip(flags, table.tensors[part], strict=True):
                mark_alive(torch, own, self._plain.magnitudes(x, dtype) != 0, 0, view)
            return flags[:, :-1]

    def overfull(self, table: Any, part: slice, groups: tuple[int, int], dtype: Any) -> Any:  # noqa: ANN401
        """Look at the groups of each tensor."""
        with self._counted.one("overfull_kernel"):
            found = []
            for x in table.tensors[part]:
                alive = (self._plain.magnitudes(x, dtype) != 0).reshape(-1, *groups)
                missing = torch.zeros((len(alive), -groups[0] % 4, groups[1]), dtype=torch.bool)
                found.append(int((torch.cat([alive, missing], 1).unflatten(1, (-1, 4)).sum(2) > 2).any()))
            return torch.tensor(found)


def survivors(rule: KernelRule, at: int, length: int) -> Any:  # noqa: ANN401 - flags, or a rule
    """Return what survives of one tensor of `length` weights."""
    if rule.mode == 0:
        return Cut(int(rule.cuts[at]) + 1, None if rule.limits is None else rule.limits[at])
    if rule.mode == 2:
        return Groups(rule.groups[1], rule.groups[0])
    flags = rule.flags.flatten()[at * rule.each : (at + 1) * rule.each]
    run, number = rule.slices
    return flags if rule.mode == 1 else flags[torch.arange(length) // run % number]
