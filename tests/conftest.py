"""Checkpoints that many tests read: each container is written once, and pruned once per strategy."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import pytest
import torch
from support import CONTAINERS, STRATEGIES, make_checkpoint
from support.profiles import load_profiles
from support.runs import Forks, forking

from prunecli.api import prune

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from prunecli.report.model import Report

load_profiles()
for variable in ("NO_COLOR", "FORCE_COLOR", "PRUNE_DEVICE", "PRUNE_THREADS"):  # a CI service may set some of them
    os.environ.pop(variable, None)
torch.set_num_threads(1)  # the workers of a run share the CPUs: threads of torch would spin while they wait
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a background job of a shell; child processes inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _seed() -> None:
    """Start each test with the same random numbers of torch."""
    torch.manual_seed(0)


@dataclass(frozen=True, slots=True)
class Pruned:
    """A checkpoint, its pruned copy, and the report."""

    source: Path
    output: Path
    report: Report


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that writes a checkpoint in a container; tests do not change it."""

    @cache
    def make(container: str) -> Path:
        return make_checkpoint(container, tmp_path_factory.mktemp(container))

    return make


@pytest.fixture(scope="session")
def pruned(source: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Pruned]:
    """Return a function that prunes a container by a strategy; tests do not change the result."""

    @cache
    def make(container: str, strategy: str) -> Pruned:
        path = source(container)
        output = tmp_path_factory.mktemp("pruned") / path.name
        return Pruned(path, output, prune(path, STRATEGIES[strategy], output=output, reports=()))

    return make


@pytest.fixture(
    params=[pytest.param(name, marks=pytest.mark.slow) if one.slow else name for name, one in CONTAINERS.items()]
)
def container(request: pytest.FixtureRequest) -> str:
    """Name each container in turn."""
    return str(request.param)


@pytest.fixture(params=list(STRATEGIES))
def strategy(request: pytest.FixtureRequest) -> str:
    """Name each strategy in turn."""
    return str(request.param)


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    """Start a process that runs command lines in forks."""
    with forking() as forks:
        yield forks
