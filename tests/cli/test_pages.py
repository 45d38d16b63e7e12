"""`--html`: each command writes its result as a page, checks the path first, and never replaces a file by itself."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import pytest
from safetensors.numpy import save_file
from support.evaluation import density_command, save_weights
from support.pages import Page

from prunecli.cli.main import main

if TYPE_CHECKING:
    from pathlib import Path

COMMANDS = {
    "inspect": "inspect CKPT --thresholds --hist fc.*",
    "diff": "diff CKPT PRUNED",
    "scan": "scan CKPT",
    "sweep": "sweep CKPT --eval EVAL --at 50% global",
    "search": "search CKPT --eval EVAL --max-drop 0.6 --tries 2 -n global",
}
EXIT = {"diff": 1}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a checkpoint and a pruned copy."""
    ckpt = save_weights(tmp_path)
    assert main(["global", str(ckpt), "--amount", "50%", "-q", "--no-report"]) == 0
    return ckpt.parent


def run(name: str, folder: Path, *more: str) -> int:
    """Run a command with `--html` and more options before the strategy."""
    places = {"CKPT": str(folder / "c.safetensors"), "PRUNED": str(folder / "c.pruned.safetensors")}
    words = [places.get(word, density_command() if word == "EVAL" else word) for word in COMMANDS[name].split()]
    return main([*words[:2], "--html", str(folder / "page.html"), *more, *words[2:]])


@pytest.mark.parametrize("name", COMMANDS)
def test_a_page_is_written(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The page parses, says how it was made, and needs no other file."""
    assert run(name, folder) == EXIT.get(name, 0)

    page = Page((folder / "page.html").read_text(encoding="utf-8"))
    assert {"src", "href"} & {key for _, attributes in page.tags for key in attributes} == set()
    assert page.count("table", class_="sortable") >= 1
    assert "prunecli" in page.text
    if name in {"inspect", "diff", "scan"}:
        assert "fc.weight" in page.names
    assert re.search(r"^page +\S*page\.html$", capsys.readouterr().out, re.MULTILINE)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_page_has_the_suffix_html(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A path with the suffix of another format is refused before the work."""
    words = ["--html", str(folder / "page.csv")]

    assert run(name, folder, *words) == 2
    error = capsys.readouterr().err
    assert "a page is written as .html, not '.csv'" in error
    assert "page.html" in error
    assert not (folder / "page.csv").exists()


@pytest.mark.parametrize("name", COMMANDS)
def test_an_existing_page_stays(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without --force it is an error before the work; with it the page is replaced."""
    (folder / "page.html").write_text("mine")

    assert run(name, folder) == 2
    assert (folder / "page.html").read_text() == "mine"
    assert "--force" in capsys.readouterr().err
    assert run(name, folder, "--force") == EXIT.get(name, 0)
    assert (folder / "page.html").read_text() != "mine"


def test_a_page_cannot_replace_an_input(folder: Path) -> None:
    """The checkpoint is not the page, whatever is forced."""
    ckpt = str(folder / "c.safetensors")
    before = (folder / "c.safetensors").read_bytes()

    assert main(["inspect", ckpt, "--html", ckpt, "--force"]) == 2
    assert main(["diff", ckpt, str(folder / "c.pruned.safetensors"), "--html", ckpt, "--force"]) == 2
    assert (folder / "c.safetensors").read_bytes() == before


def test_force_alone_is_an_error(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--force replaces a page, so it needs one."""
    assert main(["inspect", str(folder / "c.safetensors"), "--force"]) == 2
    assert "--html" in capsys.readouterr().err


def test_a_search_without_a_result_has_a_page(folder: Path) -> None:
    """The page says that nothing was found, and lists what was tried."""
    words = ["search", str(folder / "c.safetensors"), "--eval", density_command(), "--max-drop", "0", "--tries", "1"]

    assert main([*words, "--html", str(folder / "page.html"), "-n", "global"]) == 1

    page = Page((folder / "page.html").read_text(encoding="utf-8"))
    assert "Every amount that was tried drops by more than 0." in page.text
    assert "too much" in page.text


def test_the_page_of_a_scan_has_a_map_of_the_layers(tmp_path: Path) -> None:
    """A model with layers has a table with a line for each layer, in the order of their numbers."""
    weights = {f"h.{layer}.{kind}.weight": np.eye(4, dtype=np.float32) for layer in (10, 2, 1, 0) for kind in "ab"}
    save_file(weights, tmp_path / "c.safetensors")

    assert main(["scan", str(tmp_path / "c.safetensors"), "--html", str(tmp_path / "page.html")]) == 0

    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    table = page.split('<table class="heat">')[1].split("</table>")[0]
    assert re.findall(r'<th scope="row">(\d+)', table) == ["0", "1", "2", "10"]
    assert table.index("a.") < table.index("b.")
