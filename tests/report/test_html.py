"""A report as an HTML page: complete in one file, and safe for any tensor name."""

from __future__ import annotations

import base64
import hashlib
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import examples
from support.pages import Page
from support.reports import HOSTILE, report, row, skipped

from prunecli.report.figures import COLUMNS
from prunecli.report.histogram import BeforeAfter
from prunecli.report.html import HISTOGRAMS, LABELLED, NAMES, ROWS, to_html
from prunecli.report.model import Compressed, Report
from prunecli.report.sentences import warnings_for
from prunecli.text.escape import printable


def histogram(seed: int = 0) -> BeforeAfter:
    """Return the histogram of some weights, the smaller half of them pruned."""
    counts = np.random.default_rng(seed).integers(0, 50, 40)
    return BeforeAfter("F32", 920, counts.tolist(), np.where(np.arange(40) < 20, 0, counts).tolist())


def many(count: int) -> Report:
    """Return a report over `count` tensors with histograms."""
    rows = [row(f"w{i:04}", 1000 + i, i % 1000) for i in range(count)]
    return report(*rows, histograms={r.name: histogram() for r in rows})


def test_the_page_has_every_part() -> None:
    """Totals over selected and all, sizes, tensors, reasons and provenance are on the page."""
    value = report(
        row(two_four=True, aliases=("head",), nonfinite=3),
        skipped("b.bias"),
        command=("prune", "l1", "a b.pth"),
        compressed=Compressed("zstd level 3", 10**6, 190_000, 80_000),
        input_sha256="ab" * 32,
        device="cuda:0",
        seconds=1.5,
        facts=("a fact",),
    )
    page = Page(to_html(value))

    for part in (
        "50.0% zero",
        "50 of 100 weights zeroed by this run in 1 tensor; 0.0% were zero before.",
        "2 tensors, 110 parameters; at least 45.5% are zero now.",
        "with zstd -3, after80.0 kB",
        "neither smaller nor faster by itself",
        "1 of 1 tensor fits the 2:4 pattern",
        "1 tensor: fewer than 2 dimensions",
        "prune l1 'a b.pth'",
        "l1 amount=0.5",
        "sha256 " + "ab" * 32,
        "prunecli 0.1.0",
        "cuda:0",
        "1.5 seconds",
        "a fact",
    ):
        assert part in re.sub(r"\n", "", page.text)
    assert page.names == ["fc.weight"]


def test_a_dry_run_says_so() -> None:
    """Without an output the page says what would be zeroed and that nothing was written."""
    words = Page(to_html(report(row(), output_path=None, dry_run=True))).text

    assert "would be zeroed" in words
    assert "nothing written" in words
    assert "zeroed by this run" not in words


def test_warnings_are_on_top() -> None:
    """Every warning is above the numbers."""
    rows = [row("zero", zeros=100)]
    words = Page(to_html(report(*rows, warnings=warnings_for(rows)))).text

    assert words.index("1 tensor becomes all zero: zero") < words.index("Selected weights")


def test_the_page_needs_no_other_file() -> None:
    """No tag has an address, and the page allows no style or script but its own."""
    page = Page(to_html(many(30)))
    policies = [attrs["content"] for _, attrs in page.tags if "http-equiv" in attrs]
    own = base64.b64encode(hashlib.sha256(page.scripts.encode()).digest()).decode()

    assert not {"src", "href", "xlink:href", "srcset", "action"} & {k for _, attrs in page.tags for k in attrs}
    styles = {attrs["style"] or "" for _, attrs in page.tags if "style" in attrs}
    assert all(re.fullmatch(r"(--[ab]:[\d.]+;?)+", style) for style in styles)
    assert not re.search(r"url\(|@import|https?:", page.styles + page.scripts)
    assert policies == [
        f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{own}'; base-uri 'none'; form-action 'none'"
    ]


def attributes(page: Page) -> list[list[str]]:
    """Return the names of the attributes of each tag, without those at which a name may break."""
    return [sorted(attrs) for tag, attrs in page.tags if tag != "wbr"]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_only_text(name: str) -> None:
    """In every place a hostile text gives the tags of a harmless one, and the page shows it as text."""

    def page(words: str) -> Page:
        rows = [row(words, aliases=(words,), file=words or "f"), row("b"), skipped(words, f"tied to {words}")]
        return Page(
            to_html(
                report(
                    *rows,
                    input_path=words,
                    output_path=f"{words}x",
                    command=(words,),
                    strategy={"name": words, words: words},
                    warnings=(words,),
                    facts=(words,),
                    format=words,
                    device=words,
                    version=words,
                    keys=(words or "k",),
                    histograms={r.name: histogram() for r in rows},
                )
            )
        )

    hostile, harmless = page(name), page("harmless")
    assert [tag for tag, _ in hostile.tags if tag != "wbr"] == [tag for tag, _ in harmless.tags if tag != "wbr"]
    assert attributes(hostile) == attributes(harmless)
    assert hostile.scripts == harmless.scripts
    assert hostile.names[0] == (printable(name) or '""')
    assert not {"\u202e", "\u2066", "\x1b", "\udc80"} & set(hostile.text)


@settings(max_examples=examples(30))
@given(name=st.text(max_size=15))
def test_any_name_is_only_text(name: str) -> None:
    """Any name is in its cell of the table as text."""
    assert Page(to_html(report(row(name)))).names == [printable(name) or '""']


def test_long_names_are_cut() -> None:
    """A name of 10,000 characters shows its ends and its length."""
    html = to_html(report(row("begin" + "x" * 9_990 + "ende!"), histograms={}))
    (name,) = Page(html).names

    assert name.startswith("beginxxx")
    assert name.endswith("xxxende! (10,000 characters)")
    assert "x" * 200 not in html


def test_without_counts_there_are_no_histograms() -> None:
    """If magnitudes were not counted, the page has no section on them."""
    page = Page(to_html(report(row())))

    assert page.count("figure") == 0
    assert "Magnitudes" not in page.text


def test_a_histogram_is_drawn_with_its_cut() -> None:
    """A single tensor has one figure, with the areas before and after and a line at the cut."""
    html = to_html(
        report(
            row(cut=2.0**-10, largest_pruned=2.0**-11, smallest_kept=2.0**-10), histograms={"fc.weight": histogram()}
        )
    )
    page = Page(html)

    assert page.count("figure") == 1
    assert (page.count("path", class_="pruned"), page.count("path", class_="kept")) == (1, 1)
    assert "cut 0.000977" in page.text


def test_the_largest_tensors_have_histograms() -> None:
    """All tensors together have a histogram, the largest have their own, and the page says how many."""
    page = Page(to_html(many(100)))

    assert page.count("figure") == HISTOGRAMS + 1
    assert f"Drawn one by one: the {HISTOGRAMS} largest of 100 tensors." in page.text
    assert re.findall(r"w(\d{4})(?=[\d,]+ weights)", page.text) == [f"{i:04}" for i in range(100 - HISTOGRAMS, 100)]


def test_tensors_that_are_all_zero_have_no_figure() -> None:
    """A tensor without non-zero weights has no figure and is no error."""
    page = Page(to_html(report(row(zeros=100), histograms={"fc.weight": BeforeAfter("F32", 0, [], [])})))

    assert page.count("figure") == 0


@pytest.mark.parametrize("count", [1, LABELLED, LABELLED + 1, 1000])
def test_every_tensor_has_its_bar(count: int) -> None:
    """Few tensors have named bars, many share the columns of one drawing, and each has a bar in the table."""
    page = Page(to_html(many(count)))

    assert len(page.names) == count
    assert page.count("g") == (0 if count <= LABELLED else min(count, COLUMNS))


def test_a_page_with_thousands_of_tensors_stays_small() -> None:
    """3,000 tensors take less than 1 MB; beyond the limit the largest are listed and the others counted."""
    page = Page(to_html(many(ROWS + 7)))

    assert len(to_html(many(3000))) < 1_000_000
    assert len(page.names) == ROWS
    assert page.names[0] == "w0007"
    assert "list 7 more" in page.text


def test_many_skipped_tensors_are_counted() -> None:
    """After NAMES names of one reason the rest are counted."""
    words = Page(to_html(report(row(), *(skipped(f"b{i}") for i in range(NAMES + 5))))).text

    assert f"{NAMES + 5} tensors: fewer than 2 dimensions" in words
    assert "and 5 more" in words


def test_bars_add_up() -> None:
    """A bar shows the zeros before and, next to them, those of this run."""
    html = to_html(report(row(zeros=60, zeros_before=20, pruned=40)))

    assert '<i class="bar" style="--a:20.0;--b:60.0"></i>' in html


def test_columns_reach_the_base_line() -> None:
    """In the drawing of many tensors every part extends from its height down to the base line."""
    html = to_html(report(*(row(f"w{i}", 1000, i + 500, zeros_before=i) for i in range(LABELLED + 1))))
    parts = re.findall(r'class="(was|pruned)" x="[\d.]+" y="([\d.]+)" width="[\d.]+" height="([\d.]+)"', html)

    assert len(parts) == 2 * LABELLED + 1
    assert all(abs(float(y) + float(height) - 100) < 0.011 for _, y, height in parts)
    assert parts[-2:] == [("pruned", "47.6", "52.4"), ("was", "97.6", "2.4")]


def test_unknown_numbers_are_dashes() -> None:
    """A count that was not made is a dash, and the page is complete."""
    page = Page(to_html(report(row(zeros_before=None, zeros_after=None, pruned=None, cut=None, ties=None))))

    assert "- of 100 weights" in page.text
