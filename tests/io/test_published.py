"""The record of published files, and what an interrupted command says about them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from prunecli.cli.exit import INTERRUPTED, exit_codes
from prunecli.io.publish import publish_text
from prunecli.io.published import record, recording

if TYPE_CHECKING:
    from pathlib import Path


def test_published_files_are_recorded(tmp_path: Path) -> None:
    """A block gets the paths that it published, and not those of an inner or a later block."""
    with recording() as outer:
        publish_text(tmp_path / "a", "a")
        with recording() as inner:
            publish_text(tmp_path / "b", "b")
    publish_text(tmp_path / "c", "c")

    assert (outer, inner) == ([tmp_path / "a"], [tmp_path / "b"])


def test_an_interruption_names_what_was_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Files that are there are named, a removed one is not; without any, nothing was written."""
    import typer

    def run(*names: str) -> None:
        with exit_codes():
            for name in names:
                publish_text(tmp_path / name, "x")
            record(tmp_path / "gone")
            raise KeyboardInterrupt

    for names in ((), ("a",), ("b", "c")):
        with pytest.raises(typer.Exit) as ended:
            run(*names)
        assert ended.value.exit_code == INTERRUPTED

    assert capsys.readouterr().err.splitlines() == [
        "interrupted: nothing was written",
        f"interrupted: {tmp_path / 'a'} written",
        f"interrupted: {tmp_path / 'b'} and {tmp_path / 'c'} written",
    ]
