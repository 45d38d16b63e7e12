"""The order in which names are listed."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from prunecli.text.natural_order import natural_order


def ordered(*names: str) -> list[str]:
    """Return the names in the order to list them."""
    return [names[index] for index in natural_order(names)]


def test_numbers_are_in_numeric_order_and_words_in_their_own() -> None:
    """Layer 2 comes before layer 10, also inside a word; a model's order of words is kept."""
    assert ordered("stem.w", "l.10.w", "l.2.b", "l.2.w", "head.w") == ["stem.w", "l.2.b", "l.2.w", "l.10.w", "head.w"]
    assert ordered("conv10.w", "conv2.w", "bn1.w", "conv1.w") == ["conv1.w", "conv2.w", "conv10.w", "bn1.w"]
    assert ordered("b.w", "a.w", "b.bias") == ["b.w", "b.bias", "a.w"]


@example(["\u00b2"])  # a digit that int() does not take
@given(st.lists(st.text("ab.019", max_size=8) | st.text(max_size=3), max_size=20))
def test_every_name_is_listed_once(names: list[str]) -> None:
    """The order is a permutation, whatever the names are, and does not depend on where a sorted list begins."""
    order = natural_order(names)

    assert sorted(order) == list(range(len(names)))
    again = [names[index] for index in order]
    assert [again[index] for index in natural_order(again)] == again


def test_long_numbers_and_names_take_no_time() -> None:
    """A number of thousands of digits and a name of a million characters are names like others."""
    names = ["w." + "9" * 100_000, "a." * 500_000, "w.1"]

    assert ordered(*names) == [names[2], names[0], names[1]]
