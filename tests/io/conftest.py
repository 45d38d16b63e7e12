"""Fixtures for tests of atomic output: each way to create a file, and a fixed umask."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from prunecli.io import publish

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(params=["nameless", "named"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a test with O_TMPFILE, and with the named temporary file of filesystems without it."""
    if request.param == "named":
        monkeypatch.setattr(publish, "_open_nameless", lambda _parent: None)
    return str(request.param)


@pytest.fixture
def umask() -> Iterator[None]:
    """Set the umask to 0o027 during a test."""
    old = os.umask(0o027)
    yield
    os.umask(old)
