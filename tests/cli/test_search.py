"""`prune search`: its options, output and exit codes."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file
from support import DEMO, SCRIPTS, SHARED
from support.evaluation import (
    counting_command,
    density_command,
    evaluations,
    names,
    python_command,
    save_weights,
    zeros,
)

from prunecli.cli.main import main

CHECKPOINTS = SHARED / "checkpoints"


@pytest.fixture
def ckpt(tmp_path: Path) -> Path:
    """Write 1,000 different weights into a folder of their own."""
    return save_weights(tmp_path)


def run(*args: str | Path) -> int:
    """Run `prune search` in this process."""
    return main(["search", *map(str, args)])


@pytest.mark.parametrize(("drop", "expected"), [("0.25", 250), ("0", 0)])
def test_the_result_is_written_with_a_report(
    ckpt: Path, capsys: pytest.CaptureFixture[str], drop: str, expected: int
) -> None:
    """The exit code is 0 with a checkpoint and a report, or 1 with neither if no amount is within the drop."""
    code = run(ckpt, "--eval", density_command(), "--max-drop", drop, "--tolerance", "0.05", "global")

    output = ckpt.with_name("c.pruned.safetensors")
    assert (code, capsys.readouterr().err) == (
        (0, "") if expected else (1, "nothing found: every amount that was tried drops by more than 0\n")
    )
    assert output.exists() == bool(expected)
    if expected:
        assert zeros(output) == expected
        report = json.loads(ckpt.with_name("c.pruned.safetensors.report.json").read_text())
        assert report["totals"]["selected"]["zeros_after"] == expected
        assert report["command"][1:2] == ["search"]
    assert not [name for name in names(ckpt.parent) if name.startswith(".prune")]


@pytest.mark.parametrize(
    "options",
    [
        ("l1", "--scope", "row"),
        ("percentile",),
        ("structured", "--n", "-inf", "--dim", "-1"),
        ("--tolerance", "0.1", "block", "--shape", "2x5"),
        ("random", "--seed", "3"),
    ],
)
def test_every_strategy_with_an_amount_can_be_searched(ckpt: Path, options: tuple[str, ...]) -> None:
    """Each strategy parses its own options at any place of the line, and gets the amount from the search."""
    assert run(ckpt, "--eval", density_command(), "--max-drop", "0.5", "--tries", "1", *options, "-q") == 0
    assert zeros(ckpt.with_name("c.pruned.safetensors")) == 500


def test_the_table_and_json_show_every_attempt(ckpt: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The table and the JSON form have the unpruned checkpoint and each attempt; --lower-is-better limits a rise."""
    loss = density_command("7 - density")
    arguments = (ckpt, "--eval", loss, "--max-drop", "0.3", "--lower-is-better", "--tolerance", "0.1", "global", "-n")

    assert run(*arguments, "--json") == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert run(*arguments) == 0
    lines = capsys.readouterr().out.splitlines()

    attempts = [(a["amount"], a["metric"], a["within"]) for a in document["tries"]]
    assert attempts == [(0.5, 6.5, False), (0.2, 6.2, True), (0.3, 6.3, True), (0.4, 6.4, False)]
    assert (document["unpruned"]["metric"], document["max_drop"], document["higher_is_better"]) == (6, 0.3, False)
    assert (document["best"]["amount"], document["beyond"]["amount"], document["complete"]) == (0.3, 0.4, True)
    assert lines[0].split() == ["amount", "sparsity", "metric", "drop", "seconds", "verdict"]
    assert lines[1].endswith('unpruned, read from "6.0"')
    assert [line.split()[0] for line in lines[2:6]] == ["0.5", "0.2", "0.3", "0.4"]
    assert all("remembered" in line for line in lines[2:6])
    found = "amount 0.3: 30.0% of 1,000 weights zero, metric 6.3, drop 0.3 of 0.3 allowed"
    assert f"{found}; no checkpoint written (dry run)" in lines
    assert "tries     4, 0 of them evaluated now" in lines[-2]


def test_a_limit_beyond_floats_is_text(ckpt: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """JSON has no infinity, which such a number would be."""
    assert run(ckpt, "--eval", density_command(), "--max-drop", "1e999", "--tries", "1", "-n", "global", "--json") == 0

    assert json.loads(capsys.readouterr().out)["max_drop"] == "1E+999"


def test_a_metric_that_never_changes_gives_a_warning(ckpt: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """If no amount changes the number, a warning shows the line and names --metric."""
    command = python_command("print('epoch', 3)")

    assert run(ckpt, "--eval", command, "--max-drop", "0.1", "global", "-n", "-q") == 0

    err = capsys.readouterr().err
    assert 'is 3 in "epoch 3" the metric?' in err
    assert "--metric" in err


@pytest.mark.parametrize(
    ("command", "messages"),
    [
        (python_command("print('\\x1b[2Jhi'); import sys; sys.exit('it broke')"), ["  | it broke", "exit code 1"]),
        (python_command("print('fine')"), ["  | fine", "printed no number on its standard output", " CKPT\n"]),
        (python_command("print(float('nan'))"), ["the unpruned checkpoint's metric is NaN"]),
        ("python eval.py", ["has no {}", " --eval 'python eval.py {}'"]),
        ("python eval.py {} | tail", ["without a shell", ' --eval "sh -c \'python eval.py \\"\\$0\\" | tail\' {}"']),
        ("A=1 python eval.py {}", ["without a shell", " --eval 'env A=1 python eval.py {}'"]),
    ],
)
def test_a_failing_evaluation_is_shown(
    ckpt: Path, capsys: pytest.CaptureFixture[str], command: str, messages: list[str]
) -> None:
    """The last lines of its output come before the error, hints are options, and no temporary file stays."""
    assert run(ckpt, "--eval", command, "--max-drop", "0.5", "global") == 2

    err = capsys.readouterr().err
    assert all(message in err for message in messages), err
    assert "\x1b" not in err
    assert names(ckpt.parent) <= {"c.safetensors", "c.pruned.safetensors.search.json"}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("CKPT --max-drop 1 global", "--eval is missing"),
        ("CKPT --eval EVAL global", "--max-drop is missing"),
        ("CKPT --eval EVAL --max-drop 1% global", "metric's own units, not '1%'"),
        ("CKPT --eval EVAL --max-drop -1 global", "the largest drop is a number of 0 or more"),
        ("CKPT --eval EVAL --max-drop 1 gobal", "there is no strategy 'gobal'"),
        ("CKPT --eval EVAL --max-drop 1 topk --pattern 2:4", "no such option"),
        ("CKPT --eval EVAL --max-drop 1 topk", "topk takes no amount, so it cannot be varied"),
        ("CKPT --eval EVAL --max-drop 1 global --amount 0.5", "--amount cannot be given: this command chooses it"),
        ("CKPT --eval EVAL --max-drop 1 percentile --q 5", "--q cannot be given: this command chooses it"),
        ("CKPT --eval EVAL --max-dorp 1 global", "no such option"),
        ("CKPT --eval EVAL --max-drop 1 global --scope row", "no such option"),
        ("CKPT --eval EVAL --max-drop 1 l1 --scope column", "scope is tensor or row"),
        ("CKPT --eval EVAL --max-drop 1 block", "block needs a shape"),
        ("CKPT --eval EVAL --max-drop 1 --tolerance 0 global", "the tolerance is more than 0"),
        ("CKPT --eval EVAL --max-drop 1 --tries 0 global", "tries takes 1 or more"),
        ("CKPT --eval EVAL --max-drop 1 --metric ( global", "not a regular expression"),
        ("CKPT --eval EVAL --max-drop 1 global -o -", "the checkpoint needs a file"),
        ("CKPT --eval EVAL --max-drop 1 global -o CKPT", "is the input itself"),
        ("CKPT --eval EVAL --max-drop 1 global --report x.xls", "xls"),
        ("CKPT --eval EVAL --max-drop 1 global -o no/such/folder", "there is no directory"),
        ("CKPT --eval EVAL --max-drop 1 global -i nomatch", "matches none"),
        ("absent.pth --eval EVAL --max-drop 1 global", "there is no file or directory"),
        ("- --eval EVAL --max-drop 1 global", "a pipe gives its checkpoint once"),
        ("CKPT --eval EVAL --max-drop 1", "issing argument 'STRATEGY'"),
        ("", "issing argument 'CKPT'"),
    ],
)
def test_wrong_usage_is_found_before_the_first_evaluation(
    ckpt: Path, capsys: pytest.CaptureFixture[str], args: str, message: str
) -> None:
    """Each mistake is one error line and a hint with exit code 2, and the command does not run."""
    command = counting_command(ckpt)

    words = [str(ckpt) if word == "CKPT" else command if word == "EVAL" else word for word in args.split()]
    code = run(*words)

    err = capsys.readouterr().err
    assert code == 2
    assert message in err
    assert err.startswith("error: ")
    assert evaluations(ckpt) == 0
    assert names(ckpt.parent) == {"c.safetensors"}


def test_help_shows_the_options_of_the_strategy_that_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    """--help lists the strategies, and with one of them its options without the amount."""
    assert run("--help") == 0
    assert "STRATEGY is one of percentile, l1, global" in capsys.readouterr().out
    assert run("x.pth", "block", "--help") == 0
    text = capsys.readouterr().out
    assert "--shape RxC" in text
    assert "--amount" not in text
    assert text.startswith("Usage: prune search [OPTIONS] ")


# --- real models


def test_the_demo_is_searched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On the trained demo checkpoint, most weights are zero while the accuracy stays within 0.01."""
    ckpt = tmp_path / "digits.safetensors"
    shutil.copy(DEMO / "digits_conv.safetensors", ckpt)
    command = f"{shlex.quote(sys.executable)} {shlex.quote(str(SCRIPTS / 'accuracy.py'))} {{}}"

    code = run(ckpt, "--eval", command, "--max-drop", "0.01", "--tolerance", "0.05", "global", "--json")

    document = json.loads(capsys.readouterr().out)
    assert code == 0
    assert document["unpruned"]["metric"] == 0.9844
    assert document["best"]["metric"] >= 0.9744 > document["beyond"]["metric"]
    assert document["best"]["amount"] >= 0.8


@pytest.mark.skipif(not CHECKPOINTS.is_dir(), reason="the real checkpoints are not here")
def test_the_mnist_script_computes_the_accuracy_of_torch() -> None:
    """The example script gives the accuracy that the same network has in torch, on the first images."""
    import torch
    from torch import nn

    script = str(SCRIPTS / "mnist_accuracy.py")
    ckpt = CHECKPOINTS / "burn-mnist.safetensors"
    ran = subprocess.run(
        [sys.executable, script, ckpt, "--data", CHECKPOINTS, "--limit", "300"], capture_output=True, check=True
    )
    w = {name: torch.from_numpy(t) for name, t in load_file(ckpt).items()}
    sys.path.insert(0, str(SCRIPTS))
    try:
        import mnist_accuracy
    finally:
        sys.path.pop(0)
    x = torch.from_numpy(mnist_accuracy.load_images(CHECKPOINTS / "t10k-images-idx3-ubyte.gz")[:300].copy())
    for layer in ("conv1", "conv2", "conv3"):
        x = nn.functional.conv2d(x, w[f"{layer}.weight"], w[f"{layer}.bias"]).relu()
    x = nn.functional.batch_norm(x, w["norm1.running_mean"], w["norm1.running_var"], w["norm1.weight"], w["norm1.bias"])
    x = nn.functional.linear(x.flatten(1), w["fc1.weight"], w["fc1.bias"]).relu()
    x = nn.functional.linear(x, w["fc2.weight"], w["fc2.bias"])
    x = nn.functional.batch_norm(x, w["norm2.running_mean"], w["norm2.running_var"], w["norm2.weight"], w["norm2.bias"])
    labels = mnist_accuracy.load_labels(CHECKPOINTS / "t10k-labels-idx1-ubyte.gz")[:300]

    right = int((x.argmax(1).numpy() == labels).sum())
    assert ran.stdout.decode() == f"{right} of 300 right, accuracy {right / 300:.4f}\n"
