"""Passes over the tensors of one checkpoint, with the threads and the progress of the caller."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from prunecli.checkpoint import Checkpoint, Keys
from prunecli.formats.open import open_checkpoint
from prunecli.inspection.together import in_parts
from prunecli.io.scan import bytes_to_read, scan_tensors
from prunecli.progress import start
from prunecli.remote.path import as_path

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from prunecli.checkpoint import PathLike, TensorInfo
    from prunecli.io.threads import Worker
    from prunecli.kernels.ops import Read
    from prunecli.progress import Progress

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Passes:
    """A checkpoint to read, the number of threads (0: what suits the machine), and the receiver of progress."""

    checkpoint: Checkpoint
    threads: int = 0
    progress: Progress | None = None

    def measure(
        self,
        phase: str,
        tensors: Sequence[TensorInfo],
        measure: Callable[[Worker, TensorInfo, Read], T],
        make: Callable[..., T],
        *,
        scaled: bool = False,
    ) -> list[T]:
        """Read `tensors` once and return `measure(worker, tensor, read)` for each; `phase` is a word for the user.

        `make` makes a result from its fields, see `in_parts`.

        Codes are read as they are: a zero is a zero whatever its scale. With `scaled`, they are multiplied by it.
        Raises CheckpointError if a file cannot be read or changes during the pass.
        """
        tensors = tensors if scaled else [tensor.codes for tensor in tensors]
        order = sorted(range(len(tensors)), key=lambda index: (tensors[index].file, tensors[index].start))

        def compute(positions: range) -> list[T]:
            own = [tensors[order[position]] for position in positions]
            advance = start(self.progress, phase, bytes_to_read(own))
            return scan_tensors(self.checkpoint, own, measure, threads=self.threads, advance=advance)

        measured = in_parts([self.checkpoint], [tensors[index].nbytes for index in order], compute, make)
        return [value for _, value in sorted(zip(order, measured, strict=True), key=lambda pair: pair[0])]


def opened(path: PathLike | Checkpoint, key: Keys, label: str | None) -> Checkpoint:
    """Return `path` if it is an open checkpoint, else the checkpoint at this path."""
    return path if isinstance(path, Checkpoint) else open_checkpoint(path, key=key, label=label, remote=True)


def name_of(path: PathLike | Checkpoint, label: str | None) -> str:
    """Return the name of a checkpoint in a result: its label, or its path as the caller gave it."""
    return label or (str(path.path) if isinstance(path, Checkpoint) else str(as_path(path)))
