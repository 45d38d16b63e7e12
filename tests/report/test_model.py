"""The report's numbers, its JSON, its warnings, and its two text forms."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from support.reports import EVIL, parsed, report, row, skipped

from prunecli.report.json import to_json
from prunecli.report.model import Compressed, Row, facts_about, warnings_for
from prunecli.report.text import plain, table
from prunecli.text.escape import printable
from prunecli.text.numbers import format_bytes, percent

# --- numbers


def test_totals_over_selected_and_over_all() -> None:
    """Selected totals count what was read; totals over all count every float and no integer."""
    r = report(row(numel=100, zeros=50), row(numel=300, zeros=30), skipped("b"), skipped("n", dtype="I64"))

    assert (r.selected.tensors, r.selected.numel, r.selected.pruned) == (2, 400, 80)
    assert r.selected.sparsity_after == 0.2
    assert (r.all.tensors, r.all.numel, r.all.numel_read, r.all.pruned) == (3, 410, 400, 80)
    assert r.all.pruned_fraction == 80 / 410
    assert r.all.sparsity_at_least == 80 / 410


def test_earlier_zeros_are_not_pruned_ones() -> None:
    """Sparsity counts the zeros that were there; pruned does not."""
    r = report(row(numel=100, zeros=60, zeros_before=20, pruned=40))

    assert (r.selected.sparsity_before, r.selected.sparsity_after) == (0.2, 0.6)
    assert (r.all.pruned_fraction, r.all.sparsity_at_least) == (0.4, 0.6)


def test_unknown_numbers_stay_unknown() -> None:
    """A count nobody made is None in the row and in the totals, never 0."""
    r = report(row(), row("b", zeros_after=None))

    assert skipped("b").sparsity_after is None
    assert r.selected.zeros_after is None
    assert r.selected.sparsity_after is None
    assert r.on_disk.bitmask_bytes is None


def test_report_without_weights_divides_by_nothing() -> None:
    """No selected tensors, or empty ones, give no fraction."""
    assert report().selected.sparsity_after is None
    assert row(numel=0, zeros=0).sparsity_after is None


@pytest.mark.parametrize(("dtype", "dense", "packed"), [("F32", 40, 2 + 24), ("BF16", 20, 2 + 12), ("F8_E4M3", 10, 8)])
def test_bytes_on_disk(dtype: str, dense: int, packed: int) -> None:
    """Dense bytes, and one bit per weight (rounded up) plus the non-zeros."""
    r = report(row(numel=10, zeros=4, dtype=dtype), skipped("b"))

    assert (r.on_disk.dense_bytes, r.on_disk.bitmask_bytes) == (dense, packed)


def test_optimizer_state_is_no_parameter(tmp_path: Path) -> None:
    """What a reader calls outside the state_dict is listed, and counts in no total."""
    torch = pytest.importorskip("torch")
    from prunecli.formats.open import open_checkpoint

    nested = {"state_dict": {"fc.weight": torch.ones(4, 6)}, "optimizer": {"exp_avg": torch.ones(4, 6)}}
    torch.save(nested, tmp_path / "a.pth")
    weight, moment = open_checkpoint(tmp_path / "a.pth").tensors
    r = report(
        row(weight.name, numel=24, zeros=6), skipped(moment.name, reason=str(moment.unprunable_reason), numel=24)
    )

    assert (r.all.tensors, r.all.numel, r.all.pruned_fraction) == (1, 24, 0.25)
    assert moment.name in plain(r)


# --- JSON


def test_json_form_is_stable() -> None:
    """The JSON has schema 1 and these keys in this order."""
    document = parsed(report(row()))

    assert document["schema"] == 1
    assert list(document) == [
        "schema",
        "tool",
        "command",
        "dry_run",
        "strategy",
        "device",
        "seconds",
        "input",
        "output",
        "totals",
        "on_disk",
        "warnings",
        "facts",
        "tensors",
    ]


def test_json_row_holds_every_field() -> None:
    """A tensor's record has its fields in order, and both sparsities."""
    (record,) = parsed(report(row(aliases=("head",), two_four=True)))["tensors"]

    assert list(record) == [*Row.__dataclass_fields__, "sparsity_before", "sparsity_after"]
    assert (record["aliases"], record["two_four"], record["sparsity_after"]) == (["head"], True, 0.5)


def test_json_is_ascii_and_keeps_names() -> None:
    """A name with line breaks, terminal commands and a lone surrogate comes back as it was, from plain ASCII."""
    name = EVIL + "\udc80"
    text = to_json(report(row(name)))

    assert text.isascii()
    assert "\x1b" not in text
    assert json.loads(text)["tensors"][0]["name"] == name


def test_json_has_no_infinite_numbers() -> None:
    """NaN and infinity are strings: JSON has no such numbers."""
    (record,) = parsed(report(row(cut=math.inf, largest_pruned=math.nan, smallest_kept=-math.inf)))["tensors"]

    assert [record[k] for k in ("cut", "largest_pruned", "smallest_kept")] == ["Infinity", "NaN", "-Infinity"]


def test_json_takes_any_strategy_parameter() -> None:
    """A path, a tuple or a nested rule among the parameters is written, not an error."""
    strategy = {"name": "run", "path": Path("r.toml"), "shape": (4, 4), "rules": [{"thr": math.inf}]}

    assert parsed(report(row(), strategy=strategy))["strategy"] == {
        "name": "run",
        "path": "r.toml",
        "shape": [4, 4],
        "rules": [{"thr": "Infinity"}],
    }


def test_dry_run_has_no_output() -> None:
    """Where nothing was written, output is null and the text says so."""
    r = report(row(), output_path=None, output_bytes=None, dry_run=True)

    assert parsed(r)["output"] is None
    assert "nothing written" in plain(r)
    assert "would zero 50 of 100" in plain(r)


# --- warnings


def test_wiped_tensors_are_named() -> None:
    """A tensor that became all zero is named; one that was before, or is empty, is not."""
    rows = [row("gone", zeros=100), row("was", zeros=100, zeros_before=100, pruned=0), row("kept"), row("none", 0, 0)]

    assert warnings_for(rows) == ("1 tensor becomes all zero: gone",)


def test_nonfinite_weights_are_counted_by_name() -> None:
    """Non-finite weights are counted in all and per tensor."""
    rows = [row("a", nonfinite=1), row("b"), row("c", nonfinite=2000), skipped("d")]

    assert warnings_for(rows) == ("2,001 weights are not finite (NaN or infinity): a (1), c (2,000)",)


def test_long_warnings_are_cut() -> None:
    """After five names a warning counts the rest."""
    (warning,) = warnings_for([row(f"w{i}", zeros=100) for i in range(12)])

    assert warning == "12 tensors become all zero: w0, w1, w2, w3, w4 and 7 more"


# --- text


def test_plain_text_is_ascii_aligned_and_whole() -> None:
    """In a pipe every selected tensor has a line, columns align, and nothing is cut."""
    rows = [row(f"layer.{i}.{'x' * i}.weight", shape=(8, 3), zeros=i) for i in range(80)]
    lines = plain(report(*rows)).splitlines()

    assert all(line.isascii() for line in lines)
    assert [line.split()[0] for line in lines[1:81]] == [r.name for r in rows]
    assert len({line.index("8x3") for line in lines[1:81]}) == 1


def test_plain_text_says_what_was_done() -> None:
    """Cut, ties, totals, reasons, the size sentence and the paths are all in the text."""
    text = plain(report(row(aliases=("head",)), skipped("b.bias"), facts=("tied by name",)), reports=["r.json"])

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


def test_an_estimate_is_told_with_its_method() -> None:
    """Where compression was estimated the text says what it would give, how that was found, and what fits 2:4."""
    found = Compressed("zstd level 3", 1_000_000, 190_000, 80_000)
    text = plain(report(row(two_four=True), row("b", two_four=False), compressed=found))

    assert "estimate  about 80.0 kB compressed, 190.0 kB before (zstd level 3 on a sample of 1.0 MB)\n" in text
    assert "2:4       1 of 2 tensors fit\n" in text
    assert "estimate" not in plain(report(row(two_four=True)))


def test_rule_is_told_where_it_is_one() -> None:
    """A rule common to all selected tensors stands in the text in words."""
    assert "(keeps 2 of every 4)" in plain(report(row(rule="keeps 2 of every 4")))
    assert "keeps" not in plain(report(row(rule="keeps 2"), row("b", rule="keeps 3")))


def test_skipped_tensors_are_summed_up() -> None:
    """Many skipped tensors of one reason are counted; few are named."""
    text = plain(report(row(), *(skipped(f"b{i}") for i in range(4)), skipped("n", "it is empty")))

    assert "skipped   4: fewer than 2 dimensions\n" in text
    assert "skipped   1: it is empty (n)\n" in text


def test_many_reasons_do_not_flood() -> None:
    """After a dozen reasons the rest are one line."""
    text = plain(report(row(), *(skipped(f"b{i}", f"tied to {i}") for i in range(40))))

    assert text.count("\nskipped ") == 13
    assert "skipped   28: for other reasons" in text


@pytest.mark.parametrize("width", [None, 80, 200])
def test_names_cannot_command_the_terminal(width: int | None) -> None:
    """Control characters, line breaks, bidi overrides and markup in a name are shown, not obeyed."""
    r = report(row(EVIL), skipped(EVIL, reason=f"tied to {EVIL}"), input_path=EVIL, output_path=EVIL, facts=(EVIL,))
    text = table(r, width=width, color=False)

    assert not {"\x1b", "\u202e", "\r"} & set(text)
    assert "[red]" in text
    assert r"\x1b[31m\n\u202e" in text.replace("\n", "") or width == 80


@pytest.mark.parametrize("width", [60, 80, 100, 140])
def test_terminal_table_fits_and_keeps_numbers(width: int) -> None:
    """On a terminal no table line is wider than it; long names fold, sparsity and pruned are whole."""
    text = table(report(row("n" * 300 + ".weight", 10**9, 123_456_789)), width=width, color=False)
    lines = text[: text.index("asked")].splitlines()

    assert max(map(len, lines)) <= width
    assert "0.0% -> 12.3%" in text
    assert "123,456,789" in text
    assert "".join(line.split(" ")[0] for line in lines[2:]) == "n" * 300 + ".weight"


def test_very_narrow_terminal_keeps_numbers() -> None:
    """Narrower than its numbers, the table is wider than the terminal rather than wrong."""
    text = table(report(row("n" * 30, 10**9, 123_456_789)), width=10, color=False)

    assert "0.0% -> 12.3%  123,456,789" in text


def test_many_tensors_show_the_most_pruned() -> None:
    """Of more than 60 tensors a terminal shows the 30 most pruned, in order, and says where the rest is."""
    rows = [row(f"w{i:03}", 1000, i) for i in range(100)]
    text = table(report(*rows), width=120, color=False, reports=["r.json"])

    assert [line.split()[0] for line in text.splitlines() if line.startswith("w")] == [
        f"w{i:03}" for i in range(70, 100)
    ]
    assert "70 tensors pruned less are not shown; all of them: r.json" in text


def test_colour_only_when_asked() -> None:
    """Escape sequences appear on a coloured terminal, never otherwise."""
    r = report(row())

    assert "\x1b[" in table(r, width=100, color=True)
    assert "\x1b[" not in table(r, width=100, color=False)
    assert "\x1b[" not in table(r, width=None, color=True)


@pytest.mark.parametrize(
    ("fraction", "text"),
    [
        (None, "-"),
        (0.0, "0.0%"),
        (1e-6, "<0.1%"),
        (0.5, "50.0%"),
        (0.9994, "99.9%"),
        (0.99999, ">99.9%"),
        (1.0, "100.0%"),
    ],
)
def test_percent_never_rounds_to_none_or_all(fraction: float | None, text: str) -> None:
    """0.0% and 100.0% mean exactly that."""
    assert percent(fraction) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1500, "1.5 kB"), (999_960, "1.0 MB"), (2 * 10**9, "2.0 GB")],
)
def test_sizes_read_well(count: int, text: str) -> None:
    """Sizes are decimal, with the unit in the text."""
    assert format_bytes(count) == text


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("plain.weight", "plain.weight"),
        ("größe 層", "größe 層"),
        ("a\nb", r"a\nb"),
        ("\x1b[0m", r"\x1b[0m"),
        ("\u202e\u200b\u2028", r"\u202e\u200b\u2028"),
        ("\udc80", r"\udc80"),
        ("\x00\x7f\x9b", r"\x00\x7f\x9b"),
        (r"a\n", r"a\n"),
    ],
)
def test_names_are_shown_harmlessly(name: str, text: str) -> None:
    """What cannot be printed becomes its escape, and escaping twice changes nothing."""
    assert printable(name) == text
    assert printable(printable(name)) == text


def test_plain_text_does_not_import_rich() -> None:
    """Text for a pipe loads neither Rich nor NumPy nor torch."""
    code = (
        "import sys; from prunecli.report.text import plain; from prunecli.report.model import Report, Row;"
        "import prunecli.selection.select, prunecli.io.publish;"
        "plain(Report((Row('a','F32',(1,),1),), {}, 'in', 'zip', 1, '0'));"
        "sys.exit(bool({'rich', 'numpy', 'torch'} & set(sys.modules)))"
    )
    root = Path(__file__).parents[2]

    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


def test_what_is_no_plain_tensor_is_told_by_kind() -> None:
    """Each kind has one sentence with its names, a few of them, escaped."""
    others = [("a", "sparse tensor"), ("q\n", "quantized tensor"), *((f"s{i}", "sparse tensor") for i in range(6))]

    assert facts_about(others) == (
        "7 left as they are, sparse tensor: a, s0, s1, s2, s3 and 2 more",
        "1 left as they are, quantized tensor: q\\n",
    )
