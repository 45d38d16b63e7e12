"""Checkpoints that many tests look at: each container is written once, and pruned once per strategy."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import pytest
from support import CONTAINERS, STRATEGIES, make_checkpoint
from support.profiles import load_profiles

from prunecli.api import prune

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from prunecli.report.model import Report

load_profiles()
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in the background of a shell; children would ignore it, too
    signal.signal(signal.SIGINT, signal.default_int_handler)


@dataclass(frozen=True, slots=True)
class Pruned:
    """A checkpoint and what became of it."""

    source: Path
    output: Path
    report: Report


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the path of the checkpoint in a container; nobody may write to it."""

    @cache
    def make(container: str) -> Path:
        return make_checkpoint(container, tmp_path_factory.mktemp(container))

    return make


@pytest.fixture(scope="session")
def pruned(source: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Pruned]:
    """Return what a strategy makes of a container; nobody may write to it."""

    @cache
    def make(container: str, strategy: str) -> Pruned:
        path = source(container)
        output = tmp_path_factory.mktemp("pruned") / path.name
        return Pruned(path, output, prune(path, STRATEGIES[strategy], output=output, reports=()))

    return make


@pytest.fixture(params=list(CONTAINERS))
def container(request: pytest.FixtureRequest) -> str:
    """Every container in turn."""
    return str(request.param)


@pytest.fixture(params=list(STRATEGIES))
def strategy(request: pytest.FixtureRequest) -> str:
    """Every strategy in turn."""
    return str(request.param)
