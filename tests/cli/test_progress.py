"""Progress bars, progress lines, and details."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from support.command_line import HALF

from prunecli.cli import progress
from prunecli.cli.main import main
from prunecli.cli.progress import Bars, Lines

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def drawn(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    """Draw bars at once, as on a terminal, and return the function that returns what was drawn without its codes."""
    monkeypatch.setattr(progress, "SHOW_AFTER", -1.0)
    monkeypatch.setenv("FORCE_COLOR", "1")  # Rich draws on terminals only
    monkeypatch.setenv("TERM", "xterm")
    return lambda: re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capfd.readouterr().err)


def test_a_short_run_shows_no_bar(capfd: pytest.CaptureFixture[str]) -> None:
    """A run of less than a second draws nothing."""
    with Bars() as bar:
        bar.begin({"writing": 100})
        bar.advance("writing", 60)
    assert capfd.readouterr().err == ""


def test_one_bar_has_the_bytes_of_all_phases(drawn: Callable[[], str]) -> None:
    """The bar counts the bytes of all phases together and names the phase; a name is no markup."""
    with Bars(verbose=True) as bar:
        bar.begin({"ranking": 0, "writing [red]a": 100, "writing b": 50})
        bar.advance("writing [red]a", 60)
        bar.note("a [red]detail")
    shown = drawn()

    assert re.search(r"writing \[red\]a .* 40% 60/150 bytes .* left", shown)
    assert "writing b" not in shown
    assert "a [red]detail" in shown


def test_a_second_pass_continues_the_bar(drawn: Callable[[], str]) -> None:
    """The bytes of a second pass are added; at the end the last label stands for what has no bytes."""
    with Bars(last="flushing") as bar:
        bar.begin({"measuring": 100})
        bar.advance("measuring", 100)
        bar.begin({"writing": 100})
        bar.advance("writing", 50)
        bar.advance("writing", 900)
    shown = drawn()

    assert re.search(r"flushing .* 100% 200/200 bytes", shown)


def test_the_total_has_expected_phases_from_the_start() -> None:
    """A pass that is announced counts before it begins, so the part that is done never drops."""
    lines = Lines(verbose=False)
    lines.expect({"ranking": 300})
    lines.begin({"counting": 100})
    lines.advance("counting", 100)
    before = (lines.completed, lines.total)
    lines.begin({"ranking": 300})

    assert before == (lines.completed, lines.total) == (100, 400)


def test_a_long_run_prints_lines_without_a_terminal(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A short run prints no line; a long one prints the part that is done, the phase, the rate and the time left."""
    lines = Lines(verbose=False)
    lines.begin({"ranking": 100, "writing": 100, "empty": 0})
    lines.advance("ranking", 100)
    lines.note("a detail")
    assert capfd.readouterr().err == ""

    monkeypatch.setattr(progress, "FIRST_LINE", -1.0)
    lines = Lines(verbose=False)
    lines.begin({"ranking": 100, "writing": 100, "empty": 0})
    lines.advance("ranking", 100)
    lines.advance("writing", 30)
    (line,) = capfd.readouterr().err.splitlines()
    assert re.fullmatch(r"prune: 50% done, writing; [\d,]+ MB/s, about 1 s left", line)


def test_details_are_printed_with_verbose(ckpt: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """-v prints on standard error the opened file, the selected and the skipped tensors; it excludes -q."""
    arguments = ["global", str(ckpt), *HALF, "-n"]
    assert main([*arguments, "-v"]) == 0
    details = capsys.readouterr().err
    assert f"{ckpt}: safetensors" in details
    assert "selected fc1.weight (F32 8x8)" in details
    assert "skipped fc2.bias: not a weight by name" in details
    assert "done in" in details
    assert main(arguments) == 0
    assert capsys.readouterr().err == ""
    assert main([*arguments, "-q", "-v"]) == 2
    assert "--quiet and --verbose contradict each other" in capsys.readouterr().err
