"""Bad paths, full disks, closed pipes and inputs that change, 55 to 63 of the list."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from hostile.cases import assert_refusal, measured, prune, ran, refused, tree
from support.disks import small_disk
from support.handmade import W, checkpoint, container, entry, patched, with_tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from support.runs import Forks

    Capture = pytest.CaptureFixture[str]

pytestmark = pytest.mark.skipif(os.name != "posix", reason="links, pipes and signals are POSIX's")
unprivileged = pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write anywhere")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Write four weights."""
    path = tmp_path / "in.pth"
    path.write_bytes(checkpoint())
    return path


def process(*args: str | Path, **options: object) -> subprocess.CompletedProcess[bytes]:
    """Run the command line in a new process."""
    command = [sys.executable, "-m", "prunecli", *map(str, args)]
    return subprocess.run(command, check=False, **{"capture_output": True, **options})  # type: ignore[call-overload,no-any-return]


# --- 55 to 58: outputs and inputs in bad places


@pytest.mark.parametrize("force", [(), ("--force",)])
def test_55_a_pipe_survives_being_named_as_output(
    force: tuple[str, ...], source: Path, tmp_path: Path, capfd: Capture
) -> None:
    """A fifo is not replaced, not even with --force, and the run does not wait for its reader."""
    os.mkfifo(tmp_path / "fifo")

    refused(capfd, tmp_path, "is a pipe or a device", *prune(source, "-o", tmp_path / "fifo", *force))

    assert stat.S_ISFIFO((tmp_path / "fifo").stat().st_mode)


@pytest.mark.parametrize("option", ["-o", "--report"])
def test_55_a_link_to_a_device_is_refused(option: str, source: Path, tmp_path: Path, capfd: Capture) -> None:
    """A link to /dev/null is refused, also with --force."""
    link = tmp_path / ("null.safetensors" if option == "-o" else "null.json")
    link.symlink_to(os.devnull)
    given = (option, link) if option == "-o" else ("-n", option, link)

    want = "is a pipe or a device" if os.access("/dev", os.W_OK) else "no permission to write in /dev"
    refused(capfd, tmp_path, want, *prune(source, *given, "--force"))


def test_55_a_fifo_as_input_is_refused_unread(tmp_path: Path, capfd: Capture) -> None:
    """A fifo as the checkpoint is an error, and the run does not wait for its writer."""
    os.mkfifo(tmp_path / "fifo")

    refused(capfd, tmp_path, "is not a regular file", *prune(tmp_path / "fifo"))


def test_55_fifos_in_a_directory_are_not_opened(forks: Forks, tmp_path: Path) -> None:
    """The run does not wait for a fifo in a directory, for any name."""
    for name in ("a.bin", "model.safetensors.index.json", "x.safetensors", "pytorch_model.bin"):
        folder = tmp_path / f"in {name}"
        folder.mkdir()
        os.mkfifo(folder / name)

        end = measured(forks, tmp_path, *prune(folder))

        assert_refusal(end, "")


def test_56_an_existing_output_is_kept(source: Path, tmp_path: Path, capfd: Capture) -> None:
    """Without --force neither an output nor a report is replaced."""
    old, report = tmp_path / "out.safetensors", tmp_path / "out.json"
    for path in (old, report):
        path.write_bytes(b"old")

    refused(capfd, tmp_path, "out.safetensors exists", *prune(source, "-o", old))
    refused(capfd, tmp_path, "out.json exists", *prune(source, "-o", tmp_path / "new", "--report", report))


def same_name(source: Path) -> Path:
    """Return another path to the input."""
    return source.parent / "." / source.name


def symlink(source: Path) -> Path:
    """Make a symbolic link to the input."""
    (source.parent / "link").symlink_to(source.name)
    return source.parent / "link"


def hard_link(source: Path) -> Path:
    """Make a hard link to the input."""
    (source.parent / "link").hardlink_to(source)
    return source.parent / "link"


@pytest.mark.parametrize("other", [same_name, symlink, hard_link])
@pytest.mark.parametrize("option", ["-o", "--report"])
def test_57_the_input_is_never_the_output(
    other: Callable[[Path], Path], option: str, source: Path, tmp_path: Path, capfd: Capture
) -> None:
    """The input is refused as output and as report under any name, also with --force."""
    target = other(source)
    if option == "--report":
        target = target.rename(target.with_suffix(".json")) if target.is_symlink() else target
        option_values: tuple[str | Path, ...] = ("-o", tmp_path / "out", "--report", target)
    else:
        option_values = ("-o", target)

    before = tree(tmp_path)
    end = ran(capfd, *prune(source, *option_values, "--force"))

    assert_refusal(end, "")
    assert before == tree(tmp_path)


def test_58_bad_paths_are_refused(source: Path, tmp_path: Path, capfd: Capture) -> None:
    """A directory as a file, a missing parent, a name that is too long and a NUL end in one message each."""
    (tmp_path / "empty").mkdir()
    for args, want in (
        ((tmp_path / "empty",), "holds no checkpoint"),
        ((tmp_path / "missing.pth",), "there is no file or directory"),
        ((tmp_path / "in.pth" / "x",), "Not a directory"),
        ((tmp_path / ("x" * 300),), "name too long"),
        (("a\0b",), "is not a valid path"),
        (("",), "empty"),
        ((source, "-o", tmp_path / "no" / "out"), "there is no directory"),
        ((source, "-o", tmp_path / "empty"), "is a directory"),
        ((source, "-o", tmp_path / ("x" * 300)), "name too long"),
        ((source, "-o", source / "out"), "there is no directory"),
        ((source, "-o", "a\0b"), ""),
        ((source, "-o", ""), ""),
    ):
        refused(capfd, tmp_path, want, *prune(*args))


def test_58_links_in_a_circle_are_refused(source: Path, tmp_path: Path, capfd: Capture) -> None:
    """A link to itself is refused as checkpoint and as output."""
    (tmp_path / "loop").symlink_to("loop")

    refused(capfd, tmp_path, "", *prune(tmp_path / "loop"))
    refused(capfd, tmp_path, "", *prune(source, "-o", tmp_path / "loop"))
    refused(capfd, tmp_path, "", *prune(source, "-o", tmp_path / "loop", "--force"))


@unprivileged
def test_58_missing_permissions_are_reported(source: Path, tmp_path: Path, capfd: Capture) -> None:
    """Missing permissions to read or write are reported before any work."""
    closed = tmp_path / "closed"
    closed.mkdir(0o500)
    refused(capfd, tmp_path, "no permission", *prune(source, "-o", closed / "out"))
    source.chmod(0)
    end = ran(capfd, *prune(source))
    source.chmod(0o600)
    assert_refusal(end, "Permission denied")


# --- 59: full disks


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a filesystem of 8 MiB."""
    with small_disk(tmp_path / "disk", 8) as disk:
        yield disk


def test_59_a_full_filesystem_is_reported_before_any_work(disk: Path, tmp_path: Path, capfd: Capture) -> None:
    """An output that does not fit is refused, and the old one stays."""
    rows = 3 << 10
    data = bytes(rows * 1024 * 4)
    (tmp_path / "in.safetensors").write_bytes(container({"a.weight": entry((rows, 1024), (0, len(data)))}, data))
    (disk / "out").write_bytes(b"old")
    for output in (disk / "out", disk / "new"):
        before = tree(disk)

        end = ran(capfd, *prune(tmp_path / "in.safetensors", "-o", output, "--force"))

        assert_refusal(end, "No space left on device")
        assert before == tree(disk)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full here")  # noqa: PTH110
@pytest.mark.parametrize("options", [("-o", "-"), ("--json", "-n")])
def test_59_a_full_standard_output_is_reported(options: tuple[str, ...], source: Path) -> None:
    """With /dev/full as standard output the exit code is 2, with one message."""
    with open("/dev/full", "wb") as full:  # noqa: PTH123
        ended = process(*prune(source, *options), stdout=full, stderr=subprocess.PIPE, capture_output=False)

    assert ended.returncode == 2
    assert ended.stderr.startswith(b"error: ")
    assert b"No space left on device" in ended.stderr
    assert b"Traceback" not in ended.stderr


# --- 61: inputs that are cut


@pytest.mark.parametrize("restored", [False, True])
def test_61_an_input_that_is_cut_while_it_is_read_is_refused(
    restored: bool,  # noqa: FBT001 - a parameter of the test
    tmp_path: Path,
    capfd: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A file that is cut before its weights are read gives no output, even if it then gets its old size."""
    source = tmp_path / "in.safetensors"
    source.write_bytes(container({"a.weight": entry((1 << 18, 4), (0, 1 << 22))}, W * (1 << 18)))
    size, read = source.stat().st_size, os.preadv

    def cut(*args: Any) -> int:  # noqa: ANN401 - those of preadv
        os.truncate(source, size // 2)
        if restored:
            os.truncate(source, size)
        return read(*args)

    monkeypatch.setattr(os, "preadv", cut)
    end = ran(capfd, *prune(source, "-o", tmp_path / "out"))
    monkeypatch.undo()

    assert_refusal(end, "")
    assert {"in.safetensors"} == {path.name for path in tmp_path.iterdir()}


# --- 63: closed pipes


@pytest.mark.parametrize("options", [("-o", "-"), ("--json", "-n"), ("-n",)], ids=str)
def test_63_a_closed_pipe_is_quiet(options: tuple[str, ...], source: Path) -> None:
    """If the reader of standard output has closed it, the run ends without a message."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        ended = process(*prune(source, *options, "-q"), stdout=writer, stderr=subprocess.PIPE, capture_output=False)
    finally:
        os.close(writer)

    assert ended.stderr == b""
    assert ended.returncode in {0, 141}


def test_a_bad_standard_input_is_refused(tmp_path: Path) -> None:
    """A bad standard input is refused like a file, and leaves no file."""
    for data, want in (
        (b"", b"empty"),
        (b"\x1f\x8b\x08" + bytes(40), b"gzip"),
        (checkpoint()[:-7], b"truncated"),
        (with_tensor(numel=1 << 60), b"damaged"),
        (patched(checkpoint(), W, b"\xcc"), b"damaged"),
    ):
        ended = process(*prune("-", "-o", tmp_path / "out"), input=data)

        assert (ended.returncode, ended.stdout) == (2, b"")
        assert ended.stderr.startswith(b"error: ")
        assert want in ended.stderr
        assert not list(tmp_path.iterdir())
