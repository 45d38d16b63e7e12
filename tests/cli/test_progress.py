"""Progress bars, progress lines, and details."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from support.command_line import HALF

from prunecli.cli import progress
from prunecli.cli.main import main
from prunecli.cli.progress import Bars, Lines

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_bars_appear_after_a_second(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of less than a second shows no bar; a longer one shows the bytes of each phase."""
    with Bars() as bar:
        bar.begin({"writing": 100})
        bar.advance("writing", 60)
    assert capfd.readouterr().err == ""

    monkeypatch.setattr(progress, "SHOW_AFTER", -1.0)
    monkeypatch.setenv("FORCE_COLOR", "1")  # Rich draws on terminals only
    monkeypatch.setenv("TERM", "xterm")
    with Bars(verbose=True) as bar:
        bar.begin({"ranking": 0, "writing a": 100, "writing b": 50})
        bar.advance("writing a", 60)
        bar.note("a [red]detail")
    printable = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capfd.readouterr().err)
    assert "60/100 bytes" in printable
    assert "0/50 bytes" in printable
    assert "ranking" not in printable
    assert "a [red]detail" in printable


def test_a_second_pass_has_its_own_bars(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The bars of a second pass replace those of the first."""
    monkeypatch.setattr(progress, "SHOW_AFTER", -1.0)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with Bars() as bar:
        bar.begin({"measuring": 100})
        bar.advance("measuring", 100)
        bar.begin({"writing": 70})
        bar.advance("writing", 30)
    printable = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capfd.readouterr().err)
    last = printable[printable.rindex("writing") :]
    assert "30/70 bytes" in last
    assert "100/100" not in last


def test_a_long_run_prints_lines_without_a_terminal(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A short run prints no line; a long one prints the percentage of each phase, the rate and the remaining time."""
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
    assert re.fullmatch(r"prune: ranking 100%, writing 0%; [\d,]+ MB/s, about [\d,]+ s left", line)


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
