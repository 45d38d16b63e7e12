"""The windows and untouched ranges of a layout cover a file once and split no element."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st
from support import examples

from prunecli.checkpoint import Span
from prunecli.io.files import PAGE
from prunecli.io.layout import COPY_MIN, Layout, Piece, TargetRange, UntouchedRange, Window, merged
from prunecli.io.transfer import COPY_RUN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


UNITS = (1, 4, 7, 3000)


def groups_of(ranges: Sequence[TargetRange]) -> Callable[[int, int, int], tuple[int, int]]:
    """Return a `reach` that widens to whole groups, whose length depends on the target, or to a whole range."""
    numels = {run.target: (run.end - run.start) // run.itemsize for run in ranges}
    whole = {run.target for run in ranges if run.whole}

    def reach(target: int, first: int, stop: int) -> tuple[int, int]:
        unit = numels[target] if target in whole else UNITS[target % len(UNITS)]
        return first - first % unit, min(stop + -stop % unit, numels[target])

    return reach


@st.composite
def layouts(draw: st.DrawFn) -> tuple[int, list[TargetRange], list[Span], int]:
    """Draw a file with ranges that touch, are far apart, are misaligned or whole and overlapping, and with spans."""
    position, ranges, spans = 0, [], []
    window = draw(st.sampled_from([PAGE, 4 * PAGE, 16 * PAGE]))
    for target in range(draw(st.integers(0, 6))):
        position += draw(st.one_of(st.sampled_from([0, 1, 3, 64, COPY_MIN, 3 * COPY_MIN]), st.integers(0, 20_000)))
        itemsize = draw(st.sampled_from([1, 2, 4, 8]))
        numel = draw(st.one_of(st.integers(1, 50), st.integers(1, 30_000)))
        end, whole = position + numel * itemsize, draw(st.booleans())
        ranges.append(TargetRange(position, end, target, itemsize, whole))
        if whole and draw(st.booleans()):
            again = draw(st.integers(0, numel - 1))
            ranges.append(TargetRange(position + again * itemsize, end, target + 100, itemsize, whole=True))
        if draw(st.booleans()):
            spans.append(Span(max(position - 100, 0), draw(st.integers(0, 300_000))))
        position = end
    size = max([position, *(span.end for span in spans)]) + draw(st.sampled_from([0, 1, 5000, 2 * COPY_MIN]))
    return size, draw(st.permutations(ranges)), spans, window


def windows(parts: list[Window | UntouchedRange]) -> Iterator[Window]:
    """Yield the windows among the parts."""
    yield from (part for part in parts if isinstance(part, Window))


@settings(max_examples=examples(200))
@given(case=layouts())
def test_the_parts_cover_the_file_once_in_order(case: tuple[int, list[TargetRange], list[Span], int]) -> None:
    """Windows and untouched ranges cover the file in order without gap or overlap; none is empty."""
    size, ranges, spans, window = case
    parts = list(Layout(size, ranges, [(span.start, span.end) for span in spans], window=window))

    edges = [0, *(edge for part in parts for edge in (part.start, part.end)), size]

    assert all(edges[position] == edges[position + 1] for position in range(0, len(edges), 2))
    assert all(part.start < part.end for part in parts)


@settings(max_examples=examples(200))
@given(case=layouts())
def test_pieces_cover_each_target_and_split_no_element(case: tuple[int, list[TargetRange], list[Span], int]) -> None:
    """The pieces of a target, numbered in order, cover each element once, and lie inside their window."""
    size, ranges, spans, length = case
    by_target = {run.target: run for run in ranges}
    actual: dict[int, list[Piece]] = {target: [] for target in by_target}

    for window in windows(list(Layout(size, ranges, [(span.start, span.end) for span in spans], window=length))):
        for piece in window.pieces:
            run = by_target[piece.target]
            assert window.start <= run.start + piece.first * run.itemsize
            assert run.start + piece.stop * run.itemsize <= window.end
            actual[piece.target].append(piece)

    for target, pieces in actual.items():
        numel = (by_target[target].end - by_target[target].start) // by_target[target].itemsize
        assert list(range(len(pieces))) == [piece.ordinal for piece in pieces]
        assert [0, *(piece.stop for piece in pieces)] == [*(piece.first for piece in pieces), numel]
        assert len(pieces) == 1 or not by_target[target].whole


@settings(max_examples=examples(200))
@given(case=layouts())
def test_a_window_reads_the_reach_of_its_pieces(case: tuple[int, list[TargetRange], list[Span], int]) -> None:
    """A window reads its own bytes and the reach of its pieces, from the start of a page, inside the file."""
    size, ranges, spans, length = case
    by_target, reach, reads = {run.target: run for run in ranges}, groups_of(ranges), [(s.start, s.end) for s in spans]

    for window in windows(list(Layout(size, ranges, reads, reach=reach, window=length))):
        assert window.read_start <= window.start
        assert window.end <= window.read_end <= size
        assert window.read_start % PAGE == 0
        for piece in window.pieces:
            run = by_target[piece.target]
            assert (piece.low, piece.high) == reach(piece.target, piece.first, piece.stop)
            assert window.read_start <= run.start + piece.low * run.itemsize
            assert run.start + piece.high * run.itemsize <= window.read_end


@settings(max_examples=examples(200))
@given(case=layouts())
def test_only_whole_ranges_make_long_windows(case: tuple[int, list[TargetRange], list[Span], int]) -> None:
    """A window is longer than requested only for a range that must stay whole."""
    size, ranges, spans, length = case
    solid = merged([(run.start, run.end) for run in ranges if run.whole], 0)

    for window in windows(list(Layout(size, ranges, [(span.start, span.end) for span in spans], window=length))):
        if window.end - window.start > length + 8:
            inside = [end - start for start, end in solid if start < window.end and end > window.start]
            assert inside
            assert window.end - window.start <= length + sum(inside) + PAGE * (1 + len(inside))


@settings(max_examples=examples(200))
@given(case=layouts())
def test_untouched_ranges_contain_no_target_and_no_span(case: tuple[int, list[TargetRange], list[Span], int]) -> None:
    """An untouched range has no byte of a target, nor of a span whose checksum is needed."""
    size, ranges, spans, length = case
    busy = [(run.start, run.end) for run in ranges] + [(span.start, span.end) for span in spans if span.length]

    for part in Layout(size, ranges, [(span.start, span.end) for span in spans], window=length):
        if isinstance(part, UntouchedRange):
            assert not [r for r in busy if r[0] < part.end and r[1] > part.start]


def test_a_file_without_targets_is_one_untouched_range() -> None:
    """A file without targets is one untouched range; an empty file has no parts."""
    assert [UntouchedRange(0, 10**9)] == list(Layout(10**9, []))
    assert list(Layout(0, [])) == []


def test_long_ranges_are_copied_in_steps() -> None:
    """The steps of an untouched range cover it in order, and none is longer than COPY_RUN."""
    steps = list(UntouchedRange(5, 3 * COPY_RUN).steps())

    assert (steps[0].start, steps[-1].end) == (5, 3 * COPY_RUN)
    assert all(a.end == b.start for a, b in pairwise(steps))
    assert all(step.end - step.start <= COPY_RUN for step in steps)


@settings(max_examples=examples(100))
@given(
    ranges=st.lists(st.tuples(st.integers(0, 100), st.integers(0, 30)).map(lambda r: (r[0], r[0] + r[1]))),
    gap=st.integers(0, 9),
)
def test_merged_ranges_are_sorted_apart_and_cover_the_same(ranges: list[tuple[int, int]], gap: int) -> None:
    """Every range is inside exactly one merged range, and merged ranges are at least `gap` apart."""
    actual = merged(ranges, gap)

    assert all(a[1] + gap <= b[0] for a, b in pairwise(actual))
    for start, end in ranges:
        assert start == end or len([f for f in actual if f[0] <= start and end <= f[1]]) == 1
    points = {position for start, end in ranges for position in range(start, end)}
    assert all({start, end - 1} <= points for start, end in actual)
