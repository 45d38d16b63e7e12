"""The first failure of any process, which all of them hear of at once.

A process that fails stores why, and the others look for it several times a second: they stop in the middle of their
work, and not when they exchange something the next time.
"""

from __future__ import annotations

import json
import signal
import threading
import time
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from prunecli.errors import PruneError
from prunecli.values import dataclass

if TYPE_CHECKING:
    from types import FrameType

LOOK_EVERY = 0.2
"""Seconds between two looks for a failure."""

GRACE = 0.8
"""Seconds in which a process may end with an error of its own after another one failed: often it is the same error."""

HEARD_WITHIN = 3.0
"""Seconds that a process which failed waits until the others have heard of it."""

ROLL_CALL = 2.0
"""Seconds in which processes say that they are alive after a connection of another one broke."""

WAKE = getattr(signal, "SIGURG", None)
"""The signal that interrupts the main thread, also in a system call. By default it is ignored."""

WAKE_AGAIN = 30.0
"""Seconds after which the main thread is interrupted again: the exception may have come where it is ignored.

Longer than the removal of an unfinished output takes, which the first interruption begins.
"""

_FAILURE, _ROLL, _SAID = "failure", "roll", "said"


@dataclass(frozen=True, slots=True)
class Failure:
    """The error of one process: its rank, its machine, its exit code, its message and its hint.

    `lost` says that the process ended without a report, and that another one found it.
    """

    rank: int
    host: str
    code: int
    message: str
    hint: str | None = None
    lost: bool = False


class ProcessFailedError(PruneError):
    """Another process failed, so this one stops. `code` is the exit code of the run."""

    def __init__(self, failure: Failure) -> None:
        """Say which process failed and why."""
        super().__init__(f"rank {failure.rank} on {failure.host}: {failure.message}", hint=failure.hint)
        self.failure, self.code = failure, failure.code


class Watch:
    """Looks for failures in the store that all processes share, in a thread of its own."""

    def __init__(self, store: Any, rank: int, hosts: list[str]) -> None:  # noqa: ANN401 - a torch Store
        """Look into `store` from now on."""
        self._store, self._rank, self._hosts = store, rank, hosts
        self._ended = threading.Event()
        self.failure: Failure | None = None
        self._handler = self._install()
        self._thread = threading.Thread(target=self._look, name="prune-watch", daemon=True)
        self._thread.start()

    def _install(self) -> Any:  # noqa: ANN401 - a signal handler
        if WAKE is None or threading.current_thread() is not threading.main_thread():
            return None
        return signal.signal(WAKE, self._stop_main)

    def _stop_main(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - a signal handler
        if self.failure is not None and not self._ended.is_set():
            raise ProcessFailedError(self.failure)

    def _look(self) -> None:
        while not self._ended.wait(LOOK_EVERY):
            try:
                if not self._store.check([_FAILURE]):
                    if self._store.check([_ROLL]):
                        self._store.set(f"alive/{self._rank}", "1")
                    continue
                self.failure = Failure(**json.loads(self._store.get(_FAILURE)))
                self._store.set(f"heard/{self._rank}", "1")
            except RuntimeError:  # rank 0, which has the store, is gone
                self.failure = self.failure or lost([0], self._hosts)
            if not self._ended.wait(GRACE):
                self._wake()
            return

    def _wake(self) -> None:
        while WAKE is not None and not self._ended.is_set():
            signal.pthread_kill(threading.main_thread().ident or 0, WAKE)
            self._ended.wait(WAKE_AGAIN)

    def end(self) -> None:
        """Look no more."""
        self._ended.set()

    def report(self, failure: Failure) -> Failure:
        """Store a failure of this process, wait until the others have heard of it, and return the first failure."""
        self.end()
        try:
            first = Failure(**json.loads(self._store.compare_set(_FAILURE, "", json.dumps(asdict(failure)))))
        except RuntimeError:  # the store is gone
            return self.failure or failure
        self._wait_until_heard(set(range(len(self._hosts))))
        return first

    def leave(self) -> None:
        """Wait until the others have heard of the failure of another process, because rank 0 has the store."""
        if not self._ended.is_set():
            self.end()
            self._wait_until_heard(set(range(len(self._hosts))))

    def said(self) -> None:
        """Note that this process, rank 0, has printed the failure."""
        with suppress(RuntimeError):
            self._store.set(_SAID, "1")

    def wait_until_said(self) -> None:
        """Wait until rank 0 has printed the failure, or is gone."""
        end = time.monotonic() + HEARD_WITHIN
        with suppress(RuntimeError):
            while not self._store.check([_SAID]) and time.monotonic() < end:
                time.sleep(0.02)

    def broken(self) -> Failure:
        """Return why a connection broke: the failure that a process stored, or the loss of processes."""
        self.end()
        everyone = set(range(len(self._hosts)))
        try:
            self._store.set(_ROLL, "1")
            alive = self._call_the_roll("alive", everyone, 0 if self._store.check([_FAILURE]) else ROLL_CALL)
            missing = sorted(everyone - alive)
            found = lost(missing, self._hosts) if missing else self._cut_off()
            failure = Failure(**json.loads(self._store.compare_set(_FAILURE, "", json.dumps(asdict(found)))))
        except RuntimeError:
            return self.failure or lost([0], self._hosts)
        self._wait_until_heard(alive if failure.lost else everyone)
        return failure

    def _cut_off(self) -> Failure:
        message = "a connection to another process broke"
        return Failure(self._rank, self._hosts[self._rank], 2, message, "check the network between the machines")

    def _wait_until_heard(self, ranks: set[int]) -> None:
        """Wait until `ranks` have heard of the failure. Rank 0 has the store, and ends when all have."""
        with suppress(RuntimeError):
            self._call_the_roll("heard", ranks, HEARD_WITHIN)

    def _call_the_roll(self, word: str, ranks: set[int], seconds: float) -> set[int]:
        """Set `word` for this process, wait until all of `ranks` have set it, and return those that have."""
        self._store.set(f"{word}/{self._rank}", "1")
        end, missing = time.monotonic() + seconds, ranks
        while missing and time.monotonic() < end:
            time.sleep(0.01)
            missing = {rank for rank in missing if not self._store.check([f"{word}/{rank}"])}
        return ranks - missing


def lost(ranks: list[int], hosts: list[str]) -> Failure:
    """Return the failure of processes that ended without a word."""
    others = "" if len(ranks) == 1 else f", and so did {len(ranks) - 1} more"
    message = f"this process ended without a report: it was killed, or its machine is gone{others}"
    return Failure(ranks[0], hosts[ranks[0]], 2, message, "run the same command again", lost=True)
