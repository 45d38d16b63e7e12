"""Lines of a file that grows."""

from __future__ import annotations

from tempfile import TemporaryFile

from prunecli.tuning.follow import Follower


def test_lines_are_passed_on_as_they_become_complete() -> None:
    """A line is passed on once, when it ends, with a carriage return too; the rest comes at the end."""
    seen: list[str] = []
    with TemporaryFile() as file:
        follower = Follower(file, seen.append)
        for part, expected in (
            (b"a\nb", ["a"]),
            (b"c\n\n10%\r20%", ["a", "bc", "10%"]),
            (b"\xff", ["a", "bc", "10%"]),
        ):
            file.write(part)
            file.flush()
            follower.read()
            assert seen == expected
        follower.read(end=True)

    assert seen[-1] == "20%\ufffd"


def test_the_position_of_the_writer_stays() -> None:
    """A process that shares the file goes on where it was."""
    with TemporaryFile() as file:
        file.write(b"one\n")
        file.flush()
        Follower(file, lambda _: None).read()
        file.write(b"two\n")
        file.seek(0)
        assert file.read() == b"one\ntwo\n"


def test_a_line_without_an_end_takes_no_memory() -> None:
    """Of a line of a megabyte a few kilobytes are kept."""
    seen: list[str] = []
    with TemporaryFile() as file:
        file.write(b"x" * (1 << 20))
        file.flush()
        Follower(file, seen.append).read(end=True)

    assert [len(line) for line in seen] == [1 << 12]
