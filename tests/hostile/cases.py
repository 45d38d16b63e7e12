"""Checks of the command line's answer to bad files.

A bad file must end in exit code 2, one error message, at most one hint, and no changed file. Any other file must end in
exit code 0 and exactly the expected bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from support.handmade import P, W
from support.runs import Forks, Run

from prunecli.cli.main import main

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest

PRUNE = ("threshold", "--thr", "0.5")


def refusal(number: int, what: str, data: bytes, want: str, name: str = "in.pth") -> Case:
    """Return a case that must be refused with `want` in the message."""
    return Case(number, what, lambda: data, want, name)


def accepted(number: int, what: str, make: Callable[[bytes], bytes], name: str = "in.pth") -> Case:
    """Return a case in which the four weights and their checksums change, and no other byte."""
    return Case(number, what, lambda: make(W), lambda: make(P), name)


def prune(source: str | Path, *options: str | Path) -> list[str | Path]:
    """Return a command line that prunes `source`."""
    return [PRUNE[0], source, *PRUNE[1:], *options]


@dataclass(frozen=True, slots=True)
class Case:
    """A file: its number in the list of bad inputs, a description, its bytes, and the expected result.

    `want` is a part of the error message, or the bytes of the output.
    """

    number: int
    what: str
    make: Callable[[], bytes]
    want: str | Callable[[], bytes]
    name: str = "in.pth"
    args: tuple[str, ...] = PRUNE

    def __str__(self) -> str:
        """Name the test."""
        return f"{self.number} {self.what}"


def ran(capfd: pytest.CaptureFixture[str], *args: str | Path) -> Run:
    """Run the command line in this process."""
    capfd.readouterr()
    code = main([str(arg) for arg in args])
    return Run(code, *capfd.readouterr())


def tree(folder: Path) -> dict[str, object]:
    """Return the entries below `folder`: the bytes of files, the targets of links, the modes of all others."""
    entries: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            entries[str(path)] = ("link", str(path.readlink()))
        else:
            entries[str(path)] = path.read_bytes() if path.is_file() else path.stat().st_mode
    return entries


def assert_refusal(end: Run, want: str) -> None:
    """Check that a run ended in one message that contains `want`, at most one hint, and no standard output."""
    lines = end.err.splitlines()
    assert (end.code, end.out) == (2, ""), end
    assert lines[0].startswith("error: ")
    assert want in lines[0]
    assert 1 <= len(lines) <= 2
    assert all(line.startswith("hint: ") for line in lines[1:])
    assert all(line.isprintable() for line in lines)
    assert len(lines[0]) < 2000


def refused(capfd: pytest.CaptureFixture[str], folder: Path, want: str, *args: str | Path) -> None:
    """Run the command line; check that it ends in an error, and that no file below `folder` has changed."""
    before = tree(folder)

    end = ran(capfd, *args)

    assert_refusal(end, want)
    assert before == tree(folder)


def try_case(capfd: pytest.CaptureFixture[str], folder: Path, case: Case) -> None:
    """Write the case into `folder`, run the command line on it, and check the result."""
    source, output, report = folder / case.name, folder / "out", folder / "report.json"
    data = case.make()
    source.write_bytes(data)
    args: tuple[str | Path, ...] = (case.args[0], source, *case.args[1:], "-o", output, "--report", report)
    if isinstance(case.want, str):
        refused(capfd, folder, case.want, *args)
        return
    end = ran(capfd, *args)
    assert end.code == 0, end.err
    assert output.read_bytes() == case.want()
    assert source.read_bytes() == data
    assert {"out", "report.json", case.name} == {path.name for path in folder.iterdir()}


def measured(forks: Forks, folder: Path, *args: str | Path, seconds: int = 20, space: int = 2048) -> Run:
    """Run the command line with `seconds` of CPU time and `space` MiB of address space; return its end."""
    return forks.run(args, folder=folder, limits={"RLIMIT_AS": space << 20, "RLIMIT_CPU": seconds})
