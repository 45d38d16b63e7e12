"""Output paths are checked before any work, and an unsuitable one is an error with a hint."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from support.outputs import put

from prunecli.errors import OutputError
from prunecli.io.targets import check_output, check_writable_target


def refused(target: Path, *sources: Path, **options: object) -> OutputError:
    """Return the error that check_output raises."""
    arguments = {"force": False, "in_place": False, **options}
    with pytest.raises(OutputError) as caught:
        check_output(target, sources=sources, **arguments)  # type: ignore[arg-type]
    return caught.value


def test_a_free_path_is_accepted(tmp_path: Path) -> None:
    """A name that does not exist, in a writable directory, is accepted."""
    check_output(tmp_path / "out", sources=[tmp_path / "in"], force=False, in_place=False)
    check_output(tmp_path / "out", sources=[tmp_path / "in"], force=False, in_place=False, names=["a"])


def test_an_existing_output_is_an_error_without_force(tmp_path: Path) -> None:
    """An existing file needs force."""
    put(tmp_path / "out")

    assert "exists" in str(refused(tmp_path / "out"))
    check_output(tmp_path / "out", sources=[], force=True, in_place=False)


@pytest.mark.parametrize("kind", ["name", "symlink", "hard link", "dots"])
@pytest.mark.parametrize("force", [False, True])
def test_the_input_as_output_is_an_error(tmp_path: Path, kind: str, *, force: bool) -> None:
    """The input under any of its names is an error as output, also with force, unless in_place is set."""
    source, other = tmp_path / "in", tmp_path / "other"
    put(source)
    if kind == "symlink":
        other.symlink_to(source)
    elif kind == "hard link":
        other.hardlink_to(source)
    target = {"name": source, "dots": tmp_path / ".." / tmp_path.name / "in"}.get(kind, other)

    error = refused(target, source, force=force)

    assert "is the input itself" in str(error)
    assert "in_place=True" in str(error.hint)
    check_output(target, sources=[source], force=True, in_place=True)


def test_in_place_does_not_replace_other_files(tmp_path: Path) -> None:
    """in_place allows the input to be replaced, not another file."""
    put(tmp_path / "in")
    put(tmp_path / "other")

    assert "exists" in str(refused(tmp_path / "other", tmp_path / "in", in_place=True))


def test_a_missing_parent_is_an_error(tmp_path: Path) -> None:
    """The error names the directory that does not exist, and the hint is the command that creates it."""
    error = refused(tmp_path / "no" / "out")

    assert "there is no directory" in str(error)
    assert str(error.hint).startswith("mkdir -p ")


def test_a_wrong_kind_is_an_error(tmp_path: Path) -> None:
    """A directory instead of a file, and a file instead of a directory, are errors also with force."""
    put(tmp_path / "file")
    (tmp_path / "directory").mkdir()

    assert "is a directory" in str(refused(tmp_path / "directory", force=True))
    assert "is a file" in str(refused(tmp_path / "file", force=True, names=["a"]))


def test_a_symbolic_link_needs_force(tmp_path: Path) -> None:
    """A symbolic link, dangling or not, is an error without force; a link to itself is always one."""
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "circle").symlink_to("circle")

    assert "symbolic link" in str(refused(tmp_path / "link"))
    assert "cannot write" in str(refused(tmp_path / "circle", force=True))
    check_output(tmp_path / "link", sources=[], force=True, in_place=False)


def test_a_link_into_a_blob_cache_is_never_written(tmp_path: Path) -> None:
    """A link into a `blobs` directory, as in a hub's cache, is an error also with force."""
    (tmp_path / "blobs").mkdir()
    put(tmp_path / "blobs" / "1234")
    (tmp_path / "model").symlink_to("blobs/1234")

    assert "cache" in str(refused(tmp_path / "model", force=True))


@pytest.mark.parametrize("through", [False, True])
def test_a_fifo_is_never_replaced(tmp_path: Path, *, through: bool) -> None:
    """A fifo, also behind a link, is an error whose hint is the way to stream, and stays a fifo."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    (tmp_path / "link").symlink_to(fifo)
    target = tmp_path / "link" if through else fifo

    error = refused(target, force=True)
    with pytest.raises(OutputError, match="pipe or a device"):
        put(target, force=True)

    assert "output=" in str(error.hint)
    assert stat.S_ISFIFO(fifo.stat().st_mode)


def test_a_directory_that_contains_the_input_is_an_error(tmp_path: Path) -> None:
    """A directory that contains the input is not replaced."""
    (tmp_path / "d").mkdir()
    put(tmp_path / "d" / "in")

    error = refused(tmp_path / "d", tmp_path / "d" / "in", force=True, in_place=True, names=["in"])

    assert "holds the input" in str(error)


def test_an_input_directory_is_replaced_in_place(tmp_path: Path) -> None:
    """The input directory may be replaced with in_place if all its files are written again."""
    (tmp_path / "d").mkdir()
    put(tmp_path / "d" / "a")
    sources = [tmp_path / "d", tmp_path / "d" / "a"]

    check_output(tmp_path / "d", sources=sources, force=False, in_place=True, names=["a"])
    error = refused(tmp_path / "d", *sources, in_place=True, names=["b"])

    assert "would lose" in str(error)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_without_write_permission_is_an_error(tmp_path: Path) -> None:
    """A directory that the user may not write in is an error."""
    tmp_path.chmod(0o500)

    assert "permission" in str(refused(tmp_path / "out"))


def test_a_report_path_is_checked(tmp_path: Path) -> None:
    """A report over a file of the run, over an existing file, or in no directory is an error; names are escaped."""
    put(tmp_path / "r")

    with pytest.raises(OutputError, match="exists"):
        check_writable_target(tmp_path / "r", force=False)
    with pytest.raises(OutputError, match="this run needs"):
        check_writable_target(tmp_path / "out", force=True, others=[tmp_path / "out"])
    with pytest.raises(OutputError, match=r"no directory .*\\x1b"):
        check_writable_target(tmp_path / "\x1b" / "r", force=False)
    check_writable_target(tmp_path / "r", force=True)
