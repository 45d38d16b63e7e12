"""Small checkpoints of given tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file

if TYPE_CHECKING:
    from pathlib import Path

    from support.weights import Weights


def write(folder: Path, weights: Weights) -> Path:
    """Write a safetensors checkpoint."""
    save_file(weights, folder / "model.safetensors")
    return folder / "model.safetensors"


def saved(path: Path, value: object, **options: Any) -> Path:  # noqa: ANN401 - torch's own
    """Save `value` as torch does."""
    torch.save(value, path, **options)
    return path
