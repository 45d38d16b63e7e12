"""The values of a report: one row per tensor and the totals over the rows.

Every number is measured on the bytes that were written. This module reads and writes no file.
"""

from __future__ import annotations

from dataclasses import field, fields
from typing import TYPE_CHECKING

from prunecli.checkpoint import OUTSIDE
from prunecli.dtypes import BITS, FLOATS
from prunecli.layout import TensorLayout, assumed_layout
from prunecli.report.forms import Forms
from prunecli.report.state_dicts import taken_in_words
from prunecli.text.numbers import format_bytes
from prunecli.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from prunecli.report.histogram import BeforeAfter
    from prunecli.selection.copies import LeftAlone


NOT_READ = "tensors that are not selected are not read: their zeros are unknown and not counted"
"""The note on the totals over all parameters."""

ON_DISK = (
    "a dense file with zeros is neither smaller nor faster by itself; zstd -3 makes it smaller, and the Hugging Face "
    "Hub does so by itself"
)
"""The note on the sizes on disk."""

_NO_LAYOUT = assumed_layout(0)


@dataclass(frozen=True, slots=True)
class Row:
    """The numbers of one tensor.

    A tensor that is not selected is never read: its counts and magnitudes are None. All counts are elements. All
    magnitudes are in the units of the weights.

    Attributes:
        name: The name in the state_dict, verbatim.
        dtype: The element type as safetensors spells it ("F32", "BF16").
        shape: The size of each dimension.
        numel: The number of elements.
        file: The name of the shard that holds the tensor, "" for a checkpoint of one file.
        selected: Whether the tensor was pruned.
        reason: Why the tensor was not selected; None if it was.
        zeros_before: Zeros in the input.
        zeros_after: Zeros in the output.
        pruned: Weights that this run set to zero.
        rule: What the strategy does to this tensor, in words.
        cut: The largest magnitude that may become zero. For slices and blocks it is their norm.
        ties: Weights whose magnitude equals the cut.
        ties_pruned: Weights equal to the cut that became zero.
        l2_kept: The fraction (0-1) of the sum of squares that remains.
        largest_pruned: The largest magnitude that became zero.
        smallest_kept: The smallest magnitude that remains.
        zero_rows: Outputs that are all zero, counted in each expert separately; None for a tensor without outputs.
        zero_cols: Inputs that are all zero, counted in each expert separately; None for a tensor without inputs.
        two_four: Whether each aligned group of 4 along the inputs has at most 2 non-zeros; None with fewer inputs.
        nonfinite: Weights that are NaN or infinite.
        aliases: Other names of the same tensor (tied weights).
        scaled_by: The tensor that the elements are multiplied by, None if they are the weights themselves. All
            magnitudes are of the products.
        packed: The weights that the elements of a packed tensor hold, None for other tensors.
        tied_to: For a tensor that is not selected, the name of another row with the same elements. Totals count them
            once.
        meaning: Its role and the meaning of its dimensions.
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
    scaled_by: str | None = None
    packed: int | None = None
    tied_to: str | None = None
    meaning: TensorLayout = _NO_LAYOUT

    @property
    def role(self) -> str:
        """The role, such as "matrix" or "embedding"."""
        return self.meaning.role

    @property
    def layout(self) -> str:
        """The order of outputs and inputs, such as "out-in", or "-"."""
        return self.meaning.words

    @property
    def outputs(self) -> int | None:
        """The dimension that counts outputs, None if there is none."""
        return self.meaning.outputs

    @property
    def inputs(self) -> int | None:
        """The dimension that counts inputs, None if there is none."""
        return self.meaning.inputs

    @property
    def experts(self) -> int | None:
        """The dimension that counts experts, None for one matrix."""
        return self.meaning.experts

    @property
    def layout_evidence(self) -> str:
        """What the outputs and inputs were decided from, in words."""
        return self.meaning.evidence

    @property
    def sparsity_before(self) -> float | None:
        """The fraction (0-1) of zeros in the input, None if it is unknown."""
        return _fraction(self.zeros_before, self.numel)

    @property
    def sparsity_after(self) -> float | None:
        """The fraction (0-1) of zeros in the output, None if it is unknown."""
        return _fraction(self.zeros_after, self.numel)


_LAYOUT = ("role", "layout", "outputs", "inputs", "experts", "layout_evidence")

COLUMNS = (*(f.name for f in fields(Row) if f.name != "meaning"), *_LAYOUT, "sparsity_before", "sparsity_after")
"""The attributes of a row that the JSON and CSV forms list, in this order."""


@dataclass(frozen=True, slots=True)
class SelectedTotals:
    """Sums over the selected tensors; a count is None if one of the rows has None.

    Attributes:
        tensors: The number of selected tensors.
        numel: Their elements.
        zeros_before: Their zeros in the input.
        zeros_after: Their zeros in the output.
        pruned: Weights that this run set to zero.
        sparsity_before: `zeros_before / numel` (0-1), None without elements.
        sparsity_after: `zeros_after / numel` (0-1), None without elements.
    """

    tensors: int
    numel: int
    zeros_before: int | None
    zeros_after: int | None
    pruned: int | None
    sparsity_before: float | None
    sparsity_after: float | None


@dataclass(frozen=True, slots=True)
class AllTotals:
    """Sums over all floating-point and packed tensors of the state_dict, selected or not. Tied tensors count once.

    Attributes:
        tensors: The number of tensors.
        numel: Their elements, and for packed tensors the weights that they hold.
        numel_read: Elements of the selected tensors. The zeros of the other elements are unknown.
        pruned: Weights that this run set to zero.
        pruned_fraction: `pruned / numel` (0-1), None without elements.
        sparsity_at_least: A lower bound (0-1) of the sparsity over all tensors: known zeros divided by `numel`.
        packed: The weights of packed tensors among `numel`.
    """

    tensors: int
    numel: int
    numel_read: int
    pruned: int | None
    pruned_fraction: float | None
    sparsity_at_least: float | None
    packed: int = 0


@dataclass(frozen=True, slots=True)
class Compressed:
    """An estimate of the compressed size of the selected tensors, from a sample of their bytes.

    Attributes:
        method: The compressor and its level.
        sampled_bytes: The bytes that were compressed for the estimate.
        bytes_before: The estimated bytes of the input's tensors.
        bytes_after: The estimated bytes of the output's tensors.
    """

    method: str
    sampled_bytes: int
    bytes_before: int
    bytes_after: int

    @property
    def words(self) -> str:
        """The estimate in words: what can be typed, what it gives, and what was measured."""
        after, before = format_bytes(self.bytes_after), format_bytes(self.bytes_before)
        measured = f"measured with {self.method} on a sample of {format_bytes(self.sampled_bytes)}"
        return f"about {after} with zstd -3, {before} before ({measured})"


@dataclass(frozen=True, slots=True)
class OnDisk:
    """The size of the selected tensors in several encodings.

    Attributes:
        dense_bytes: The bytes that they take in the checkpoint.
        two_four: The number of tensors that fit the 2:4 pattern, None if it was not examined.
        two_four_examined: The number of tensors that were examined: those with 4 inputs or more.
        compressed: The estimate of the compressed size, None if none was requested.
    """

    dense_bytes: int
    two_four: int | None = None
    two_four_examined: int = 0
    compressed: Compressed | None = None


@dataclass(frozen=True, slots=True, repr=False)
class Report(Forms):
    """The result of a run.

    Attributes:
        rows: One row per tensor, in the order of the checkpoint.
        strategy: The strategy's `name` and its parameters.
        input_path: The checkpoint that was read.
        format: The name of its format.
        input_bytes: Its size in bytes.
        version: The version of prunecli.
        output_path: The checkpoint that was written, "-" for standard output, None if nothing was written.
        output_bytes: Its size in bytes.
        input_sha256: The hash of the input (hexadecimal), None if it was not requested.
        output_sha256: The hash of the output (hexadecimal), None if it was not requested.
        keys: The keys of the state_dicts that were pruned; none for the top level.
        parts: The keys of the state_dicts that the top level consists of, where it was pruned as one.
        left_alone: The other state_dicts of the file that hold weights.
        device: The device that computed.
        kernels: The kernels that computed on it: "native" and the instruction set, "numpy" or "torch".
        seconds: The duration of the run.
        command: The command line, empty for a call from Python.
        dry_run: Whether the run was asked to write nothing.
        warnings: Sentences about results that are probably not intended.
        facts: Sentences about the container and its other entries.
        compressed: The estimate of the compressed size, None if none was requested.
        histograms: Magnitudes before and after, by tensor name; empty unless a report draws them.
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
    keys: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    left_alone: tuple[LeftAlone, ...] = ()
    device: str = "cpu"
    kernels: str = "numpy"
    seconds: float = 0.0
    command: tuple[str, ...] = ()
    dry_run: bool = False
    warnings: tuple[str, ...] = ()
    facts: tuple[str, ...] = ()
    compressed: Compressed | None = None
    histograms: Mapping[str, BeforeAfter] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The key of the state_dict if one was pruned, "" for the top level or for several."""
        return self.keys[0] if len(self.keys) == 1 else ""

    @property
    def taken(self) -> str:
        """The line about the state_dicts: which are pruned and which are left alone; "" if there is only one."""
        return taken_in_words("would prune" if self.dry_run else "pruned", self.keys, self.parts, self.left_alone)

    @property
    def selected(self) -> SelectedTotals:
        """The totals over the selected tensors."""
        rows = [row for row in self.rows if row.selected]
        numel = sum(row.numel for row in rows)
        before, after = _sum(row.zeros_before for row in rows), _sum(row.zeros_after for row in rows)
        return SelectedTotals(
            tensors=len(rows),
            numel=numel,
            zeros_before=before,
            zeros_after=after,
            pruned=_sum(row.pruned for row in rows),
            sparsity_before=_fraction(before, numel),
            sparsity_after=_fraction(after, numel),
        )

    @property
    def all(self) -> AllTotals:
        """The totals over all floating-point and packed tensors of the state_dict."""
        first = [row for row in self.rows if row.reason != OUTSIDE and row.tied_to is None]
        rows = [row for row in first if row.dtype in FLOATS]
        packed = [row.packed for row in first if row.packed is not None]
        numel = sum(row.numel for row in rows) + sum(packed)
        selected = self.selected
        return AllTotals(
            tensors=len(rows) + len(packed),
            numel=numel,
            numel_read=selected.numel,
            pruned=selected.pruned,
            pruned_fraction=_fraction(selected.pruned, numel),
            sparsity_at_least=_fraction(selected.zeros_after, numel),
            packed=sum(packed),
        )

    @property
    def on_disk(self) -> OnDisk:
        """The size of the selected tensors in several encodings."""
        rows = [row for row in self.rows if row.selected]
        examined = [row.two_four for row in rows if row.two_four is not None]
        return OnDisk(
            dense_bytes=sum(_dense_bytes(row) for row in rows),
            two_four=sum(examined) if examined else None,
            two_four_examined=len(examined),
            compressed=self.compressed,
        )


def on_disk_note(report: Report) -> str:
    """Return the note on the sizes on disk; of a torch zip it says that there is a form that torch.load reads."""
    return f"{ON_DISK}; packed, it is read by torch.load" if report.format in {"torch zip", "TorchScript"} else ON_DISK


def _sum(counts: Iterable[int | None]) -> int | None:
    """Return the sum, None if one of the counts is None."""
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
