"""The cuts of slices equal those of sorting each slice, and their search reads and holds little at once."""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import examples

from prunecli.kernels.backend import has_native
from prunecli.layout import SliceView
from prunecli.ranking import slice_cuts
from prunecli.ranking.slice_cuts import SliceSearch, tiles

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

views = st.builds(SliceView, st.integers(1, 5), st.integers(1, 7), st.integers(1, 9), st.integers(1, 5))


def cuts_of(
    view: SliceView, y: NDArray[Any], bits: int, wanted: Callable[[int], int]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the cuts and limits of all slices."""
    found = [
        (tile.start, *SliceSearch(tile, lambda first, count: y[first : first + count], bits, wanted).cuts())
        for tile in tiles(view)
    ]
    cuts, limits = np.full(view.total, -7), np.full(view.total, -7)
    for start, own, last in found:
        cuts[start : start + len(own)], limits[start : start + len(own)] = own, last
    return cuts, limits


def expected(view: SliceView, y: NDArray[Any], wanted: Callable[[int], int]) -> list[tuple[int, int]]:
    """Return the cut and the limit of each slice by a stable sort."""
    rows = y.reshape(view.stacks, view.before, view.slices, view.after).swapaxes(1, 2).reshape(view.total, -1)
    result = []
    for row in rows:
        order = [at for at in np.argsort(row, kind="stable").tolist() if row[at] >= 0]
        k = wanted(len(order))
        result.append((int(row[order[k - 1]]), order[k - 1]) if k else (0, -1))
    return result


@settings(max_examples=examples(300))
@given(
    view=views,
    kind=st.sampled_from([np.int16, np.int32, np.int64]),
    most=st.sampled_from([0, 1, 3, 100, -1]),
    part=st.floats(0, 1),
    pieces=st.sampled_from([(1 << 20, 1 << 18, 1 << 18, 1 << 15), (4, 3, 5, 4), (64, 1, 20, 12)]),
    seed=st.integers(0, 999),
    native=st.booleans(),
)
def test_cuts_are_those_of_sorting(
    view: SliceView,
    kind: type[np.signedinteger],
    most: int,
    part: float,
    pieces: tuple[int, ...],
    seed: int,
    native: bool,  # noqa: FBT001
) -> None:
    """For any kernels, width, ties, pruned weights (-1) and sizes of pieces, every slice has the cut of a sort."""
    top = np.iinfo(kind).max
    y = np.random.default_rng(seed).integers(-1, top if most < 0 else most, view.total * view.size, kind, endpoint=True)

    def wanted(count: int) -> int:
        return round(part * count)

    with pytest.MonkeyPatch.context() as patch:
        for name, value in zip(("COUNTERS", "FEW", "RUN", "TILE"), pieces, strict=True):
            patch.setattr(slice_cuts, name, value)
        patch.setattr(slice_cuts, "has_native", lambda: native and has_native())
        cuts, limits = cuts_of(view, y, int(top).bit_length(), wanted)

    assert expected(view, y, wanted) == list(zip(cuts.tolist(), limits.tolist(), strict=True))


@pytest.mark.parametrize(
    "view",
    [
        SliceView(1, 1 << 22, 2, 1),  # slices longer than any buffer
        SliceView(1, 8, 1 << 20, 1),  # more slices than one search takes
        SliceView(1, 2, 4, 1 << 20),
        SliceView(1 << 18, 2, 4, 4),
    ],
)
@pytest.mark.parametrize("equal", [False, True])
def test_the_search_is_in_constant_memory(view: SliceView, *, equal: bool) -> None:
    """Runs have at most 2^18 elements, each is read a few times, and a search allocates less than 64 MiB."""
    reads: list[int] = []

    def patterns(first: int, count: int) -> NDArray[np.int16]:
        reads.append(count)
        index = np.arange(first, first + count) * (0 if equal else 7919)
        return (index % 30_011).astype(np.int16)

    tracemalloc.start()
    for tile in tiles(view):
        SliceSearch(tile, patterns, 15, lambda count: count // 2).cuts()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert max(reads) <= 1 << 18
    assert sum(reads) <= 6 * view.total * view.size
    assert peak < 1 << 26
