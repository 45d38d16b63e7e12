"""Sources and sinks read, write and copy exactly the requested bytes, and detect changed inputs."""

from __future__ import annotations

import errno
import mmap
import os
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from prunecli.errors import CheckpointError
from prunecli.io import files, filesystems
from prunecli.io.files import PAGE, Sink, Source
from prunecli.io.transfer import WriteError, write_all

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


def next_descriptor() -> int:
    """Return the descriptor that the next open file gets: it rises if a file stays open."""
    fd = os.open(os.devnull, os.O_RDONLY)
    os.close(fd)
    return fd


def refuse(*_: object) -> NoReturn:
    """Fail where nothing may call."""
    raise AssertionError


@pytest.fixture
def content() -> bytes:
    """Return some pages of bytes whose pattern does not repeat with the page."""
    return b"".join(index.to_bytes(3, "little") for index in range(20_000))


@pytest.fixture
def source(tmp_path: Path, content: bytes) -> Iterator[Source]:
    """Return the content as an open source."""
    path = tmp_path / "in"
    path.write_bytes(content)
    made = Source(path, len(content))
    yield made
    made.close()


@pytest.fixture
def target(tmp_path: Path) -> Iterator[int]:
    """Return the descriptor of an empty output file."""
    fd = os.open(tmp_path / "out", os.O_RDWR | os.O_CREAT)
    yield fd
    os.close(fd)


def test_a_source_reads_any_range(source: Source, content: bytes) -> None:
    """A source reads any length at any offset."""
    for offset, length in ((0, 1), (1, 4096), (4095, 2), (len(content) - 5, 5), (7, 0)):
        into = bytearray(length)
        source.read(memoryview(into), offset)
        assert content[offset : offset + length] == into
    source.check_unchanged()


@pytest.mark.parametrize("size", [0, 59_999, 60_001])
def test_a_source_of_another_size_is_an_error(tmp_path: Path, size: int) -> None:
    """A file that is larger or smaller than expected is an error, and does not stay open."""
    path = tmp_path / "in"
    path.write_bytes(bytes(size))
    before = next_descriptor()

    with pytest.raises(CheckpointError, match="changed while it was being read"):
        Source(path, 60_000)

    assert before == next_descriptor()


def test_a_truncated_source_is_an_error_when_read(source: Source, content: bytes) -> None:
    """Reading beyond the new end of the file is an error and not a short read."""
    os.truncate(source.path, 1000)

    with pytest.raises(CheckpointError, match="changed"):
        source.read(memoryview(bytearray(2000)), 0)
    with pytest.raises(CheckpointError, match="changed"):
        source.read(memoryview(bytearray(1)), len(content) - 1)


def test_a_changed_source_is_an_error_at_the_end(source: Source) -> None:
    """A change that keeps the size is detected by the time of modification."""
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
def test_a_sink_writes_exactly_its_data(target: int, direct: str, skip: int, offset: int, length: int) -> None:
    """At any offset, length and memory address, directly or through the cache, only the data is written."""
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


@pytest.mark.parametrize(("start", "end"), [(0, 60_000), (5, 59_999), (PAGE, PAGE + 9), (7, 7)])
def test_a_direct_sink_copies_around_the_cache(
    source: Source, content: bytes, target: int, monkeypatch: pytest.MonkeyPatch, start: int, end: int
) -> None:
    """Where files cannot share blocks, the kernel copies nothing, and exactly the range is copied in steps."""
    os.ftruncate(target, 70_000)
    monkeypatch.setattr(files, "kernel_copy", refuse)
    monkeypatch.setattr(files, "_share_page", lambda *_: False)
    monkeypatch.setattr(files, "_DIRECT_BUFFER", 3 * PAGE)

    sink = Sink(target, direct=True)
    sink.copy(source, start, end)
    sink.close()

    assert bytes(start) + content[start:end] + bytes(70_000 - end) == os.pread(target, 70_000, 0)


def test_files_that_share_blocks_are_copied_by_the_kernel(
    source: Source, content: bytes, target: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page inside the range is shared to find out, once."""
    asked: list[int] = []
    monkeypatch.setattr(files, "_share_page", lambda _own, _fd, page: not asked.append(page))  # type: ignore[func-returns-value]

    sink = Sink(target, direct=True)
    sink.copy(source, 0, PAGE - 1)
    sink.copy(source, PAGE - 1, 3 * PAGE)
    sink.copy(source, 3 * PAGE, 60_000)
    sink.close()

    assert asked in ([PAGE], [])  # a filesystem without direct writes does not ask
    assert content == os.pread(target, 60_000, 0)


def test_threads_write_to_a_tmpfs_one_after_the_other(
    target: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tmpfs grants direct writes, which are writes to its cache: threads would spin for the lock of the file."""
    device, taken = os.fstat(target).st_dev, list[int]()
    line = f"36 35 {os.major(device)}:{os.minor(device)} / / rw - tmpfs it rw\n"
    (tmp_path / "mounts").write_text(line)
    monkeypatch.setattr(filesystems, "MOUNTS", tmp_path / "mounts")
    monkeypatch.setattr(files, "write_all", lambda fd, data, at: (taken.append(fd), write_all(fd, data, at)))

    sink = Sink(target, direct=True)
    sink.write(memoryview(mmap.mmap(-1, 2 * PAGE)), 0)
    sink.close()

    assert taken == [target]


def test_a_sink_closes_its_second_descriptor(target: int) -> None:
    """The second descriptor is closed with the sink, also after the filesystem rejected a direct write."""
    before = next_descriptor()

    sink = Sink(target, direct=True)
    sink.write(memoryview(bytearray(2 * PAGE + 1))[1:], 0)
    sink.close()

    assert before == next_descriptor()


def test_a_sink_raises_other_errors(target: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk is not treated as a filesystem without direct writes."""

    def full(*_: object) -> NoReturn:
        raise OSError(errno.ENOSPC, "full")

    sink = Sink(target, direct=True)
    monkeypatch.setattr(os, "pwrite", full)

    with pytest.raises(OSError, match="full"):
        sink.write(memoryview(bytearray(PAGE)), 0)
    monkeypatch.undo()
    sink.close()


def test_partial_writes_are_continued(target: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All bytes are written if each call writes only a few; a call that writes none is an error."""
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, index: real(fd, data[:3], index))
    write_all(target, memoryview(b"0123456789"), 2)
    assert (tmp_path / "out").read_bytes() == b"\0\x000123456789"

    monkeypatch.setattr(os, "pwrite", lambda *_: 0)
    with pytest.raises(WriteError, match="offset 7"):
        write_all(target, memoryview(b"more"), 7)


def refuses(number: int) -> Callable[..., NoReturn]:
    """Return a copy_file_range that fails."""

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
    "a broken kernel": refuses(errno.EIO),
    "nothing copied": lambda *_: 0,
    "a few bytes": "few",
}


@pytest.mark.parametrize("copier", COPIERS)
@pytest.mark.parametrize(("start", "end"), [(0, 60_000), (1, 4098), (59_999, 60_000), (77, 77)])
def test_a_copy_is_complete_with_or_without_the_kernel(  # noqa: PLR0913, PLR0917 - fixtures
    source: Source,
    target: int,
    tmp_path: Path,
    content: bytes,
    copier: str,
    start: int,
    end: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """If copy_file_range is missing, fails or stops early, the bytes are copied through memory."""
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


def test_a_copy_that_cannot_be_written_fails(source: Source, target: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """If both the kernel's copy and the one through memory fail, the error names the output."""
    for name in ("copy_file_range", "pwrite"):
        monkeypatch.setattr(os, name, refuses(errno.EIO), raising=False)

    with pytest.raises(WriteError, match=os.strerror(errno.EIO)) as caught:
        Sink(target, direct=False).copy(source, 0, 10)
    assert caught.value.output == target


def test_a_copy_of_a_truncated_source_fails(source: Source, target: int) -> None:
    """A source that ends inside the range is an error, not a shorter output."""
    os.truncate(source.path, 1000)

    with pytest.raises(CheckpointError, match="changed"):
        Sink(target, direct=False).copy(source, 0, 2000)
