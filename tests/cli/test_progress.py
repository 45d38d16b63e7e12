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


def test_the_bar_waits_before_it_shows(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Work that is over in a second shows no bar; longer work shows how far it is."""
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


def test_a_second_pass_has_bars_of_its_own(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A recipe of several layers shows how far the layer at hand is, not the one before."""
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


def test_without_a_terminal_a_line_tells_now_and_then(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run of seconds says nothing; a longer one says how far each phase is, how fast, and how long it will take."""
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


def test_details_are_told_when_asked_for(ckpt: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """-v tells on standard error what was opened, selected and skipped; with -q it is a contradiction."""
    asked = ["global", str(ckpt), *HALF, "-n"]
    assert main([*asked, "-v"]) == 0
    told = capsys.readouterr().err
    assert f"{ckpt}: safetensors" in told
    assert "selected fc1.weight (F32 8x8)" in told
    assert "skipped fc2.bias: not a weight by name" in told
    assert "done in" in told
    assert main(asked) == 0
    assert capsys.readouterr().err == ""
    assert main([*asked, "-q", "-v"]) == 2
    assert "--quiet and --verbose contradict each other" in capsys.readouterr().err
