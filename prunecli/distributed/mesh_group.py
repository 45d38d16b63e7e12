"""The processes that do one piece of work together, and what they exchange: counts and short texts, never weights.

An error in one process does not leave the others waiting: what a process contributes is computed by a function that it
passes, and an error of that function is raised in all processes.
"""

from __future__ import annotations

import importlib
import json
from typing import TYPE_CHECKING, Any, TypeVar

from prunecli import errors
from prunecli.distributed.waiting import first_line, wait_for
from prunecli.errors import PruneError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

T = TypeVar("T")


class ExchangeError(PruneError):
    """Another process ended, or did not come in time."""


class MeshGroup:
    """Processes of torch.distributed that call the same methods in the same order."""

    def __init__(self, handle: Any, ranks: Sequence[int], device: str) -> None:  # noqa: ANN401 - a ProcessGroup
        """Exchange through the process group `handle` of `ranks`, whose tensors lie on `device`."""
        self._handle, self.ranks, self._device = handle, tuple(ranks), device
        self.rank: int = _distributed().get_rank()
        self.sent = 0
        """The bytes that this process has contributed."""

    @property
    def index(self) -> int:
        """The position of this process in the group."""
        return self.ranks.index(self.rank)

    def sum(self, size: int, compute: Callable[[], NDArray[np.int64]]) -> NDArray[np.int64]:
        """Return the sum over all processes of what `compute` returns, `size` integers of 64 bits."""
        return self._reduced("SUM", size, "int64", compute)

    def largest(self, size: int, compute: Callable[[], NDArray[Any]], kind: str = "int64") -> NDArray[Any]:
        """Return the largest number of all processes at each place of `size` integers of the type `kind`."""
        return self._reduced("MAX", size, kind, compute)

    def gather(self, make: Callable[[], bytes]) -> list[bytes]:
        """Return what `make` returns in each process, in the order of the ranks."""
        payload, error = self._attempt(make)
        parts = self._gathered((b"-" + _as_text(error)) if payload is None else b"+" + payload)
        self._raise_first(parts, error)
        return [part[1:] for part in parts]

    def together(self, work: Callable[[], T]) -> T:
        """Return what `work` returns in this process; an error in one process is raised in all."""
        results: list[T] = []

        def nothing() -> bytes:
            results.append(work())
            return b""

        self.gather(nothing)
        return results[0]

    @staticmethod
    def _attempt(work: Callable[[], Any]) -> tuple[Any, Exception | None]:
        try:
            return work(), None
        except Exception as error:  # noqa: BLE001 - it is raised again, after the other processes know of it
            return None, error

    def _reduced(self, operation: str, size: int, kind: str, compute: Callable[[], NDArray[Any]]) -> NDArray[Any]:
        np, torch = importlib.import_module("numpy"), importlib.import_module("torch")
        own, error = self._attempt(compute)
        vector = np.zeros(size + 1, kind)  # the last one says whether there was an error
        if error is None:
            vector[:size] = own
        else:
            vector[size] = 1
        data = torch.from_numpy(vector).to(self._device)
        distributed = _distributed()
        self._wait(
            distributed.all_reduce(data, op=getattr(distributed.ReduceOp, operation), group=self._handle, async_op=True)
        )
        self.sent += vector.nbytes
        result: NDArray[Any] = data.cpu().numpy()
        if result[size]:
            self._raise_first(self._gathered(b"+" if error is None else b"-" + _as_text(error)), error)
        return result[:size]

    def _gathered(self, payload: bytes) -> list[bytes]:
        """Return the payload of each process: their lengths are exchanged first."""
        torch = importlib.import_module("torch")
        sizes = [int(size) for size in self._all(torch.tensor([len(payload)]))]
        own = torch.zeros(max(sizes), dtype=torch.uint8)
        own[: len(payload)] = torch.frombuffer(bytearray(payload), dtype=torch.uint8)
        self.sent += max(sizes)
        parts = self._all(own)
        return [part[:size].cpu().numpy().tobytes() for part, size in zip(parts, sizes, strict=True)]

    def _all(self, own: Any) -> list[Any]:  # noqa: ANN401 - tensors
        own = own.to(self._device)
        parts = [own.new_empty(own.shape) for _ in self.ranks]
        self._wait(_distributed().all_gather(parts, own, group=self._handle, async_op=True))
        return parts

    @staticmethod
    def _wait(work: Any) -> None:  # noqa: ANN401 - of torch
        try:
            wait_for(work)
        except RuntimeError as error:
            raise ExchangeError(
                f"the exchange with the other processes failed: {first_line(error)}",
                hint="look for the first error of another rank; all ranks make the same call",
            ) from error

    def _raise_first(self, parts: Sequence[bytes], own: Exception | None) -> None:
        """Raise the own error, or else the first of another process."""
        if own is not None:
            raise own
        for rank, part in zip(self.ranks, parts, strict=True):
            if part[:1] == b"-":
                raise _from_text(rank, part[1:])


def _distributed() -> Any:  # noqa: ANN401 - the module
    return importlib.import_module("torch.distributed")


def _as_text(error: Exception | None) -> bytes:
    is_ours = isinstance(error, PruneError)
    message = str(error) if is_ours else f"{type(error).__name__}: {error}"
    hint = error.hint if isinstance(error, PruneError) else None
    return json.dumps({"kind": type(error).__name__ if is_ours else "", "message": message, "hint": hint}).encode()


def _from_text(rank: int, text: bytes) -> Exception:
    """Return the error of another process, with its rank."""
    fields = json.loads(text)
    message = f"on rank {rank}: {fields['message']}"
    if not fields["kind"]:
        return RuntimeError(message)
    kind = getattr(errors, fields["kind"], PruneError)
    error: PruneError = kind(message, hint=fields["hint"])
    return error
