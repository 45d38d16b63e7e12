"""The number of non-zeros in each N:M group."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

FEW = 32
"""Groups of up to this many members are summed member by member, which is faster than a sum over a short axis."""


def nonzeros_per_group(nonzero: NDArray[np.bool_], group: int) -> NDArray[Any]:
    """Return the number of set flags in each group of `group` consecutive entries along the middle dimension.

    `nonzero` (outer, length, inner) becomes (outer, groups, inner). The last group along the dimension may be short;
    it may have as many non-zeros as a full group may.
    """
    outer, length, inner = nonzero.shape
    whole = length // group * group
    if group == 4 and inner == 1 and whole == length and nonzero.flags.c_contiguous:
        # The four flags of a group are the bytes of one word; the top byte of the product is their sum.
        words = nonzero.reshape(-1).view(np.uint32)
        return (words * np.uint32(0x01010101) >> np.uint32(24)).reshape(outer, length // 4, 1)
    count_type = np.uint8 if group < 256 else np.int32
    flags = nonzero.view(np.uint8)
    parts = flags[:, :whole].reshape(outer, whole // group, group, inner)
    if group <= FEW:
        sums = np.zeros((outer, whole // group, inner), count_type)
        for member in range(group):
            sums += parts[:, :, member]
    else:
        sums = parts.sum(axis=2, dtype=count_type)
    if whole == length:
        return sums
    return np.concatenate([sums, flags[:, whole:].sum(axis=1, dtype=count_type)[:, None]], axis=1)
