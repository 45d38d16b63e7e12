"""The kernels for tensors found by their addresses, computed by plain torch; each call counts as one kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from prunecli.kernels.tally import BLOCK
from prunecli.kernels.torch_blocks import Blocks, Cut, Groups, prune_blocks
from prunecli.kernels.torch_ops import TorchOps
from prunecli.kernels.torch_sums import whole_blocks
from prunecli.kernels.torch_tables import ManyCuts, SliceFlags
from prunecli.kernels.torch_totals import joined
from prunecli.kernels.torch_views import mark_alive, of_elements

if TYPE_CHECKING:
    from support.launches import Launches


class CountedTables:
    """The calls of `FusedTables`."""

    def __init__(self, counted: Launches) -> None:
        """Count each call as a kernel of `counted`."""
        self._counted, self._plain = counted, TorchOps("cpu")
        self._plain.fused = None

    def prune(self, table: Any, keep: Any, dtype: Any) -> Blocks:  # noqa: ANN401 - as `FusedTables`
        """Prune each tensor."""
        with self._counted.one("prune_kernel"):
            parts = [prune_blocks(torch, x, survivors(keep, at, len(x)), dtype) for at, x in enumerate(table.tensors)]
            return joined(torch, parts)

    def count(self, table: Any, cuts: Any, dtype: Any) -> Any:  # noqa: ANN401
        """Count in each block, without what is behind the end of a tensor."""
        with self._counted.one("count_kernel"):
            found = []
            for x, cut in zip(table.tensors, cuts.tolist(), strict=True):
                y = self._plain.magnitudes(x, dtype)
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


def survivors(keep: Any, at: int, length: int) -> Any:  # noqa: ANN401 - any of the rules
    """Return the rule for one tensor of `length` weights."""
    if isinstance(keep, ManyCuts):
        return Cut(int(keep.cuts[at]), None if keep.limits is None else keep.limits[at])
    if isinstance(keep, SliceFlags):
        flags = keep.flags.reshape(-1, keep.view.total)[at]
        return of_elements(torch, flags, 0, length, keep.view)
    return keep if isinstance(keep, Groups) else keep[at * length : (at + 1) * length]
