"""The processes of a run over torch.distributed with gloo."""

from __future__ import annotations

import importlib
import importlib.util
import os
import socket
import threading
import time
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from prunecli.distributed.agreement import agree, cannot_agree
from prunecli.distributed.environment import LaunchError
from prunecli.distributed.failures import Failure, ProcessFailedError, Watch
from prunecli.distributed.group import Group
from prunecli.distributed.waiting import LAST_POLL, first_line, wait_for
from prunecli.text.escape import printable

if TYPE_CHECKING:
    from array import array
    from collections.abc import Callable

    from prunecli.distributed.environment import Launch

FOR_OTHERS = timedelta(seconds=300)
"""How long a process waits at the start for the others."""

FOR_WORK = timedelta(days=30)
"""How long a process waits in an exchange: a slow disk is no failure, and the loss of a process is seen at once."""

SAID_AFTER = 10.0
"""Seconds after which a process says that it waits for others."""

PADDED = 1 << 20
"""Up to this many bytes in all, parts of different sizes are gathered at once, as parts of the same size."""


class GlooGroup(Group):
    """Several processes."""

    def __init__(self, process_group: Any, store: Any, rank: int, size: int) -> None:  # noqa: ANN401 - torch's
        """Take a torch process group of gloo, and a store that all of its processes share."""
        self.rank, self.size, self.exchanged = rank, size, 0
        self.facts: dict[str, str] = {}
        self._torch: Any = importlib.import_module("torch")
        self._group = process_group
        self._watch: Watch | None = None
        self._hosts = ["?"] * size
        hosts = self.gather(socket.gethostname().encode(errors="replace"))
        self._hosts = [printable(host.decode(errors="replace")) for host in hosts]
        self.exchanged = 0
        self._watch = Watch(store, rank, self._hosts)

    def host(self, rank: int) -> str:
        """Return the name of the machine of a process."""
        return self._hosts[rank]

    def gather(self, data: bytes) -> list[bytes]:
        """Return what each process passes, by rank."""
        lengths = self._lengths(len(data))
        self.exchanged += len(data)
        if max(lengths) * self.size <= PADDED:
            return self._gather_padded(data, lengths)
        parts = [self._bytes(data if rank == self.rank else b"", length) for rank, length in enumerate(lengths)]
        for rank, part in enumerate(parts):
            if len(part):
                self._broadcast(part, rank)
        return [bytes(part.numpy()) for part in parts]

    def _lengths(self, own: int) -> list[int]:
        lengths = self._torch.tensor([own], dtype=self._torch.int64)
        every = [self._torch.empty_like(lengths) for _ in range(self.size)]
        self._wait(self._group.allgather([every], [lengths]))
        return [int(one) for one in every]

    def _gather_padded(self, data: bytes, lengths: list[int]) -> list[bytes]:
        if not max(lengths):
            return [b""] * self.size
        parts = [self._bytes(b"", max(lengths)) for _ in lengths]
        self._wait(self._group.allgather([parts], [self._bytes(data, max(lengths))]))
        return [bytes(part.numpy()[:length]) for part, length in zip(parts, lengths, strict=True)]

    def _bytes(self, data: bytes, length: int) -> Any:  # noqa: ANN401 - a tensor
        buffer = bytearray(length)
        buffer[: len(data)] = data
        return self._torch.frombuffer(buffer, dtype=self._torch.uint8) if length else self._torch.empty(0)

    def broadcast(self, data: bytes) -> bytes:
        """Return what rank 0 passes."""
        self.exchanged += len(data) if self.rank == 0 else 0
        length = self._torch.tensor([len(data)], dtype=self._torch.int64)
        self._broadcast(length, 0)
        part = self._bytes(data if self.rank == 0 else b"", int(length))
        if len(part):
            self._broadcast(part, 0)
        return bytes(part.numpy()) if len(part) else b""

    def _broadcast(self, part: Any, root: int) -> None:  # noqa: ANN401 - a tensor
        self._wait(self._group.broadcast(part, root))

    def add_up(self, numbers: array[int]) -> None:
        """Replace each of `numbers` by its sum over the processes."""
        if len(numbers):
            self.exchanged += len(numbers) * numbers.itemsize
            self._wait(self._group.allreduce([self._torch.frombuffer(numbers, dtype=self._torch.int64)]))

    def barrier(self) -> None:
        """Wait until every process is here."""
        self._lengths(0)

    def settle(self) -> None:
        """Stop no more when another process fails."""
        if self._watch is not None:
            self._watch.end()

    def fail(self, own: Failure) -> Failure:
        """Say to the other processes that this one failed; return the first failure of the run."""
        return own if self._watch is None else self._watch.report(own)

    def cannot_agree(self, own: Failure) -> None:
        """Say to the other processes, which call `agree`, that this one failed before."""
        with suppress(ProcessFailedError):
            cannot_agree(self, own)
        self.leave()

    def leave(self) -> None:
        """Stop after another process failed."""
        if self._watch is not None:
            self._watch.leave()

    def said(self) -> None:
        """Let the other processes end."""
        if self._watch is not None:
            self._watch.said()

    def wait_until_said(self) -> None:
        """Wait until rank 0 has printed why the run failed."""
        if self._watch is not None:
            self._watch.wait_until_said()

    def finish(self, code: int) -> int:
        """Return the exit code of rank 0, after waiting for it."""
        if not self.agreed:
            agree(self, {})
        if self.rank == 0:
            self.settle()
        try:
            return int(self.broadcast(str(code).encode()))
        except ProcessFailedError:
            if self.rank:
                raise
            return code  # all is written, whatever happened to the others since
        finally:
            self.settle()

    def _wait(self, work: Any) -> None:  # noqa: ANN401 - a torch Work
        try:
            wait_for(work)
        except RuntimeError as error:
            if self._watch is None:
                raise LaunchError(f"a connection to another process broke: {first_line(error)}") from error
            raise ProcessFailedError(self._watch.broken()) from error


def connect(launch: Launch, wait: timedelta = FOR_OTHERS, note: Callable[[str], None] = lambda _: None) -> GlooGroup:
    """Return the group of all processes of `launch`, after waiting for them; LaunchError where one does not come."""
    if importlib.util.find_spec("torch") is None:
        raise LaunchError(
            f"{launch.variable} says that {launch.size} processes run this, and that needs torch",
            hint=f"pip install 'prunecli[torch]', or for one process: unset {launch.variable}",
        )
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")  # its lines are about retries and sockets
    os.environ.setdefault("MASTER_PORT", str(launch.port))
    store, group = _polled(lambda: _rendezvous(launch, wait), launch, note)
    return GlooGroup(group, store, launch.rank, launch.size)


def _polled(connected: Callable[[], tuple[Any, Any]], launch: Launch, note: Callable[[str], None]) -> tuple[Any, Any]:
    """Return the result of `connected`, which hears no signals and therefore runs in a thread."""
    results: list[Any] = []

    def run() -> None:
        try:
            results.append(connected())
        except Exception as error:  # noqa: BLE001 - raised in the main thread
            results.append(error)

    thread, started, said = threading.Thread(target=run, daemon=True), time.monotonic(), False
    thread.start()
    while thread.is_alive():
        thread.join(LAST_POLL)
        if not said and time.monotonic() - started > SAID_AFTER:
            said = True
            note(f"waiting for the other processes: {launch.variable} is {launch.size}")
    if isinstance(results[0], Exception):
        raise _not_connected(launch, results[0]) from results[0]
    found: tuple[Any, Any] = results[0]
    return found


def _rendezvous(launch: Launch, wait: timedelta) -> tuple[Any, Any]:
    distributed: Any = importlib.import_module("torch.distributed")
    rendezvous: Any = importlib.import_module("torch.distributed.rendezvous").rendezvous
    store, _, _ = next(rendezvous("env://", launch.rank, launch.size, timeout=wait))
    store.set_timeout(wait)
    own = distributed.PrefixStore("prunecli", store)
    group = distributed.ProcessGroupGloo(distributed.PrefixStore("gloo", own), launch.rank, launch.size, wait)
    # The wait for the others is over; from now on there is no limit.
    with_limit = getattr(group, "set_timeout", None) or getattr(group, "_set_default_timeout", None)
    if with_limit is not None:
        with_limit(FOR_WORK)
    return own, group


def _not_connected(launch: Launch, error: Exception) -> LaunchError:
    """Return the error of processes that do not find each other, in place of torch's."""
    place, text = f"{launch.address}:{launch.port}", str(error)
    if "EADDRINUSE" in text or "already in use" in text:
        return LaunchError(
            f"rank 0 cannot wait at {place} for the other processes: another program uses this port",
            hint="export MASTER_PORT=PORT, the same for all processes",
        )
    if launch.rank == 0:
        return LaunchError(
            f"{launch.variable} says that {launch.size} processes run this, and not all of them came to {place}",
            hint=f"start all of them with the same MASTER_ADDR and MASTER_PORT; for one: unset {launch.variable}",
        )
    return LaunchError(
        f"rank {launch.rank} on {socket.gethostname()} does not find rank 0 at {place}",
        hint="start all processes with the same MASTER_ADDR and MASTER_PORT",
    )
