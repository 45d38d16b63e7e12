"""The line about the state_dicts of a file, and the warnings about copies."""

from __future__ import annotations

import pytest
from support.reports import parsed, report, row

from prunecli.report.html import to_html
from prunecli.report.markdown import to_markdown
from prunecli.report.state_dicts import ema_warning, masters_warning, taken_in_words
from prunecli.selection.copies import LeftAlone

EMA = LeftAlone("state_dict_ema", 84, 1_204_480)


@pytest.mark.parametrize(
    ("keys", "parts", "left", "words"),
    [
        ((), (), (), ""),
        (("model",), (), (), "pruned 'model'"),
        (
            ("state_dict",),
            (),
            (EMA,),
            "pruned 'state_dict'; left alone: 'state_dict_ema' (84 tensors, 1,204,480 weights)",
        ),
        (
            ("a", "b"),
            (),
            (LeftAlone("c", 1, 1),),
            "pruned 'a', 'b', each ranked separately; left alone: 'c' (1 tensor, 1 weight)",
        ),
        ((), ("G", "D"), (), "pruned 'G', 'D', as one state_dict"),
        ((), ("G",), (LeftAlone("g_ema", 2, 9),), "pruned 'G'; left alone: 'g_ema' (2 tensors, 9 weights)"),
        ((), (), (LeftAlone("ema", 2, 9),), "pruned the top of the file; left alone: 'ema' (2 tensors, 9 weights)"),
    ],
)
def test_the_line_about_state_dicts(
    keys: tuple[str, ...], parts: tuple[str, ...], left: tuple[LeftAlone, ...], words: str
) -> None:
    """It names what was pruned and what was left alone; a file that is one state_dict has no such line."""
    assert taken_in_words("pruned", keys, parts, left) == words


def test_keys_from_files_are_escaped_and_counted() -> None:
    """A key cannot break the line, and a file with many keys has a short line."""
    left = tuple(LeftAlone(f"k{i}\n\x1b[2J{'x' * 5000}", 1, 1) for i in range(1000))

    line = taken_in_words("pruned", ["\u202e"], (), left)

    assert line.isprintable()
    assert len(line) < 1000
    assert line.endswith("and 996 more")
    assert ema_warning(["a\nema"]).isprintable()
    assert masters_warning(["a\nmaster"]).isprintable()


def test_every_form_of_a_report_has_the_line() -> None:
    """JSON has the values; HTML and Markdown have the sentence."""
    value = report(row("state_dict.fc.weight", 9), keys=("a", "b"), left_alone=(EMA,))

    document = parsed(value)["input"]

    assert (document["key"], document["keys"]) == ("", ["a", "b"])
    assert document["left_alone"] == [{"key": "state_dict_ema", "tensors": 84, "weights": 1_204_480}]
    for page in (to_html(value), to_markdown(value)):
        assert "each ranked separately" in page
        assert "left alone: " in page
        assert "84 tensors, 1,204,480 weights" in page
    assert parsed(report(row("w", 9), keys=("a",)))["input"]["key"] == "a"


def test_the_names_of_masters_are_merged() -> None:
    """Names that differ in numbers are one name."""
    warning = masters_warning([f"optimizer.fp32_flat_groups.{i}" for i in range(40)])

    assert warning.startswith("40 tensors of the optimizer hold the weights as well")
    assert "'optimizer.fp32_flat_groups.{0..39}'" in warning
