"""The architecture that config.json names, and files of this name that are something else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from prunecli.formats.config import LARGEST, model_type_in
from prunecli.formats.open import open_checkpoint

if TYPE_CHECKING:
    from pathlib import Path


def test_the_architecture_is_read(tmp_path: Path) -> None:
    """`model_type` of the file next to a checkpoint decides the layout of its square matrices."""
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    torch.save({"h.0.attn.c_proj.weight": torch.zeros(4, 4)}, tmp_path / "a.pth")

    (tensor,) = open_checkpoint(tmp_path / "a.pth").tensors

    assert (tensor.layout.words, tensor.layout.evidence) == ("in-out", "config.json: gpt2")


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b'{"model_type": 3}', b'{"model_type": ["gpt2"]}', b"\xff", b"[" * 100_000, b" " * (LARGEST + 1)],
    ids=["empty", "a list", "a number", "a list of names", "no text", "deep", "large"],
)
def test_a_config_of_another_kind_is_passed_over(content: bytes, tmp_path: Path) -> None:
    """The file is a hint only: whatever is wrong with it, it names no architecture."""
    (tmp_path / "config.json").write_bytes(content)

    assert model_type_in(tmp_path) == ""


def test_no_config_names_no_architecture(tmp_path: Path) -> None:
    """A missing file, a folder of that name and a missing folder name none."""
    (tmp_path / "a" / "config.json").mkdir(parents=True)

    assert [model_type_in(folder) for folder in (tmp_path, tmp_path / "a", tmp_path / "b")] == ["", "", ""]
