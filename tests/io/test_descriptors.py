"""Files are opened when they are used; those used longest ago are closed when there are many."""

from __future__ import annotations

import os
import resource
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from prunecli.errors import CheckpointError
from prunecli.io import descriptors
from prunecli.io.descriptors import SPARE, Descriptor
from prunecli.io.files import Sink, Source
from prunecli.io.transfer import WriteError, write_all

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let two files stay open."""
    monkeypatch.setattr(descriptors, "MOST", 2)


@pytest.fixture
def files(tmp_path: Path) -> Iterator[list[Descriptor]]:
    """Return five files with a digit each."""
    made = []
    for number in range(5):
        (tmp_path / str(number)).write_bytes(b"%d" % number)
        made.append(Descriptor(partial(os.open, tmp_path / str(number), os.O_RDWR)))
    yield made
    for file in made:
        file.close()


def open_files(files: list[Descriptor]) -> list[int]:
    """Return the numbers of the files that are open."""
    return [number for number, file in enumerate(files) if file in descriptors._open]


@pytest.mark.usefixtures("two")
def test_the_files_used_last_stay_open(files: list[Descriptor]) -> None:
    """Of five files two stay open, and each read gets the bytes of its own file."""
    for number in (0, 1, 2, 3, 4, 3, 0):
        with files[number].opened() as fd:
            assert os.pread(fd, 1, 0) == b"%d" % number

    assert open_files(files) == [0, 3]


@pytest.mark.usefixtures("two")
def test_a_file_can_be_kept_open(files: list[Descriptor]) -> None:
    """A file that is kept open has the same descriptor until it is closed."""
    files[1].keep_open()
    with files[1].opened() as first:
        pass
    for file in files:
        with file.opened():
            pass

    with files[1].opened() as again:
        assert (again, os.pread(again, 1, 0)) == (first, b"1")
    files[1].close()
    assert 1 not in open_files(files)
    with files[1].opened() as fd:
        assert os.pread(fd, 1, 0) == b"1"


@pytest.mark.usefixtures("two")
def test_a_file_in_use_stays_open(files: list[Descriptor]) -> None:
    """Files in use are not closed, even if they are more than the limit; afterwards the oldest are."""
    with ExitStack() as stack:
        fds = [stack.enter_context(file.opened()) for file in files]
        assert [os.pread(fd, 1, 0) for fd in fds] == [b"0", b"1", b"2", b"3", b"4"]

    assert len(open_files(files)) == 2


def test_the_limit_of_the_process_counts(files: list[Descriptor], monkeypatch: pytest.MonkeyPatch) -> None:
    """Some descriptors are left for other uses, and one file at least may stay open."""
    for limit, most in ((SPARE + 3, 3), (5, 1), (resource.RLIM_INFINITY, 5)):
        monkeypatch.setattr(resource, "getrlimit", lambda _, limit=limit: (limit, limit))
        for file in files:
            with file.opened():
                pass
        assert len(open_files(files)) == most


def test_if_none_is_left_unused_files_are_closed(tmp_path: Path, files: list[Descriptor]) -> None:
    """Where the process has no descriptor left, files that are not in use are closed."""
    for file in files:
        with file.opened():
            pass
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 8, hard[1]))  # noqa: PTH208
    try:
        while True:
            taken.append(os.open(tmp_path / "0", os.O_RDONLY))
    except OSError:
        with Descriptor(partial(os.open, tmp_path / "3", os.O_RDONLY)).opened() as fd:
            assert os.pread(fd, 1, 0) == b"3"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, hard)
        for number in taken:
            os.close(number)
        descriptors._close_unused(0)


@pytest.mark.usefixtures("two")
def test_an_error_of_writing_names_the_file(files: list[Descriptor], monkeypatch: pytest.MonkeyPatch) -> None:
    """The descriptor of a file changes when it is opened again, so the error has the object."""
    monkeypatch.setattr(os, "pwrite", lambda *_: 0)

    with pytest.raises(WriteError) as caught, files[0].opened() as fd:
        write_all(fd, memoryview(b"x"), 0)

    assert caught.value.output is files[0]


@pytest.mark.usefixtures("two")
@pytest.mark.parametrize("direct", [False, True])
def test_a_sink_writes_after_its_file_was_closed(files: list[Descriptor], tmp_path: Path, *, direct: bool) -> None:
    """Windows of many outputs arrive in any order, each in its own file."""
    sinks = [Sink(file, direct=direct) for file in files]
    page = bytes(4096)

    for offset in (1, 4096):
        for number, sink in enumerate(sinks):
            sink.write(memoryview(page + b"%d" % number), offset)

    for number, sink in enumerate(sinks):
        sink.close()
        assert (tmp_path / str(number)).read_bytes() == b"%d" % number + bytes(8191) + b"%d" % number


@pytest.mark.usefixtures("two")
def test_a_source_that_was_replaced_is_an_error(tmp_path: Path, files: list[Descriptor]) -> None:
    """A file of the same size and time that was put in the place of a closed one is noticed."""
    path = tmp_path / "in"
    path.write_bytes(b"old")
    source = Source(path, 3)
    for file in files:
        with file.opened():
            pass
    (tmp_path / "new").write_bytes(b"new")
    os.utime(tmp_path / "new", ns=(0, path.stat().st_mtime_ns))
    (tmp_path / "new").replace(path)

    with pytest.raises(CheckpointError, match="changed while it was being read"):
        source.read(memoryview(bytearray(3)), 0)
