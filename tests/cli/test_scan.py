"""`prune scan`: its table, JSON, page and errors."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import save_file

from prunecli.inspection.scan import scan
from prunecli.inspection.thresholds import SPARSITIES

if TYPE_CHECKING:
    from pathlib import Path

    from support.command_line import Prune


def write(folder: Path, weights: dict[str, torch.Tensor]) -> Path:
    """Write a safetensors checkpoint."""
    save_file(weights, folder / "model.safetensors")
    return folder / "model.safetensors"


@pytest.fixture
def ckpt(tmp_path: Path) -> Path:
    """Write three matrices, one of them with markup and control characters in its name."""
    generator = torch.Generator().manual_seed(0)
    names = ("a.weight", "b.weight", "<script>alert(1)</script>\x1b[31m\u202e.weight")
    return write(tmp_path, {name: torch.randn(20, 30, generator=generator) for name in names})


def test_a_pipe_gets_plain_text(prune: Prune, ckpt: Path) -> None:
    """The table has a line per tensor with escaped names, and a line that names the most sensitive tensor."""
    code, out, _ = prune("scan", ckpt)

    assert code == 0
    assert "\x1b" not in out
    assert "\\x1b[31m\\u202e.weight" in out
    first = scan(ckpt).curves[0].name.split(".")[0][:8]
    assert f"most sensitive   at 80% sparsity: {first}" in out


def test_top_shows_the_most_sensitive(prune: Prune, ckpt: Path) -> None:
    """--top N shows the N most sensitive tensors and counts the others."""
    _, out, _ = prune("scan", ckpt, "--top", "1")

    _, table = out.split("\nThe part of each tensor's")
    assert table.splitlines()[2].startswith(("a.weight", "b.weight", "<script>"))
    assert "2 less sensitive tensors not shown" in out


def test_json_has_every_tensor_and_number(prune: Prune, ckpt: Path) -> None:
    """The JSON form lists the same curves in the same order, names verbatim."""
    result = scan(ckpt)

    document = json.loads(prune("scan", ckpt, "--json")[1])

    assert document["schema"] == 1
    assert document["sparsities_percent"] == list(SPARSITIES)
    assert [t["name"] for t in document["tensors"]] == [c.name for c in result.curves]
    assert [tuple(t["l2_kept"]) for t in document["tensors"]] == [c.kept for c in result.curves]


class _Tags(HTMLParser):
    """Collects the tags and addresses of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Add a tag."""
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in {"src", "href", "xlink:href"}]


def test_the_page_is_self_contained_and_escapes_names(prune: Prune, ckpt: Path, tmp_path: Path) -> None:
    """The page has a curve and a row per tensor, no script, no address, and names as text."""
    page = tmp_path / "scan.html"

    code, _, _ = prune("scan", ckpt, "--html", page)

    text = page.read_text(encoding="utf-8")
    tags = _Tags()
    tags.feed(text)
    assert code == 0
    assert (tags.tags.count("polyline"), tags.tags.count("th")) == (3, 3 + 5 + len(SPARSITIES))
    assert not tags.addresses
    assert tags.tags.count("script") == 1
    assert "&lt;script&gt;alert(1)&lt;/script&gt;\\x1b[31m\\u202e.weight" in text
    assert "prefers-color-scheme: dark" in text


def test_an_existing_page_is_kept_unless_forced(prune: Prune, ckpt: Path, tmp_path: Path) -> None:
    """--html rejects an existing file unless --force is given, and never replaces the input."""
    page = tmp_path / "scan.html"
    page.write_text("mine", encoding="utf-8")
    before = ckpt.read_bytes()

    assert prune("scan", ckpt, "--html", page)[0] == 2
    assert page.read_text(encoding="utf-8") == "mine"
    assert prune("scan", ckpt, "--html", page, "--force")[0] == 0
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert prune("scan", ckpt, "--html", ckpt, "--force")[0] == 2
    assert ckpt.read_bytes() == before
