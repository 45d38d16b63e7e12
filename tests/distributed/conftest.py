"""One process that forks the processes of all runs of a module."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.together import Together, together

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="package")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Together]:
    """Return what runs several processes."""
    with together(tmp_path_factory.mktemp("together")) as forking:
        yield forking
