"""The commands `prune convert` and `prune strip`: their lines, pipes and exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.command_line import shell

if TYPE_CHECKING:
    from support.command_line import Prune


@pytest.fixture
def ckpt(tmp_path: Path) -> Path:
    """Return a checkpoint with an epoch and an optimizer."""
    saved = {
        "epoch": 1,
        "model": {"module.a.weight": torch.rand(8, 8), "module.b.weight": torch.rand(4, 8)},
        "optimizer": {"state": {0: torch.rand(8, 8)}, "param_groups": []},
    }
    torch.save(saved, tmp_path / "m.pth")
    return tmp_path / "m.pth"


def test_a_conversion_is_one_sentence_and_notes(ckpt: Path, prune: Prune) -> None:
    """The sentence has the formats and the sizes, and the notes what changed besides."""
    code, out, err = prune("convert", ckpt, ckpt.with_name("o.safetensors"), "--drop-rest")

    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith("2 tensors converted from torch zip to safetensors, ")
    assert lines[0].endswith(f"-> {ckpt.with_name('o.safetensors')}")
    assert lines[2:] == ["note      in the metadata, as texts: epoch", "note      left out: optimizer (1 tensor)"]


def test_what_does_not_fit_is_an_error_with_the_whole_line_as_its_hint(ckpt: Path, prune: Prune) -> None:
    """The hint is the command with the option that leaves it out; the other command that prunes has it too."""
    output = ckpt.with_name("o.safetensors")

    for words in (["convert", ckpt, output], ["l1", ckpt, "--amount", "0.5", "-o", output]):
        code, out, err = prune(*words)
        assert (code, out) == (2, "")
        assert err.splitlines()[0] == "error: safetensors cannot hold 1 entry: optimizer (1 tensor)"
        assert err.splitlines()[1] == f"hint: prune {' '.join(map(str, words))} --drop-rest leaves them out"
        assert not output.exists()


def test_pipes_and_json(ckpt: Path, prune: Prune) -> None:
    """Standard output needs a format; a dry run writes nothing, and JSON is the result."""
    assert prune("convert", ckpt, "-")[0] == 2
    assert prune("convert", ckpt, "-", "--format", "safetensors", "--json")[0] == 2
    code, out, _ = prune("convert", ckpt, ckpt.with_name("d"), "--max-shard-size", "200", "--drop-rest", "--json", "-n")
    ran = shell(f"cat {ckpt} | prune convert - - --format torch --key model > {ckpt.with_name('o.bin')}")

    assert code == 0
    assert json.loads(out)["files"] == ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    assert sorted(path.name for path in ckpt.parent.iterdir()) == ["m.pth", "o.bin"]
    assert ran.returncode == 0
    assert list(torch.load(ckpt.with_name("o.bin"))) == ["epoch", "model", "optimizer"]


def test_a_strip_is_a_sentence_and_a_table(ckpt: Path, prune: Prune) -> None:
    """Each entry that goes has a row with its role and what it saves."""
    code, out, err = prune("strip", ckpt, "--to", "fp16")

    assert (code, err) == (0, "")
    assert out.splitlines()[0].endswith(f"-> {ckpt.with_name('m.stripped.pth')}")
    assert [line.split() for line in out.splitlines()[-3:]] == [
        ["gone", "role", "tensors", "saved"],
        ["optimizer", "optimizer", "1", "256", "bytes"],
        ["F32", "to", "F16", "cast", "2", "192", "bytes"],
    ]
    after = torch.load(ckpt.with_name("m.stripped.pth"))
    assert (list(after), list(after["model"])) == (["epoch", "model"], ["a.weight", "b.weight"])


def test_pruning_commands_strip(ckpt: Path, prune: Prune, tmp_path: Path) -> None:
    """--strip and --to work in the same pass, and so does the table of a recipe."""
    (tmp_path / "r.toml").write_text(
        'strip = {keep = "model", to = "bf16"}\nrule = [{strategy = "l1", amount = 0.5}]\n'
    )
    one, two = ckpt.with_name("1.safetensors"), ckpt.with_name("2.safetensors")

    assert prune("l1", ckpt, "--amount", "0.5", "--strip", "model", "--to", "bf16", "-o", one)[0] == 0
    assert prune("run", tmp_path / "r.toml", ckpt, "-o", two)[0] == 0

    assert one.read_bytes() == two.read_bytes()
    weights = load_file(one)
    assert {str(t.dtype) for t in weights.values()} == {"torch.bfloat16"}
    assert sum(int((t == 0).sum()) for t in weights.values()) == 48


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("strip = 1", "strip is a table of a recipe"),
        ("strip = {kep = 'model'}", "strip has an unknown key 'kep'"),
        ("strip = {to = 'int8'}", "strip: a cast leads to fp16 or bf16"),
        ("strip = {unwrap = 'no'}", "strip: unwrap is true or false"),
        ("strip = {keep = [1]}", "strip: keep is a text"),
    ],
)
def test_wrong_tables_of_recipes_are_refused(text: str, message: str, ckpt: Path, prune: Prune) -> None:
    """The message names the key, and the hint is TOML."""
    recipe = ckpt.with_name("r.toml")
    recipe.write_text(f'{text}\nrule = [{{strategy = "l1", amount = 0.5}}]\n')

    code, _, err = prune("run", recipe, ckpt)

    assert code == 2
    assert message in err


def test_a_cast_without_a_strip_is_refused(ckpt: Path, prune: Prune) -> None:
    """What is kept must be said."""
    code, _, err = prune("l1", ckpt, "--amount", "0.5", "--to", "fp16")

    assert (code, err.splitlines()[0]) == (2, "error: --to needs --strip, which says what is kept")


def test_a_search_writes_the_format_of_its_output(tmp_path: Path, prune: Prune) -> None:
    """Candidates have the format of the input, and the result that of its suffix."""
    save_file({"a.weight": torch.rand(8, 8)}, tmp_path / "m.safetensors")
    words = ["search", tmp_path / "m.safetensors", "l1", "--max-drop", "1", "--tries", "2", "--eval", "echo 1 {}"]

    code, _, err = prune(*words, "-o", tmp_path / "o.pth")

    assert (code, err) == (0, "")
    assert list(torch.load(tmp_path / "o.pth")) == ["a.weight"]


def test_the_hint_to_keep_prefixes_can_be_typed(tmp_path: Path, prune: Prune) -> None:
    """The option belongs to strip; commands that prune name that command."""
    torch.save([{"_orig_mod.a.weight": torch.rand(8, 8)}], tmp_path / "m.pth")

    stripped = prune("strip", tmp_path / "m.pth")
    pruned = prune("l1", tmp_path / "m.pth", "--amount", "0.5", "--strip", "model", "--min-numel", "1")

    assert stripped.err.splitlines()[1] == "hint: keep the prefixes: --no-unwrap"
    assert pruned.err.splitlines()[1] == "hint: keep the prefixes: prune strip CKPT --no-unwrap, before it is pruned"
    assert prune("strip", tmp_path / "m.pth", "--no-unwrap").code == 0
