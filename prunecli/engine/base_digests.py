"""The SHA-256 of the weights before they are pruned, from the pass that reads them anyway.

The digest of a tensor is that of its little-endian elements in row-major order. So it is the same in every container,
and NumPy and hashlib compute it too.
"""

from __future__ import annotations

from threading import Condition, Lock
from typing import TYPE_CHECKING

from prunecli.errors import Argument, CheckpointError
from prunecli.io.threads import Stopped
from prunecli.kernels.ops import is_tensor
from prunecli.text.escape import printable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from threading import Event

    from prunecli.checkpoint import TensorInfo
    from prunecli.io.threads import Worker
    from prunecli.kernels.ops import Array


class _Digest:
    """The digest of the weights of a tensor up to element `done`."""

    def __init__(self) -> None:
        import hashlib  # noqa: PLC0415 - its import takes longer than a small run, and most runs do not need it

        self.sha256, self.done = hashlib.sha256(), 0
        self.change = Condition()

    def wait_for(self, first: int, stopped: Event) -> None:
        """Wait until the elements before `first` are digested."""
        with self.change:
            while self.done != first:
                if stopped.is_set():
                    raise Stopped
                self.change.wait(0.05)  # not for ever: a thread that failed does not notify

    def add(self, data: Array) -> None:
        """Digest the next elements."""
        self.sha256.update(data.cpu().numpy() if is_tensor(data) else data)
        with self.change:
            self.done += len(data)
            self.change.notify_all()


class BaseDigests:
    """The digests of the targets of a run; `expected` has those that a mask was made for, by position."""

    def __init__(self, targets: Sequence[TensorInfo], stopped: Event, expected: Mapping[int, str]) -> None:
        """Start without digests; waiting ends early when `stopped` is set."""
        self._targets, self._stopped, self._expected = targets, stopped, expected
        self._digests: dict[int, _Digest] = {}
        self._lock = Lock()

    def add(self, worker: Worker, target: int, first: int, data: Array) -> None:
        """Digest a run of a target's weights, after those before it; `first` is its first row-major element.

        Raises CheckpointError after the last one if the digest is not the expected one.
        """
        digest = self._digest(target)
        with worker.waiting():  # the thread that it waits for may need the compute lock
            digest.wait_for(first, self._stopped)
        digest.add(data)
        if first + len(data) == self._targets[target].numel:
            self._check(target)

    def _digest(self, target: int) -> _Digest:
        with self._lock:
            digest = self._digests.get(target)
            if digest is None:
                digest = self._digests[target] = _Digest()
            return digest

    def _check(self, target: int) -> None:
        expected, name = self._expected.get(target), printable(repr(self._targets[target].name))
        if expected is not None and self._digest(target).sha256.hexdigest() != expected:
            raise CheckpointError(
                f"{name} does not have the weights that its mask was made of: their SHA-256 is another one",
                hint=("for weights that were trained since: ", Argument("any_base", value=True)),
            )

    def by_name(self) -> dict[str, str]:
        """Return the digest of each target by its name."""
        return {tensor.name: self._digest(target).sha256.hexdigest() for target, tensor in enumerate(self._targets)}
