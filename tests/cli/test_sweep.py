"""`prune sweep`: its table, plot and files."""

from __future__ import annotations

import csv
import json
from typing import TYPE_CHECKING

import pytest
from support.evaluation import counting_command, density_command, evaluations, names, save_weights

from prunecli.cli.main import main

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def ckpt(tmp_path: Path) -> Path:
    """Write 1,000 different weights into a folder of their own."""
    return save_weights(tmp_path)


def run(*args: str | Path) -> int:
    """Run `prune sweep` in this process."""
    return main(["sweep", *map(str, args)])


def test_the_table_csv_and_json_hold_the_same_numbers(ckpt: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each amount, in order and once, has its sparsity, its metric and the change in every form."""
    args = (ckpt, "--eval", density_command(), "global", "--at", "50%,0.25,0.5")

    assert run(*args, "--csv", ckpt.with_name("t.csv"), "--json") == 0
    document = json.loads(capsys.readouterr().out)
    rows = list(csv.DictReader(ckpt.with_name("t.csv").read_text().splitlines()))
    assert run(*args) == 0
    table = [line.split()[:4] for line in capsys.readouterr().out.splitlines()[1:4]]

    assert table == [["-", "0.0%", "1", "-"], ["0.25", "25.0%", "0.75", "-0.25"], ["0.5", "50.0%", "0.5", "-0.5"]]
    assert [(p["amount"], p["zeros"], p["metric"], p["change"]) for p in document["points"]] == [
        (0.25, 250, 0.75, -0.25),
        (0.5, 500, 0.5, -0.5),
    ]
    assert [(r["amount"], r["zeros"], r["metric"], r["change"]) for r in rows] == [
        ("", "0", "1.0", ""),
        ("0.25", "250", "0.75", "-0.25"),
        ("0.5", "500", "0.5", "-0.5"),
    ]


def test_only_the_requested_files_are_written(ckpt: Path) -> None:
    """The checkpoint does not change, and only the figure and the state file are new."""
    before = ckpt.read_bytes()

    assert run(ckpt, "--eval", density_command(), "l1", "--at", "0.5", "-q", "--figure", ckpt.with_name("p.svg")) == 0

    assert before == ckpt.read_bytes()
    assert names(ckpt.parent) == {"c.safetensors", "c.pruned.safetensors.search.json", "p.svg"}


@pytest.mark.parametrize("metric", ["float('nan')", "float('-inf')"])
def test_a_metric_that_is_not_finite_has_a_row(ckpt: Path, capsys: pytest.CaptureFixture[str], metric: str) -> None:
    """The table, the JSON form and the figure of the page have it; the curve has a gap."""
    page = ckpt.with_name("p.html")
    broken = density_command(f"{metric} if density < 1 else density")

    assert run(ckpt, "--eval", broken, "global", "--at", "0.5", "--json", "--html", page) == 0

    (point,) = json.loads(capsys.readouterr().out)["points"]
    assert isinstance(point["metric"], str)
    assert point["change"] is None
    assert page.read_text().count("<circle") == 1


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("CKPT --eval EVAL global --at 0.5,x", "the amount is a fraction or a percentage, not 'x'"),
        ("CKPT --eval EVAL global --at ,", "the amount is a fraction or a percentage, not ''"),
        ("CKPT --eval EVAL global --at 50", "global --at 50%"),
        ("CKPT --eval EVAL global --at nan", "the amount is 0 to 1 (or 0% to 100%), not nan"),
        ("CKPT --eval EVAL global --csv CKPT", "this run needs"),
        ("CKPT --eval EVAL global --csv FOLDER/a --html FOLDER/a", "would overwrite"),
        ("CKPT --eval EVAL global --figure no/such/p.svg", "there is no directory"),
        ("CKPT --eval EVAL threshold", "threshold takes no amount, so it cannot be varied"),
    ],
)
def test_wrong_usage_is_found_before_the_first_evaluation(
    ckpt: Path, capsys: pytest.CaptureFixture[str], args: str, message: str
) -> None:
    """Each mistake is one error line with exit code 2, and the command does not run."""
    known = {"CKPT": str(ckpt), "EVAL": counting_command(ckpt)}

    words = [known.get(word, word.replace("FOLDER", str(ckpt.parent))) for word in args.split()]

    assert run(*words) == 2
    assert message in capsys.readouterr().err
    assert evaluations(ckpt) == 0
    assert names(ckpt.parent) == {"c.safetensors"}


def test_existing_files_are_kept(ckpt: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--csv and --html reject an existing file, unless --force is given."""
    old = ckpt.with_name("t.csv")
    old.write_text("mine")

    assert run(ckpt, "--eval", density_command(), "global", "--at", "0.5", "--csv", old) == 2
    assert old.read_text() == "mine"
    assert "--force" in capsys.readouterr().err
    assert run(ckpt, "--eval", density_command(), "global", "--at", "0.5", "--csv", old, "-f") == 0
    assert old.read_text().startswith("amount,")


def test_a_sweep_varies_the_slope_of_a_ramp(ckpt: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The amount is fixed, each slope is a point, and the column has the name of what is varied."""
    ramp = ("--vary", "slope", "--at", "0,0.5", "l1", "--amount", "50%", "--allocate", "ramp")

    assert run(ckpt, "--eval", density_command(), *ramp, "--csv", ckpt.with_name("t.csv"), "--json") == 0
    points = json.loads(capsys.readouterr().out)["points"]
    rows = list(csv.DictReader(ckpt.with_name("t.csv").read_text().splitlines()))

    assert [(point["slope"], point["zeros"]) for point in points] == [(0, 500), (0.5, 500)]
    assert [(row["slope"], row["zeros"]) for row in rows] == [("", "0"), ("0.0", "500"), ("0.5", "500")]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--vary slop l1 --amount 50%", "a sweep varies amount or slope, not 'slop'"),
        ("--vary slope l1 --amount 50% --allocate ramp", "the slopes to try are missing"),
        ("--vary slope --at 0 l1 --amount 50% --slope 0.1", "--slope cannot be given"),
        ("--vary slope --at 0 global --amount 50%", "global has no slope"),
        ("--vary slope --at 0 l1 --amount 50%", "a slope belongs to the allocation ramp"),
        ("--at 0 l1 --amount 50%", "--amount cannot be given"),
    ],
)
def test_what_cannot_be_varied_is_an_error(
    ckpt: Path, capsys: pytest.CaptureFixture[str], words: str, message: str
) -> None:
    """What a sweep varies cannot be given, and what it does not vary must be complete."""
    assert run(ckpt, "--eval", density_command(), *words.split()) == 2

    assert message in capsys.readouterr().err
    assert names(ckpt.parent) == {"c.safetensors"}
