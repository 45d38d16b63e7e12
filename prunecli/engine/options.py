"""How a run works, as opposed to what it does: device, threads, and what it measures on the way."""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING

from prunecli.distributed.group import Group
from prunecli.progress import NoProgress, Progress
from prunecli.values import dataclass

if TYPE_CHECKING:
    from prunecli.report.gates import Gates


@dataclass(frozen=True, slots=True)
class RunOptions:
    """The options of a run that do not change which weights are pruned.

    Attributes:
        device: A torch device such as "cuda:0", or None for NumPy on the CPU.
        threads: The number of threads; 0 takes one per core, up to the number that helps.
        window: The bytes processed at once; 0 takes the size that suits the device.
        direct: Whether to write around the page cache; None decides by the size of the output.
        strict: Whether weights that are not finite are an error.
        sha256: Whether to read the input and the output again for their digests.
        histograms: Whether to count magnitudes for the HTML report.
        estimate: Whether to compress a sample of the weights for the report.
        gates: The bounds that the result must meet; it is not published otherwise.
        label: The name of the input in the report; None takes its path.
        command: The command line that the report records.
        progress: Receives the progress.
        group: The processes that do the run together.
    """

    device: str | None = None
    threads: int = 0
    window: int = 0
    direct: bool | None = None
    strict: bool = False
    sha256: bool = False
    histograms: bool = False
    estimate: bool = False
    gates: Gates | None = None
    label: str | None = None
    command: tuple[str, ...] = ()
    progress: Progress = field(default_factory=NoProgress)
    group: Group = field(default_factory=Group)
