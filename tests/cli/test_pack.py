"""The commands `prune pack` and `prune unpack`: their output, their files and their exit codes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch
from support.command_line import process

if TYPE_CHECKING:
    from pathlib import Path

    from support.command_line import Prune


@pytest.fixture
def ckpt(tmp_path: Path) -> Path:
    """Return the path of a checkpoint with zeros."""
    torch.save({"a.weight": torch.eye(60), "b.weight": torch.eye(50)}, tmp_path / "m.pth")
    return tmp_path / "m.pth"


def test_pack_prints_sizes_and_readers(ckpt: Path, prune: Prune) -> None:
    """The lines say what was compressed, who reads the output, and how large it is."""
    code, out, err = prune("pack", ckpt)

    lines = out.splitlines()
    assert (code, err) == (0, "")
    assert lines[0].startswith("2 of 2 storages packed at level 6, ")
    assert lines[0].endswith(f"%) -> {ckpt.with_name('m.packed.pth')}")
    assert lines[1] == ""
    assert lines[2].startswith("note      torch.load reads it")
    assert lines[3].startswith("note      torch.load(mmap=True) raises")


def test_unpack_restores_the_input(ckpt: Path, prune: Prune) -> None:
    """Unpack writes the input again, under its own name if there is no such file."""
    before = ckpt.read_bytes()
    prune("pack", ckpt)
    ckpt.unlink()

    code, out, _ = prune("unpack", ckpt.with_name("m.packed.pth"))

    assert code == 0
    assert out.startswith("2 of 2 storages unpacked, ")
    assert before == ckpt.read_bytes()


def test_json_is_the_result_of_the_call(ckpt: Path, prune: Prune) -> None:
    """--json prints one object with the sizes, also on a dry run."""
    code, out, _ = prune("pack", ckpt, "--json", "-n", "--level", 9)

    actual = json.loads(out)
    assert (code, actual["command"], actual["level"], actual["output_path"]) == (0, "pack", 9, None)
    assert actual["input_bytes"] == ckpt.stat().st_size > actual["output_bytes"]
    assert [path.name for path in ckpt.parent.iterdir()] == ["m.pth"]


def test_pipes(ckpt: Path) -> None:
    """Both commands read and write pipes; the lines go to standard error."""
    packed = process("pack", "-", "-o", "-", input=ckpt.read_bytes())
    unpacked = process("unpack", "-", "-o", "-", input=packed.stdout)

    assert (packed.returncode, unpacked.returncode) == (0, 0)
    assert ckpt.read_bytes() == unpacked.stdout
    assert b"standard output" in packed.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pack", "-"], "has no name"),
        (["pack", "-", "--in-place"], "a pipe cannot be replaced"),
        (["pack", "m.pth", "-o", "-", "--json"], "both need standard output"),
        (["pack", "m.pth", "--level", "0"], "level"),
        (["unpack", "m.pth"], "is not packed"),
        (["pack"], "CKPT"),
    ],
)
def test_wrong_lines_are_refused(
    words: list[str], message: str, ckpt: Path, prune: Prune, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each wrong line ends with code 2 and one sentence, and writes nothing."""
    monkeypatch.chdir(ckpt.parent)

    code, _, err = prune(*words)

    assert code == 2
    assert message in err
    assert [path.name for path in ckpt.parent.iterdir()] == ["m.pth"]


def test_commands_read_a_packed_file(ckpt: Path, prune: Prune) -> None:
    """The numbers of inspect, check, diff and scan are those of the file that was packed."""
    prune("pack", ckpt)
    packed = ckpt.with_name("m.packed.pth")

    assert prune("diff", ckpt, packed).code == 0
    assert prune("check", packed, "--min-sparsity", "97%").code == 0
    for command in ("inspect", "scan"):
        plain, same = (json.loads(prune(command, path, "--json").out)["tensors"] for path in (ckpt, packed))
        assert plain
        assert plain == same
