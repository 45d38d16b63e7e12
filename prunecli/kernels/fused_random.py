"""Random numbers on a device that are compared where they are computed: no pass over stored numbers is needed."""

from __future__ import annotations

import importlib
from functools import lru_cache
from math import sqrt
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from prunecli.kernels.random_bits import draw, halves
from prunecli.kernels.torch_fused import OPTIONS, Fused, fused
from prunecli.kernels.transfers import to_device

if TYPE_CHECKING:
    from collections.abc import Sequence

Tensor: TypeAlias = Any

NUMBERS = 1 << 31
"""The numbers of a stream are below this."""

MARGIN = 6.0
"""So many standard deviations from the expected place of a rank end the bracket that it is looked for in."""

LONGEST = 1 << 32
"""A tensor has fewer weights than this: a key has their positions in its lower half."""

STEPS, MOST_STEPS = 128, 32
"""The counters of a program, of 8 numbers each, and how often a program of a large tensor takes so many."""


@lru_cache(maxsize=64)
def drawing(device: str) -> FusedRandom | None:
    """Return the kernels of a device, None where they do not work."""
    if fused(device) is None:
        return None
    # Whatever is wrong, torch computes the same without them.
    try:
        kernels = FusedRandom(importlib.import_module("torch"))
        ranked = kernels.ranked([7 << 70 | 5], 300, 100, device).tolist()[0]
        kept = kernels.kept([7 << 70 | 5], [ranked[2]], (0, 300), device).tolist()
    except Exception:  # noqa: BLE001 - as said
        return None
    numbers = draw(7 << 70 | 5, 0, 300)
    cut = int(np.sort(numbers)[99])
    return kernels if ranked[2] >> 32 == cut and kept == (numbers > cut).tolist() else None


class FusedRandom(Fused):
    """The kernels of `triton_random` over tensors of one length."""

    def ranked(self, keys: Sequence[int], length: int, rank: int, device: str) -> Tensor:
        """Return for each stream what is known about the `rank`-th smallest of its first `length` numbers.

        These are the counts of numbers below a bracket and in it, the number's key, and the counts of smaller and of
        equal numbers in the bracket. The key is the wanted one if `holds` says so.
        """
        torch, (low, high), capacity = self.torch, *_bracket(length, rank)
        counts = torch.zeros((len(keys), 2), dtype=torch.int64, device=device)
        found = torch.full((len(keys), capacity), (1 << 63) - 1, dtype=torch.int64, device=device)
        grid, per = _grid(length, len(keys))
        with self.on(counts):
            self._random.candidates_kernel[grid](
                to_device(halves(keys), device), counts, found, low, high, length, capacity, per, STEPS=STEPS, **OPTIONS
            )
        found = found.sort(1).values
        wanted = found.gather(1, (rank - 1 - counts[:, :1]).clamp(0, capacity - 1))
        numbers, number = found >> 32, wanted >> 32
        around = torch.stack([(numbers < number).sum(1), (numbers == number).sum(1)], 1)
        return torch.cat([counts, wanted, around], 1)

    def kept(self, keys: Sequence[int], cuts: Sequence[int], part: tuple[int, int], device: str) -> Tensor:
        """Return 1 for weights whose key is above the cut of their tensor, and else 0.

        `part` is the first weight, a multiple of 8, and the number of weights of each tensor.
        """
        first, length = part
        out = self.torch.empty(len(keys) * length, dtype=self.torch.int8, device=device)
        grid, per = _grid(length, len(keys))
        with self.on(out):
            self._random.kept_kernel[grid](
                to_device(halves(keys), device), to_device(cuts, device), out, first // 8, length, per,
                STEPS=STEPS, **OPTIONS,
            )  # fmt: skip
        return out


def holds(row: Sequence[int], rank: int, length: int) -> bool:
    """Return whether a row of `FusedRandom.ranked` has the wanted key: the bracket has it, and all its keys fit."""
    below, inside = row[:2]
    return below < rank <= below + inside and inside <= _bracket(length, rank)[1]


def capacity_of(length: int, rank: int) -> int:
    """Return the number of keys that are stored for a tensor."""
    return _bracket(length, rank)[1]


def _bracket(length: int, rank: int) -> tuple[tuple[int, int], int]:
    """Return the ends of a bracket that nearly always has a rank, and a limit of the numbers in it."""
    share = rank / length
    error = MARGIN * sqrt(max(share * (1 - share), 1 / length) / length)
    low, high = max(share - error, 0.0), min(share + error, 1.0)
    expected = (high - low) * length
    capacity = min(int(expected + MARGIN * sqrt(expected)) + 64, length)
    return (int(low * NUMBERS), min(int(high * NUMBERS) + 1, NUMBERS)), capacity


def _grid(length: int, tensors: int) -> tuple[tuple[int, int], int]:
    """Return the number of programs for each tensor, and how often each takes counters."""
    tiles = -(-length // (8 * STEPS))
    per = min(max(tiles * tensors // (1 << 12), 1), MOST_STEPS)
    return (-(-tiles // per), tensors), per
