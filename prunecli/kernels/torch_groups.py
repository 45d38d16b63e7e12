"""The largest of groups and the smallest of rows with torch, without a sort: equals are chosen by position.

A rank in a row is found bit by bit, from the highest one: each step counts the entries that are not below a candidate.
"""

from __future__ import annotations

from typing import Any, TypeAlias

Tensor: TypeAlias = Any

PAIRS = 8
"""In groups of up to this many members, each is compared with each other one."""


def largest_of_rows(torch: Any, y: Tensor, keep: int) -> Tensor:  # noqa: ANN401 - the module
    """Return which entries are among the `keep` largest along axis 1 of `y` (outer, group, inner); first of equals."""
    group = y.shape[1]
    if keep >= group:
        return torch.ones_like(y, dtype=torch.bool)
    if group > PAIRS:
        return _largest_by_bits(torch, y, keep)
    beaten = torch.zeros_like(y, dtype=torch.int8)
    for member in range(group):
        other = y[:, member : member + 1]
        beaten[:, :member] += other > y[:, :member]
        beaten[:, member + 1 :] += other >= y[:, member + 1 :]
    return beaten < keep


def _largest_by_bits(torch: Any, y: Tensor, keep: int) -> Tensor:  # noqa: ANN401 - the module
    cut = torch.full_like(y[:, :1], -1)
    if keep:
        # The largest pattern that at least `keep` entries reach; -1 marks pruned weights, so 0 may be too much.
        cut = _search(y, cut, lambda candidate: (y >= candidate).sum(1, keepdim=True) >= keep)
    larger = y > cut
    if not keep:
        return torch.zeros_like(larger)
    return larger | _first_equals(torch, y == cut, keep - larger.sum(1, keepdim=True))


def smallest_of_rows(torch: Any, y: Tensor, wanted: Tensor) -> Tensor:  # noqa: ANN401 - the module
    """Return which entries survive if the `wanted` smallest of each row of `y` (rows, row) are pruned.

    `wanted` (rows, 1) counts entries that are not -1, which marks pruned weights; of equals the first are pruned.
    """
    y, wanted = y[:, :, None], wanted[:, :, None]
    marks = (y < 0).sum(1, keepdim=True)
    cut = _search(
        y, y.new_full(wanted.shape, -1), lambda candidate: (y < candidate).sum(1, keepdim=True) - marks < wanted
    )
    below = (y < cut).sum(1, keepdim=True) - marks
    equal = y == cut
    kept = (y > cut) | (equal & ~_first_equals(torch, equal, wanted - below))
    return torch.where(wanted > 0, kept, y >= 0)[:, :, 0]


def _search(y: Tensor, start: Tensor, holds: Any) -> Tensor:  # noqa: ANN401 - a function of candidates
    """Return the largest candidates, one per row, for which the falling condition `holds`; `start` where not even 0."""
    bits = 8 * y.element_size() - 1
    cut = start.clamp(min=0)
    start_holds = holds(cut)
    for bit in range(bits - 1, -1, -1):
        candidate = cut | (1 << bit)
        cut = candidate.where(holds(candidate), cut)
    return cut.where(start_holds, start)


def _first_equals(torch: Any, equal: Tensor, quota: Tensor) -> Tensor:  # noqa: ANN401 - the module
    """Return the first `quota` set flags of each row of `equal` (outer, group, inner)."""
    place = torch.arange(equal.shape[1], device=equal.device)[None, :, None]
    end = torch.zeros_like(quota)
    for bit in range(equal.shape[1].bit_length(), -1, -1):
        candidate = end + (1 << bit)
        end = candidate.where((equal & (place < candidate)).sum(1, keepdim=True) <= quota, end)
    return equal & (place < end)
