"""The contents of a checkpoint besides its tensors, over all of its files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from prunecli.formats.contents import other_contents
from prunecli.formats.open import open_checkpoint

if TYPE_CHECKING:
    from pathlib import Path


def test_shards_may_be_zip_and_legacy_files(tmp_path: Path) -> None:
    """Each shard is read in its own format; equal values are listed once, and different ones are numbered."""
    names = [f"pytorch_model-{number}-of-00002.bin" for number in ("00001", "00002")]
    torch.save({"a.weight": torch.ones(2, 2), "epoch": 3, "note": "x"}, tmp_path / names[0])
    torch.save(
        {"b.weight": torch.ones(2, 2), "epoch": 3, "note": "y"},
        tmp_path / names[1],
        _use_new_zipfile_serialization=False,
    )
    (tmp_path / "config.json").write_text("{}")

    contents = other_contents(open_checkpoint(tmp_path))

    digest = contents.pop("file config.json")
    assert digest == "2 bytes, sha256 44136fa355b3"
    assert contents == {"entry epoch": "3", "entry note": "'x'", "entry note#2": "'y'"}
