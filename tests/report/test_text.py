"""A report as text, in a pipe and on a terminal."""

from __future__ import annotations

import pytest
from support.reports import EVIL, report, row, skipped, written

from prunecli.report.model import Compressed
from prunecli.report.text import write_report


def test_plain_text_is_ascii_aligned_and_complete() -> None:
    """In a pipe every selected tensor has a line, columns align, and no name is cut."""
    rows = [row(f"layer.{i}.{'x' * i}.weight", shape=(8, 3), zeros=i) for i in range(80)]
    lines = written(write_report, report(*rows)).splitlines()

    assert all(line.isascii() for line in lines)
    assert [line.split()[0] for line in lines[1:81]] == [r.name for r in rows]
    assert len({line.index("8x3") for line in lines[1:81]}) == 1


def test_the_text_has_every_part() -> None:
    """Cut, ties, totals, reasons, the note on sizes and the paths are in the text."""
    value = report(row(aliases=("head",)), skipped("b.bias"), facts=("tied by name",))
    text = written(write_report, value, reports=["r.json"])

    for part in (
        "fc.weight (+1 tied)",
        "0.0% -> 50.0%",
        "0.25  1 of 3",
        "asked     l1 amount=0.5",
        "got       zeroed 50 of 100 weights",
        "selected  1 tensor, 100 weights: 0.0% -> 50.0% zero",
        "all       2 tensors, 110 parameters: 45.5% pruned, at least 45.5% zero",
        "skipped   1: fewer than 2 dimensions (b.bias)",
        "note      tied by name",
        "neither smaller nor faster",
        "output    out.pth (1.0 kB)",
        "report    r.json",
    ):
        assert part in text


def test_a_dry_run_says_that_nothing_was_written() -> None:
    """Without an output the text says so, and what the run would zero."""
    text = written(write_report, report(row(), output_path=None, output_bytes=None, dry_run=True))

    assert "output    nothing written (dry run)" in text
    assert "would zero 50 of 100" in text


def test_an_estimate_names_its_method() -> None:
    """With an estimate the text has the compressed size, the method, and the number of tensors that fit 2:4."""
    estimate = Compressed("zstd level 3", 1_000_000, 190_000, 80_000)
    text = written(write_report, report(row(two_four=True), row("b", two_four=False), compressed=estimate))

    assert "estimate  about 80.0 kB compressed, 190.0 kB before (zstd level 3 on a sample of 1.0 MB)\n" in text
    assert "2:4       1 of 2 tensors fit\n" in text
    assert "estimate" not in written(write_report, report(row(two_four=True)))


def test_a_common_effect_is_described() -> None:
    """The strategy's effect is in the text if it is the same for all selected tensors."""
    assert "(keeps 2 of every 4)" in written(write_report, report(row(rule="keeps 2 of every 4")))
    assert "keeps" not in written(write_report, report(row(rule="keeps 2"), row("b", rule="keeps 3")))


def test_skipped_tensors_are_summarised() -> None:
    """Many skipped tensors of one reason are counted; few are named."""
    text = written(write_report, report(row(), *(skipped(f"b{i}") for i in range(4)), skipped("n", "it is empty")))

    assert "skipped   4: fewer than 2 dimensions\n" in text
    assert "skipped   1: it is empty (n)\n" in text


def test_many_reasons_are_cut() -> None:
    """After a dozen reasons the rest are one line."""
    text = written(write_report, report(row(), *(skipped(f"b{i}", f"tied to {i}") for i in range(40))))

    assert text.count("\nskipped ") == 13
    assert "skipped   28: for other reasons" in text


@pytest.mark.parametrize("width", [None, 80, 200])
def test_names_cannot_command_the_terminal(width: int | None) -> None:
    """Control characters, line breaks, bidi overrides and markup in a name are printed as text."""
    value = report(row(EVIL), skipped(EVIL, f"tied to {EVIL}"), input_path=EVIL, output_path=EVIL, facts=(EVIL,))
    text = written(write_report, value, width=width)

    assert not {"\x1b", "\u202e", "\r"} & set(text)
    assert "[red]" in text
    assert r"\x1b[31m\n\u202e" in text.replace("\n", "") or width == 80


@pytest.mark.parametrize("width", [60, 80, 100, 140])
def test_terminal_table_fits_and_keeps_numbers(width: int) -> None:
    """No table line is wider than the terminal; long names fold, sparsity and pruned are whole."""
    text = written(write_report, report(row("n" * 300 + ".weight", 10**9, 123_456_789)), width=width)
    lines = text[: text.index("asked")].splitlines()

    assert max(map(len, lines)) <= width
    assert "0.0% -> 12.3%" in text
    assert "123,456,789" in text
    assert "".join(line.split(" ")[0] for line in lines[2:]) == "n" * 300 + ".weight"


def test_very_narrow_terminal_keeps_numbers() -> None:
    """On a terminal narrower than its numbers the table is wider than the terminal."""
    text = written(write_report, report(row("n" * 30, 10**9, 123_456_789)), width=10)

    assert "0.0% -> 12.3%  123,456,789" in text


def test_many_tensors_show_the_most_pruned() -> None:
    """A terminal shows the 30 most pruned of more than 60 tensors, in order, and names the file with all."""
    rows = [row(f"w{i:03}", 1000, i) for i in range(100)]
    text = written(write_report, report(*rows), width=120, reports=["r.json"])

    assert [line.split()[0] for line in text.splitlines() if line.startswith("w")] == [
        f"w{i:03}" for i in range(70, 100)
    ]
    assert "70 tensors pruned less are not shown; r.json lists all" in text
    assert "not shown; the JSON output lists all" in written(write_report, report(*rows), width=120)


def test_colour_only_on_a_terminal() -> None:
    """Escape sequences appear on a terminal with colours, never elsewhere."""
    value = report(row())

    assert "\x1b[" in written(write_report, value, width=100, color=True)
    assert "\x1b[" not in written(write_report, value, width=100)
    assert "\x1b[" not in written(write_report, value, color=True)
