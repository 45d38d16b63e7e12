"""Compiled kernels rank and count codes with a scale as NumPy does their products."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import examples

from prunecli.dtypes import FLOATS, Float
from prunecli.kernels.native.library import library
from prunecli.kernels.numpy_ops import NumpyOps
from prunecli.kernels.scales import ScaledRows, code_values
from prunecli.kernels.tally import Shared, Statistics
from prunecli.layout import SliceView
from prunecli.report.histogram import bins_of

if library() is None:
    pytest.skip("the compiled kernels are not built", allow_module_level=True)

from prunecli.kernels.native_codes import ScaledCodes
from prunecli.kernels.native_ops import NativeOps

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from prunecli.kernels.ops import Ops

FORMATS = ("F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ")

F64 = FLOATS["F64"]


@dataclass
class Case:
    """Codes of `rows` rows in two parts, and their products as patterns."""

    dtype: Float
    rows: int
    cols: int
    codes: NDArray[np.int8]
    scaled: ScaledCodes
    signed: NDArray[np.float64]

    @property
    def products(self) -> NDArray[np.int64]:
        """The patterns of the magnitudes, in memory of their own."""
        return self.signed.view(np.int64) & np.int64(F64.mask)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Return codes of any bits or of few values, and entries of both signs and many sizes."""
    dtype, rows = FLOATS[draw(st.sampled_from(FORMATS))], draw(st.integers(1, 9))
    cols, wide, high = (
        draw(st.sampled_from([1, 3, 8, 24, 160, 700])),
        draw(st.integers(1, 200)),
        draw(st.integers(1, 4)),
    )
    wide = draw(st.sampled_from([1, 4, 8, wide, cols]))
    random = np.random.default_rng(draw(st.integers(0, 1 << 30)))
    codes = random.integers(-128, 128, rows * cols).astype(np.int8)
    if draw(st.booleans()):
        codes = random.choice(codes[: 1 + codes.size // 50], codes.size)
    grid = -(-rows // high), -(-cols // wide)
    entries = random.choice([1.0, -0.25, 2.0**-900, 2.0**900, 0.1, 3.0], grid)
    if draw(st.booleans()):
        entries = random.random(grid) + 0.01
    lines, split = np.arange(rows) // high, rows // 2 * cols
    bounds = [(0, split), (split, rows * cols)] if split else [(0, rows * cols)]
    parts = [ScaledRows(low, stop, cols, 0, wide, lines[low // cols : stop // cols], entries) for low, stop in bounds]
    memory = np.empty(codes.size, np.int64)
    scaled = ScaledCodes(codes, dtype, parts, (cols, wide), lambda: memory)
    own = entries[lines].repeat(wide, axis=1)[:, :cols].reshape(-1)
    with np.errstate(over="ignore", invalid="ignore"):
        signed = code_values(NumpyOps(), codes, dtype, "y") * own
    return Case(dtype, rows, cols, codes, scaled, signed)


def flags_of(ops: Ops, keep: Any) -> list[int]:  # noqa: ANN401 - a form of the backend's own
    """Return what survives."""
    return list(memoryview(ops.as_flags(keep)))


@given(cases())
@settings(max_examples=examples(100))
def test_products_have_the_same_bits(case: Case) -> None:
    """Those of magnitudes and of weights with their signs, also from the middle on."""
    middle = case.codes.size // 2
    expected = case.signed.view(np.int64)

    assert case.products.tolist() == np.array(case.scaled).tolist()
    assert expected.tolist() == case.scaled.products(np.empty(expected.size, np.int64), (1 << 64) - 1).tolist()
    tail = case.scaled.products(np.empty(expected.size - middle, np.int64), F64.mask, middle)
    assert case.products[middle:].tolist() == tail.tolist()


@given(cases(), st.data())
@settings(max_examples=examples(150))
def test_cuts_and_ties_are_those_of_the_products(case: Case, data: st.DataObject) -> None:
    """For cuts at, below and above any product, and the first of the products that equal it."""
    y = case.products
    cut = int(data.draw(st.sampled_from(sorted({0, 1, F64.top, *y[:40].tolist()})))) + data.draw(st.integers(0, 1))
    found = []
    for ops, ranked in ((NumpyOps(), y), (NativeOps(), case.scaled)):
        equal = ops.count_equal(ranked, cut) if cut <= F64.top else 0
        keep = ops.at_least(ranked, cut)
        ops.drop_first_equal(keep, ranked, cut, (equal + 1) // 2)
        ops.drop_pruned(keep, ranked)
        found.append((equal, flags_of(ops, keep)))

    assert found[0] == found[1]


@given(cases(), st.data())
@settings(max_examples=examples(150))
def test_counts_in_a_bracket_are_those_of_the_products(case: Case, data: st.DataObject) -> None:
    """Below and inside any bracket: narrow ones are counted, of wide ones the patterns are returned."""
    y = case.products
    low = data.draw(st.sampled_from(sorted({0, *y[:40].tolist()})))
    width = data.draw(st.sampled_from([1, 100, 1 << 30, 1 << 53, 1 << 62]))
    width = min(width, F64.top + 1 - low)

    found = [ops.below_and_inside(ranked, low, width) for ops, ranked in ((NumpyOps(), y), (NativeOps(), case.scaled))]

    assert found[0][0] == found[1][0]
    assert (found[0][2] or None) == (found[1][2] or None)
    if found[0][1] is not None:
        assert sorted(np.asarray(found[0][1]).tolist()) == sorted(np.asarray(found[1][1]).tolist())
    rank = data.draw(st.integers(1, y.size))
    assert NumpyOps().smallest(y, rank) == NativeOps().smallest(case.scaled, rank)


@given(cases(), st.data())
@settings(max_examples=examples(150))
def test_groups_rows_and_slices_are_those_of_the_products(case: Case, data: st.DataObject) -> None:
    """The largest of groups in any direction, the smallest of rows, and the cuts of slices."""
    group, inner = data.draw(st.integers(1, 40)), data.draw(st.sampled_from([1, case.cols]))
    keep = data.draw(st.integers(0, group))
    # Scales of whole rows are seen as those of one long row.
    row = data.draw(st.sampled_from([n for n in (1, 2, 3, 4, 8, 20, case.cols) if case.cols % n == 0]))
    length = row if inner == 1 else case.rows
    view = SliceView(1, case.rows, case.cols, 1)
    y = case.products
    cuts = y[: case.cols]
    limits = np.arange(case.cols) % case.rows
    found = []
    for ops, ranked in ((NumpyOps(), y), (NativeOps(), case.scaled)):
        largest = flags_of(ops, ops.keep_largest(ranked, 0, length, inner, group, keep))
        rows = flags_of(ops, ops.keep_rows(ranked, row, lambda n: n // 3))
        found.append((largest, rows, flags_of(ops, ops.keep_above(ranked, 0, view, cuts, limits))))

    assert found[0] == found[1]


@given(case=cases(), by_input=st.booleans())
@settings(max_examples=examples(150))
def test_counts_of_the_report_are_those_of_the_products(*, case: Case, by_input: bool) -> None:
    """All numbers of a tally, in two runs, and the bytes of the pruned codes."""
    outputs, inputs = SliceView(1, 1, case.rows, case.cols), SliceView(1, case.rows, case.cols, 1)
    groups = (case.rows, case.cols) if by_input else (case.cols, 1)
    bins = bins_of(F64)
    histogram = bins.shift, bins.first, bins.last
    statistics = Statistics(F64, case.codes.size, outputs, inputs, groups, None, histogram)
    cut = int(np.sort(case.products)[case.codes.size // 2])
    found = []
    for ops, ranked in ((NumpyOps(), case.products), (NativeOps(), case.scaled)):
        tally, codes = ops.tally(statistics, Shared()), case.codes.copy()
        keep = ops.at_least(ranked, cut)
        tally.add(ranked, keep, 0)
        ops.store_masked(codes, keep, codes, case.dtype)
        found.append((tally.counts(), codes.tobytes()))

    assert found[0] == found[1]
