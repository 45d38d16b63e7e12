"""`prune scan`: the norm each tensor keeps, against torch; which breaks first; the page, and what bad input gets."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from support.reports import written
from torch.nn.utils import prune as torch_prune
from typer import Typer
from typer.testing import CliRunner

from prunecli.cli.scan import scan as command
from prunecli.dtypes import FLOATS
from prunecli.errors import OutputError, SelectionError, UsageError
from prunecli.formats.open import open_checkpoint
from prunecli.inspection.scan import ENOUGH, LADDER, Scan, bends_at, kept, scan
from prunecli.inspection.scan_html import to_html
from prunecli.inspection.scan_text import to_json, write_scan
from prunecli.kernels.histograms import HistogramBuilder
from prunecli.kernels.numpy_ops import NumpyOps
from prunecli.selection.select import Selector
from prunecli.text.tables import View

if TYPE_CHECKING:
    from typing import Any

    from prunecli.kernels.histograms import Histogram

SHARED = Path(__file__).parents[3] / "shared" / "checkpoints"
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2)


def write(folder: Path, weights: dict[str, torch.Tensor]) -> Path:
    """Write a checkpoint."""
    path = folder / "model.safetensors"
    save_file(weights, path)
    return path


def look(path: Path) -> Scan:
    """Scan a checkpoint with the default selection."""
    return scan(open_checkpoint(path))


def run(*args: str) -> Any:  # noqa: ANN401 - what Typer's runner returns, whose class it does not export
    """Run `prune scan` with `args`; errors come out as they are."""
    app = Typer()
    app.command()(command)
    return CliRunner().invoke(app, list(args), catch_exceptions=True)


def count(weights: np.ndarray[Any, Any]) -> Histogram:
    """Return the histogram of the magnitudes of float16 weights."""
    builder = HistogramBuilder(FLOATS["F16"])
    builder.add(NumpyOps().magnitudes(weights.view(np.int16), FLOATS["F16"]))
    return builder.histogram()


def torch_keeps(weights: torch.Tensor, percent: int) -> float:
    """Return the part of the sum of squares that torch's l1_unstructured leaves, in float64."""
    wide = weights.double()
    pruned = torch_prune.L1Unstructured(amount=percent / 100).prune(wide)  # type: ignore[no-untyped-call]
    return float(pruned.square().sum() / wide.square().sum())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_what_is_kept_is_what_torch_keeps(tmp_path: Path, dtype: torch.dtype) -> None:
    """For each sparsity, the norm kept is that of the tensor that torch prunes by L1."""
    weights = torch.randn(200, 37, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)
    expected = [torch_keeps(weights, percent) for percent in LADDER]

    (curve,) = look(write(tmp_path, {"a.weight": weights})).curves

    assert curve.kept == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("name", ["burn-mnist.safetensors", "silero_vad_16k.safetensors"])
def test_real_layers_keep_what_torch_keeps(name: str) -> None:
    """The same on trained weights, tensor by tensor."""
    if not (SHARED / name).exists():
        pytest.skip(f"{name} is not here: the shared checkpoints are absent")
    weights = load_file(SHARED / name)

    found = look(SHARED / name)

    assert found.curves
    for curve in found.curves:
        assert curve.kept == pytest.approx([torch_keeps(weights[curve.name], p) for p in LADDER], abs=2e-4)


@given(values=st.lists(st.floats(-4, 4, width=16), min_size=1, max_size=300), data=st.data())
def test_narrow_types_are_exact(values: list[float], data: st.DataObject) -> None:
    """Where every pattern has its bin, what is kept is the sum over the sorted weights, ties included."""
    weights = np.array(values, np.float16)
    found = count(weights)
    k = data.draw(st.integers(0, len(values)))
    squares = np.sort(np.square(weights.astype(np.float64)))
    if not squares.sum():
        return

    assert kept(found, k) == pytest.approx(squares[k:].sum() / squares.sum(), abs=1e-12)


@given(values=st.lists(st.floats(2**-9, 4, width=16), min_size=1, max_size=300))
def test_the_bend_is_where_enough_is_left(values: list[float]) -> None:
    """One weight more than the bend takes too much, and the bend itself does not."""
    weights = np.array(values, np.float16)
    found = count(weights)

    bend = bends_at(found)

    assert kept(found, bend) >= ENOUGH - 1e-9
    assert bend == len(values) or kept(found, bend + 1) <= ENOUGH + 1e-9


@settings(deadline=None)
@given(seed=st.integers(0, 50))
def test_more_pruned_is_less_kept(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    """The norm kept falls along the ladder, from at most all to at least nothing."""
    weights = torch.randn(40, 9, generator=torch.Generator().manual_seed(seed))

    (curve,) = look(write(tmp_path_factory.mktemp("falls"), {"a.weight": weights})).curves

    assert curve.kept is not None
    assert list(curve.kept) == sorted(curve.kept, reverse=True)
    assert 0 <= curve.kept[-1] <= curve.kept[0] <= 1


def test_what_breaks_first_is_on_top(tmp_path: Path) -> None:
    """Equal weights break before normal ones, and those before few large ones; what is all zero comes last."""
    generator = torch.Generator().manual_seed(0)
    few = torch.full((50, 50), 1e-3)
    few[0] = 1.0
    weights = {
        "a.weight": torch.zeros(5, 5),
        "b.weight": few,
        "c.weight": torch.randn(50, 50, generator=generator),
        "d.weight": torch.ones(50, 50),
    }

    found = look(write(tmp_path, weights))

    assert [curve.name for curve in found.curves] == ["d.weight", "c.weight", "b.weight", "a.weight"]
    assert found.curves[0].kept == pytest.approx([1 - p / 100 for p in LADDER])
    assert found.curves[-1].kept is None
    assert found.curves[-1].zeros == 25


def test_what_is_not_finite_is_part_of_no_sum(tmp_path: Path) -> None:
    """NaN and infinity are counted and kept longest; the sums are those of the other weights."""
    weights = torch.ones(10, 10)
    weights[0, :3] = torch.tensor([torch.nan, torch.inf, -torch.inf])

    (curve,) = look(write(tmp_path, {"a.weight": weights})).curves

    assert curve.nonfinite == 3
    assert curve.kept == pytest.approx([max(97 - p, 0) / 97 for p in LADDER])


def test_sums_beyond_float64_are_not_told(tmp_path: Path) -> None:
    """Where squares overflow there is no number, no warning and no traceback, in any form."""
    path = write(tmp_path, {"a.weight": torch.full((4, 4), 1e300, dtype=torch.float64)})

    found = look(path)

    assert found.curves[0].kept is None
    assert json.loads(to_json(found))["tensors"][0]["l2_kept"] is None
    assert "1 tensor is all zero or too large to square in float64" in written(write_scan, found, View())
    assert "<td>-</td>" in to_html(found)


def test_the_selection_is_that_of_the_pruning_commands(tmp_path: Path) -> None:
    """Patterns and dimensions choose as they do for pruning; a pattern that matches nothing is an error."""
    weights = {"a.weight": torch.ones(3, 3), "a.bias": torch.ones(3), "b.weight": torch.ones(3, 3)}
    checkpoint = open_checkpoint(write(tmp_path, weights))

    assert {c.name for c in scan(checkpoint).curves} == {"a.weight", "b.weight"}
    assert [c.name for c in scan(checkpoint, Selector(include=("a.*",), min_dim=1)).curves] == ["a.weight", "a.bias"]
    with pytest.raises(SelectionError, match="matches none"):
        scan(checkpoint, Selector(include=("c.*",)))


# --- the command


@pytest.fixture
def ckpt(tmp_path: Path) -> Path:
    """Write three matrices, one of them with a name made for mischief."""
    generator = torch.Generator().manual_seed(0)
    names = ("a.weight", "b.weight", "<script>alert(1)</script>\x1b[31m\u202e.weight")
    return write(tmp_path, {name: torch.randn(20, 30, generator=generator) for name in names})


def test_a_pipe_gets_plain_text(ckpt: Path) -> None:
    """The table has a line per tensor, names made safe, and a sentence that names the weakest."""
    result = run(str(ckpt))

    assert result.exit_code == 0
    assert "\x1b" not in result.stdout
    assert "\\x1b[31m\\u202e.weight" in result.stdout
    weakest = look(ckpt).curves[0].name.split(".")[0][:8]
    assert f"most sensitive   at 80% sparsity: {weakest}" in result.stdout


def test_top_shows_the_weakest(ckpt: Path) -> None:
    """--top N keeps the N that break first, and says how many are left out."""
    result = run(str(ckpt), "--top", "1")

    assert result.stdout.splitlines()[2].startswith(("a.weight", "b.weight", "<script>"))
    assert "2 less sensitive tensors not shown" in result.stdout


def test_json_has_every_tensor_and_number(ckpt: Path) -> None:
    """The JSON form lists the same curves in the same order, names verbatim."""
    found = look(ckpt)

    document = json.loads(run(str(ckpt), "--json").stdout)

    assert document["schema"] == 1
    assert document["sparsities_percent"] == list(LADDER)
    assert [t["name"] for t in document["tensors"]] == [c.name for c in found.curves]
    assert [tuple(t["l2_kept"]) for t in document["tensors"]] == [c.kept for c in found.curves]


class _Tags(HTMLParser):
    """The tags and addresses of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a tag."""
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in {"src", "href", "xlink:href"}]


def test_the_page_stands_alone_and_escapes_names(ckpt: Path, tmp_path: Path) -> None:
    """The page has a curve and a row per tensor, no script, no address, and names as text."""
    page = tmp_path / "scan.html"

    result = run(str(ckpt), "--html", str(page))

    text = page.read_text(encoding="utf-8")
    tags = _Tags()
    tags.feed(text)
    assert result.exit_code == 0
    assert (tags.tags.count("polyline"), tags.tags.count("th")) == (3, 3 + 5 + len(LADDER))
    assert not tags.addresses
    assert "script" not in tags.tags
    assert "&lt;script&gt;alert(1)&lt;/script&gt;\\x1b[31m\\u202e.weight" in text
    assert "prefers-color-scheme: dark" in text


def test_an_existing_page_is_kept_unless_forced(ckpt: Path, tmp_path: Path) -> None:
    """--html refuses to replace a file before anything is read; --force replaces it; the input is never replaced."""
    page = tmp_path / "scan.html"
    page.write_text("mine", encoding="utf-8")
    before = ckpt.read_bytes()

    refused = run(str(ckpt), "--html", str(page))
    assert isinstance(refused.exception, OutputError)
    assert page.read_text(encoding="utf-8") == "mine"

    assert run(str(ckpt), "--html", str(page), "--force").exit_code == 0
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")

    assert isinstance(run(str(ckpt), "--html", str(ckpt), "--force").exception, OutputError)
    assert ckpt.read_bytes() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--top", "2", "--all"], "--top and --all exclude each other"),
        (["--json", "--top", "2"], "--top limits the text only"),
        (["--json", "--all"], "--all limits the text only"),
        (["--top", "0"], "top takes 1 or more, not 0"),
        (["--force"], "--force replaces a page, and --html names none"),
    ],
)
def test_options_that_contradict_are_refused(ckpt: Path, options: list[str], message: str) -> None:
    """No option is accepted and ignored: each such pair gets a sentence and a hint."""
    error = run(str(ckpt), *options).exception

    assert isinstance(error, UsageError)
    assert message in str(error)
    assert error.hint
