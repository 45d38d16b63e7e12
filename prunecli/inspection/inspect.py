"""List the contents of a checkpoint: its tensors with their zeros, tied names, pruning leftovers and other entries.

All numbers are counted in one pass over the weights. Nothing is written or printed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

from prunecli.checkpoint import OUTSIDE, Keys
from prunecli.dtypes import FLOATS, why_not_prunable
from prunecli.errors import Argument, CheckpointError, SelectionError
from prunecli.formats.contents import other_contents
from prunecli.inspection.magnitude_histogram import DRAWING, MagnitudeHistogram, magnitude_histogram
from prunecli.inspection.passes import Passes, name_of, opened
from prunecli.inspection.thresholds import RANKING, SPARSITIES, ThresholdTable, bytes_to_rank, rank
from prunecli.inspection.zero_counts import count_all, countable, known_counts
from prunecli.layouts.reparametrized import leftovers
from prunecli.remote.errors import reads_twice
from prunecli.remote.path import RemotePath
from prunecli.selection.aliases import tied
from prunecli.selection.copies import left_alone
from prunecli.selection.patterns import matching
from prunecli.selection.select import Selector, laid_out, select
from prunecli.text.escape import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from prunecli.checkpoint import Checkpoint, PackedWeights, PathLike, TensorInfo
    from prunecli.inspection.zero_counts import Counts
    from prunecli.layout import TensorLayout
    from prunecli.layouts.reparametrized import Leftover
    from prunecli.progress import Progress
    from prunecli.selection.copies import LeftAlone
    from prunecli.selection.select import Selection

_UNREAD = "the weights are elsewhere and were not read, so no zeros are counted"


_NamedTensor: TypeAlias = "tuple[TensorInfo, tuple[str, ...]]"
"""A tensor, and the other names of the same weights."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor.

    Attributes:
        name: The tensor's name.
        dtype: The tensor's dtype.
        shape: The tensor's shape.
        numel: The number of elements.
        nbytes: The size in bytes.
        file: The name of the shard, "" in a single file and for a tensor in chunks of several files.
        zeros: The number of zeros, or None if the weights were not read.
        nonfinite: The number of elements that are NaN or infinite; None also for integers and booleans.
        aliases: Other names of the same weights.
        reason: The reason for which a pruning command with the same options skips the tensor, or None.
        layout: The tensor's role, and which of its dimensions are outputs, inputs and experts.
        scaled_by: The name of the tensor that the elements are multiplied by, or None.
        packed: The weights that the elements of a packed tensor hold, or None.
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
    layout: TensorLayout
    scaled_by: str | None = None
    packed: PackedWeights | None = None

    @property
    def sparsity(self) -> float | None:
        """The fraction of elements that are zero (0-1), or None if unknown."""
        return None if self.zeros is None or not self.numel else self.zeros / self.numel

    @property
    def outside(self) -> bool:
        """Whether the tensor is in a nested checkpoint but not in the state_dict."""
        return self.reason == OUTSIDE


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over entries. Tied weights count once.

    `zeros` and `nonfinite` are of the `numel_read` elements that were read.
    """

    tensors: int
    numel: int
    nbytes: int
    numel_read: int
    zeros: int
    nonfinite: int

    @property
    def sparsity(self) -> float | None:
        """The fraction of elements that are zero (0-1), or None if not all of them were read."""
        return self.zeros / self.numel if self.numel and self.numel_read == self.numel else None


@dataclass(frozen=True, slots=True)
class Inspection:
    """The contents of a checkpoint.

    Attributes:
        path: The label or the path of the checkpoint.
        format: The name of the format.
        keys: The dotted paths of the state_dicts that are listed; none if the checkpoint is not nested.
        parts: The keys of the state_dicts that the top of the file consists of, if that is listed as one.
        left_alone: The other state_dicts of the file that hold weights.
        files: The name and the size in bytes of each file.
        notes: Remarks on the container.
        unprunable_entries: The name and the kind of each entry that is tensor-like but cannot be pruned.
        leftovers: The weights that a reparametrization, such as torch.nn.utils.prune, left in parts.
        entries: The tensors; with patterns, only the selected ones.
        refusal: The reason for which a pruning command with the same options refuses the checkpoint, or None.
        selected_only: Whether `entries` has only the selected tensors.
        thresholds: The threshold tables of all prunable tensors together and of each, if requested.
        histogram: The histogram of magnitudes, if requested.
        contents: The name and a short text of each part that is no tensor.
    """

    path: str
    format: str
    keys: tuple[str, ...]
    parts: tuple[str, ...]
    left_alone: tuple[LeftAlone, ...]
    files: tuple[tuple[str, int], ...]
    notes: tuple[str, ...]
    unprunable_entries: tuple[tuple[str, str], ...]
    leftovers: tuple[Leftover, ...]
    entries: tuple[Entry, ...]
    refusal: str | None
    selected_only: bool = False
    thresholds: tuple[ThresholdTable, tuple[ThresholdTable, ...]] | None = None
    histogram: MagnitudeHistogram | None = None
    contents: tuple[tuple[str, str], ...] = ()

    @property
    def key(self) -> str:
        """The key of the state_dict if one is listed, "" for the top of the file or for several."""
        return self.keys[0] if len(self.keys) == 1 else ""

    @property
    def inside(self) -> tuple[Entry, ...]:
        """The entries of the state_dict."""
        return tuple(entry for entry in self.entries if not entry.outside)

    @property
    def outside(self) -> tuple[Entry, ...]:
        """The entries elsewhere in a nested checkpoint, such as optimizer states. They are not read."""
        return tuple(entry for entry in self.entries if entry.outside)

    @property
    def prunable(self) -> tuple[Entry, ...]:
        """The entries that a pruning command with the same options selects."""
        return tuple(entry for entry in self.entries if entry.reason is None)


def totals(entries: Iterable[Entry]) -> Totals:
    """Return the sums over entries."""
    entries = list(entries)
    return Totals(
        tensors=len(entries),
        numel=sum(entry.numel for entry in entries),
        nbytes=sum(entry.nbytes for entry in entries),
        numel_read=sum(entry.numel for entry in entries if entry.zeros is not None),
        zeros=sum(entry.zeros or 0 for entry in entries),
        nonfinite=sum(entry.nonfinite or 0 for entry in entries),
    )


def inspect(  # noqa: PLR0913 - one keyword for each option
    path: PathLike | Checkpoint,
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    min_dim: int | None = None,
    min_numel: int = 0,
    layout: Mapping[str, str] | None = None,
    key: Keys = None,
    read: bool | None = None,
    thresholds: bool = False,
    hist: str | None = None,
    threads: int = 0,
    label: str | None = None,
    progress: Progress | None = None,
) -> Inspection:
    """List the contents of a checkpoint.

    With `include`, `exclude`, `min_dim` or `min_numel`, the result has only the tensors that a pruning command with
    these options selects.

    Args:
        path: The checkpoint: a file, a directory or index of shards, or an open checkpoint.
        include: Patterns over tensor names, as in `prunecli.prune`.
        exclude: Patterns of tensors to leave out.
        min_dim: The smallest number of dimensions of a selected tensor.
        min_numel: The smallest number of elements of a selected tensor.
        layout: The meaning of dimensions by pattern, as in `prunecli.prune`.
        key: The dotted path of the state_dict in a nested checkpoint, or several of them, or globs over them.
        read: Whether to read the weights and count their zeros. None reads them unless the model is elsewhere.
        thresholds: Whether to compute threshold tables of the selected tensors.
        hist: A tensor's name or a pattern; the result has the histogram of the floating-point tensors that match.
        threads: The number of threads, 0 for the number that suits the machine.
        label: A name of the checkpoint for messages and the result (None: the path).
        progress: A receiver of progress.

    Returns:
        The tensors, their counts, and the other contents.

    Raises:
        SelectionError: If a pattern matches nothing, or no tensor is left for `thresholds` or `hist`.
        CheckpointError: If the checkpoint cannot be read.
    """
    checkpoint = opened(path, key, label)
    checkpoint = replace(checkpoint, tensors=tuple(laid_out(checkpoint.tensors, layout or {})))
    elsewhere = isinstance(checkpoint.path, RemotePath)
    if elsewhere and thresholds:
        raise reads_twice(str(checkpoint.path))
    read = not elsewhere if read is None else read
    passes = Passes(checkpoint, threads, progress)
    selector = Selector(include, exclude, min_dim, min_numel)
    selected_only = selector != Selector()
    refusal, selection = _selected(checkpoint, selector, required=selected_only or thresholds)
    named = _listed(checkpoint, selection if selected_only else None)
    drawn = [] if hist is None else _drawable(hist, named)
    if thresholds and progress is not None:
        progress.expect({RANKING: bytes_to_rank([target.tensor for target in selection.targets] if selection else [])})
    if drawn and progress is not None:
        progress.expect({DRAWING: bytes_to_rank(drawn)})
    targets = [] if selection is None else [target.tensor for target in selection.targets]
    ranking = rank(passes, targets, SPARSITIES) if thresholds else None
    known = {} if ranking is None else known_counts(targets, ranking.counts)
    histogram = None
    if hist is not None:
        histogram, counted = magnitude_histogram(passes, hist, drawn)
        known |= known_counts(drawn, counted)
    counts = count_all(passes, [tensor for tensor, _ in named if read and countable(tensor)], known)
    reasons = _skip_reasons(selection, named)
    contents, notes = _contents(checkpoint)
    return Inspection(
        path=name_of(path, label),
        format=checkpoint.format,
        keys=checkpoint.keys,
        parts=checkpoint.parts,
        left_alone=left_alone(checkpoint, _with_names(named)),
        files=tuple((file.path.name, file.stored_size) for file in checkpoint.files),
        notes=(*checkpoint.notes, *notes, *([_UNREAD] if elsewhere and not read else [])),
        unprunable_entries=checkpoint.unprunable_entries,
        leftovers=leftovers(list(dict.fromkeys(tensor.name for tensor in checkpoint.tensors))),
        entries=tuple(_entry(checkpoint, one, counts, reason) for one, reason in zip(named, reasons, strict=True)),
        refusal=refusal,
        selected_only=selected_only,
        thresholds=None if ranking is None else (ranking.together, ranking.each),
        histogram=histogram,
        contents=contents,
    )


def _with_names(named: Sequence[_NamedTensor]) -> set[str]:
    """Return all names of the tensors in the state_dict: a run that prunes one name prunes the others as well."""
    inside = ((tensor.name, *aliases) for tensor, aliases in named if tensor.unprunable_reason != OUTSIDE)
    return {name for names in inside for name in names}


def _contents(checkpoint: Checkpoint) -> tuple[tuple[tuple[str, str], ...], tuple[str, ...]]:
    """Return the parts of the files that are no tensors, or a note if they cannot be listed."""
    try:
        contents = other_contents(replace(checkpoint, other_files=()))
    except CheckpointError as error:
        return (), (f"the other contents cannot be listed: {error}",)
    return tuple((name.removeprefix("entry "), text) for name, text in contents.items()), ()


def _skip_reasons(selection: Selection | None, named: Sequence[_NamedTensor]) -> list[str | None]:
    """Return the reason for which a pruning command skips each tensor, or None if one of its names is selected."""
    selected = set() if selection is None else {target.tensor.name for target in selection.targets}
    skipped = {} if selection is None else {s.tensor.name: s.reason for s in selection.skipped}
    refused = "a pruning command refuses this checkpoint"
    return [
        tensor.unprunable_reason or skipped.get(tensor.name) or refused
        if selected.isdisjoint((tensor.name, *aliases))
        else None
        for tensor, aliases in named
    ]


def _selected(checkpoint: Checkpoint, selector: Selector, *, required: bool) -> tuple[str | None, Selection | None]:
    """Return the selection of a pruning command, or the reason for which it refuses the checkpoint."""
    try:
        return None, select(checkpoint, selector)
    except SelectionError as error:
        if required:
            raise
        return str(error), None


def _listed(checkpoint: Checkpoint, selection: Selection | None) -> list[_NamedTensor]:
    """Return each selected tensor, or each tensor of the checkpoint, with its other names."""
    if selection is not None:
        return [(target.tensor, target.aliases) for target in selection.targets]
    tensors = checkpoint.tensors
    # A copy in an optimizer state does not name a tied group if the state_dict has one of its tensors.
    groups = {min(group, key=lambda i: (tensors[i].unprunable_reason == OUTSIDE, i)): group for group in tied(tensors)}
    empty = {i: (i,) for i, tensor in enumerate(tensors) if not tensor.numel}
    ordered = sorted((groups | empty).items())
    return [(tensors[first], tuple(tensors[i].name for i in group if i != first)) for first, group in ordered]


def _entry(checkpoint: Checkpoint, named: _NamedTensor, counts: Counts, reason: str | None) -> Entry:
    tensor, aliases = named
    shards = len(checkpoint.files) > 1 and checkpoint.assembly is None
    file = checkpoint.files[tensor.file].path.name if shards else ""
    zeros, nonfinite = counts.get(id(tensor), (None, None))
    return Entry(
        tensor.name,
        tensor.dtype,
        tensor.shape,
        tensor.numel,
        tensor.nbytes,
        file,
        zeros,
        nonfinite,
        aliases,
        reason,
        tensor.layout,
        scaled_by=None if tensor.scale is None else tensor.scale.tensor.name,
        packed=tensor.packed,
    )


# --- the histogram


def _drawable(hist: str, named: Sequence[_NamedTensor]) -> list[TensorInfo]:
    """Return the floating-point tensors of the state_dict that the pattern `hist` matches, by any of their names."""
    matched = [tensor for tensor, aliases in named if hist in (tensor.name, *aliases)]
    if not matched:
        tensors = [tensor for tensor, _ in named]
        matched = [tensors[i] for i in matching("hist", hist, tensors, [aliases for _, aliases in named])]
    floats = [tensor for tensor in matched if tensor.dtype in FLOATS and tensor.numel and countable(tensor)]
    if not floats:
        reason = matched[0].unprunable_reason or why_not_prunable(matched[0].dtype) or "it is empty"
        raise SelectionError(
            f"the hist pattern {hist!r} matches only tensors without magnitudes: "
            f"`{printable(matched[0].name)}` ({printable(reason)})",
            hint=Argument("hist", "*.weight"),
        )
    return floats
