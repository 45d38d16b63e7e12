"""Cutting files up and moving bytes: everything is covered once, nothing is cut that must not be, bytes arrive."""

from __future__ import annotations

import errno
import mmap
import os
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prunecli.checkpoint import Span
from prunecli.errors import CheckpointError, OutputError
from prunecli.io import files as splice
from prunecli.io.files import COPY_RUN, PAGE, Sink, Source, write_all
from prunecli.io.layout import COPY_MIN, Layout, TargetRange, UntouchedRange, Window, merged

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


def groups_of(unit: int, numel: int) -> Callable[[int, int], tuple[int, int]]:
    """Return a reach that widens to whole groups of `unit`."""

    def reach(first: int, stop: int) -> tuple[int, int]:
        return first - first % unit, min(stop + -stop % unit, numel)

    return reach


@st.composite
def layouts(draw: st.DrawFn) -> tuple[int, list[TargetRange], list[Span], int]:
    """Draw a file with runs that touch or lie far apart, misaligned ones, whole ones that overlap, and spans."""
    at, runs, spans = 0, [], []
    window = draw(st.sampled_from([PAGE, 4 * PAGE, 16 * PAGE]))
    for target in range(draw(st.integers(0, 6))):
        at += draw(st.one_of(st.sampled_from([0, 1, 3, 64, COPY_MIN, 3 * COPY_MIN]), st.integers(0, 20_000)))
        itemsize = draw(st.sampled_from([1, 2, 4, 8]))
        numel = draw(st.one_of(st.integers(1, 50), st.integers(1, 30_000)))
        end, whole = at + numel * itemsize, draw(st.booleans())
        unit = draw(st.sampled_from([1, 4, 7, 3000]))
        runs.append(TargetRange(at, end, target, itemsize, whole, groups_of(unit if not whole else numel, numel)))
        if whole and draw(st.booleans()):
            again = draw(st.integers(0, numel - 1))
            runs.append(
                TargetRange(at + again * itemsize, end, target + 100, itemsize, whole=True, reach=lambda a, b: (a, b))
            )
        if draw(st.booleans()):
            spans.append(Span(max(at - 100, 0), draw(st.integers(0, 300_000))))
        at = end
    size = max([at, *(span.end for span in spans)]) + draw(st.sampled_from([0, 1, 5000, 2 * COPY_MIN]))
    return size, draw(st.permutations(runs)), spans, window


def windows(parts: list[Window | UntouchedRange]) -> Iterator[Window]:
    """Yield the windows among the parts."""
    yield from (part for part in parts if isinstance(part, Window))


@settings(max_examples=200, deadline=None)
@given(case=layouts())
def test_the_parts_cover_the_file_once_in_order(case: tuple[int, list[TargetRange], list[Span], int]) -> None:
    """Windows and untouched ranges follow each other from the first byte to the last; none is empty."""
    size, runs, spans, window = case
    parts = list(Layout(size, runs, spans, window=window))

    edges = [0, *(edge for part in parts for edge in (part.start, part.end)), size]

    assert all(edges[at] == edges[at + 1] for at in range(0, len(edges), 2))
    assert all(part.start < part.end for part in parts)


@settings(max_examples=200, deadline=None)
@given(case=layouts())
def test_pieces_make_up_each_run_and_cut_no_element(case: tuple[int, list[TargetRange], list[Span], int]) -> None:
    """Each target's pieces, numbered in order, are all its elements once; their bytes lie inside their window."""
    size, runs, spans, length = case
    by_target = {run.target: run for run in runs}
    found: dict[int, list[splice.Piece]] = {target: [] for target in by_target}

    for window in windows(list(Layout(size, runs, spans, window=length))):
        for piece in window.pieces:
            run = by_target[piece.target]
            assert window.start <= run.start + piece.first * run.itemsize
            assert run.start + piece.stop * run.itemsize <= window.end
            found[piece.target].append(piece)

    for target, pieces in found.items():
        numel = (by_target[target].end - by_target[target].start) // by_target[target].itemsize
        assert list(range(len(pieces))) == [piece.ordinal for piece in pieces]
        assert [0, *(piece.stop for piece in pieces)] == [*(piece.first for piece in pieces), numel]
        assert len(pieces) == 1 or not by_target[target].whole


@settings(max_examples=200, deadline=None)
@given(case=layouts())
def test_a_window_reads_what_its_pieces_reach(case: tuple[int, list[TargetRange], list[Span], int]) -> None:
    """What is read holds the window and all that its pieces must see, inside the file, from a page on."""
    size, runs, spans, length = case
    by_target = {run.target: run for run in runs}

    for window in windows(list(Layout(size, runs, spans, window=length))):
        assert window.read_start <= window.start
        assert window.end <= window.read_end <= size
        assert window.read_start % PAGE == 0
        for piece in window.pieces:
            run = by_target[piece.target]
            assert (piece.low, piece.high) == run.reach(piece.first, piece.stop)
            assert window.read_start <= run.start + piece.low * run.itemsize
            assert run.start + piece.high * run.itemsize <= window.read_end


@settings(max_examples=200, deadline=None)
@given(case=layouts())
def test_windows_are_long_only_where_they_must_be(case: tuple[int, list[TargetRange], list[Span], int]) -> None:
    """A window is longer than asked only for a run that must stay whole."""
    size, runs, spans, length = case
    solid = merged([(run.start, run.end) for run in runs if run.whole], 0)

    for window in windows(list(Layout(size, runs, spans, window=length))):
        if window.end - window.start > length + 8:
            inside = [end - start for start, end in solid if start < window.end and end > window.start]
            assert inside
            assert window.end - window.start <= length + sum(inside) + PAGE * (1 + len(inside))


@settings(max_examples=200, deadline=None)
@given(case=layouts())
def test_untouched_ranges_hold_no_run_and_no_span(case: tuple[int, list[TargetRange], list[Span], int]) -> None:
    """What the kernel copies has no byte of a target, nor of a record whose checksum is needed."""
    size, runs, spans, length = case
    busy = [(run.start, run.end) for run in runs] + [(span.start, span.end) for span in spans if span.length]

    for part in Layout(size, runs, spans, window=length):
        if isinstance(part, UntouchedRange):
            assert not [r for r in busy if r[0] < part.end and r[1] > part.start]


def test_a_file_without_runs_is_one_untouched_range() -> None:
    """Nothing to change is one copy; an empty file is nothing at all."""
    assert [UntouchedRange(0, 10**9)] == list(Layout(10**9, []))
    assert list(Layout(0, [])) == []


def test_long_copies_go_in_steps() -> None:
    """The steps of an untouched range follow each other and are of bounded length."""
    steps = list(UntouchedRange(5, 3 * COPY_RUN).steps())

    assert (steps[0].start, steps[-1].end) == (5, 3 * COPY_RUN)
    assert all(a.end == b.start for a, b in pairwise(steps))
    assert all(step.end - step.start <= COPY_RUN for step in steps)


@settings(max_examples=100, deadline=None)
@given(
    ranges=st.lists(st.tuples(st.integers(0, 100), st.integers(0, 30)).map(lambda r: (r[0], r[0] + r[1]))),
    gap=st.integers(0, 9),
)
def test_merged_ranges_are_sorted_apart_and_cover_the_same(ranges: list[tuple[int, int]], gap: int) -> None:
    """Every range lies in exactly one of the merged, and those lie at least `gap` apart."""
    found = merged(ranges, gap)

    assert all(a[1] + gap <= b[0] for a, b in pairwise(found))
    for start, end in ranges:
        assert start == end or len([f for f in found if f[0] <= start and end <= f[1]]) == 1
    points = {at for start, end in ranges for at in range(start, end)}
    assert all({start, end - 1} <= points for start, end in found)


# --- moving bytes


def next_descriptor() -> int:
    """Return the number the next file to be opened would get: it rises when one is left open."""
    fd = os.open(os.devnull, os.O_RDONLY)
    os.close(fd)
    return fd


@pytest.fixture
def content() -> bytes:
    """Give some pages of bytes that do not repeat with the page."""
    return b"".join(at.to_bytes(3, "little") for at in range(20_000))


@pytest.fixture
def source(tmp_path: Path, content: bytes) -> Iterator[Source]:
    """Give the content as an open source."""
    path = tmp_path / "in"
    path.write_bytes(content)
    made = Source(path, len(content))
    yield made
    made.close()


@pytest.fixture
def target(tmp_path: Path) -> Iterator[int]:
    """Give the descriptor of an empty output file."""
    fd = os.open(tmp_path / "out", os.O_RDWR | os.O_CREAT)
    yield fd
    os.close(fd)


def test_a_source_reads_what_is_there(source: Source, content: bytes) -> None:
    """Any place, any length, into any memory."""
    for offset, length in ((0, 1), (1, 4096), (4095, 2), (len(content) - 5, 5), (7, 0)):
        into = bytearray(length)
        source.read(memoryview(into), offset)
        assert content[offset : offset + length] == into
    source.check_unchanged()


@pytest.mark.parametrize("size", [0, 59_999, 60_001])
def test_a_source_of_another_size_is_refused(tmp_path: Path, size: int) -> None:
    """A file that has grown or shrunk since it was looked at is an error, and is not left open."""
    path = tmp_path / "in"
    path.write_bytes(bytes(size))
    before = next_descriptor()

    with pytest.raises(CheckpointError, match="changed while it was being read"):
        Source(path, 60_000)

    assert before == next_descriptor()


def test_a_source_cut_short_is_noticed_when_read(source: Source, content: bytes) -> None:
    """Reading past a new end of the file is an error and not a short read."""
    os.truncate(source.path, 1000)

    with pytest.raises(CheckpointError, match="changed"):
        source.read(memoryview(bytearray(2000)), 0)
    with pytest.raises(CheckpointError, match="changed"):
        source.read(memoryview(bytearray(1)), len(content) - 1)


def test_a_source_written_to_is_noticed_at_the_end(source: Source) -> None:
    """A change of the bytes that keeps the size shows in the time of the last change."""
    status = source.path.stat()
    with source.path.open("r+b") as file:
        file.write(b"new")
    os.utime(source.path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))

    with pytest.raises(CheckpointError, match="changed"):
        source.check_unchanged()


@pytest.mark.parametrize("direct", ["direct", "through the cache"])
@pytest.mark.parametrize("skip", [0, 1, 513])
@pytest.mark.parametrize(
    ("offset", "length"),
    [(0, 1), (0, PAGE), (0, 5 * PAGE), (PAGE, 3 * PAGE + 7), (3, 2 * PAGE), (PAGE - 1, 2), (5, 4 * PAGE - 5), (9, 0)],
)
def test_a_sink_writes_the_right_bytes(target: int, direct: str, skip: int, offset: int, length: int) -> None:
    """At odd places, of odd lengths, from odd memory, around the cache or through it: those bytes, no others."""
    data = bytes(range(1, 252)) * 100
    os.ftruncate(target, 8 * PAGE)
    expected = bytearray(8 * PAGE)
    expected[offset : offset + length] = data[:length]
    memory = memoryview(mmap.mmap(-1, 8 * PAGE))[skip : skip + length]
    memory[:] = data[:length]

    sink = Sink(target, direct=direct == "direct")
    sink.write(memory, offset)
    sink.close()

    assert expected == os.pread(target, 9 * PAGE, 0)


def test_a_sink_closes_what_it_opened(target: int) -> None:
    """The second descriptor goes with the sink, also where the filesystem took it back in between."""
    before = next_descriptor()

    sink = Sink(target, direct=True)
    sink.write(memoryview(bytearray(2 * PAGE + 1))[1:], 0)
    sink.close()

    assert before == next_descriptor()


def test_a_sink_does_not_swallow_errors(target: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk is not mistaken for a filesystem that cannot write directly."""

    def full(*_: object) -> NoReturn:
        raise OSError(errno.ENOSPC, "full")

    sink = Sink(target, direct=True)
    monkeypatch.setattr(os, "pwrite", full)

    with pytest.raises(OSError, match="full"):
        sink.write(memoryview(bytearray(PAGE)), 0)
    monkeypatch.undo()
    sink.close()


def test_partial_writes_are_continued(target: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that takes a few bytes at a time gets them all, in order; one that takes none is an error."""
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: real(fd, data[:3], at))
    write_all(target, memoryview(b"0123456789"), 2)
    assert (tmp_path / "out").read_bytes() == b"\0\x000123456789"

    monkeypatch.setattr(os, "pwrite", lambda *_: 0)
    with pytest.raises(OutputError, match="offset 7"):
        write_all(target, memoryview(b"more"), 7)


def refuses(number: int) -> Callable[..., NoReturn]:
    """Make a copy_file_range that fails."""

    def copy_file_range(*_: object) -> NoReturn:
        raise OSError(number, os.strerror(number))

    return copy_file_range


COPIERS: dict[str, Any] = {
    "the kernel": "real",
    "no such call": None,
    "other filesystem": refuses(errno.EXDEV),
    "old kernel": refuses(errno.ENOSYS),
    "not for this file": refuses(errno.EOPNOTSUPP),
    "sandbox": refuses(errno.EPERM),
    "nothing copied": lambda *_: 0,
    "a few bytes": "few",
}


@pytest.mark.parametrize("copier", COPIERS)
@pytest.mark.parametrize(("start", "end"), [(0, 60_000), (1, 4098), (59_999, 60_000), (77, 77)])
def test_a_copy_arrives_with_or_without_the_kernel(  # noqa: PLR0913, PLR0917 - fixtures
    source: Source,
    target: int,
    tmp_path: Path,
    content: bytes,
    copier: str,
    start: int,
    end: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where the kernel has no copy_file_range, refuses it or stops early, the bytes are copied by hand."""
    real = getattr(os, "copy_file_range", None)
    fake = COPIERS[copier]
    if fake is None:
        monkeypatch.delattr(os, "copy_file_range", raising=False)
    elif fake == "few" and real is not None:
        monkeypatch.setattr(os, "copy_file_range", lambda a, b, n, x, y: real(a, b, min(n, 1000), x, y))
    elif callable(fake):
        monkeypatch.setattr(os, "copy_file_range", fake, raising=False)
    os.ftruncate(target, 60_000)

    Sink(target, direct=False).copy(source, start, end)

    assert bytes(start) + content[start:end] + bytes(60_000 - end) == (tmp_path / "out").read_bytes()


def test_a_copy_with_another_error_fails(source: Source, target: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that is no refusal, such as a broken disk, is passed on."""
    monkeypatch.setattr(os, "copy_file_range", refuses(errno.EIO), raising=False)

    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        Sink(target, direct=False).copy(source, 0, 10)


def test_a_copy_of_a_source_cut_short_fails(source: Source, target: int) -> None:
    """A source that ends inside the range is an error, not a shorter output."""
    os.truncate(source.path, 1000)

    with pytest.raises(CheckpointError, match="changed"):
        Sink(target, direct=False).copy(source, 0, 2000)
