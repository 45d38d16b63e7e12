"""A report as text, in a pipe and on a terminal."""

from __future__ import annotations

import pytest
from support.reports import EVIL, report, row, skipped, written

from prunecli.report.model import Compressed
from prunecli.report.text import write_report
from prunecli.text.tables import View


def table(text: str) -> list[str]:
    """Return the lines of the table: the last part of the text."""
    return text.split("\n\n")[2].splitlines()


def test_the_result_comes_first_and_every_tensor_has_a_line() -> None:
    """The text begins with the result; in a pipe columns align, and no name is cut."""
    rows = [row(f"layer.{i}.{'x' * i}.weight", shape=(8, 3), zeros=i) for i in range(40)]
    text = written(write_report, report(*rows, seconds=0.0625))

    assert text.startswith(
        "19.5% of 4,000 weights zeroed in 40 tensors, 0.06 s -> out.pth\n\nstrategy    l1 amount=0.5\n"
    )
    lines = table(text)
    assert text.isascii()
    assert [line.split()[0] for line in lines[1:]] == [r.name for r in rows]
    assert len({line.index("8x3") for line in lines[1:]}) == 1


def test_the_text_has_every_part() -> None:
    """Cut, ties, the whole model, reasons and the paths are in the text; the note on sizes only where it was asked."""
    value = report(row(aliases=("head",)), skipped("b.bias"), facts=("tied by name",))
    text = written(write_report, value, reports=["r.json"], mask="m.safetensors")

    for part in (
        "fc.weight (+1 tied)",
        "50.0%      50  0.25  1 of 3",
        "strategy    l1 amount=0.5\n",
        "50.0% of 100 weights zeroed in 1 tensor, 0.00 s -> out.pth",
        "model       45.5% of 110 parameters zeroed\n",
        "left out    1 tensor: fewer than 2 dimensions (b.bias)\n",
        "note        tied by name\n",
        "report      r.json\n",
        "mask        m.safetensors\n",
    ):
        assert part in text
    assert "neither smaller nor faster" not in text
    assert "neither smaller nor faster" in written(write_report, value, verbose=True)


def test_a_dry_run_says_what_was_written() -> None:
    """Without an output the text says what the run would zero, and that nothing, or only other files, were written."""
    dry = report(row(), output_path=None, output_bytes=None, dry_run=True)
    gate = report(row(), output_path=None)

    assert "50.0% of 100 weights would be zeroed in 1 tensor, 0.00 s; nothing written (dry run)\n" in written(
        write_report, dry
    )
    assert "; no checkpoint written (dry run)\n" in written(write_report, dry, reports=["r.json"])
    assert "; nothing written (a gate failed)\n" in written(write_report, gate)


def test_zeros_of_the_input_are_counted_apart() -> None:
    """Where the input has zeros, the result and the table have them too."""
    text = written(write_report, report(row(zeros=50, zeros_before=25, pruned=25), skipped("b")))

    assert text.startswith("50.0% of 100 weights are zero in 1 tensor (25.0% before), 0.00 s -> out.pth\n")
    assert "model       22.7% of 110 parameters zeroed, at least 45.5% zero\n" in text
    assert table(text)[0].split() == ["tensor", "dtype", "shape", "weights", "before", "zero", "zeroed", "cut", "ties"]
    assert "before" not in written(write_report, report(row()))


def test_an_estimate_names_its_method() -> None:
    """With an estimate the text has the compressed size, the method, and the number of tensors that fit 2:4."""
    estimate = Compressed("zstd level 3", 1_000_000, 190_000, 80_000)
    text = written(write_report, report(row(two_four=True), row("b", two_four=False), compressed=estimate))

    assert "about 80.0 kB with zstd -3, 190.0 kB before (measured with zstd level 3 on a sample of 1.0 MB)\n" in text
    assert "2:4         1 of 2 tensors fit\n" in text
    assert "neither smaller nor faster" in text
    assert "compressed" not in written(write_report, report(row(two_four=True)))


def test_a_common_effect_is_described() -> None:
    """The strategy's effect is in the text if it is the same for all selected tensors."""
    assert "(keeps 2 of every 4)" in written(write_report, report(row(rule="keeps 2 of every 4")))
    assert "keeps" not in written(write_report, report(row(rule="keeps 2"), row("b", rule="keeps 3")))


def test_skipped_tensors_are_summarised() -> None:
    """Many skipped tensors of one reason are counted; few are named."""
    text = written(write_report, report(row(), *(skipped(f"b{i}") for i in range(4)), skipped("n", "it is empty")))

    assert "left out    4 tensors: fewer than 2 dimensions\n" in text
    assert "left out    1 tensor: it is empty (n)\n" in text


def test_many_reasons_are_cut() -> None:
    """After a dozen reasons the rest are one line."""
    text = written(write_report, report(row(), *(skipped(f"b{i}", f"tied to {i}") for i in range(40))))

    assert text.count("\nleft out ") == 13
    assert "left out    28 tensors: for other reasons" in text


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
    lines = table(text)

    assert max(map(len, lines)) <= width
    assert "12.3%" in text
    assert "123,456,789" in text
    assert "".join(line.split(" ")[0] for line in lines[2:]) == "n" * 300 + ".weight"


def test_very_narrow_terminal_keeps_numbers() -> None:
    """On a terminal narrower than its numbers the table is wider than the terminal."""
    text = written(write_report, report(row("n" * 30, 10**9, 123_456_789)), width=10)

    assert "12.3%  123,456,789" in text


def test_names_fold_at_their_dots() -> None:
    """On a narrow terminal a name continues behind a dot, never inside a word."""
    name = "model.decoder.layers.11.encoder_attention.output_projection.weight"
    text = written(write_report, report(row(name, 10**9, 123_456_789)), width=60)

    parts = [line.split(" ")[0] for line in table(text)[2:]]
    assert "".join(parts) == name
    assert len(parts) > 1
    assert all(part.endswith((".", "_", "weight")) for part in parts)


def test_many_tensors_share_lines() -> None:
    """More than 40 tensors whose names differ only in numbers share a line, in numeric order, in a pipe as well."""
    rows = [row(f"layers.{i}.{part}.weight", 1000, 10 * i + 10) for i in (10, 2, *range(30, 60)) for part in "ab"]
    for width in (None, 120):
        text = written(write_report, report(*rows), View(), width=width)
        lines = [line.split() for line in table(text) if "layers" in line]
        assert [line[0] for line in lines] == [f"layers.{{2,10,30..59}}.{part}.weight" for part in "ab"]
        assert lines[0][1] == "32"
        assert "3.0/44.5/60.0%" in lines[0]

    every = table(written(write_report, report(*rows), View(every=True)))
    assert [line.split()[0] for line in every[1:3]] == ["layers.2.a.weight", "layers.2.b.weight"]
    assert len(every) == 65
    top = table(written(write_report, report(*rows), View(top=2, hint="; --all lists each")))
    assert [line.split()[0] for line in top[1:3]] == ["layers.59.a.weight", "layers.59.b.weight"]
    assert top[3] == "62 tensors pruned less not shown; --all lists each; the JSON output lists all"


def test_many_lines_show_the_most_pruned() -> None:
    """A terminal shows the 30 most pruned of more than 60 lines, in order, and names the file with all."""
    rows = [row(f"w{i:03}", 1000, i) for i in range(100)]
    text = written(write_report, report(*rows), width=120, reports=["r.json"])

    assert [line.split()[0] for line in table(text) if line.startswith("w")] == [f"w{i:03}" for i in range(70, 100)]
    assert "70 tensors pruned less not shown; r.json lists all" in text
    assert "not shown; the JSON output lists all" in written(write_report, report(*rows), width=120)


def test_a_terminal_draws_the_sparsity() -> None:
    """A wide terminal has a bar for each tensor, red where all of it is zero; a pipe has none."""
    value = report(row("a", zeros=50), row("b", zeros=100))

    assert "\u2588" * 5 + " " in written(write_report, value, width=100)
    assert "\x1b[31" in written(write_report, value, width=100, color=True)
    assert "\u2588" not in written(write_report, value)


def test_colour_only_on_a_terminal() -> None:
    """Escape sequences appear on a terminal with colours, never elsewhere."""
    value = report(row())

    assert "\x1b[" in written(write_report, value, width=100, color=True)
    assert "\x1b[" not in written(write_report, value, width=100)
    assert "\x1b[" not in written(write_report, value, color=True)


def test_the_environment_decides_about_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    """NO_COLOR forbids colours on a terminal, FORCE_COLOR puts them into a pipe, and NO_COLOR is stronger."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b[" in written(write_report, report(row()), color=True)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[" not in written(write_report, report(row()), color=True)
    assert "\x1b[" not in written(write_report, report(row()), width=100, color=True)
