"""Servers on the loopback, and an environment without the settings of the machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.command_line import in_this_process
from support.servers import Hub, serving

from prunecli.remote import ranges
from prunecli.remote.connections import close_idle

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.command_line import Prune
    from support.servers import Served


@pytest.fixture(autouse=True)
def _environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Work in an empty folder, without tokens, proxies and pauses."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH", "HF_ENDPOINT", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "no-home"))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(ranges, "PAUSE", 0.0)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    yield
    close_idle()


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Served]:
    """Serve the folder `web`."""
    (tmp_path / "web").mkdir()
    with serving(tmp_path / "web") as served:
        yield served


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """Serve the models in the folder `hub` as the Hub does."""
    (tmp_path / "hub").mkdir()
    with serving(tmp_path / "hub", Hub) as served:
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        yield served


@pytest.fixture
def prune(capfd: pytest.CaptureFixture[str]) -> Prune:
    """Return a function that runs the command line in this process."""
    return in_this_process(capfd)
