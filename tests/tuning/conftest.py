"""The checkpoint of the tests of search and sweep."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.evaluation import save_weights

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def ckpt(tmp_path: Path) -> Path:
    """Write 1,000 different weights into a folder of their own."""
    return save_weights(tmp_path)
