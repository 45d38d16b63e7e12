"""The text of `inspect`: lines for tensors, totals and remarks, on a pipe and on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file
from support.reports import written
from support.small import write

from prunecli.inspection.inspect import Entry, inspect
from prunecli.inspection.inspect_text import write_inspection
from prunecli.text.name_ranges import FOLDED_FROM
from prunecli.text.tables import LARGEST, View

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from support.weights import Weights

EVIL = "evil\x1b[31m\n\u202e[bold]\x7f"


def text_of(path: Path, view: View | None = None, *, width: int | None = None, **options: Any) -> str:  # noqa: ANN401
    """Return the text of an inspection, for a pipe or for a terminal of `width` columns."""
    return written(write_inspection, inspect(path, **options), view or View(), width=width)


def test_the_total_counts_what_was_read(tmp_path: Path) -> None:
    """If some weights cannot be read, the total says how many were; without reading there is no total of zeros."""
    torch.save({"expanded": torch.ones(3, 1).expand(3, 10**9), "w": torch.ones(2, 2)}, tmp_path / "odd.pth")

    assert "0 of 4 that were read are zero" in text_of(tmp_path / "odd.pth")
    assert "zero (" not in text_of(write(tmp_path, {"a.weight": torch.ones(5, 5)}), read=False)


def test_the_work_grows_with_the_number_of_tensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The text of 300 tensors looks at each of them a few times, not 300 times."""
    count = 0
    found = inspect(write(tmp_path, {f"{i}.weight": torch.ones(1, 1) for i in range(300)}))

    def outside(_: Entry) -> bool:
        nonlocal count
        count += 1
        return False

    monkeypatch.setattr(Entry, "outside", property(outside))
    written(write_inspection, found, View())

    assert 0 < count < 300 * 50


# --- the number of lines


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """Write 50 layers of two tensors, and one with another shape."""
    layers = {f"layers.{i}.{part}.weight": torch.ones(4, 5) for i in range(50) for part in ("up", "down")}
    return write(tmp_path, layers | {"layers.0.other.weight": torch.zeros(7, 7)})


def test_many_tensors_are_grouped(large: Path) -> None:
    """If there are many tensors, numbered ones with equal shapes share a line, unless all are wanted."""
    text, every = text_of(large), text_of(large, View(every=True))

    assert len(inspect(large).entries) > FOLDED_FROM
    assert "layers.{0..49}.up.weight         50  F32    4x5    matrix out-in       1,000     4.0 kB    0.0%" in text
    assert "layers.0.other.weight             1  F32    7x7    matrix out-in          49  196 bytes  100.0%" in text
    assert all(f"layers.{i}.up.weight" in every for i in range(50))
    assert "{0..49}" not in every


def test_top_lists_the_largest(large: Path) -> None:
    """With a limit of 2, the two largest tensors have a line each, and a line counts the others."""
    lines = text_of(large, View(2)).split("\n\n")[1].splitlines()

    assert [line.split()[0] for line in lines[1:3]] == ["layers.0.other.weight", "layers.0.down.weight"]
    assert lines[3] == "99 smaller tensors not shown"


# --- layouts


def layered(folder: Path, layers: int) -> Path:
    """Write layers of an in-out matrix with a bias, a square one, a kernel, and an out-in matrix in the first layer."""
    weights: Weights = {}
    for layer in range(layers):
        weights |= {f"h.{layer}.c_fc.weight": torch.ones(4, 8), f"h.{layer}.c_fc.bias": torch.ones(8)}
        weights |= {f"h.{layer}.c_proj.weight": torch.ones(4, 4), f"h.{layer}.conv.weight": torch.ones(3, 3, 3)}
    return write(folder, weights | {"fc.weight": torch.ones(4, 8), "fc.bias": torch.ones(4)})


def test_the_table_has_the_role_and_the_layout(tmp_path: Path) -> None:
    """Each line has the role and the order of outputs and inputs, and a summary line counts the evidence."""
    lines = [line.split() for line in text_of(layered(tmp_path, 2)).splitlines()]

    cells = {line[0]: line[3:5] for line in lines if line and line[0].endswith(("weight", "bias"))}
    assert (cells["h.1.c_fc.weight"], cells["h.1.c_proj.weight"]) == (["matrix", "in-out"], ["matrix", "in-out"])
    assert (cells["fc.weight"], cells["h.0.conv.weight"]) == (["matrix", "out-in"], ["kernel", "out-in"])
    assert cells["fc.bias"][0] == "vector"
    (line,) = (line for line in text_of(tmp_path / "model.safetensors").splitlines() if line.startswith("layouts"))
    for kind in ("bias has the length of dim 1 (2)", "as its siblings (2)", "bias has the length of dim 0 (1)"):
        assert kind in line
    assert line.endswith("assumed: outputs first (2)") or "assumed: outputs first (2)," in line


def test_one_tensor_has_its_evidence_in_the_summary(tmp_path: Path) -> None:
    """If there is one prunable tensor, the summary has its layout and the evidence; none has no such line."""
    path = layered(tmp_path, 1)

    assert "\nlayout       matrix out-in: bias has the length of dim 0\n" in text_of(path, include=["fc.weight"])
    assert "\nlayout" not in text_of(path, include=["fc.bias"])


@pytest.mark.parametrize("layers", [2, 30])
def test_the_evidence_is_listed_on_request(tmp_path: Path, layers: int) -> None:
    """On request a table has the evidence of each line; vectors have none. Names in it are escaped."""
    path = write(tmp_path, load_file(layered(tmp_path, layers)) | {f"{EVIL}.weight": torch.ones(2, 3)})
    inspection = inspect(path, layout={"h.1.conv.weight": "in-out"})

    text = written(write_inspection, inspection, View(), evidence=True)

    _, table = text.split("Evidence for the layouts\n")
    rows = table.split("\n\n")[0].splitlines()[1:]
    assert not any("bias " in row.split("  ")[0] for row in rows)
    assert "h.1.conv.weight" in table
    assert any(row.startswith("h.1.conv.weight") and row.endswith("in-out  stated by the user") for row in rows)
    assert any(row.endswith("as its siblings h.*.c_fc") for row in rows)
    assert "\x1b" not in text
    assert "Evidence" not in written(write_inspection, inspection, View())


def test_entries_of_one_line_have_one_layout(tmp_path: Path) -> None:
    """Numbered tensors of one shape with another layout have a line of their own."""
    text = written(write_inspection, inspect(layered(tmp_path, 30), layout={"h.7.conv.weight": "in-out"}), View())

    assert "h.{0..6,8..29}.conv.weight" in text
    assert "h.7.conv.weight" in text


def test_the_layout_is_visible_on_a_terminal_of_80_columns(tmp_path: Path) -> None:
    """Of folded lines with long names, the number of parameters is left out before the layout."""
    weights = {f"model.layers.{i}.mlp.experts.w1.weight": torch.ones(4, 16, 16) for i in range(50)}

    _, table = text_of(write(tmp_path, weights), width=80).split("\n\n")
    head, *_ = table.splitlines()

    assert head.split()[:4] == ["tensor", "tensors", "shape", "layout"]


@pytest.mark.parametrize("width", [30, 80, 200])
def test_a_terminal_gets_a_table_that_fits(tmp_path: Path, width: int) -> None:
    """A terminal shows the largest tensors, no line of the table is wider than it, and names are escaped."""
    weights = {f"{chr(97 + i % 26)}{i}x.weight": torch.ones(2, i + 2) for i in range(100)}

    text = text_of(write(tmp_path, weights | {EVIL: torch.ones(60, 60)}), width=width)

    table = text.split("\n\n")[1].splitlines()
    assert max(map(len, table[:-1])) <= width
    assert sum(".weight" in line for line in table) == LARGEST - 1 or width < 80
    assert f"{101 - LARGEST} smaller tensors not shown" in text
    assert "\x1b" not in text


def test_control_characters_in_names_are_escaped(tmp_path: Path) -> None:
    """No control character of a name reaches the output."""
    path = write(tmp_path, {EVIL: torch.ones(2, 2)})

    text = text_of(path, hist="*", thresholds=True, include=["*"])

    assert "evil\\x1b[31m\\n\\u202e[bold]\\x7f" in text
    assert all(character.isprintable() or character == "\n" for character in text)


# --- the histogram


def test_a_histogram_names_thresholds(tmp_path: Path) -> None:
    """The lines below the bars name a threshold for 50, 80 and 90 %, and the number of weights that it zeroes."""
    path = write(tmp_path, {"a.weight": torch.arange(1, 101, dtype=torch.float32).reshape(10, 10)})

    text = text_of(path, hist="a.weight")

    for percent in (50, 80, 90):
        assert f"threshold {percent} zeroes {percent}.0% of them, {percent} weights" in text
    assert text.isascii()


def test_a_histogram_repeats_no_threshold(tmp_path: Path) -> None:
    """A tensor of equal weights has one line for its threshold, and one weight is in the singular."""
    path = write(tmp_path, {"a.weight": torch.full((4, 4), 0.5), "b": torch.ones(1)})

    assert text_of(path, hist="a.weight").count("\nthreshold ") == 1
    assert "Magnitudes of b: 1 weight, 0 zero" in text_of(path, hist="b")
