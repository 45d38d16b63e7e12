"""Gates, report forms, estimates and completion on the command line."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import save_file

from prunecli import GateError, Gates, UsageError, prune
from prunecli.cli.main import main
from prunecli.strategies.thresholds import Threshold
from prunecli.strategies.unstructured import L1

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def ckpt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write two matrices of distinct weights and a bias into a directory that is the current one."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    weights = torch.arange(1.0, 201.0).view(10, 20) / 200
    save_file({"a.weight": weights, "b.weight": weights.T.contiguous(), "b.bias": weights[0].clone()}, "c.safetensors")
    return folder / "c.safetensors"


def names(folder: Path) -> set[str]:
    """Return the names in a directory."""
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("gate", "message"),
    [
        (("--min-sparsity", "60%"), "at least 60% of the selected weights must be zero, not 50.0%"),
        (("--max-sparsity", "0.4"), "at most 40% of the selected weights may be zero, not 50.0%"),
        (("--max-tensor-sparsity", "45%"), "at most 45% of a.weight may be zero, not 50.0%"),
    ],
)
@pytest.mark.parametrize("where", [("-o", "out.safetensors"), ("--in-place",), ("-n",), ()])
def test_a_result_that_fails_a_gate_is_not_written(
    gate: tuple[str, ...], where: tuple[str, ...], message: str, ckpt: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A failed gate gives exit code 1, a sentence with the numbers and the table, and changes no file."""
    before = ckpt.read_bytes()

    assert main(["l1", ckpt.name, "--amount", "50%", *where, *gate]) == 1

    printed = capsys.readouterr()
    assert message in printed.err
    assert "failed: the result does not meet the gates, so no checkpoint was written" in printed.err
    assert "nothing written" in printed.out
    assert names(ckpt.parent) == {ckpt.name}
    assert ckpt.read_bytes() == before


def test_a_result_that_passes_is_written(ckpt: Path) -> None:
    """Gates of 50% accept the result of an amount of 50%."""
    gates = ["--min-sparsity", "50%", "--max-sparsity", "50%", "--max-tensor-sparsity", "50%"]

    assert main(["l1", ckpt.name, "--amount", "50%", "-q", *gates]) == 0

    assert names(ckpt.parent) == {ckpt.name, "c.pruned.safetensors", "c.pruned.safetensors.report.json"}


def test_a_failed_gate_still_writes_requested_reports(ckpt: Path) -> None:
    """After a failed gate the reports exist, and neither a checkpoint nor a mask does."""
    outputs = ["--report", "r.json", "--report", "r.md", "--mask-out", "mask.safetensors"]

    assert main(["l1", ckpt.name, "--amount", "50%", "-q", "--max-sparsity", "10%", *outputs]) == 1

    assert names(ckpt.parent) == {ckpt.name, "r.json", "r.md"}
    report = json.loads((ckpt.parent / "r.json").read_text())
    assert report["output"] is None
    assert any(warning.startswith("at most 10% of the selected weights ") for warning in report["warnings"])


def test_a_failed_gate_sends_nothing_into_a_pipe(ckpt: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """The reader of -o - gets no byte."""
    assert main(["l1", ckpt.name, "--amount", "50%", "-q", "-o", "-", "--max-sparsity", "10%"]) == 1

    assert capfdbinary.readouterr().out == b""


@pytest.mark.parametrize(
    ("text", "message"), [("1.5", "is 0 to 1 (or 0% to 100%), not 1.5"), ("much", "is a fraction or a percentage")]
)
def test_an_invalid_sparsity_is_refused(
    text: str, message: str, ckpt: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A gate that is not a fraction from 0 to 1 is a usage error."""
    assert main(["l1", ckpt.name, "--amount", "50%", "--min-sparsity", text]) == 2

    assert message in capsys.readouterr().err


def test_gates_hold_in_python_too(ckpt: Path) -> None:
    """`prune` raises GateError with the failures and the report."""
    with pytest.raises(GateError) as caught:
        prune(ckpt, Threshold(0.5), gates=Gates(max_tensor_sparsity=0.1))

    assert len(caught.value.failures) == 2
    assert caught.value.report.output_path is None
    assert caught.value.report.selected.sparsity_after == 0.5
    assert names(ckpt.parent) == {ckpt.name}


def test_every_form_of_report_is_written_by_its_suffix(ckpt: Path) -> None:
    """One run writes all four forms, with the same number of zeros."""
    forms = [f"r{suffix}" for suffix in (".json", ".csv", ".md", ".html")]

    prune(ckpt, L1(amount=0.5), reports=forms)

    rows = list(csv.DictReader((ckpt.parent / "r.csv").read_text(encoding="utf-8").splitlines()))
    assert [row["zeros_after"] for row in rows] == ["100", "", "100"]
    assert json.loads((ckpt.parent / "r.json").read_text())["totals"]["selected"]["zeros_after"] == 200
    assert "**50.0%**" in (ckpt.parent / "r.md").read_text()
    page = (ckpt.parent / "r.html").read_text()
    assert "<svg" in page
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_an_estimate_is_made_from_the_output(ckpt: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--estimate adds the compressed sizes to the table and to the report; it needs an output."""
    assert main(["l1", ckpt.name, "--amount", "50%", "--estimate"]) == 0
    assert "compressed" in capsys.readouterr().out
    report = json.loads((ckpt.parent / "c.pruned.safetensors.report.json").read_text())
    packed = report["on_disk"]["compressed"]
    assert 0 < packed["bytes_after"] < packed["bytes_before"]

    assert main(["l1", ckpt.name, "--amount", "50%", "--estimate", "-n"]) == 2
    assert "an estimate compresses a sample of the output" in capsys.readouterr().err


def completed(line: str) -> list[str]:
    """Return the completions that bash gets for the last word of a command line."""
    words = line.split(" ")
    environment = {**os.environ, "_PRUNE_COMPLETE": "complete_bash", "COMP_WORDS": line}
    environment["COMP_CWORD"] = str(len(words) - 1)
    ran = subprocess.run(
        [sys.executable, "-c", "import sys; from prunecli.cli.main import main; sys.exit(main())"],
        env=environment,
        capture_output=True,
        check=True,
        text=True,
    )
    return ran.stdout.split()


def test_tensor_names_are_completed(ckpt: Path) -> None:
    """After -i and -x the tensors of the given file are offered, and none without a file; commands complete as well."""
    assert completed(f"prune l1 {ckpt.name} -i b") == ["b.bias", "b.weight"]
    assert completed(f"prune l1 {ckpt.name} -x a.") == ["a.weight"]
    assert completed("prune l1 nowhere.pth -i b") == []
    assert completed("prune se") == ["search"]


@pytest.mark.parametrize("output", [("-o",), ("--report",), ("--mask-out",)])
@pytest.mark.parametrize("side", ["--scores", "--act-norms", "--mask-in"])
def test_no_output_overwrites_an_input_of_the_run(
    output: tuple[str, ...], side: str, ckpt: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Even with -f the scores, the norms and the mask are kept; only a new mask may replace the mask."""
    ones = {name: torch.ones(10, 20) if name == "a.weight" else torch.ones(20, 10) for name in ("a.weight", "b.weight")}
    if side == "--act-norms":
        ones = {name: t[0] for name, t in ones.items()}
    name = "side.safetensors" if output == ("-o",) else "side.json"
    save_file({name: t.clone() for name, t in ones.items()}, name)
    before = (ckpt.parent / name).read_bytes()

    code = main(["l1", ckpt.name, "--amount", "50%", side, name, *output, name, "-f", "-q"])

    if (side, output) == ("--mask-in", ("--mask-out",)):
        assert code == 0
        return
    assert code == 2
    assert "would overwrite what this run needs" in capsys.readouterr().err
    assert (ckpt.parent / name).read_bytes() == before


def test_a_recipe_is_not_overwritten(ckpt: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """-o RECIPE is refused: no checkpoint has its suffix."""
    recipe = '[[rule]]\nstrategy = "l1"\namount = 0.5\n'
    (ckpt.parent / "r.toml").write_text(recipe)

    assert main(["run", "r.toml", ckpt.name, "-o", "r.toml", "-f"]) == 2

    assert "no checkpoint format has the suffix .toml of r.toml" in capsys.readouterr().err
    assert (ckpt.parent / "r.toml").read_text() == recipe


def test_a_mask_needs_a_path(ckpt: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--mask-out - is refused and writes no file."""
    assert main(["l1", ckpt.name, "--amount", "50%", "--mask-out", "-"]) == 2

    assert "the mask needs a path" in capsys.readouterr().err
    assert names(ckpt.parent) == {ckpt.name}


def test_a_text_is_not_a_list_of_patterns(ckpt: Path) -> None:
    """include="a.weight" in Python raises UsageError."""
    with pytest.raises(UsageError, match="list of patterns, not one text"):
        prune(ckpt, L1(amount=0.5), include="a.weight")
