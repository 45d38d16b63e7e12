"""A command that several processes run together: they find each other first, rank 0 prints, and all end alike."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from prunecli.cli.command_list import PRUNING
from prunecli.cli.exit import INTERRUPTED, WRONG, message_and_hint, say
from prunecli.distributed.current import processes, use
from prunecli.distributed.environment import LaunchError, launched
from prunecli.distributed.failures import Failure, ProcessFailedError
from prunecli.errors import PruneError, UsageError
from prunecli.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from prunecli.distributed.environment import Launch
    from prunecli.distributed.gloo import GlooGroup

TOGETHER = (*PRUNING, "inspect", "scan", "check", "diff")
"""The commands that several processes can run together."""

SPEAKER_TIME = 1.0
"""Seconds that a process waits for rank 0 before it ends with an error that all of them have at the start."""

_launch: list[Launch] = []


def is_follower() -> bool:
    """Return whether another process prints what this command says; LaunchError for wrong environment variables."""
    launch = launched(os.environ)
    return launch is not None and launch.rank > 0


def says(error: Exception) -> bool:
    """Return whether this process prints an error: rank 0 does, and each process if rank 0 cannot."""
    if isinstance(error, (LaunchError, ProcessFailedError)):
        return True
    return not is_follower()


def said() -> None:
    """Let the other processes end: this one has printed what there is to print."""
    group = processes()
    if group.size > 1 and group.rank == 0:
        group.said()


def wait_for_the_speaker() -> None:
    """Wait a moment before this process ends, in which rank 0 prints the same error.

    Launchers end all processes when the first one has ended.
    """
    time.sleep(SPEAKER_TIME)


def device_of(name: str) -> str:
    """Return the device for the option `name`: of several processes on one machine, each has one of its own."""
    launch = _launch[-1] if _launch else None
    return f"{name}:{launch.local_rank}" if launch is not None and name in {"cuda", "xpu"} else name


def threads_of(count: int) -> int:
    """Return the number of threads for the option `count`; the processes of one machine share its CPUs."""
    launch = _launch[-1] if _launch else None
    if count or launch is None or launch.local_size == 1:
        return count
    from prunecli.io.threads import available_cpus

    return max(available_cpus() // launch.local_size, 1) + 1


def run_together(name: str, run: Callable[[], int]) -> int:
    """Return the exit code of `run`, the command `name`, in one process or in several."""
    launch = launched(os.environ)
    if launch is None:
        return run()
    _check(name, launch)
    from prunecli.distributed.gloo import connect

    group = connect(launch, note=say if launch.rank == 0 else lambda _: None)
    use(group)
    _launch.append(launch)
    group.facts |= {
        "the version": __version__,
        "the options": " ".join(sys.argv[1:]),
        "the directory": str(Path.cwd()),
    }
    try:
        return group.finish(run())
    except BaseException as error:
        _fail(group, error, sys.argv[1:])
        raise


def refuse_together(
    name: str, hint: str = "name a file to read and another one to write, or start one process"
) -> None:
    """Raise UsageError for `name`, which several processes do not do."""
    if processes().size > 1:
        raise UsageError(f"{processes().size} processes run this, and {name} needs one alone", hint=hint)


def _check(name: str, launch: Launch) -> None:
    """Raise UsageError for a command that one process runs."""
    if name in TOGETHER:
        return
    raise UsageError(
        f"{launch.variable} says that {launch.size} processes run this, and {name} runs in one",
        hint=f"unset {launch.variable}, or start it without the launcher",
    )


def _fail(group: GlooGroup, error: BaseException, words: Sequence[str]) -> None:
    """Say to the other processes that this one ends with an error.

    Raises ProcessFailedError where another process failed before and this one was stopped for it, and Exit where
    another process prints the error.
    """
    code, message, hint = _described(error, words)
    own = Failure(group.rank, group.host(group.rank), code, message, hint)
    if isinstance(error, ProcessFailedError):
        group.leave()
        first = error.failure
    elif isinstance(error, Exception) and not group.agreed:
        group.cannot_agree(own)
        first = own
    else:
        first = group.fail(own)
        # A terminal interrupts all processes at once; then each has an end of its own.
        if group.rank == 0 and first.rank and not isinstance(error, Exception) and first.code != code:
            raise ProcessFailedError(first) from error
    known = isinstance(error, (PruneError, OSError, KeyboardInterrupt, SystemExit, typer.Exit))
    if group.rank and known and not (isinstance(error, ProcessFailedError) and first.rank == 0 and first.lost):
        group.wait_until_said()  # launchers end all processes when the first one has ended
        raise typer.Exit(first.code) from None


def _described(error: BaseException, words: Sequence[str]) -> tuple[int, str, str | None]:
    """Return the exit code of an error, its message and its hint."""
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED, "interrupted", None
    if isinstance(error, (SystemExit, typer.Exit)):
        code: Any = error.code if isinstance(error, SystemExit) else error.exit_code
        return int(code), "stopped by a signal", None
    if isinstance(error, (PruneError, OSError)):
        return WRONG, *message_and_hint(error, words)
    return 1, f"{type(error).__name__}: {error}", None
