"""Figures: each form is what its suffix says, texts are only text, and the same values give the same bytes."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest
from support import DEMO
from support.evaluation import density_command, save_weights
from support.reports import HOSTILE

from prunecli.cli.main import main
from prunecli.errors import PruneError, UsageError
from prunecli.report.plots import NAMED, Series, bars, check_figure, curves, histogram

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("matplotlib", reason="figures need matplotlib")

STARTS = {".svg": b"<?xml", ".png": b"\x89PNG", ".PDF": b"%PDF"}
TEXT = "{http://www.w3.org/2000/svg}text"
LABELS = ("weights that are zero", "metric")


def texts(svg: bytes) -> set[str]:
    """Return the texts of an SVG file."""
    return {element.text or "" for element in ET.fromstring(svg).iter(TEXT)}  # noqa: S314 - our own


@pytest.mark.parametrize("suffix", STARTS)
def test_a_figure_has_the_form_of_its_suffix(suffix: str) -> None:
    """The same values give the same bytes: there is no date in them."""
    once, again = (bars(["a.weight"], [0.1], [0.5], "title", suffix) for _ in range(2))

    assert once.startswith(STARTS[suffix])
    assert once == again


def test_bars_have_names_and_many_become_lines() -> None:
    """Names that nothing could read are not written."""
    few, many = (
        bars([f"w{n}" for n in range(count)], [0] * count, [0.5] * count, "", ".svg") for count in (3, NAMED + 1)
    )

    assert {"w0", "w1", "w2", "weights that are zero"} <= texts(few)
    assert "w1" not in texts(many)
    assert "after" in texts(many)
    assert "before" not in texts(many)


def test_curves_have_a_legend_and_a_level() -> None:
    """Only curves with a name are in the legend, also one that begins with an underscore."""
    svg = curves([Series("", [0, 1], [1, 0]), Series("_b", [0, 1], [1, 0.5])], "", LABELS, ".svg", [(0.7, "unpruned")])

    assert {"\u200b_b", "unpruned", *LABELS} <= texts(svg)


def test_values_that_are_not_finite_are_gaps() -> None:
    """A metric may be NaN or infinite."""
    assert curves([Series("a", [0, 0.5, 1], [1, float("nan"), float("-inf")])], "", LABELS, ".svg")


def test_a_histogram_names_its_axes() -> None:
    """Its axes are magnitudes and numbers of weights."""
    assert {"magnitude", "weights"} <= texts(histogram([0, 0.1], [3, 4], "", ".svg"))


@pytest.mark.parametrize("name", [*HOSTILE, "$x$", "$", "_a", "a\\$b", r"$\frac{1}{2}$"])
def test_texts_are_only_text(name: str) -> None:
    """No name is a formula, markup, or a character without a glyph."""
    svg = bars([name, "b"], [0, 0], [0.5, 0.5], name, ".svg")

    assert b"<script" not in svg
    assert "b" in texts(svg)


@pytest.mark.parametrize("path", ["f.jpg", "f", "f.html"])
def test_another_suffix_is_an_error(path: str) -> None:
    """The message lists the suffixes."""
    with pytest.raises(UsageError, match=r"a figure is written as \.svg, \.png or \.pdf"):
        check_figure(path)


def test_without_matplotlib_a_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hint installs it."""
    monkeypatch.setattr("prunecli.report.plots.find_spec", lambda _: None)

    with pytest.raises(PruneError, match="a figure needs matplotlib") as error:
        check_figure("f.pdf")

    assert error.value.hint == "pip install 'prunecli[plot]'"


FIGURES = {
    "prune": "global CKPT --amount 50% -n --report FIGURE",
    "inspect": "inspect CKPT --hist *weight --figure FIGURE",
    "scan": "scan CKPT --figure FIGURE",
    "sweep": "sweep CKPT --eval EVAL --at 50% --figure FIGURE global",
    "search": "search CKPT --eval EVAL --max-drop 0.6 --tries 2 -n --figure FIGURE global",
}


@pytest.mark.parametrize("name", FIGURES)
def test_commands_draw_figures(name: str, tmp_path: Path) -> None:
    """An existing figure stays, and the run ends before its work."""
    ckpt = save_weights(tmp_path)
    figure = ckpt.with_name("figure.svg")
    places = {"CKPT": str(ckpt), "FIGURE": str(figure), "EVAL": density_command()}
    words = [places.get(word, word) for word in FIGURES[name].split()]

    assert main(words) == 0
    assert texts(figure.read_bytes())
    if name != "prune":
        assert main(words) == 2


def test_a_figure_needs_a_histogram(capsys: pytest.CaptureFixture[str]) -> None:
    """`inspect --figure` draws what --hist counts."""
    assert main(["inspect", str(DEMO / "digits_conv.safetensors"), "--figure", "f.pdf"]) == 2
    assert "--hist" in capsys.readouterr().err


def test_runs_without_figures_import_no_matplotlib() -> None:
    """It is imported when a figure is drawn, in a process of its own: this one has it."""
    import subprocess

    code = (
        "import sys; from prunecli.cli.main import main; "
        f"main(['scan', {str(DEMO / 'digits_conv.safetensors')!r}]); sys.exit('matplotlib' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0
