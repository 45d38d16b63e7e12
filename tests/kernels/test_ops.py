"""The NumPy and torch kernels equal plain definitions bit for bit, for every width and at the limits."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import examples

from prunecli.dtypes import FLOATS, Float
from prunecli.kernels.arrays import INTS, before_in_group
from prunecli.kernels.key_arrays import COUNTED
from prunecli.kernels.numpy_ops import NumpyOps
from prunecli.kernels.ops import Ops
from prunecli.kernels.torch_ops import TorchOps

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

OPS: dict[str, Callable[[], Ops]] = {"numpy": NumpyOps, "torch": lambda: TorchOps("cpu")}


@pytest.fixture(params=OPS)
def ops(request: pytest.FixtureRequest) -> Ops:
    """Return each backend in turn."""
    return OPS[request.param]()


@pytest.fixture(params=FLOATS)
def dtype(request: pytest.FixtureRequest) -> Float:
    """Return each float format in turn."""
    return FLOATS[request.param]


def host(array: Any) -> list[int]:  # noqa: ANN401 - either kind of array
    """Return the entries as integers."""
    return [int(entry) for entry in np.asarray(array).reshape(-1)]


def weights(dtype: Float, seed: int = 0) -> NDArray[Any]:
    """Return random weights as integers, with every extreme pattern among them, some twice."""
    width = 8 * dtype.itemsize
    edges = [0, 1, dtype.mask, dtype.mask - 1, dtype.finite_max, dtype.finite_max - 1, -1, -(1 << (width - 1))]
    edges += [1 - (1 << (width - 1)), *edges]
    random = np.random.default_rng(seed).integers(-(1 << (width - 1)), (1 << (width - 1)) - 1, 200)
    return np.concatenate([np.array(edges, np.int64), random]).astype(INTS[dtype.itemsize])


def plain(x: NDArray[Any], dtype: Float) -> list[int]:
    """Return the magnitudes by their definition."""
    sign = 1 << (8 * dtype.itemsize - 1)
    patterns = [int(bits) & (2 * sign - 1) for bits in x]
    return [dtype.top if dtype.negative_zero_is_nan and bits == sign else bits % sign for bits in patterns]


def loaded(ops: Ops, dtype: Float) -> tuple[Any, list[int]]:
    """Return the magnitudes of `weights` on the backend, and by their definition."""
    x = weights(dtype)
    return ops.magnitudes(ops.load(x), dtype), plain(x, dtype)


def cuts(dtype: Float) -> list[int]:
    """Return the cuts at the ends of the range and some in between."""
    return sorted({0, 1, 2, 5, dtype.mask // 2, dtype.finite_max, dtype.finite_max + 1, dtype.top, dtype.top + 1})


def test_magnitudes_clear_the_sign(ops: Ops, dtype: Float) -> None:
    """Only the sign bit is cleared; the NaN of fnuz formats, a lone sign bit, becomes the largest magnitude."""
    y, values = loaded(ops, dtype)

    assert values == host(y)


@pytest.mark.parametrize("name", [name for name in FLOATS if FLOATS[name].itemsize == 1])
def test_every_float8_pattern_has_its_magnitude(ops: Ops, name: str) -> None:
    """The magnitudes of all 256 patterns of each float8 format order as their values, NaN last."""
    x = np.arange(-128, 128).astype(np.int8)

    assert plain(x, FLOATS[name]) == host(ops.magnitudes(ops.load(x), FLOATS[name]))


def test_magnitudes_leave_the_weights_unchanged(ops: Ops, dtype: Float) -> None:
    """`load` and `magnitudes` do not change the weights."""
    x = weights(dtype)
    loaded = ops.load(x)

    ops.magnitudes(loaded, dtype)

    assert weights(dtype).tolist() == x.tolist() == host(loaded)


def test_at_least_splits_at_every_cut(ops: Ops, dtype: Float) -> None:
    """Entries at or above the cut have all bits set, the others none, for cuts from 0 to one above the largest."""
    y, values = loaded(ops, dtype)

    for cut in cuts(dtype):
        assert [-(value >= cut) for value in values] == host(ops.at_least(y, cut))


def test_count_equal_counts(ops: Ops, dtype: Float) -> None:
    """`count_equal` counts entries at the limits of the range, and returns 0 where there are none."""
    y, values = loaded(ops, dtype)

    for value in cuts(dtype)[:-1]:
        assert values.count(value) == ops.count_equal(y, value)


@pytest.mark.parametrize("count", [0, 1, 2, 1000])
def test_drop_first_equal_clears_in_order(ops: Ops, dtype: Float, count: int) -> None:
    """The first `count` equal entries are cleared, or all where there are fewer; the others do not change."""
    y, values = loaded(ops, dtype)
    keep = ops.at_least(y, 0)
    expected = [-1] * len(values)
    for index in [index for index, value in enumerate(values) if value == 1][:count]:
        expected[index] = 0

    ops.drop_first_equal(keep, y, 1, count)

    assert expected == host(keep)


def test_store_masked_writes_positive_zero_and_keeps_survivors(ops: Ops, dtype: Float) -> None:
    """A pruned weight becomes the pattern 0; a kept one, and a zero of either sign, keeps every bit."""
    x = weights(dtype)
    loaded = ops.load(x.copy())
    keep = ops.at_least(ops.magnitudes(loaded, dtype), dtype.mask // 2)
    out = np.ones_like(x)

    ops.store_masked(loaded, keep, out, dtype)

    values = plain(x, dtype)
    kept = [y >= dtype.mask // 2 or y == 0 for y in values]
    assert [int(w) if keep else 0 for w, keep in zip(x, kept, strict=True)] == out.tolist()
    assert dtype.negative_zero_is_nan or out.min() == x.min()


def test_store_masked_may_overwrite_its_input(dtype: Float) -> None:
    """On the host the weights can be pruned in place."""
    ops, x = NumpyOps(), weights(dtype)
    x = x[np.array(plain(x, dtype)) != 0]

    ops.store_masked(x, ops.at_least(ops.magnitudes(x, dtype), dtype.top + 1), x, dtype)

    assert not x.any()


def test_smallest_is_the_sorted_entry(ops: Ops, dtype: Float) -> None:
    """The rank-th smallest entry is the one at that place of the sorted entries."""
    y, values = loaded(ops, dtype)

    for rank in (1, 2, 3, len(values) // 2, len(values) - 1, len(values)):
        entry = sorted(values)[rank - 1]
        expected = (entry, sum(value < entry for value in values), list(values).count(entry))
        assert expected == ops.smallest(y, rank)


def test_brackets_count_below_and_inside(ops: Ops, dtype: Float) -> None:
    """Counts below and inside a bracket equal plain counts, for narrow and wide brackets anywhere."""
    y, values = loaded(ops, dtype)

    for low in cuts(dtype)[:-1]:
        for width in sorted({0, 1, 2, 8, 9, 1000, dtype.top + 1 - low}):
            if low + width > dtype.top + 1:
                continue
            below, patterns, counts = ops.below_and_inside(y, low, width)
            assert (counts is None) == (width > COUNTED)
            if counts is None:
                got = Counter(host(patterns))
            else:
                got = Counter(dict(zip(range(low, low + width), counts, strict=True)))
            inside = [value for value in values if low <= value < low + width]
            assert sum(value < low for value in values) == below
            assert Counter(inside) == +got


def test_other_kernels_do_not_change_the_magnitudes(ops: Ops, dtype: Float) -> None:
    """Kernels that use scratch memory do not write into the magnitudes."""
    y, values = loaded(ops, dtype)

    ops.at_least(y, 3)
    ops.count_equal(y, 3)
    ops.below_and_inside(y, 0, dtype.top + 1)
    ops.below_and_inside(y, 1, 2)
    ops.keep_largest(y, 0, len(values), 1, 5, 2)
    ops.smallest(y, 7)

    assert values == host(y)


# --- groups


def largest(values: list[int], keep: int) -> list[int]:
    """Return -1 for the `keep` largest, among equals the lower index, and 0 for the others."""
    order = sorted(range(len(values)), key=lambda index: (-values[index], index))
    return [-(index in order[:keep]) for index in range(len(values))]


def grouped(values: list[int], length: int, inner: int, group: int, keep: int) -> list[int]:
    """Return the keep array of a whole (outer, length, inner) array, group by group."""
    kept = np.zeros(len(values), int)
    shaped, out = np.array(values).reshape(-1, length, inner), kept.reshape(-1, length, inner)
    for outer in range(len(shaped)):
        for low in range(0, length, group):
            for column in range(inner):
                index = (outer, slice(low, low + group), column)
                out[index] = largest(shaped[index].tolist(), keep)
    return kept.tolist()


@settings(max_examples=examples(120))
@given(
    outer=st.integers(1, 3),
    length=st.integers(1, 20),
    inner=st.integers(1, 4),
    group=st.integers(1, 20),
    data=st.data(),
)
def test_keep_largest_is_the_plain_definition(outer: int, length: int, inner: int, group: int, data: Any) -> None:  # noqa: ANN401
    """Each group keeps its largest, among equals the lower index; NumPy and torch agree bit for bit."""
    keep = data.draw(st.integers(0, group))
    size = outer * length * inner
    values = data.draw(st.lists(st.integers(0, 5), min_size=size, max_size=size))
    expected = grouped(values, length, inner, group, keep)

    for make in OPS.values():
        ops = make()
        y = ops.load(np.array(values, np.int32))
        assert expected == host(ops.keep_largest(y, 0, length, inner, group, keep))


@pytest.mark.parametrize("integer", [np.int16, np.int32, np.int64])
@pytest.mark.parametrize(("group", "keep"), [(1, 0), (1, 1), (2, 1), (4, 2), (16, 5), (127, 0), (127, 64), (127, 127)])
def test_keep_largest_does_not_overflow(ops: Ops, integer: type[np.signedinteger], group: int, keep: int) -> None:
    """The 8-bit counts do not overflow in the longest group, whatever the order of its entries."""
    top = int(np.iinfo(integer).max)
    for values in (range(254), range(254, 0, -1), [7] * 254, [0, top] * 127, [top] * 254):
        y = ops.load(np.array(list(values), integer))
        assert grouped(list(values), 254, 1, group, keep) == host(ops.keep_largest(y, 0, 254, 1, group, keep))


@pytest.mark.parametrize("integer", [np.int16, np.int32, np.int64])
@pytest.mark.parametrize("prune", [0, 1, 3, 16, 19, 20])
def test_rows_lose_their_smallest(ops: Ops, integer: type[np.signedinteger], prune: int) -> None:
    """Each row loses its smallest, of equals the lower index first; -1 is no weight and is not counted."""
    rows = np.random.default_rng(prune).integers(-1, 9, (7, 20)).astype(integer)
    rows[0], rows[1], rows[2] = 5, np.iinfo(integer).max, np.arange(20)
    expected = []
    for row in rows.tolist():
        order = sorted(range(20), key=lambda index: (row[index], index))
        gone = order[: row.count(-1) + min(prune, 20 - row.count(-1))]
        expected += [-(index not in gone) for index in range(20)]

    keep = ops.keep_rows(ops.load(rows.reshape(-1)), 20, lambda left: min(prune, left))
    ops.drop_pruned(keep, ops.load(rows.reshape(-1)))

    assert expected == host(keep)


@pytest.mark.parametrize("limit", [0, 1 << 20])
@settings(max_examples=examples(60))
@given(
    length=st.integers(1, 9),
    inner=st.integers(1, 4),
    group=st.integers(1, 12),
    start=st.integers(0, 100),
    count=st.integers(1, 60),
)
def test_places_in_groups(limit: int, length: int, inner: int, group: int, start: int, count: int) -> None:
    """An element comes after as many members of its group as its place says, whether places are cached or not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("prunecli.kernels.arrays.PERIOD_LIMIT", limit)
        places = before_in_group(start, count, length, inner, group)

    assert [index // inner % length % group for index in range(start, start + count)] == places.tolist()


@settings(max_examples=examples(60))
@given(
    length=st.integers(1, 9),
    inner=st.integers(1, 4),
    start=st.integers(0, 100),
    count=st.integers(1, 60),
    data=st.data(),
)
def test_drop_from_clears_the_tail(length: int, inner: int, start: int, count: int, data: Any) -> None:  # noqa: ANN401
    """Entries from a middle index on are cleared, wherever the run begins and ends."""
    first = data.draw(st.integers(0, length))
    middles = [(index // inner) % length for index in range(start, start + count)]

    for make in OPS.values():
        ops = make()
        keep = ops.at_least(ops.load(np.ones(count, np.int32)), 0)
        ops.drop_from(keep, start, length, inner, first)
        assert [-(middle < first) for middle in middles] == host(keep)


@pytest.mark.parametrize(("length", "inner", "group"), [(10, 1, 4), (12, 1, 4), (7, 3, 2), (5, 2, 9)])
def test_keep_largest_of_a_run_is_that_of_the_whole(ops: Ops, length: int, inner: int, group: int) -> None:
    """A run that starts and ends between groups gets the bits of its place in the whole tensor."""
    values = np.random.default_rng(0).integers(0, 5, 4 * length * inner).astype(np.int32)
    whole = grouped(values.tolist(), length, inner, group, 1)
    edges = sorted({outer * length * inner + low * inner for outer in range(5) for low in range(0, length, group)})

    for start in edges[:-1]:
        for stop in (edge for edge in edges if start < edge <= values.size):
            got = ops.keep_largest(ops.load(values[start:stop]), start, length, inner, group, 1)
            assert whole[start:stop] == host(got)


def test_a_long_dimension_with_a_short_last_group_keeps_its_largest(ops: Ops) -> None:
    """Each group keeps its 2 largest of 4 where the period of places is too long to be cached."""
    length = (1 << 20) + 2
    values = np.random.default_rng(0).integers(0, 9, 2 * length).astype(np.int32)
    padded = np.pad(values.reshape(2, length), ((0, 0), (0, 2)), constant_values=-1).reshape(2, -1, 4)
    order = np.argsort(-padded, axis=2, kind="stable")[..., :2]
    expected = np.zeros(padded.shape, np.int32)
    np.put_along_axis(expected, order, -1, axis=2)

    got = ops.keep_largest(ops.load(values), 0, length, 1, 4, 2)

    assert np.array_equal(expected.reshape(2, -1)[:, :length].reshape(-1), np.asarray(got))
