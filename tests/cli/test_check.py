"""`prune check`: its table, JSON and exit codes."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import save_file
from support.children import run_python
from support.reports import written

from prunecli.inspection.check_text import write_findings
from prunecli.inspection.conditions import Finite, NoAllZero
from prunecli.inspection.findings import Finding

if TYPE_CHECKING:
    from pathlib import Path

    from support.command_line import Prune


def store(folder: Path, **tensors: torch.Tensor) -> Path:
    """Write tensors as safetensors; a double underscore in a name is a dot."""
    path = folder / "model.safetensors"
    save_file({name.replace("__", "."): t for name, t in tensors.items()}, path)
    return path


def test_a_stated_layout_decides_where_groups_run(prune: Prune, tmp_path: Path) -> None:
    """With --layout in-out the groups of --pattern run along dim 0."""
    w = torch.ones(8, 8)
    w[::2] = 0
    path = store(tmp_path, w__weight=w)

    usual, stated = (prune("check", path, "--pattern", "2:4", *more) for more in ((), ("--layout", "*=in-out")))

    assert (usual[0], "along inputs (dim 1)" in usual[1]) == (1, True)
    assert (stated[0], "along inputs (dim 0)" in stated[1]) == (0, True)


def test_exit_codes_and_the_table(prune: Prune, tmp_path: Path) -> None:
    """The exit code is 0 if all conditions hold and 1 if one fails; the table has a line for each finding."""
    path = store(tmp_path, w__weight=torch.tensor([[0.0, 1.0, 2.0, 0.0]]))

    held = (
        "all 2 conditions hold\n"
        "\n"
        "result  condition           tensor       required                                   found\n"
        "ok      --min-sparsity 50%  all tensors  at least 50%                               50.0% (2 of 4)\n"
        "ok      --pattern 2:4       all tensors  at most 2 of every 4 along inputs (dim 1)  0 of 1 groups have more\n"
    )
    missed = (
        "1 of 2 conditions failed\n"
        "\n"
        "result  condition           tensor       required     found\n"
        "FAILED  --max-sparsity 25%  all tensors  at most 25%  50.0% (2 of 4; 1 too many)\n"
        "ok      --finite            all tensors  all finite   all 4 weights are\n"
    )

    assert prune("check", path, "--min-sparsity", "50%", "--pattern", "2:4") == (0, held, "")
    assert prune("check", path, "--max-sparsity", "0.25", "--finite") == (1, missed, "")
    assert prune("check", path, "--max-sparsity", "0.25", "-q") == (1, "", "")


def test_json_has_every_finding(prune: Prune, tmp_path: Path) -> None:
    """The JSON form has the verdict and each finding, with the condition as the user typed it."""
    path = store(tmp_path, w__weight=torch.zeros(2, 2))

    code, out, err = prune("check", path, "--no-all-zero", "--min-tensor-sparsity", "w*=100%", "--json", "-q")

    assert (code, err) == (1, "")
    document = json.loads(out)
    assert (document["schema"], document["holds"]) == (1, False)
    (one,) = document["checkpoints"]
    assert (one["checkpoint"], one["holds"]) == (str(path), False)
    assert [(f["condition"], f["holds"], f["tensor"]) for f in one["findings"]] == [
        ("--min-tensor-sparsity w*=100%", True, None),
        ("--no-all-zero", False, "w.weight"),
    ]


def test_several_checkpoints_are_checked_one_by_one(prune: Prune, tmp_path: Path) -> None:
    """Each has a table under its name; one that fails gives exit code 1, and one that cannot be read gives 2."""
    (tmp_path / "b").mkdir()
    good, bad = store(tmp_path, w__weight=torch.ones(2, 2)), store(tmp_path / "b", w__weight=torch.zeros(2, 2))

    code, out, _ = prune("check", good, bad, good, "--no-all-zero")

    assert code == 1
    assert [line for line in out.splitlines() if line and not line.startswith(("result", "ok", "FAILED"))] == [
        f"{good}: the condition holds",
        f"{bad}: the condition failed",
    ]
    assert prune("check", good, good, "--no-all-zero", "-q")[0] == 0
    assert prune("check", good, "missing.pth", "--no-all-zero")[0] == 2
    assert prune("check", "-", "-", "--no-all-zero")[2].startswith("error: only one checkpoint can come through")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((), "check needs a condition"),
        (("--min-sparsity", "50"), "the min sparsity is 0 to 1 (or 0% to 100%), not 50"),
        (("--min-sparsity", "=50%"), "no pattern before the `=`"),
        (("--max-tensor-sparsity", "w*="), "is a fraction or a percentage, not ''"),
        (("--min-sparsity", "fc9*=50%"), "the min sparsity pattern 'fc9*' matches none of 1 tensors"),
        (("--pattern", "2-4"), "the pattern is K:G"),
        (("--pattern", "4:2"), "cannot keep 4 of every 2"),
        (("--pattern", "2:4", "--dim", "5"), "no dim 5"),
        (("--dim", "1", "--finite"), "--dim is the dimension of --pattern"),
        (("--finite", "-i", "nope"), "the include pattern 'nope' matches none"),
        (("--same-structure-as", "missing.pth"), "there is no file or directory missing.pth"),
        (("--finite", "--key", "model"), "no key 'model'"),
    ],
)
def test_wrong_usage_ends_with_two(prune: Prune, args: tuple[str, ...], message: str, tmp_path: Path) -> None:
    """A request that cannot be checked gives exit code 2, an error and a hint."""
    path = store(tmp_path, w__weight=torch.zeros(2, 2))

    code, out, err = prune("check", path, *args)

    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert message in err
    assert "\nhint: " in err


def test_a_terminal_gets_the_first_rows_of_many() -> None:
    """On a terminal failures come first, a long list is cut with a remark, and markup in a name is text."""
    held = Finding(Finite(), holds=True, tensor=None, wanted="all finite", got="all 4 weights are")
    failures = [Finding(NoAllZero(), False, f"[red]{number}", "a weight", "none") for number in range(70)]

    text = written(write_findings, [held, *failures], repr, width=80)

    assert "[red]59" in text
    assert "[red]60" not in text
    assert "11 more results not shown; the JSON output has all" in text
    assert "1 of 2 conditions failed" in text


def test_control_characters_in_names_are_escaped(prune: Prune, tmp_path: Path) -> None:
    """The table shows control characters of a name as escapes, and the JSON form has the name verbatim."""
    path = tmp_path / "m.safetensors"
    save_file({"a\x1b[2J\n.weight": torch.zeros(2, 2)}, path)

    _, out, _ = prune("check", path, "--no-all-zero")
    _, as_json, _ = prune("check", path, "--no-all-zero", "--json")

    assert "a\\x1b[2J\\n.weight" in out
    assert json.loads(as_json)["checkpoints"][0]["findings"][0]["tensor"] == "a\x1b[2J\n.weight"


def test_a_checkpoint_may_come_through_a_pipe(tmp_path: Path) -> None:
    """`prune check -` reads standard input and names it "standard input"."""
    path = store(tmp_path, w__weight=torch.zeros(2, 2))

    ran = run_python("-m", "prunecli", "check", "-", "--min-sparsity", "1.0", "--json", input=path.read_bytes())

    assert (ran.returncode, ran.stderr) == (0, b"")
    assert json.loads(ran.stdout)["checkpoints"][0]["checkpoint"] == "standard input"


def test_failures_of_similar_tensors_share_a_line(prune: Prune, tmp_path: Path) -> None:
    """Of many failures those of similar tensors share a line with the first result; others follow --all and --top."""
    path = store(tmp_path, **{f"layers.{layer}.weight": torch.ones(2, 2) for layer in range(50)})

    _, folded, _ = prune("check", path, "--min-tensor-sparsity", "50%")
    _, every, _ = prune("check", path, "--min-tensor-sparsity", "50%", "--all")
    _, top, _ = prune("check", path, "--min-tensor-sparsity", "50%", "--top", "2")

    assert re.search(r"layers\.\{0\.\.49\}\.weight +50 +at least 50% +0\.0% \(0 of 4; 2 too few\)\n", folded)
    assert [text.count("FAILED") for text in (folded, every, top)] == [1, 50, 2]
    assert "48 more results not shown; --all lists each" in top
