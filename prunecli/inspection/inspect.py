"""What is in a checkpoint: its tensors with their zeros, who shares numbers with whom, and what is beside them.

Every number is counted in one pass over the weights. Nothing here writes, and nothing here is printed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import floor, isfinite, log10
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from prunecli.checkpoint import OUTSIDE
from prunecli.dtypes import FLOATS, why_not_prunable
from prunecli.errors import CheckpointError, SelectionError
from prunecli.formats.contents import other_contents
from prunecli.inspection.thresholds import ThresholdTable, bytes_read, ladders, tally
from prunecli.io.scan import CHUNK, bytes_to_read, magnitudes, scan_tensors
from prunecli.progress import start
from prunecli.selection.aliases import tied
from prunecli.selection.patterns import matching
from prunecli.selection.reparametrized import leftovers
from prunecli.selection.select import Selector, select
from prunecli.text.escape import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from prunecli.checkpoint import Checkpoint, TensorInfo
    from prunecli.io.threads import Worker
    from prunecli.kernels.ops import Read
    from prunecli.progress import Progress
    from prunecli.selection.reparametrized import Leftover
    from prunecli.selection.select import Selection

LADDER = (10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 99)
"""The sparsities, in percent, that thresholds are told for."""

PERCENTILES = (1, 5, 10, 25, 50, 75, 80, 90, 95, 99, 100)
"""What is told beside a histogram."""

BARS = 20
"""Bars of a histogram up to the 99th percentile; one more takes what lies beyond."""

_COUNTED = ("BOOL", "I", "U")
_SAID = 5  # digits of an edge: it is a multiple of a number of two digits

_Names: TypeAlias = "tuple[TensorInfo, tuple[str, ...]]"
"""A tensor, and the other names of the same numbers."""

_Counts: TypeAlias = dict[int, tuple[int, int | None]]
"""By the tensor's identity (names may come twice): its zeros, and for floats what is not finite."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor, with the other names of the same numbers.

    `shape` and counts are elements, `nbytes` bytes, `file` a shard's name ("" for a single file). `zeros` and
    `nonfinite` are None where the weights were not looked at, `nonfinite` also for what is no float. `reason` says why
    a pruning command with the same options would leave the tensor alone, None where it would take it.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    numel: int
    nbytes: int
    file: str
    zeros: int | None
    nonfinite: int | None
    aliases: tuple[str, ...]
    reason: str | None

    @property
    def sparsity(self) -> float | None:
        """The fraction of elements that are zero (0-1), None where that is unknown."""
        return None if self.zeros is None or not self.numel else self.zeros / self.numel

    @property
    def outside(self) -> bool:
        """Whether the tensor is elsewhere in a nested checkpoint, not in the state_dict."""
        return self.reason == OUTSIDE


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over some entries, each number once however many names it has.

    `numel_read` counts the elements that were looked at; `zeros` and `nonfinite` are of these.
    """

    tensors: int
    numel: int
    nbytes: int
    numel_read: int
    zeros: int
    nonfinite: int

    @property
    def sparsity(self) -> float | None:
        """The fraction of elements that are zero (0-1), None where not all of them were looked at."""
        return self.zeros / self.numel if self.numel and self.numel_read == self.numel else None


@dataclass(frozen=True, slots=True)
class Drawing:
    """A histogram of magnitudes: `counts[i]` weights from `edges[i]` up to the next edge, the last without an end.

    `tensors` name whose weights they are, `nonfinite` counts those that are in no bar. `ladder` has their percentiles.
    """

    pattern: str
    tensors: tuple[str, ...]
    edges: tuple[float, ...]
    counts: tuple[int, ...]
    zeros: int
    nonfinite: int
    ladder: ThresholdTable


@dataclass(frozen=True, slots=True)
class Inspection:
    """What was found. `files` are (name, bytes); `nothing` says why a pruning command would refuse, where it would.

    `facts` and `others` are the checkpoint's, `things` what is no tensor, as (name, short text). `chosen`
    tells that `entries` are only what the options select. `thresholds` are the ladders of all prunable tensors together
    and of each.
    """

    path: str
    format: str
    key: str
    files: tuple[tuple[str, int], ...]
    facts: tuple[str, ...]
    others: tuple[tuple[str, str], ...]
    leftovers: tuple[Leftover, ...]
    entries: tuple[Entry, ...]
    nothing: str | None
    chosen: bool = False
    thresholds: tuple[ThresholdTable, tuple[ThresholdTable, ...]] | None = None
    drawing: Drawing | None = None
    things: tuple[tuple[str, str], ...] = ()

    @property
    def inside(self) -> tuple[Entry, ...]:
        """The entries of the state_dict."""
        return tuple(e for e in self.entries if not e.outside)

    @property
    def outside(self) -> tuple[Entry, ...]:
        """The entries elsewhere in a nested checkpoint: optimizer states, averages; they are not read."""
        return tuple(e for e in self.entries if e.outside)

    @property
    def prunable(self) -> tuple[Entry, ...]:
        """The entries that a pruning command with the same options takes."""
        return tuple(e for e in self.entries if e.reason is None)


def totals(entries: Iterable[Entry]) -> Totals:
    """Add up some entries."""
    entries = list(entries)
    return Totals(
        tensors=len(entries),
        numel=sum(e.numel for e in entries),
        nbytes=sum(e.nbytes for e in entries),
        numel_read=sum(e.numel for e in entries if e.zeros is not None),
        zeros=sum(e.zeros or 0 for e in entries),
        nonfinite=sum(e.nonfinite or 0 for e in entries),
    )


def inspect(
    checkpoint: Checkpoint,
    *,
    rules: Selector | None = None,
    read: bool = True,
    thresholds: bool = False,
    hist: str | None = None,
    label: str | None = None,
    progress: Progress | None = None,
) -> Inspection:
    """Look at `checkpoint`.

    `rules`, where given, keep only the tensors that a pruning command would take under them. `read` False looks at no
    weight. `thresholds` adds the ladders of what would be pruned; `hist`, a tensor's name, a glob or `re:` and a
    regular expression, the histogram of the floating-point tensors that match, together. `label` stands for the path;
    `progress` receives the progress. Raises SelectionError where `rules`, `thresholds` or `hist` come to nothing, and
    CheckpointError where a file cannot be read.
    """
    nothing, selection = _selected(checkpoint, rules or Selector(), refuse=rules is not None or thresholds)
    groups = _shown(checkpoint, selection if rules is not None else None)
    drawn = _drawable(hist, groups) if hist is not None else []
    counts = _zeros(checkpoint, [t for t, _ in groups if read and _countable(t)], progress)
    why = _Reasons(selection)
    things, facts = _things(checkpoint)
    return Inspection(
        path=label or str(checkpoint.path),
        format=checkpoint.format,
        key=checkpoint.key,
        files=tuple((file.path.name, file.size) for file in checkpoint.files),
        facts=(*checkpoint.notes, *facts),
        others=checkpoint.unprunable_entries,
        leftovers=leftovers(list(dict.fromkeys(t.name for t in checkpoint.tensors))),
        entries=tuple(_entry(checkpoint, t, names, counts, why.of(t, names)) for t, names in groups),
        nothing=nothing,
        chosen=rules is not None,
        thresholds=_ladders(checkpoint, why.targets, LADDER, progress) if thresholds else None,
        drawing=None if hist is None else _draw(checkpoint, hist, drawn, progress),
        things=things,
    )


def _things(checkpoint: Checkpoint) -> tuple[tuple[tuple[str, str], ...], tuple[str, ...]]:
    """Return what is in the files beside tensors, or a sentence where that cannot be told."""
    try:
        found = other_contents(replace(checkpoint, other_files=()))
    except CheckpointError as error:
        return (), (f"what is beside the tensors cannot be told: {error}",)
    return tuple((name.removeprefix("entry "), text) for name, text in found.items()), ()


class _Reasons:
    """Why a pruning command leaves a tensor alone."""

    def __init__(self, selection: Selection | None) -> None:
        self.targets = [] if selection is None else [t.tensor for t in selection.targets]
        self._taken = {t.name for t in self.targets}
        self._skipped = {} if selection is None else {s.tensor.name: s.reason for s in selection.skipped}

    def of(self, tensor: TensorInfo, aliases: Iterable[str]) -> str | None:
        """Return the reason, None where one of the tensor's names is taken."""
        if tensor.name in self._taken or not self._taken.isdisjoint(aliases):
            return None
        return tensor.unprunable_reason or self._skipped.get(tensor.name) or "a pruning command refuses this checkpoint"


def _selected(checkpoint: Checkpoint, rules: Selector, *, refuse: bool) -> tuple[str | None, Selection | None]:
    """Return what a pruning command would take, or why it would refuse."""
    try:
        return None, select(checkpoint, rules)
    except SelectionError as error:
        if refuse:
            raise
        return str(error), None


def _shown(checkpoint: Checkpoint, selection: Selection | None) -> list[_Names]:
    """Return each tensor to show with its other names: what is selected, or all there is."""
    if selection is not None:
        return [(target.tensor, target.aliases) for target in selection.targets]
    tensors = checkpoint.tensors
    groups = {min(group, key=lambda i: (tensors[i].unprunable_reason == OUTSIDE, i)): group for group in tied(tensors)}
    empty = {i: (i,) for i, tensor in enumerate(tensors) if not tensor.numel}
    ordered = sorted((groups | empty).items())
    return [(tensors[first], tuple(tensors[i].name for i in group if i != first)) for first, group in ordered]


def _entry(
    checkpoint: Checkpoint,
    tensor: TensorInfo,
    aliases: tuple[str, ...],
    found: _Counts,
    reason: str | None,
) -> Entry:
    file = checkpoint.files[tensor.file].path.name if len(checkpoint.files) > 1 else ""
    zeros, nonfinite = found.get(id(tensor), (None, None))
    return Entry(
        tensor.name, tensor.dtype, tensor.shape, tensor.numel, tensor.nbytes, file, zeros, nonfinite, aliases, reason
    )


# --- counting


def _countable(tensor: TensorInfo) -> bool:
    """Say whether the elements are numbers of whole bytes that can be read one by one, in the state_dict."""
    if tensor.unprunable_reason == OUTSIDE or len(tensor.shape) != len(tensor.strides):
        return False
    return (tensor.dtype in FLOATS or tensor.dtype.startswith(_COUNTED)) and not tensor.overlaps_itself


def _zeros(checkpoint: Checkpoint, tensors: Sequence[TensorInfo], progress: Progress | None) -> _Counts:
    if not tensors:
        return {}
    advance = start(progress, "counting", bytes_to_read(tensors))
    return dict(zip(map(id, tensors), scan_tensors(checkpoint, tensors, _count, advance=advance), strict=True))


def _count(_: Worker, tensor: TensorInfo, read: Read) -> tuple[int, int | None]:
    if tensor.dtype not in FLOATS:
        runs = (read(first, min(first + CHUNK, tensor.numel)) for first in range(0, tensor.numel, CHUNK))
        return tensor.numel - sum(int(np.count_nonzero(x)) for x in runs), None
    alive = nonfinite = 0
    largest = FLOATS[tensor.dtype].finite_max
    for y in magnitudes(read, tensor):
        alive += int(np.count_nonzero(y))
        if int(y.max()) > largest:
            nonfinite += int(np.count_nonzero(y > largest))
    return tensor.numel - alive, nonfinite


# --- thresholds


def _ladders(
    checkpoint: Checkpoint, tensors: Sequence[TensorInfo], percents: Sequence[int], progress: Progress | None
) -> tuple[ThresholdTable, tuple[ThresholdTable, ...]]:
    advance = start(progress, "ranking", bytes_read(tensors))
    return ladders(checkpoint, tensors, percents, advance=advance)


# --- a histogram


def _drawable(hist: str, groups: Sequence[_Names]) -> list[TensorInfo]:
    """Return the floating-point tensors of the state_dict that `hist` names, by any of their names."""
    named = [tensor for tensor, aliases in groups if hist in (tensor.name, *aliases)]
    found = named
    if not named:
        tensors = [tensor for tensor, _ in groups]
        found = [tensors[i] for i in matching("hist", hist, tensors, [aliases for _, aliases in groups])]
    floats = [t for t in found if t.dtype in FLOATS and t.numel and _countable(t)]
    if not floats:
        why = found[0].unprunable_reason or why_not_prunable(found[0].dtype) or "it is empty"
        raise SelectionError(
            f"--hist {hist!r} matches only what has no magnitudes to draw: "
            f"`{printable(found[0].name)}` ({printable(why)})",
            hint="--hist '*.weight'",
        )
    return floats


def _draw(checkpoint: Checkpoint, hist: str, tensors: Sequence[TensorInfo], progress: Progress | None) -> Drawing:
    ladder, _ = _ladders(checkpoint, tensors, PERCENTILES, progress)
    edges = _edges(ladder)
    cuts = {
        dtype: [1, *(FLOATS[dtype].ceil(edge) for edge in edges[1:]), FLOATS[dtype].finite_max + 1]
        for dtype in {t.dtype for t in tensors}
    }
    zeros, first, *bars, nonfinite = tally(checkpoint, tensors, cuts).tolist()
    names = tuple(t.name for t in tensors)
    return Drawing(hist, names, edges, (zeros + first, *bars), zeros, nonfinite, ladder)


def _edges(ladder: ThresholdTable) -> tuple[float, ...]:
    """Return round edges of bars of one width, from 0 to a little above the 99th percentile."""
    steps = {step.percent: step.threshold for step in ladder.steps}
    ends = [steps[99], *(steps[p] for p in reversed(PERCENTILES))]
    end = next((end for end in ends if end), 0.0)
    width = float(f"{end / BARS:.1e}")
    if not width or not isfinite(width * BARS):
        return (0.0,)
    width += float(f"{10.0 ** floor(log10(width)) / 10:.0e}") if width * BARS <= end else 0.0
    return tuple(float(f"{at * width:.{_SAID}g}") for at in range(BARS + 1))
