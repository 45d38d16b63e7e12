"""Opening checkpoints in tests: small tensors, the error of a refused file, and the bytes at listed positions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from prunecli.errors import CheckpointError
from prunecli.formats.open import open_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

    from prunecli.checkpoint import Checkpoint


def weights(seed: int = 0) -> dict[str, torch.Tensor]:
    """Return two small tensors, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    return {f"l{seed}.weight": torch.randn(3, 4, generator=generator), f"l{seed}.bias": torch.ones(3)}


def refused(path: str | Path) -> CheckpointError:
    """Return the error that opening `path` raises; the error and its hint must be one line each."""
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path)
    assert "\n" not in f"{caught.value}{caught.value.hint}"
    return caught.value


def tensor_bytes(checkpoint: Checkpoint) -> dict[str, bytes]:
    """Return the bytes of each contiguous tensor, read at the listed position."""
    return {t.name: checkpoint.files[t.file].path.read_bytes()[t.start : t.end] for t in checkpoint.tensors}
