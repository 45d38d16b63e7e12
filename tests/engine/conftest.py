"""Fixtures of the engine's tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

if TYPE_CHECKING:
    from support.pruning import Weights


@pytest.fixture
def weights() -> Weights:
    """Two matrices and a kernel in several dtypes, one of them too large to be ranked in one read."""
    generator = torch.Generator().manual_seed(1)
    return {
        "big.weight": torch.randn(600, 2000, generator=generator),
        "conv.weight": torch.randn(24, 10, 3, 3, generator=generator).to(torch.bfloat16),
        "half.weight": torch.randn(40, 33, generator=generator).half(),
    }
