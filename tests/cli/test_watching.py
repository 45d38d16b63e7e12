"""What a search and a sweep show while they evaluate."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from support.evaluation import density_command, python_command, save_weights

from prunecli.cli import progress, watching
from prunecli.cli.watching import Watching

if TYPE_CHECKING:
    from pathlib import Path

    from support.command_line import Prune


@pytest.fixture
def ckpt(tmp_path: Path) -> Path:
    """Write 1,000 different weights into a folder of their own."""
    return save_weights(tmp_path)


def test_the_output_of_the_evaluation_is_shown_on_request(prune: Prune, ckpt: Path) -> None:
    """-v prints each line of the evaluation, before each what is evaluated and how many may follow."""
    command = python_command("import sys; print('loading', 7); print('warm\x1b[2J', file=sys.stderr); print(0.5)")

    ran = prune("sweep", ckpt, "l1", "--at", "0.5,0.8", "--eval", command, "-v")
    quiet = prune("sweep", ckpt, "l1", "--at", "0.5,0.8", "--eval", command, "--fresh")

    lines = re.sub(r"about [\d.]+ s left", "LEFT", ran.err).splitlines()
    assert lines[0] == "prune: evaluating the unpruned checkpoint, at most 2 more"
    assert sorted(lines[1:4]) == ["  | 0.5", "  | loading 7", "  | warm\\x1b[2J"]
    assert lines[4] == "prune: evaluating amount 0.5, at most 1 more, LEFT"
    assert lines[8] == "prune: evaluating amount 0.8, the last one, LEFT"
    assert (len(lines), quiet.err) == (12, "")


def test_a_search_says_how_many_tries_may_follow(prune: Prune, ckpt: Path) -> None:
    """The number is the most that the bisection needs, or that --tries allows; each try makes it smaller."""
    search = ("search", ckpt, "global", "--eval", density_command(), "--max-drop", "0.25", "--tolerance", "0.1", "-n")

    ran = prune(*search, "-v")
    few = prune(*search, "-v", "--tries", "2", "--fresh")

    assert [re.findall(r"at most \d|the last", line)[0] for line in ran.err.splitlines() if "evaluating" in line] == [
        "at most 4",
        "at most 3",
        "at most 2",
        "at most 1",
    ]
    assert "unpruned checkpoint, at most 2 more" in few.err


def test_a_failing_evaluation_prints_its_output_once(prune: Prune, ckpt: Path) -> None:
    """With -v the output is there before the error, and is not repeated."""
    command = python_command("print('broken'); raise SystemExit(3)")

    ran = prune("sweep", ckpt, "l1", "--eval", command, "-v")

    assert ran.code == 2
    assert ran.err.count("  | broken\n") == 1


def test_a_terminal_shows_a_clock(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """While an evaluation runs, a terminal shows what it is; lines of its output appear above."""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    watch = Watching(wanted=True, verbose=True)
    watch.upcoming(0.5, 3)
    with watch.evaluating():
        watch.line("epoch [red]1")
    shown = capfd.readouterr().err

    assert "evaluating amount 0.5, at most 3 more" in shown
    assert "  | epoch [red]1" in shown
    assert shown.endswith("\x1b[2K")  # the line is erased


def test_a_log_gets_a_line_if_it_takes_long(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a terminal nothing is shown for ten seconds, and then a line for each evaluation."""
    watch = Watching(wanted=True, verbose=False)
    watch.upcoming(None, 1)
    with watch.evaluating():
        pass
    assert capfd.readouterr().err == ""

    monkeypatch.setattr(progress, "FIRST_LINE", -1.0)
    watch.upcoming(0.5, 0)
    with watch.evaluating():
        pass
    assert re.fullmatch(r"prune: evaluating amount 0.5, the last one, about 1 s left\n", capfd.readouterr().err)
    assert watching.progress is progress
