"""The command `prune bake`: its output, its files and its exit codes."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from support.command_line import process, shell
from torch import nn
from torch.nn.utils.prune import l1_unstructured

if TYPE_CHECKING:
    from support.command_line import Prune


@pytest.fixture
def model() -> nn.Module:
    """Return a model of two layers, one of them pruned by half."""
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 3))
    l1_unstructured(layers[0], "weight", 0.5)
    return layers


@pytest.fixture
def ckpt(tmp_path: Path, model: nn.Module) -> Path:
    """Return the path of the saved state_dict."""
    torch.save(model.state_dict(), tmp_path / "m.pth")
    return tmp_path / "m.pth"


def test_the_table_lists_the_folded_weights(ckpt: Path, prune: Prune) -> None:
    """Each weight has a row with shape and sparsity, and the output is named; standard error is empty."""
    code, out, err = prune("bake", ckpt)

    assert (code, err) == (0, "")
    assert out.splitlines()[3].split() == ["0.weight", "F32", "8x8", "64", "32", "50.0%"]
    assert out.splitlines()[0].endswith(f" -> {ckpt.with_name('m.baked.pth')}")
    assert list(torch.load(ckpt.with_name("m.baked.pth"), weights_only=True))[1] == "0.weight"


def test_json_is_the_result_of_the_call(ckpt: Path, prune: Prune) -> None:
    """--json prints one object with the weights and their sparsity."""
    code, out, _ = prune("bake", ckpt, "--json", "-o", ckpt.with_name("o.pth"))

    actual = json.loads(out)
    assert code == 0
    assert (actual["weights"][0]["name"], actual["weights"][0]["sparsity"]) == ("0.weight", 0.5)
    assert actual["output_path"] == str(ckpt.with_name("o.pth"))


def test_a_dry_run_is_marked(ckpt: Path, prune: Prune) -> None:
    """-n prints the same table and writes nothing."""
    code, out, _ = prune("bake", ckpt, "-n")

    assert code == 0
    assert "1 tensor would be folded" in out
    assert "nothing written (dry run)" in out
    assert [path.name for path in ckpt.parent.iterdir()] == ["m.pth"]


def test_quiet_prints_nothing(ckpt: Path, prune: Prune) -> None:
    """-q prints nothing."""
    assert prune("bake", ckpt, "-q") == (0, "", "")


def test_in_place_and_force(ckpt: Path, prune: Prune) -> None:
    """An existing output is replaced only with -f, the input only with --in-place."""
    assert prune("bake", ckpt)[0] == 0
    code, _, err = prune("bake", ckpt)
    assert code == 2
    assert "exists" in err
    assert prune("bake", ckpt, "-f")[0] == 0
    assert prune("bake", ckpt, "--in-place")[0] == 0
    assert "nothing to fold" in prune("bake", ckpt, "-f")[2]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["missing.pth"], "there is no file"),
        (["CKPT", "--key", "nowhere"], "has no tensors at the key"),
        (["CKPT", "--in-place", "-o", "x.pth"], "together with in-place"),
        (["CKPT", "-o", "no/such/folder.pth"], "there is no directory"),
        (["CKPT", "-o", "CKPT"], "is the input itself"),
        (["CKPT", "-o", "-", "--json"], "both need standard output"),
        (["-"], "no name to derive the output's from"),
        (["-", "--in-place"], "cannot be replaced in place"),
        (["CKPT", "--amount", "0.5"], "no such option"),
        ([], "missing argument"),
    ],
)
def test_an_error_is_one_sentence_and_a_hint(ckpt: Path, prune: Prune, args: list[str], words: str) -> None:
    """Each wrong command line exits with 2 and prints an error and a hint, both on standard error."""
    code, out, err = prune("bake", *(str(ckpt) if arg == "CKPT" else arg for arg in args))

    assert (code, out) == (2, "")
    lines = err.splitlines()
    assert words in lines[0].lower() or words in lines[0]
    assert [line.split(":")[0] for line in lines] == ["error", "hint"]


def test_control_characters_in_names_are_escaped(tmp_path: Path, prune: Prune) -> None:
    """Control characters in names are escaped in the table, in notes and in errors."""
    evil, ones = "\x1b[2Jw\nx", torch.ones(2)
    norm = {"\x07s_orig": ones + 1, "\x07s_u": ones + 2}
    torch.save({f"{evil}_orig": ones, f"{evil}_mask": ones.clone(), **norm}, tmp_path / "m.pth")

    code, out, err = prune("bake", tmp_path / "m.pth", "-n")
    torch.save({f"{evil}_orig": ones, f"{evil}_mask": ones * 2}, tmp_path / "m.pth")
    wrong, _, why = prune("bake", tmp_path / "m.pth", "-n")

    assert (code, wrong) == (0, 2)
    assert not any(c in text for c in "\x1b\x07" for text in (out, err, why))
    assert "\\x1b[2Jw\\nx" in out
    assert "\\x1b[2Jw\\nx_mask has the value 2.0" in why


def test_notes_are_printed(tmp_path: Path, prune: Prune) -> None:
    """A weight that is not folded has a line with the reason."""
    ones = torch.ones(2)
    torch.save({"w_orig": ones, "w_mask": ones + 0, "s_orig": ones + 1, "s_u": ones + 2}, tmp_path / "m.pth")

    _, out, _ = prune("bake", tmp_path / "m.pth", "-n")

    assert "note      not folded: s under spectral_norm" in out


def test_a_checkpoint_goes_through_pipes(ckpt: Path, model: nn.Module) -> None:
    """`-` reads standard input, and `-o -` writes to standard output and prints the table on standard error."""
    with ckpt.open("rb") as stdin:
        ran = process("bake", "-", "-o", "-", stdin=stdin)

    actual = torch.load(io.BytesIO(ran.stdout), weights_only=True)
    assert torch.equal(model[0].weight, actual["0.weight"])
    assert b"standard output" in ran.stderr


def test_a_closed_standard_error_leaves_the_checkpoint_alone(ckpt: Path) -> None:
    """If standard error is closed, the table that goes there is dropped: it does not follow the checkpoint."""
    ran = shell(f"cd {ckpt.parent}; prune bake m.pth -q; prune bake m.pth -o - 2>&-")

    assert ran.stdout == ckpt.with_name("m.baked.pth").read_bytes()
