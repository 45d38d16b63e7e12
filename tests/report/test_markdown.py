"""A report as Markdown: it renders as intended, fits a comment, and no name is markup."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from support.reports import HOSTILE, report, row, skipped

from prunecli.report.markdown import LIMIT, TOP, code, text, to_markdown
from prunecli.report.model import Compressed, Report
from prunecli.report.sentences import warnings_for
from prunecli.text.escape import printable

MARKDOWN = MarkdownIt("commonmark").enable("table")


class Page(HTMLParser):
    """The tags of a rendered text, its table cells, and its text."""

    def __init__(self, html: str) -> None:
        """Parse `html`."""
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self.in_cell = False
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, _: object) -> None:
        """Record a tag; begin a row or a cell."""
        self.tags.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in {"td", "th"}:
            self.rows[-1].append("")
            self.in_cell = True

    def handle_endtag(self, tag: str) -> None:
        """End a cell."""
        self.in_cell &= tag not in {"td", "th"}

    def handle_data(self, data: str) -> None:
        """Add text to the page and to the cell."""
        self.text += data
        if self.in_cell:
            self.rows[-1][-1] += data


def rendered(markdown: str) -> Page:
    """Return the rendered Markdown."""
    return Page(MARKDOWN.render(markdown))


ALLOWED = {"h3", "p", "code", "blockquote", "ul", "li", "strong", "details", "summary"}
ALLOWED |= {"table", "thead", "tbody", "tr", "th", "td"}


def visible(words: str) -> str:
    """Return text without the marks that keep GitHub from linking it."""
    return words.replace("\u200b", "")


def test_the_report_has_every_part() -> None:
    """The heading, totals over selected and all, sizes, tensors, reasons and provenance are in the text."""
    estimate = Compressed("zstd level 3", 10**6, 190_000, 80_000)
    value = report(
        row(two_four=True), skipped("b.bias"), command=("prune", "l1", "in.pth"), compressed=estimate, seconds=1.5
    )
    page = rendered(to_markdown(value))

    assert ["selected", "1", "100", "50", "0.0%", "50.0%"] in page.rows
    assert ["all parameters", "2", "110", "50 (45.5%)", "", "at least 45.5%"] in page.rows
    assert ["fc.weight", "F32", "100", "vector", "100", "0.0%", "50.0%", "50", "0.25"] in page.rows
    for part in (
        "50.0% of 100 selected weights are zero",
        "in.pth → out.pth, by l1 amount=0.5",
        "A dense file with zeros is neither smaller nor faster by itself; zstd -3 makes it smaller",
        "the Hugging Face Hub does so by itself; packed, it is read by torch.load.",
        "400 bytes dense, about 80.0 kB with zstd -3, 190.0 kB before (measured with zstd level 3 on",
        "2:4 fits 1 of 1 tensor",
        "1: fewer than 2 dimensions",
        "prune l1 in.pth",
        "1.5 seconds",
    ):
        assert part in page.text


def test_a_dry_run_says_so() -> None:
    """Without an output the heading says "would be" and names no output."""
    words = rendered(to_markdown(report(row(), output_path=None, dry_run=True))).text

    assert "would be zero" in words
    assert "nothing was written" in words
    assert "out.pth" not in words


def test_warnings_stand_out() -> None:
    """Warnings are in GitHub's callout, above the tables."""
    rows = [row("zero", zeros=100)]
    words = to_markdown(report(*rows, warnings=warnings_for(rows)))

    assert "> [!WARNING]\n> 1 tensor becomes all zero: zero\n" in words
    assert words.index("[!WARNING]") < words.index("| tensor |")


def test_the_most_pruned_are_shown_and_the_rest_folded() -> None:
    """The most pruned tensors are in the visible table, in order, and the others in a folded one."""
    rows = [row(f"w{i:03}", 1000, i) for i in range(100)]
    above, below = to_markdown(report(*rows)).split(f"<summary>{100 - TOP} more tensors, pruned less</summary>")

    assert re.findall(r"`(w\d+)`", above) == [f"w{i:03}" for i in range(100 - TOP, 100)]
    assert re.findall(r"`(w\d+)`", below) == [f"w{i:03}" for i in range(100 - TOP)]


@pytest.mark.parametrize("name", ["w.weight", "x" * 10_000, "<" * 10_000, "|" * 90])
def test_it_always_fits_a_comment(name: str) -> None:
    """A report on thousands of long names that need escapes stays below the limit and counts the rest."""
    rows = [row(f"{name}{i}", aliases=("t",)) for i in range(3000)]
    rows += [skipped(f"{name}{i}", f"tied to {name}{i}") for i in range(3000)]
    words = to_markdown(
        report(*rows, warnings=(name,) * 99, facts=(name,) * 99, command=(name,) * 9, input_path=name, output_path=name)
    )
    listed = sum(len(cells) == 9 and cells[0] != "tensor" for cells in rendered(words).rows)

    assert len(words) <= LIMIT
    assert f"and {3000 - listed:,} more" in words
    assert words.count("<details>") == words.count("</details>") == 3


def hostile_report(name: str) -> Report:
    """Return a report with `name` in every place that takes text from a file or a command line."""
    return report(
        row(name),
        skipped(name, f"tied to {name}"),
        input_path=name,
        output_path=name + "x",
        command=("prune", name),
        strategy={"name": "l1", "file": name},
        warnings=(name,),
        facts=(name or "x",),
        format=name,
        device=name,
    )


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_only_text(name: str) -> None:
    """A hostile name gives the tags of a harmless one, and its cell shows the name."""
    page = rendered(to_markdown(hostile_report(name)))
    harmless = rendered(to_markdown(hostile_report("<x>")))

    assert set(page.tags) <= ALLOWED
    assert page.tags.count("table") == harmless.tags.count("table") == 2
    assert page.tags.count("li") == harmless.tags.count("li")
    cells = next(cells for cells in page.rows if len(cells) == 9 and cells[0] != "tensor")
    assert cells[0].strip() == printable(name).strip()


@given(name=st.text(max_size=8))
def test_any_name_reads_as_it_is(name: str) -> None:
    """Any name, as code in a table, renders to its printable form only."""
    page = rendered(f"| a | b |\n|--|--|\n| {code(name)} | end |\n")

    assert [len(cells) for cells in page.rows] == [2, 2]
    assert set(page.tags) <= ALLOWED
    assert page.rows[1][0].split() == printable(name).split()


@given(words=st.text(st.characters(codec="utf-8"), max_size=25))
def test_any_sentence_reads_as_it_is(words: str) -> None:
    """Any text, in a list, renders to its printable form without markup."""
    page = rendered(f"- x {text(words)}\n")

    assert page.tags in (["ul", "li"], ["ul", "li", "p"])
    assert visible(page.text).split() == f"x {printable(words)}".split()


@pytest.mark.parametrize("words", ["@everyone", "#12", "see http://x.example", "www.x.example", "WWW.x.example"])
def test_sentences_have_no_mentions_and_no_links(words: str) -> None:
    """Text that GitHub would turn into mentions and links is escaped, in Markdown and in its HTML."""
    assert not re.search(r"(?<!&)[@#]\w|https?://|www\.", text(words), re.IGNORECASE)
    assert not re.search(r"[@#][\w]", rendered(text(words)).text)


@pytest.mark.parametrize(("count", "title"), [(1, "1 tensor left as it is"), (2, "2 tensors left as they are")])
def test_skipped_tensors_are_counted_in_a_sentence(count: int, title: str) -> None:
    """The sentence is in the singular for one tensor."""
    rows = [row("a.weight"), *(skipped(f"b{n}", "not a weight by name") for n in range(count))]

    assert f"<summary>{title}</summary>" in to_markdown(report(*rows))
