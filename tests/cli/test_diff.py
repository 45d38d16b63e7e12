"""`prune diff`: its table, JSON and exit codes."""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING

import pytest
import torch

if TYPE_CHECKING:
    from pathlib import Path

    from support.command_line import Prune


def saved(path: Path, value: object) -> Path:
    """Save `value` as torch does."""
    torch.save(value, path)
    return path


def test_exit_codes_and_the_table(prune: Prune, tmp_path: Path) -> None:
    """The exit code is 0 if nothing differs and 1 otherwise; the table is on standard output."""
    old = torch.tensor([[1.0, -2.0], [3.0, 4.0]])
    a = saved(tmp_path / "a.pth", {"fc.weight": old, "fc.bias": torch.ones(2), "epoch": 1})
    b = saved(tmp_path / "b.pth", {"fc.weight": old * torch.tensor([[1, 0], [1, 2]]), "fc.bias": torch.ones(2)})

    table = (
        "1 of 2 tensors differs: 2 of 6 entries changed, 1 of them to zero\n"
        "\n"
        "tensor     dtype  shape  entries  changed  to zero  otherwise  largest change\n"
        "fc.weight  F32      2x2        4        2        1          1               4\n"
        "\n"
        "only in A   entry epoch: 1\n"
    )

    assert prune("diff", a, a) == (0, "no tensor differs: 2 tensors, 6 entries\n", "")
    assert prune("diff", a, b) == (1, table, "")
    assert prune("diff", a, b, "-q") == (1, "", "")
    assert prune("diff", a, b, "-x", "fc.weight") == (
        1,
        "no tensor differs: 1 tensor, 2 entries; 1 other item differs\n\nonly in A   entry epoch: 1\n",
        "",
    )


def test_differences_in_structure_have_a_line_each(prune: Prune, tmp_path: Path) -> None:
    """Tensors in one checkpoint only, or with another dtype or shape, have a line each."""
    a = saved(tmp_path / "a.pth", {"w": torch.ones(2, 3), "h": torch.ones(2), "old": torch.ones(1)})
    b = saved(tmp_path / "b.pth", {"w": torch.ones(3, 2), "h": torch.ones(2).half(), "new": torch.ones(())})

    _, out, _ = prune("diff", a, b)

    assert out.splitlines() == [
        "4 of 4 tensors differ",
        "",
        "only in A   old, F32 1",
        "only in B   new, F32 scalar",
        "other kind  w is F32 2x3 in A, F32 3x2 in B",
        "other kind  h is F32 2 in A, F16 2 in B",
    ]


def test_json_has_every_difference(prune: Prune, tmp_path: Path) -> None:
    """The JSON form has the verdict, each tensor that differs, and the other contents that differ."""
    a = saved(tmp_path / "a.pth", {"w": torch.tensor([1.0, math.inf]), "n": 1})
    b = saved(tmp_path / "b.pth", {"w": torch.tensor([0.0, 1.0]), "n": 2})

    code, out, _ = prune("diff", a, b, "--json")

    document = json.loads(out)
    assert (code, document["same"], document["only_zeros_added"], document["tensors_compared"]) == (1, False, False, 1)
    form = {"dtype": "F32", "shape": [2]}
    assert document["tensors"] == [
        {
            "name": "w",
            "tied_to": None,
            "a": form,
            "b": form,
            "entries": 2,
            "changed": 2,
            "to_zero": 1,
            "zero_signs": 0,
            "otherwise": 1,
            "largest_change": 1.0,
            "changes_not_finite": 1,
        }
    ]
    assert document["beside"] == [{"name": "entry n", "a": "1", "b": "2"}]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("A",), "missing argument"),
        (("A", "missing.pth"), "there is no file or directory missing.pth"),
        (("-", "-"), "only one checkpoint can come through standard input"),
        (("A", "A", "-x", "nope"), "the exclude pattern 'nope' matches none"),
        (("A", "A", "--key", "nope"), "has no tensors at the key 'nope'"),
    ],
)
def test_wrong_usage_ends_with_two(prune: Prune, args: tuple[str, ...], message: str, tmp_path: Path) -> None:
    """A request that cannot be compared gives exit code 2, an error and a hint."""
    path = saved(tmp_path / "a.pth", {"w": torch.ones(2)})

    code, out, err = prune("diff", *(str(path) if arg == "A" else arg for arg in args))

    assert (code, out) == (2, "")
    assert message in err
    assert "\nhint: " in err


def test_control_characters_are_escaped(prune: Prune, tmp_path: Path) -> None:
    """Control characters in names and values from a file are printed as escapes."""
    a = saved(tmp_path / "a.pth", {"a\x1b[2J": torch.ones(1), "k\x1b\n": "v\x1b[2J"})
    b = saved(tmp_path / "b.pth", {"a\x1b[2J": torch.zeros(1)})

    _, out, err = prune("diff", a, b)

    assert "\x1b" not in out + err
    assert "a\\x1b[2J" in out
    assert "k\\x1b\\n" in out


def test_many_similar_tensors_share_a_line(prune: Prune, tmp_path: Path) -> None:
    """Of many changed tensors those with similar names share a line; --all and --top show single ones."""
    names = [f"layers.{layer}.{kind}.weight" for layer in range(30) for kind in ("k", "q")]
    a = saved(tmp_path / "a.pth", {name: torch.ones(2, 2) for name in names})
    b = saved(tmp_path / "b.pth", {name: torch.eye(2) for name in names})
    c = saved(tmp_path / "c.pth", {"x": torch.ones(2)})

    _, folded, _ = prune("diff", a, b)
    _, every, _ = prune("diff", a, b, "--all")
    _, top, _ = prune("diff", a, b, "--top", "2")
    _, apart, _ = prune("diff", a, c)

    assert re.search(r"layers\.\{0\.\.29\}\.k\.weight +30 +F32 +2x2 +120 +60 +60 +0 +1\n", folded)
    assert sum(line.startswith("layers.") for line in every.splitlines()) == 60
    assert sum(line.startswith("layers.") for line in top.splitlines()) == 2
    assert "58 tensors changed less not shown; --all lists each" in top
    assert "only in A   layers.{0..29}.q.weight (30 tensors), F32 2x2\n" in apart
