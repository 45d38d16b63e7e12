"""Signals: a stopped run leaves the old output or the complete new one, and no other file.

PRUNECLI_FAULT_ROUNDS=100 sends a hundred signals of each kind at random moments of each kind of run, instead of two.
"""

from __future__ import annotations

import os
import random
import signal
from typing import TYPE_CHECKING

import pytest
from support.covering import in_turn
from support.runs import (
    KINDS,
    SIGNALS,
    Forks,
    command,
    contents,
    killed_process,
    moments,
    names_in,
    prepare,
)

from prunecli.cli.main import main

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the signals are those of POSIX")

OLD = b"an older output"
ROUNDS = int(os.environ.get("PRUNECLI_FAULT_ROUNDS", "2"))
MOMENTS = [("write", n) for n in [1, *sorted(random.Random(7).sample(range(2, 16), 9))]]
MOMENTS += [("posix_fallocate", 1), ("fsync", 1)]
"""Twelve moments between opening the output and publishing it."""

CALLS = ("pwrite", "copy_file_range", "posix_fallocate", "fsync", "fchmod", "link", "replace", "mkdir", "open")

polite = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
every_signal = pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)


@every_signal
def test_a_signal_ends_the_program(big: Path, out: Path, number: signal.Signals) -> None:
    """A process of its own, stopped in the middle, ends with the code of the signal and keeps the old output."""
    out.write_bytes(OLD)

    run = killed_process(number, "write", 5, command(big, out, "--force"))

    assert (SIGNALS[number], b"") == (run.returncode, run.stdout)
    assert run.stderr == (b"interrupted: nothing was written\n" if number == signal.SIGINT else b"")
    assert out.read_bytes() == OLD
    assert names_in(out.parent) == {out.name}


@polite
@pytest.mark.parametrize("moment", MOMENTS, ids=str)
def test_an_interrupted_run_keeps_the_old_output(
    forks: Forks, big: Path, out: Path, number: signal.Signals, moment: tuple[str, int]
) -> None:
    """SIGINT and SIGTERM, at any moment before publishing, leave the old output and no other file."""
    out.write_bytes(OLD)

    run = forks.run(command(big, out, "--force"), number, before=moment)

    assert SIGNALS[number] == run.code
    assert (run.out, run.err) == ("", "interrupted: nothing was written\n" if number == signal.SIGINT else "")
    assert out.read_bytes() == OLD
    assert names_in(out.parent) == {out.name}


@pytest.mark.skipif(not hasattr(os, "O_TMPFILE"), reason="needs temporary files without a name")
@pytest.mark.parametrize("moment", MOMENTS, ids=str)
def test_a_killed_run_leaves_no_file(forks: Forks, big: Path, out: Path, moment: tuple[str, int]) -> None:
    """SIGKILL, at any moment before publishing, leaves no file at all."""
    run = forks.run(command(big, out), signal.SIGKILL, before=moment)

    assert SIGNALS[signal.SIGKILL] == run.code
    assert names_in(out.parent) == set()


@every_signal
def test_a_signal_after_publishing_leaves_the_complete_output(
    forks: Forks, big: Path, out: Path, expected: bytes, number: signal.Signals
) -> None:
    """A run that is stopped between the output and its report leaves the complete output."""
    run = forks.run(command(big, out), number, before=("fsync", 3))  # 1: the file, 2: its directory, 3: the report

    assert SIGNALS[number] == run.code
    assert out.read_bytes() == expected
    assert names_in(out.parent) == {out.name}


@every_signal
def test_in_place_keeps_the_input_when_interrupted(forks: Forks, small: Path, number: signal.Signals) -> None:
    """A run that replaces its input and is stopped before publishing leaves the input unchanged."""
    before = small.read_bytes()

    run = forks.run(["threshold", str(small), "--thr", "0.5", "--in-place", "-q"], number, before=("fsync", 1))

    assert SIGNALS[number] == run.code
    assert small.read_bytes() == before
    assert names_in(small.parent) == {small.name}


@polite
@pytest.mark.parametrize("moment", [("write", 1), ("write", 4), ("fsync", 1), ("fsync", 3)], ids=str)
def test_an_interrupted_directory_is_absent(
    forks: Forks, small: Path, out: Path, number: signal.Signals, moment: tuple[str, int]
) -> None:
    """An interrupted run removes the directory of shards that it began."""
    shards = [small.with_name(f"model-{number:05}-of-00002.safetensors") for number in (1, 2)]
    shards[1].write_bytes(small.read_bytes().replace(b"fc.w", b"gc.w"))
    small.rename(shards[0])

    folder = out.with_name("pruned")  # a name without the suffix of a file

    run = forks.run(["threshold", str(small.parent), "--thr", "0.5", "-o", str(folder), "-q"], number, before=moment)

    assert SIGNALS[number] == run.code
    assert names_in(out.parent) == set()


def test_a_hangup_is_ignored_under_nohup(forks: Forks, small: Path, out: Path) -> None:
    """Where SIGHUP is ignored, as nohup does, the run continues to the end."""
    run = forks.run(command(small, out), signal.SIGHUP, before=("fsync", 1), ignored=signal.SIGHUP)

    assert run.code == 0
    assert out.exists()


@every_signal
@pytest.mark.parametrize("kind", KINDS)
def test_a_signal_at_any_moment_leaves_old_or_new(
    forks: Forks, inputs: Path, tmp_path: Path, kind: str, number: signal.Signals
) -> None:
    """Files and directories, new, replaced and in place: the old state or the new one, and no other file.

    After SIGKILL the next run removes temporary files.
    """
    folder = tmp_path / "run"
    target, arguments = prepare(kind, inputs, folder)
    before = contents(target)
    assert forks.run(arguments).code == 0
    seconds = forks.run(prepare(kind, inputs, folder)[1]).seconds
    after = contents(target)
    assert after != before

    for moment in moments((kind, number), ROUNDS, 1.1 * seconds):
        target, arguments = prepare(kind, inputs, folder)
        code = forks.run(arguments, number, seconds=moment).code

        assert code in {0, SIGNALS[number], -number}  # -number: before or after main() handles the signal
        assert contents(target) in (before, after)
        if number == signal.SIGKILL:
            assert forks.run(arguments).code == 0
            assert contents(target) == after
        assert names_in(folder) <= {"out", "report.json"}


@pytest.mark.parametrize(("kind", "call"), in_turn(KINDS, CALLS))
def test_a_kill_before_each_call_leaves_old_or_new(
    forks: Forks, inputs: Path, tmp_path: Path, kind: str, call: str
) -> None:
    """SIGKILL before any one call of a function leaves the old or the new state; the next run cleans up."""
    folder = tmp_path / "run"
    target, arguments = prepare(kind, inputs, folder)
    before = contents(target)
    assert forks.run(arguments).code == 0
    after, number, code = contents(target), 0, -signal.SIGKILL

    while code == -signal.SIGKILL:
        number += 1
        _, arguments = prepare(kind, inputs, folder)
        code = forks.run(arguments, signal.SIGKILL, before=(call, number)).code
        assert contents(target) in (before, after), number
        assert forks.run(prepare_again(kind, inputs, folder)).code == 0
        assert (contents(target), names_in(folder)) == (after, {"out", "report.json"}), number

    assert code == 0


def prepare_again(kind: str, inputs: Path, folder: Path) -> list[str]:
    """Return the command line for the state that a killed run left: it may replace a new output."""
    arguments = prepare(kind, inputs, folder.with_name("unused"))[1]
    return [word.replace("/unused/", "/run/") for word in arguments]


@pytest.mark.parametrize("option", ["", "--force", "--in-place"])
@pytest.mark.parametrize("moment", [("write", 3), ("fsync", 1), ("fsync", 3), ("fsync", 4), ("rmdir", 1)], ids=str)
def test_a_killed_directory_is_complete_or_absent(
    forks: Forks, inputs: Path, tmp_path: Path, option: str, moment: tuple[str, int]
) -> None:
    """SIGKILL leaves the old directory, the new one or none, and the next run removes the temporary one."""
    target, arguments = prepare(f"directory {option}".strip(), inputs, tmp_path / "run")
    before = contents(target)

    forks.run(arguments, signal.SIGKILL, before=moment)

    killed = contents(target)
    assert len(names_in(target.parent) - {"out", "report.json"}) <= 1
    assert forks.run(arguments).code == 0
    assert names_in(target.parent) == {"out", "report.json"}
    assert killed in (before, contents(target))


def test_a_kill_between_link_and_rename_is_cleaned_up(forks: Forks, big: Path, out: Path, expected: bytes) -> None:
    """With --force a file has a temporary name for an instant; after a kill there, the next run removes it."""
    out.write_bytes(OLD)

    run = forks.run(command(big, out, "--force"), signal.SIGKILL, before=("replace", 1))

    assert SIGNALS[signal.SIGKILL] == run.code
    assert out.read_bytes() == OLD
    assert len(names_in(out.parent)) == 2
    assert main(command(big, out, "--force")) == 0
    assert out.read_bytes() == expected
    assert names_in(out.parent) == {out.name, f"{out.name}.report.json"}
