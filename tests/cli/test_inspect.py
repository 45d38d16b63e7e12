"""`prune inspect`: its options, JSON and errors."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import save_file

from prunecli.inspection.inspect import inspect
from prunecli.inspection.inspect_json import to_json

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.command_line import Prune

EVIL = "evil\x1b[31m\n\u202e[bold]\x7f"


def write(folder: Path, weights: dict[str, torch.Tensor]) -> Path:
    """Write a safetensors checkpoint."""
    save_file(weights, folder / "model.safetensors")
    return folder / "model.safetensors"


def test_patterns_select_as_for_pruning(prune: Prune, source: Callable[[str], Path]) -> None:
    """With -i, -x or --min-dim the listing has the tensors that a pruning command selects."""
    _, text, _ = prune("inspect", source("zip"), "-i", "*weight*", "-x", "lstm*", "--min-dim", "2")

    names = [line.split()[0] for line in text.splitlines()[1:] if ".weight" in line]
    assert names == ["conv.weight", "embed.weight", "fc.weight"]
    assert "selected     3 tensors" in text


def test_json_is_complete(prune: Prune, tmp_path: Path) -> None:
    """The JSON form has every tensor, names verbatim and as ASCII, null for unknown values, and no NaN."""
    path = write(tmp_path, {EVIL: torch.tensor([torch.nan, 0.0]), "a.weight": torch.ones(2, 2)})

    _, text, _ = prune("inspect", path, "--json", "--thresholds", "--hist", "*")

    document = json.loads(text, parse_constant=pytest.fail)
    assert text.replace("\n", "").isprintable()
    assert {t["name"] for t in document["tensors"]} == {EVIL, "a.weight"}
    assert document["totals"]["floating"] == {
        "tensors": 2, "numel": 6, "bytes": 24, "numel_read": 6, "zeros": 1, "sparsity": 1 / 6, "nonfinite": 1,
    }  # fmt: skip
    assert document["histogram"]["nonfinite"] == 1
    assert [t["prunable"] for t in document["tensors"] if t["name"] == "a.weight"] == [True]
    assert json.loads(to_json(inspect(path, read=False)))["tensors"][0]["zeros"] is None


def test_layouts_are_shown_and_can_be_stated(prune: Prune, tmp_path: Path) -> None:
    """JSON has all parts of a layout; -v adds the evidence to the text; --layout states another one."""
    path = write(tmp_path, {"fc.weight": torch.ones(4, 8), "fc.bias": torch.ones(8), "b.weight": torch.ones(3, 5)})

    record = json.loads(prune("inspect", path, "--json")[1])["tensors"][2]
    text, verbose = (prune("inspect", path, "--layout", "b.*=in-out", *more)[1] for more in ((), ("-v",)))

    wanted = {"role": "matrix", "layout": "in-out", "outputs": 1, "inputs": 0, "experts": None, "groups": 1}
    wanted |= {"layout_evidence": "bias has the length of dim 1", "layout_proven": True}
    assert wanted.items() <= record.items()
    assert "layouts      stated by the user (1), bias has the length of dim 1 (1)\n" in text
    assert "fc.weight  in-out  bias has the length of dim 1\n" in verbose
    assert "stated by the user\n" not in text
    assert "b.weight   in-out  stated by the user\n" in verbose
    code, _, error = prune("inspect", path, "--layout", "b.*=out-inn")
    assert (code, f"hint: prune inspect {path} --layout " in error) == (2, True)


def test_json_has_the_thresholds_and_contents(prune: Prune, tmp_path: Path) -> None:
    """The JSON form has the threshold tables and the contents besides the tensors."""
    path = tmp_path / "c.ckpt"
    torch.save({"state_dict": {"a.weight": torch.arange(1, 101.0).reshape(10, 10)}, "epoch": 3}, path)

    document: dict[str, Any] = json.loads(prune("inspect", path, "--json", "--thresholds")[1])

    assert document["beside"] == [{"name": "epoch", "text": "3"}]
    assert document["thresholds"]["together"]["steps"][4] == {"percent": 50, "threshold": 50.0, "zeroed": 50}
    assert [table["name"] for table in document["thresholds"]["tensors"]] == ["a.weight"]


def test_shards_are_one_checkpoint(prune: Prune, source: Callable[[str], Path]) -> None:
    """A directory and its index show all tensors, with the file of each in the JSON form."""
    root = source("safetensors-shards")

    document = json.loads(prune("inspect", root, "--json")[1])

    assert len(document["input"]["files"]) == 3
    assert {t["file"] for t in document["tensors"]} == {f["name"] for f in document["input"]["files"]}
    assert "in 3 files" in prune("inspect", root / "model.safetensors.index.json")[1]


def test_top_lists_the_largest(prune: Prune, tmp_path: Path) -> None:
    """--top 1 lists the largest tensor and counts the others."""
    path = write(tmp_path, {"a.weight": torch.ones(2, 2), "b.weight": torch.ones(3, 3)})

    _, text, _ = prune("inspect", path, "--top", "1")

    assert text.split("\n\n")[1].splitlines()[1].startswith("b.weight")
    assert "1 smaller tensor not shown; --all lists each" in text


COMMON_CONTRADICTIONS = [
    ("--top 2 --all", "--top and --all exclude each other"),
    ("--json --top 2", "--top limits the text only"),
    ("--json --all", "--all limits the text only"),
    ("--top 0", "top takes 1 or more, not 0"),
    ("--top x", "top takes a whole number, not 'x'"),
]


@pytest.mark.parametrize(
    ("command", "options", "message"),
    [
        *(("inspect", *case) for case in COMMON_CONTRADICTIONS),
        *(("scan", *case) for case in COMMON_CONTRADICTIONS),
        ("inspect", "--no-read --thresholds", "--thresholds reads the weights"),
        ("inspect", "--no-read --hist a", "--hist reads the weights"),
        ("scan", "--force", "--force replaces a page, and --html names none"),
    ],
)
def test_contradicting_options_are_an_error(prune: Prune, command: str, options: str, message: str) -> None:
    """Each contradiction is an error with a hint, before the checkpoint is opened."""
    code, out, err = prune(command, "nowhere.pth", *options.split())

    assert (code, out) == (2, "")
    assert message in err
    assert "\nhint: " in err


def test_a_pipe_can_be_inspected(prune: Prune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`-` reads standard input, which has this name in the output."""
    path = write(tmp_path, {"a.weight": torch.ones(2, 2)})
    with path.open("rb") as file:
        monkeypatch.setattr("prunecli.cli.pipes.sys.stdin", file)
        code, out, _ = prune("inspect", "-")

    assert code == 0
    assert "standard input" in out
