"""What a run did, as values: one row per tensor, the totals over them, and the stable JSON form.

Every number is measured from what was written. Nothing here reads or writes a file.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from prunecli.checkpoint import OUTSIDE
from prunecli.dtypes import BITS, FLOATS
from prunecli.text.escape import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from prunecli.report.histogram import BeforeAfter


NOT_READ = "tensors that are not selected are not read: their zeros are unknown and not counted"
"""What the totals over all parameters leave out."""

ON_DISK = "a dense file with zeros is neither smaller nor faster by itself"
"""What pruning is worth on disk, in plain words."""

_NAMED = 5  # names a warning lists before it counts the rest


@dataclass(frozen=True, slots=True)
class Row:
    """One tensor of the checkpoint. A tensor that was not selected is never read: its numbers are None.

    `shape` and all counts are elements; `file` is the shard's name, "" for a single file. `cut`,
    `largest_pruned` and `smallest_kept` are magnitudes in the weights' own units. `ties` counts the weights equal
    to the cut, `ties_pruned` those of them that became zero. `l2_kept` is the part of the sum of squares that
    remains (0-1). `zero_rows` and `zero_cols` count all-zero slices along dim 0 and dim 1. `two_four` says
    whether every aligned group of 4 along dim 1 has at most 2 non-zeros.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    numel: int
    file: str = ""
    selected: bool = True
    reason: str | None = None
    zeros_before: int | None = None
    zeros_after: int | None = None
    pruned: int | None = None
    rule: str | None = None
    cut: float | None = None
    ties: int | None = None
    ties_pruned: int | None = None
    l2_kept: float | None = None
    largest_pruned: float | None = None
    smallest_kept: float | None = None
    zero_rows: int | None = None
    zero_cols: int | None = None
    two_four: bool | None = None
    nonfinite: int | None = None
    aliases: tuple[str, ...] = ()

    @property
    def sparsity_before(self) -> float | None:
        """The fraction of elements that were zero (0-1), None where that is unknown."""
        return _fraction(self.zeros_before, self.numel)

    @property
    def sparsity_after(self) -> float | None:
        """The fraction of elements that are zero now (0-1), None where that is unknown."""
        return _fraction(self.zeros_after, self.numel)


@dataclass(frozen=True, slots=True)
class SelectedTotals:
    """Sums over the selected tensors; a count is None where a row's is."""

    tensors: int
    numel: int
    zeros_before: int | None
    zeros_after: int | None
    pruned: int | None
    sparsity_before: float | None
    sparsity_after: float | None


@dataclass(frozen=True, slots=True)
class AllTotals:
    """Sums over all floating-point tensors of the state_dict, selected or not.

    `numel_read` counts the elements of the selected ones: of the others no zeros are known, so the sparsity over
    all is only known to be `sparsity_at_least`.
    """

    tensors: int
    numel: int
    numel_read: int
    pruned: int | None
    pruned_fraction: float | None
    sparsity_at_least: float | None


@dataclass(frozen=True, slots=True)
class OnDisk:
    """Bytes of the selected tensors: dense, and as one bit per weight plus the non-zeros (None if not counted).

    `two_four` counts the selected tensors that hardware for 2:4 sparsity could take (None if nobody looked), and
    `compressed` is what a sample says of compressing them, where one was taken.
    """

    dense_bytes: int
    bitmask_bytes: int | None
    two_four: int | None = None
    compressed: Compressed | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """What a run did. `rows` are in checkpoint order; sizes are bytes.

    `strategy` holds `name` and the parameters. On a dry run nothing is written: `output_path`, `output_bytes` and
    `output_sha256` are None. `facts` are sentences about the container.
    """

    rows: tuple[Row, ...]
    strategy: Mapping[str, object]
    input_path: str
    format: str
    input_bytes: int
    version: str
    output_path: str | None = None
    output_bytes: int | None = None
    input_sha256: str | None = None
    output_sha256: str | None = None
    key: str = ""
    device: str = "cpu"
    seconds: float = 0.0
    command: tuple[str, ...] = ()
    dry_run: bool = False
    warnings: tuple[str, ...] = ()
    facts: tuple[str, ...] = field(default=())
    compressed: Compressed | None = None
    histograms: Mapping[str, BeforeAfter] = field(default_factory=dict)

    @property
    def selected(self) -> SelectedTotals:
        """The totals over the selected tensors."""
        rows = [row for row in self.rows if row.selected]
        numel = sum(row.numel for row in rows)
        before = _sum(row.zeros_before for row in rows)
        after = _sum(row.zeros_after for row in rows)
        pruned = _sum(row.pruned for row in rows)
        return SelectedTotals(
            len(rows), numel, before, after, pruned, _fraction(before, numel), _fraction(after, numel)
        )

    @property
    def all(self) -> AllTotals:
        """The totals over every floating-point tensor of the state_dict."""
        rows = [row for row in self.rows if row.dtype in FLOATS and row.reason != OUTSIDE]
        numel = sum(row.numel for row in rows)
        chosen = self.selected
        return AllTotals(
            tensors=len(rows),
            numel=numel,
            numel_read=chosen.numel,
            pruned=chosen.pruned,
            pruned_fraction=_fraction(chosen.pruned, numel),
            sparsity_at_least=_fraction(chosen.zeros_after, numel),
        )

    @property
    def on_disk(self) -> OnDisk:
        """What the selected tensors take, dense and packed."""
        rows = [row for row in self.rows if row.selected]
        looked = [row.two_four for row in rows if row.two_four is not None]
        return OnDisk(
            dense_bytes=sum(_dense_bytes(row) for row in rows),
            bitmask_bytes=_sum(_bitmask_bytes(row) for row in rows),
            two_four=sum(looked) if looked else None,
            compressed=self.compressed,
        )


def _sum(counts: Iterable[int | None]) -> int | None:
    total = 0
    for count in counts:
        if count is None:
            return None
        total += count
    return total


def _fraction(count: int | None, numel: int) -> float | None:
    return None if count is None or not numel else count / numel


def _dense_bytes(row: Row) -> int:
    return row.numel * BITS[row.dtype] // 8


def _bitmask_bytes(row: Row) -> int | None:
    if row.zeros_after is None:
        return None
    return -(-row.numel // 8) + (row.numel - row.zeros_after) * BITS[row.dtype] // 8


# --- warnings


def warnings_for(rows: Sequence[Row]) -> tuple[str, ...]:
    """Return a sentence for the tensors that became all zero, and one for non-finite weights, where there are any.

    Names are escaped for a terminal, and counted after the first few.
    """
    wiped = [row for row in rows if _wiped(row)]
    odd = [row for row in rows if row.nonfinite]
    warnings = []
    if wiped:
        what = "tensor becomes" if len(wiped) == 1 else "tensors become"
        warnings.append(f"{len(wiped)} {what} all zero: {_listed([printable(row.name) for row in wiped])}")
    if odd:
        count = sum(row.nonfinite or 0 for row in odd)
        what = "weight is" if count == 1 else "weights are"
        named = [f"{printable(row.name)} ({row.nonfinite:,})" for row in odd]
        warnings.append(f"{count:,} {what} not finite (NaN or infinity): {_listed(named)}")
    return tuple(warnings)


def facts_about(others: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    """Return a sentence per kind of what is no plain tensor and stays as it is; `others` are (name, what it is)."""
    names: dict[str, list[str]] = {}
    for name, what in others:
        names.setdefault(what, []).append(printable(name))
    return tuple(f"{len(found):,} left as they are, {what}: {_listed(found)}" for what, found in names.items())


def _wiped(row: Row) -> bool:
    return bool(row.numel and row.pruned and row.zeros_after == row.numel)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


# --- JSON


@dataclass(frozen=True, slots=True)
class Compressed:
    """An estimate, in bytes, of what the selected tensors take when compressed, before and after pruning.

    `method` names the compressor and its level; `sampled_bytes` are what it was tried on.
    """

    method: str
    sampled_bytes: int
    bytes_before: int
    bytes_after: int
