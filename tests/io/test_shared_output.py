"""An output file of several processes: blocks that two of them share are written one after the other."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from prunecli.distributed.group import Group
from prunecli.errors import OutputError
from prunecli.io.files import Source
from prunecli.io.shared_output import BLOCK, SharedSink, finish_shared, joined, turns

if TYPE_CHECKING:
    from collections.abc import Sequence


@pytest.mark.parametrize(
    ("starts", "expected"),
    [
        ([0, 3 * BLOCK + 5, 7 * BLOCK], [0, 1, 0]),
        ([0, 10, 20, BLOCK + 1], [0, 1, 2, 1]),
        ([0, BLOCK, BLOCK + 9, BLOCK + 9], [0, 0, 0, 1]),
    ],
)
def test_turns(starts: Sequence[int], expected: list[int]) -> None:
    """A process holds back what lies in a block that another one begins, and waits for those before it in the block."""
    ends = [*starts[1:], 9 * BLOCK]

    assert turns(list(zip(starts, ends, strict=True))) == expected


class Turns(Group):
    """A group that writes down what the file holds at each barrier."""

    def __init__(self, path: Path) -> None:
        """Look at `path`."""
        self.path, self.seen = path, list[bytes]()

    def barrier(self) -> None:
        """Look at the file."""
        self.seen.append(self.path.read_bytes())


def test_the_first_block_is_written_last(tmp_path: Path) -> None:
    """Bytes of a shared block are held back, also those that are copied, and written in their order."""
    path, start, end = tmp_path / "out", BLOCK + 10, 2 * BLOCK + 100
    (tmp_path / "in").write_bytes(b"c" * end)
    path.write_bytes(bytes(end))
    sink = SharedSink(path, [(0, start), (start, end)], 1, direct=False)
    source = Source(tmp_path / "in", end)
    sink.write(memoryview(b"a" * 20), start)
    sink.copy(source, start + 20, end)
    sink.write(memoryview(b"b" * 4), start + 2)
    source.close()
    group = Turns(path)
    finish_shared(group, [sink, None])

    assert group.seen == [bytes(2 * BLOCK) + b"c" * 100]
    assert path.read_bytes() == bytes(start) + b"aabbbb" + b"a" * 14 + b"c" * (end - start - 20)


def test_a_missing_draft(tmp_path: Path) -> None:
    """A process that does not see what rank 0 has made says so."""
    with pytest.raises(OutputError, match="which rank 0 has made"), joined([tmp_path / "no"], tmp_path / "out", 1):
        pass


def test_errors_of_other_files_stay_what_they_are(tmp_path: Path) -> None:
    """An error that names its file is not one of the output; one without a name is."""
    (tmp_path / "out").touch()

    with pytest.raises(FileNotFoundError), joined([tmp_path / "out"], tmp_path / "out", 9):
        (tmp_path / "other").read_bytes()
    with pytest.raises(OutputError, match="cannot write"), joined([tmp_path / "out"], tmp_path / "out", 9):
        raise OSError(5, "Input/output error")


def test_what_is_held_back_can_be_read(tmp_path: Path) -> None:
    """A range is read from what is held back and from the file, as it will be there."""
    path, start, end = tmp_path / "out", BLOCK + 10, 2 * BLOCK + 100
    path.write_bytes(bytes(end))
    sink = SharedSink(path, [(0, start), (start, end)], 1, direct=False)
    sink.write(memoryview(b"a" * (end - start)), start)

    read = bytearray(20)
    sink.read(memoryview(read), 2 * BLOCK - 10)
    sink.close()

    assert read == b"a" * 20
    assert path.read_bytes() == bytes(2 * BLOCK) + b"a" * 100
