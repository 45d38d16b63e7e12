"""The search for order statistics of tensors that several processes read: they add up counts, and send no weights."""

from __future__ import annotations

import json
from array import array
from bisect import bisect_left
from itertools import accumulate
from typing import TYPE_CHECKING

from prunecli.kernels.key_arrays import CODES, add_to_bins
from prunecli.ranking.kth_smallest import FEW_BINS_BITS, RankedKey, RankSearch, Sample

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prunecli.distributed.group import Group
    from prunecli.dtypes import Float
    from prunecli.plans import RankGroup


class SharedRankSearch(RankSearch):
    """A search in which each process counts some members. All processes call the same methods in the same order."""

    def __init__(self, group: RankGroup, dtypes: Sequence[Float], numels: Sequence[int], processes: Group) -> None:
        """Start as `RankSearch` does; `processes` are those that search."""
        super().__init__(group, dtypes, numels)
        self._processes, self._some_binned = processes, False

    def narrow_to(self, samples: Sequence[Sample]) -> None:
        """Bracket the ranks by the samples of all processes; each passes those of its members."""
        super().narrow_to(gathered_samples(self._processes, samples))

    def advance(self) -> bool:
        """End a pass of all processes. All of them return the same."""
        self._some_binned = bool(self._sum_of([super()._is_binned])[0])
        return super().advance()

    @property
    def _is_binned(self) -> bool:
        return self._some_binned

    def _sum_of(self, numbers: Sequence[int]) -> array[int]:
        result = array("q", numbers)
        self._processes.add_up(result)
        return result

    def _in_all(self, below: int, bins: array[int]) -> tuple[int, array[int]]:
        numbers = self._sum_of([below, *bins])
        return numbers[0], numbers[1:]

    def _ranked_in(self, low: int, width: int, rank: int, less: int) -> RankedKey:
        """Return the key at a rank from the keys in [low, low + width); each step names some bits of it."""
        while True:
            shift = max((width - 1).bit_length() - FEW_BINS_BITS, 0)
            bins = array("q", bytes(8 * (((width - 1) >> shift) + 1)))
            for _, keys in self._kept:
                add_to_bins(keys, low, width, shift, bins)
            for key, count in self._counted_keys():
                if low <= key < low + width:
                    bins[(key - low) >> shift] += count
            bins = self._sum_of(bins)
            ends = list(accumulate(bins, initial=less))
            position = bisect_left(ends, rank) - 1
            if not shift:
                return RankedKey(low + position, ends[position], bins[position])
            less, end = ends[position], low + width
            low += position << shift
            width = min(1 << shift, end - low)

    def _equals_of(self, key: int) -> list[int]:
        return self._sum_of(super()._equals_of(key)).tolist()


def gathered_samples(processes: Group, samples: Sequence[Sample]) -> list[Sample]:
    """Return the samples of all processes, in the order of their members."""
    views = [memoryview(sample.patterns) for sample in samples]
    head = [[s.member, s.length, view.itemsize, view.nbytes] for s, view in zip(samples, views, strict=True)]
    text = json.dumps(head).encode()
    body = b"".join([len(text).to_bytes(8, "little"), text, *(view.cast("B") for view in views)])
    found = [sample for sent in processes.gather(body) for sample in _samples(memoryview(sent))]
    return sorted(found, key=lambda sample: sample.member)


def _samples(sent: memoryview) -> list[Sample]:
    place = 8 + int.from_bytes(sent[:8], "little")
    samples = []
    for member, length, itemsize, nbytes in json.loads(bytes(sent[8:place])):
        samples.append(Sample(member, sent[place : place + nbytes].cast(CODES[itemsize]), length))
        place += nbytes
    return samples
