"""The numbers of a report and its sentences."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.reports import report, row, skipped

from prunecli.report.sentences import facts_about, warnings_for


def test_totals_over_selected_and_over_all() -> None:
    """Selected totals count the tensors that were read; totals over all count every float and no integer."""
    r = report(row(numel=100, zeros=50), row(numel=300, zeros=30), skipped("b"), skipped("n", dtype="I64"))

    assert (r.selected.tensors, r.selected.numel, r.selected.pruned) == (2, 400, 80)
    assert r.selected.sparsity_after == 0.2
    assert (r.all.tensors, r.all.numel, r.all.numel_read, r.all.pruned) == (3, 410, 400, 80)
    assert r.all.pruned_fraction == 80 / 410
    assert r.all.sparsity_at_least == 80 / 410


def test_tied_names_count_once_in_all_totals() -> None:
    """A skipped name of the same elements as another one is in no total; an alias of a selected tensor has no row."""
    r = report(row(numel=100, zeros=50, aliases=("a",)), skipped("b"), skipped("c", tied_to="b"))

    assert (r.all.tensors, r.all.numel, r.all.pruned_fraction) == (2, 110, 50 / 110)


def test_earlier_zeros_are_not_pruned_ones() -> None:
    """Sparsity counts the zeros of the input; `pruned` does not."""
    r = report(row(numel=100, zeros=60, zeros_before=20, pruned=40))

    assert (r.selected.sparsity_before, r.selected.sparsity_after) == (0.2, 0.6)
    assert (r.all.pruned_fraction, r.all.sparsity_at_least) == (0.4, 0.6)


def test_unknown_numbers_stay_unknown() -> None:
    """A count that was not made is None in the row and in the totals, never 0."""
    r = report(row(), row("b", zeros_after=None))

    assert skipped("b").sparsity_after is None
    assert r.selected.zeros_after is None
    assert r.selected.sparsity_after is None


def test_a_report_without_weights_has_no_fractions() -> None:
    """No selected tensors, or empty ones, give no fraction and no division by zero."""
    assert report().selected.sparsity_after is None
    assert row(numel=0, zeros=0).sparsity_after is None


@pytest.mark.parametrize(("dtype", "dense"), [("F32", 40), ("BF16", 20), ("F8_E4M3", 10)])
def test_bytes_on_disk(dtype: str, dense: int) -> None:
    """The bytes of the selected weights, zeros included."""
    r = report(row(numel=10, zeros=4, dtype=dtype), skipped("b"))

    assert r.on_disk.dense_bytes == dense


def test_two_four_counts_the_tensors_that_fit() -> None:
    """Selected tensors that fit 2:4 are counted; the count is None if no tensor was examined."""
    rows = [row("a", two_four=True), row("b", two_four=False), row("c", two_four=True), row("d"), skipped("e")]

    disk = report(*rows).on_disk
    assert (disk.two_four, disk.two_four_examined) == (2, 3)
    assert report(row()).on_disk.two_four is None


def test_optimizer_state_is_no_parameter(tmp_path: Path) -> None:
    """A tensor outside the state_dict has a row and is in no total."""
    torch = pytest.importorskip("torch")
    from prunecli.formats.open import open_checkpoint

    nested = {"state_dict": {"fc.weight": torch.ones(4, 6)}, "optimizer": {"exp_avg": torch.ones(4, 6)}}
    torch.save(nested, tmp_path / "a.pth")
    weight, moment = open_checkpoint(tmp_path / "a.pth").tensors
    r = report(row(weight.name, numel=24, zeros=6), skipped(moment.name, str(moment.unprunable_reason), numel=24))

    assert (r.all.tensors, r.all.numel, r.all.pruned_fraction) == (1, 24, 0.25)


# --- sentences


def test_a_warning_names_tensors_that_became_all_zero() -> None:
    """A tensor that became all zero is named; one that was all zero before, or is empty, is not."""
    rows = [row("new", zeros=100), row("was", zeros=100, zeros_before=100, pruned=0), row("kept"), row("none", 0, 0)]

    assert warnings_for(rows) == ("1 tensor becomes all zero: new",)


def test_a_warning_counts_non_finite_weights() -> None:
    """Non-finite weights are counted in total and per tensor."""
    rows = [row("a", nonfinite=1), row("b"), row("c", nonfinite=2000), skipped("d")]

    assert warnings_for(rows) == ("2,001 weights are not finite (NaN or infinity): a (1), c (2,000)",)


def test_long_warnings_are_cut() -> None:
    """After five names a warning counts the rest."""
    (warning,) = warnings_for([row(f"w{i}", zeros=100) for i in range(12)])

    assert warning == "12 tensors become all zero: w0, w1, w2, w3, w4 and 7 more"


def test_entries_copied_unchanged_are_listed_by_kind() -> None:
    """Each kind of entry has one sentence with its first names, escaped."""
    others = [("a", "sparse tensor"), ("q\n", "quantized tensor"), *((f"s{i}", "sparse tensor") for i in range(6))]

    assert facts_about(others) == (
        "7 left as they are, sparse tensor: a, s0, s1, s2, s3 and 2 more",
        "1 left as they are, quantized tensor: q\\n",
    )
