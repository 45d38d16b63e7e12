"""A conversion needs the pickle of a torch file twice, for the tensors and for the rest, and reads it once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support import make_checkpoint

from prunecli import convert
from prunecli.formats.open import open_checkpoint
from prunecli.formats.torch import data_pickle

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the list of files whose pickle is read."""
    read, labels = data_pickle.read_pickle, []

    def counted(stream: object, label: str) -> object:
        labels.append(label)
        return read(stream, label)  # type: ignore[arg-type]

    monkeypatch.setattr(data_pickle, "read_pickle", counted)
    return labels


def test_a_conversion_reads_the_pickle_once(tmp_path: Path, reads: list[str]) -> None:
    """The tensors and the other entries of a torch file come from one reading."""
    checkpoint = make_checkpoint("zip", tmp_path)
    convert(checkpoint, tmp_path / "out.safetensors", drop_rest=True)

    assert [str(checkpoint)] == reads


def test_no_pickle_is_kept_after_a_conversion(tmp_path: Path, reads: list[str]) -> None:
    """What is opened later is read again: nothing is kept between calls."""
    checkpoint = make_checkpoint("zip", tmp_path)
    with data_pickle.keeping_pickle():
        open_checkpoint(checkpoint)
        open_checkpoint(checkpoint)
    open_checkpoint(checkpoint)

    assert [str(checkpoint)] * 2 == reads
