"""`prune inspect`: every container's tensors as torch sees them, counts, ties, leftovers, thresholds, drawings."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support import CONTAINERS, make_weights
from support.reports import written
from torch import nn
from torch.nn.utils import prune as torch_prune
from typer import Typer
from typer.testing import CliRunner

from prunecli.api import prune
from prunecli.cli.inspect import inspect as command
from prunecli.errors import CheckpointError, SelectionError, UsageError
from prunecli.formats.open import open_checkpoint
from prunecli.inspection.inspect import LADDER, Inspection, inspect, totals
from prunecli.inspection.inspect_json import to_json
from prunecli.inspection.inspect_text import FOLDED_FROM, number, write_inspection
from prunecli.selection.select import Selector
from prunecli.strategies.unstructured import Threshold
from prunecli.text.tables import LARGEST, View

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

SHARED = Path(__file__).parents[3] / "shared" / "checkpoints"
EVIL = "evil\x1b[31m\n\u202e[bold]\x7f"


def look(path: Path, **options: Any) -> Inspection:  # noqa: ANN401 - the options of `inspect`
    """Inspect the checkpoint at `path`."""
    return inspect(open_checkpoint(path), **options)


def run(*args: str | Path, stdin: bytes | None = None) -> Any:  # noqa: ANN401 - Typer's result, whose class it hides
    """Run `prune inspect` with `args`."""
    app = Typer()
    app.command()(command)
    return CliRunner().invoke(app, [str(arg) for arg in args], input=stdin)


def write(folder: Path, weights: dict[str, torch.Tensor]) -> Path:
    """Write a safetensors checkpoint."""
    save_file(weights, folder / "model.safetensors")
    return folder / "model.safetensors"


# --- what is listed


@pytest.mark.parametrize("container", CONTAINERS)
def test_every_container_shows_the_same_tensors(source: Callable[[str], Path], container: str) -> None:
    """Names, shapes, parameters and zeros are those of the weights, whatever they are stored in."""
    how, weights = CONTAINERS[container], make_weights()
    path = source(container)

    found = look(path)

    entries = {entry.name: entry for entry in found.inside}
    assert entries.keys() == {how.prefix + name for name in weights}
    for name, t in weights.items():
        entry = entries[how.prefix + name]
        assert (entry.shape, entry.numel) == (tuple(t.shape), t.numel())
        assert entry.zeros == int((t == 0).sum())
        assert entry.nonfinite == (0 if t.is_floating_point() else None)
    assert found.key == how.key
    assert sum(size for _, size in found.files) == sum(f.size for f in open_checkpoint(path).files)
    assert totals(found.inside).numel == sum(t.numel() for t in weights.values())


@pytest.mark.parametrize("container", CONTAINERS)
def test_every_container_has_the_same_thresholds(source: Callable[[str], Path], container: str) -> None:
    """The ladder is that of the weights a pruning command takes, in every container."""
    weights = [t for name, t in make_weights().items() if t.dim() > 1 and "weight" in name]
    magnitudes = np.concatenate([t.abs().double().numpy().ravel() for t in weights])

    found = look(source(container), thresholds=True)

    assert found.thresholds is not None
    together, each = found.thresholds
    assert (together.numel, len(each)) == (magnitudes.size, len(weights))
    for step in together.steps:
        quantile = np.percentile(magnitudes, step.percent, method="inverted_cdf")
        assert step.threshold is not None
        assert np.float32(step.threshold) == quantile
        assert step.zeroed == (magnitudes <= quantile).sum()


def test_real_thresholds_prune_what_they_say() -> None:
    """On a trained model, comparing with a printed threshold zeroes the number of weights that was told."""
    path = SHARED / "burn-mnist.safetensors"
    if not path.exists():
        pytest.skip("burn-mnist.safetensors is not here: the shared checkpoints are absent")
    weights = {name: t for name, t in load_file(path).items() if name.endswith(".weight") and t.dim() > 1}

    document = json.loads(run(path, "--thresholds", "--json").stdout)["thresholds"]

    assert [step["percent"] for step in document["together"]["steps"]] == list(LADDER)
    for step in document["together"]["steps"]:
        assert step["zeroed"] == sum(int((t.abs() <= step["threshold"]).sum()) for t in weights.values())
        assert step["zeroed"] >= step["percent"] / 100 * document["together"]["numel"]
    assert [ladder["name"] for ladder in document["tensors"]] == sorted(weights)
    for ladder in document["tensors"]:
        zeroed = [int((weights[ladder["name"]].abs() <= step["threshold"]).sum()) for step in ladder["steps"]]
        assert zeroed == [step["zeroed"] for step in ladder["steps"]]


@pytest.mark.parametrize("dtypes", [("float32",), ("bfloat16",), ("float64", "float16", "float32", "float8_e4m3fn")])
def test_typing_a_threshold_does_what_was_said(tmp_path: Path, dtypes: tuple[str, ...]) -> None:
    """`prune threshold --thr T` leaves as many zeros as the table told for T, in one dtype or in several."""
    generator = torch.Generator().manual_seed(0)
    weights = {
        f"{at}.weight": (torch.randn(30, 40, generator=generator) * 0.1).to(getattr(torch, dtype))
        for at, dtype in enumerate(dtypes)
    }
    path = write(tmp_path, weights)

    found = look(path, thresholds=True)

    assert found.thresholds is not None
    for step in found.thresholds[0].steps:
        assert step.threshold is not None
        typed = float(number(step.threshold))
        report = prune(path, Threshold(typed), dry_run=True)
        assert report.selected.zeros_after == step.zeroed


def test_zeros_and_what_is_not_finite_are_counted(tmp_path: Path) -> None:
    """Zeros of either sign, NaN and infinity are counted in floats, zeros in integers and booleans."""
    weights = {
        "a": torch.tensor([0.0, -0.0, 1.0, torch.nan, torch.inf]),
        "b": torch.tensor([0, 3, 0], dtype=torch.int8),
        "c": torch.tensor([True, False]),
        "d": torch.tensor([0.0, -0.0, torch.nan], dtype=torch.bfloat16),
    }

    found = look(write(tmp_path, weights))

    counted = {entry.name: (entry.zeros, entry.nonfinite) for entry in found.entries}
    assert counted == {"a": (2, 2), "b": (2, None), "c": (1, None), "d": (2, 1)}
    assert "not finite   NaN or infinity in a (2), d (1)" in written(write_inspection, found, View())


def test_tied_tensors_count_once_and_name_each_other(source: Callable[[str], Path]) -> None:
    """A head tied to an embedding is one entry with two names, in the totals once."""
    found = look(source("tied"))

    (entry,) = [e for e in found.entries if e.aliases]
    assert (entry.name, entry.aliases) == ("embed.weight", ("head.weight",))
    assert totals(found.entries).numel == sum(t.numel() for t in make_weights().values())
    assert "tied         embed.weight = head.weight: one tensor, pruned once" in written(
        write_inspection, found, View()
    )


def test_the_state_dict_alone_is_read(source: Callable[[str], Path]) -> None:
    """Optimizer states are listed as outside, with their size, and are in no total."""
    found = look(source("nested"))

    assert found.outside
    assert all(entry.zeros is None and entry.reason == "outside the state_dict" for entry in found.outside)
    assert "outside the state_dict, not read: optimizer.state.{" in written(write_inspection, found, View())


def test_leftovers_of_pruning_point_to_bake(tmp_path: Path) -> None:
    """A model saved under torch.nn.utils.prune is told as such, and what to type."""
    model = nn.Linear(4, 4)
    torch_prune.l1_unstructured(model, "weight", 0.5)  # type: ignore[no-untyped-call]
    torch.save(model.state_dict(), tmp_path / "m.pth")

    found = look(tmp_path / "m.pth")

    assert [(leftover.name, leftover.kind) for leftover in found.leftovers] == [("weight", "torch.nn.utils.prune")]
    assert "1 weight under torch.nn.utils.prune: weight; bake folds them" in written(write_inspection, found, View())


def test_what_cannot_be_read_is_listed(tmp_path: Path) -> None:
    """Complex, expanded, empty, sparse and 4-bit tensors are told without a number, and nothing grows large."""
    odd = {
        "expanded": torch.ones(3, 1).expand(3, 10**9),
        "complex": torch.ones(3, dtype=torch.complex64),
        "wide": torch.ones(3, dtype=torch.complex128),
        "empty": torch.zeros(0, 4),
        "sparse": torch.eye(3).to_sparse(),
        "w": torch.ones(2, 2),
    }
    torch.save(odd, tmp_path / "odd.pth")

    found = look(tmp_path / "odd.pth")

    zeros = {entry.name: entry.zeros for entry in found.entries}
    assert zeros == {"expanded": None, "complex": None, "wide": None, "empty": 0, "w": 0}
    assert found.others == (("sparse", "sparse tensor"),)
    assert "0 of 4 that were read are zero" in written(write_inspection, found, View())


def test_small_dtypes_are_listed(tmp_path: Path) -> None:
    """A file of 4-bit and scale-only numbers is listed by size, and has nothing to prune."""
    tensors = {
        "f4": {"dtype": "F4", "shape": [4, 4], "data_offsets": [0, 8]},
        "e8": {"dtype": "F8_E8M0", "shape": [4], "data_offsets": [8, 12]},
    }
    head = json.dumps(tensors).encode()
    path = tmp_path / "f4.safetensors"
    path.write_bytes(struct.pack("<Q", len(head)) + head + bytes(12))

    result = run(path)

    assert result.exit_code == 0
    assert "f4      F4       4x4            16  8 bytes     -" in result.stdout
    assert "prunable     none by default: no tensor to prune" in result.stdout


def test_what_is_no_tensor_is_named(tmp_path: Path) -> None:
    """Entries of a nested checkpoint and metadata are told with their values; a bomb among them is a note."""
    nested, plain_file = tmp_path / "c.ckpt", tmp_path / "m.safetensors"
    bomb: list[object] = [{}]
    torch.save({"state_dict": {"a.weight": torch.ones(2, 2)}, "epoch": 3, "hyper": {"lr": 0.5}}, nested)
    save_file({"a.weight": torch.ones(2, 2)}, plain_file, {"format": "pt"})
    for _ in range(40):
        bomb = [bomb, bomb, {}]
    torch.save({"a.weight": torch.ones(2, 2), "bomb": bomb}, tmp_path / "b.pth")

    assert "not tensors  2 items: epoch = 3, hyper.lr = 0.5\n" in run(nested).stdout
    assert "not tensors  1 item: metadata format = 'pt'\n" in run(plain_file).stdout
    assert json.loads(run(nested, "--json").stdout)["beside"][0] == {"name": "epoch", "text": "3"}
    assert "note         what is beside the tensors cannot be told" in run(tmp_path / "b.pth").stdout


def test_an_empty_checkpoint_is_shown(tmp_path: Path) -> None:
    """A checkpoint without tensors is no error: that is what is in it."""
    torch.save({}, tmp_path / "empty.pth")

    result = run(tmp_path / "empty.pth")

    assert result.exit_code == 0
    assert "all          0 tensors, 0 parameters, 0 bytes" in result.stdout


def test_no_read_reads_nothing(tmp_path: Path) -> None:
    """--no-read needs only the header: it works where the weights are gone."""
    path = write(tmp_path, {"a.weight": torch.ones(500, 500)})
    checkpoint = open_checkpoint(path)
    path.unlink()

    found = inspect(checkpoint, read=False)

    assert found.entries[0].zeros is None
    assert "zero (" not in written(write_inspection, found, View())
    with pytest.raises(CheckpointError, match="cannot read"):
        inspect(checkpoint)


# --- how much is shown


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """Write 50 layers of two tensors, and one with another shape."""
    layers = {f"layers.{at}.{part}.weight": torch.ones(4, 5) for at in range(50) for part in ("up", "down")}
    return write(tmp_path, layers | {"layers.0.other.weight": torch.zeros(7, 7)})


def test_many_tensors_fold(large: Path) -> None:
    """More tensors than a screen holds become a line for each kind, with their sums; --all lists each."""
    found = look(large)

    text, every = written(write_inspection, found, View()), written(write_inspection, found, View(every=True))

    assert len(found.entries) > FOLDED_FROM
    assert "layers.{0..49}.up.weight         50  F32    4x5         1,000     4.0 kB    0.0%" in text
    assert "layers.0.other.weight             1  F32    7x7            49  196 bytes  100.0%" in text
    assert all(f"layers.{at}.up.weight" in every for at in range(50))
    assert "{0..49}" not in every


def test_top_lists_the_largest(large: Path) -> None:
    """--top 2 is the two largest tensors on their own, and how many are left out."""
    result = run(large, "--top", "2")

    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines[1:3]] == ["layers.0.other.weight", "layers.0.down.weight"]
    assert lines[3] == "99 smaller tensors not shown; --all lists each"


@pytest.mark.parametrize("width", [30, 80, 200])
def test_a_terminal_gets_a_table_that_fits(tmp_path: Path, width: int) -> None:
    """On a terminal the largest lines are shown, none is wider than it, and names give no commands."""
    weights = {f"{chr(97 + at % 26)}{at}x.weight": torch.ones(2, at + 2) for at in range(100)}
    found = look(write(tmp_path, weights | {EVIL: torch.ones(60, 60)}))

    text = written(write_inspection, found, View(), width=width)

    table = text.split("\nfile ")[0].splitlines()
    assert max(map(len, table[:-1])) <= width
    assert sum(".weight" in line for line in table) == LARGEST - 1 or width < 80
    assert f"{101 - LARGEST} smaller tensors not shown" in text
    assert "\x1b" not in text


def test_patterns_choose_as_for_pruning(source: Callable[[str], Path]) -> None:
    """With -i, -x or --min-dim the listing is what a pruning command would take."""
    path = source("zip")

    text = run(path, "-i", "*weight*", "-x", "lstm*", "--min-dim", "2").stdout

    names = [line.split()[0] for line in text.splitlines()[1:] if ".weight" in line]
    assert names == ["conv.weight", "embed.weight", "fc.weight"]
    assert "selected     3 tensors" in text
    with pytest.raises(SelectionError, match="matches none"):
        look(path, rules=Selector(include=("nothing*",)))


# --- drawings


def test_bars_count_every_weight_once(tmp_path: Path) -> None:
    """The bars are NumPy's histogram of the magnitudes, and with what is not finite they add up."""
    weights = torch.randn(100, 100, generator=torch.Generator().manual_seed(0))
    weights[0, :5], weights[1, :7] = torch.nan, 0.0
    path = write(tmp_path, {"a.weight": weights, "b.weight": torch.ones(1)})

    drawing = look(path, hist="a.weight").drawing

    assert drawing is not None
    magnitudes = weights.abs().double().numpy().ravel()
    edges = np.array([*drawing.edges, np.finfo(np.float32).max])
    expected, _ = np.histogram(magnitudes[np.isfinite(magnitudes)], edges)
    assert list(drawing.counts) == expected.tolist()
    assert (drawing.zeros, drawing.nonfinite) == (7, 5)
    assert sum(drawing.counts) + drawing.nonfinite == 10_000


def test_a_drawing_says_what_to_type(tmp_path: Path) -> None:
    """The lines under the bars name a threshold for 50, 80 and 90 %, and what it zeroes."""
    path = write(tmp_path, {"a.weight": torch.arange(1, 101, dtype=torch.float32).reshape(10, 10)})

    text = run(path, "--hist", "a.weight").stdout

    for percent in (50, 80, 90):
        assert f"threshold {percent} zeroes {percent}.0% of them, {percent} weights" in text
    assert text.isascii()


def test_a_drawing_says_nothing_twice(tmp_path: Path) -> None:
    """A tensor of equal weights has one threshold to type, and one weight is in the singular."""
    path = write(tmp_path, {"a.weight": torch.full((4, 4), 0.5), "b": torch.ones(1)})

    assert run(path, "--hist", "a.weight").stdout.count("\nthreshold ") == 1
    assert "Magnitudes of b: 1 weight, 0 zero" in run(path, "--hist", "b").stdout


def test_a_glob_draws_all_it_matches_together(source: Callable[[str], Path]) -> None:
    """A glob and a regular expression draw the floats among what they match; an alias finds its tensor."""
    path = source("tied")

    by_glob, by_expression = look(path, hist="norm.*").drawing, look(path, hist="re:^norm").drawing
    by_alias = look(path, hist="head.weight").drawing

    assert by_glob is not None
    assert by_expression is not None
    assert by_alias is not None
    assert by_glob.tensors == ("norm.weight", "norm.bias", "norm.running_mean", "norm.running_var")
    assert by_expression.counts == by_glob.counts
    assert by_alias.tensors == ("embed.weight",)


@pytest.mark.parametrize(
    "weights",
    [
        torch.zeros(3, 3),
        torch.full((2, 2), torch.nan),
        torch.tensor([1e-45, 0.0]),
        torch.tensor([5e-324, 1.7e308], dtype=torch.float64),
        torch.tensor([3e38, 1.0]),
        torch.ones(1),
    ],
    ids=["zeros", "nan", "tiny", "far", "huge", "one"],
)
def test_every_tensor_can_be_drawn(tmp_path: Path, weights: torch.Tensor) -> None:
    """Constant, empty-looking, tiny and huge magnitudes have bars that add up, and print."""
    path = write(tmp_path, {"a": weights})

    found = look(path, hist="a")

    assert found.drawing is not None
    assert sum(found.drawing.counts) + found.drawing.nonfinite == weights.numel()
    assert list(found.drawing.edges) == sorted(set(found.drawing.edges))
    assert "Magnitudes of a: " in written(write_inspection, found, View())


# --- the command


def test_json_is_complete(tmp_path: Path) -> None:
    """The JSON form has every tensor, names verbatim and as ASCII, null for what is unknown, and no NaN."""
    path = write(tmp_path, {EVIL: torch.tensor([torch.nan, 0.0]), "a.weight": torch.ones(2, 2)})

    text = run(path, "--json", "--thresholds", "--hist", "*").stdout

    document = json.loads(text, parse_constant=pytest.fail)
    assert text.replace("\n", "").isprintable()
    assert {t["name"] for t in document["tensors"]} == {EVIL, "a.weight"}
    assert document["totals"]["floating"] == {
        "tensors": 2, "numel": 6, "bytes": 24, "numel_read": 6, "zeros": 1, "sparsity": 1 / 6, "nonfinite": 1,
    }  # fmt: skip
    assert document["histogram"]["nonfinite"] == 1
    assert [t["prunable"] for t in document["tensors"] if t["name"] == "a.weight"] == [True]
    assert json.loads(to_json(look(path, read=False)))["tensors"][0]["zeros"] is None


def test_names_are_safe_in_text(tmp_path: Path) -> None:
    """No control character of a name reaches the output."""
    path = write(tmp_path, {EVIL: torch.ones(2, 2)})

    text = run(path, "--hist", "*", "--thresholds", "-i", "*").stdout

    assert "evil\\x1b[31m\\n\\u202e[bold]\\x7f" in text
    assert all(character.isprintable() or character == "\n" for character in text)


def test_shards_are_one_checkpoint(source: Callable[[str], Path]) -> None:
    """A directory and its index show all tensors, with the file of each in the JSON."""
    root = source("safetensors-shards")

    document = json.loads(run(root, "--json").stdout)

    assert len(document["input"]["files"]) == 3
    assert {t["file"] for t in document["tensors"]} == {f["name"] for f in document["input"]["files"]}
    assert "in 3 files" in run(root / "model.safetensors.index.json").stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--no-read", "--thresholds"], "--thresholds reads the weights"),
        (["--no-read", "--hist", "a"], "--hist reads the weights"),
        (["--top", "2", "--all"], "--top and --all exclude each other"),
        (["--json", "--top", "2"], "--top limits the text only"),
        (["--json", "--all"], "--all limits the text only"),
        (["--top", "0"], "top takes 1 or more, not 0"),
        (["--top", "x"], "top takes a whole number, not 'x'"),
    ],
)
def test_options_that_contradict_are_refused(options: list[str], message: str) -> None:
    """Each is a sentence with a hint, before the checkpoint is looked for."""
    error = run("nowhere.pth", *options).exception

    assert isinstance(error, UsageError)
    assert message in str(error)
    assert error.hint


@pytest.mark.parametrize(
    ("hist", "message"),
    [
        ("fc.wieght", "matches none of 17 tensors"),
        ("*num_batches*", "I64 holds integers, not weights"),
        ("optimizer*", "outside the state_dict"),
        ("re:(", "is no regular expression"),
    ],
)
def test_a_drawing_of_nothing_is_an_error(source: Callable[[str], Path], hist: str, message: str) -> None:
    """A name that matches nothing, or nothing with magnitudes, says so and what to try."""
    checkpoint = open_checkpoint(source("nested"))
    wanted = message.replace("17", str(len(checkpoint.tensors)))

    with pytest.raises(SelectionError, match=wanted) as caught:
        inspect(checkpoint, hist=hist)

    assert caught.value.hint


def test_a_pipe_can_be_inspected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`-` reads standard input and is named so."""
    path = write(tmp_path, {"a.weight": torch.ones(2, 2)})
    with path.open("rb") as file:
        monkeypatch.setattr("prunecli.cli.pipes.sys.stdin", file)
        from prunecli.cli.inspect import inspect as direct

        assert direct("-") == 0
