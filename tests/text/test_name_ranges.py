"""Names merged into ranges."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunecli.text.name_ranges import grouped, joined

PARTS = st.one_of(st.sampled_from(["layers", "weight", "", "01", "٣", "1e3", "-1"]), st.integers(0, 12).map(str))


def lines(*names: str) -> list[tuple[str, int]]:
    """Return the merged names and the number of names in each."""
    return [(line, len(group)) for line, group in grouped(names, str, lambda _: None)]


@pytest.mark.parametrize(
    ("names", "line"),
    [
        (["a.0.b", "a.1.b", "a.2.b"], "a.{0..2}.b"),
        (["a.2.b", "a.0.b"], "a.{0,2}.b"),
        (["a.0.b", "a.1.b", "a.7.b", "a.9.b", "a.8.b"], "a.{0..1,7..9}.b"),
        (["a.3.b"], "a.3.b"),
        (["l.0.e.0.w", "l.0.e.1.w", "l.1.e.0.w", "l.1.e.1.w"], "l.{0..1}.e.{0..1}.w"),
        (["l.4.e.0.w", "l.4.e.1.w"], "l.4.e.{0..1}.w"),
        ([f"o.{10 * index}.m" for index in range(9)], "o.{0,...,80}.m"),
    ],
)
def test_numbers_become_ranges(names: list[str], line: str) -> None:
    """Consecutive numbers become a range, gaps commas, many gaps dots; equal parts stay."""
    assert line == joined(names)


def test_a_large_model_is_a_few_lines() -> None:
    """Eighty layers become one line for each of their tensors, in the order of the file."""
    names = [f"model.layers.{index}.{part}.weight" for index in range(80) for part in ("up_proj", "down_proj")]

    assert lines("model.embed.weight", *names) == [
        ("model.embed.weight", 1),
        ("model.layers.{0..79}.up_proj.weight", 80),
        ("model.layers.{0..79}.down_proj.weight", 80),
    ]


def test_other_differences_keep_names_apart() -> None:
    """Different words, different depths, padded numbers and digits that are not ASCII are not merged."""
    names = ("a.0", "b.0", "a.0.0", "a.01", "a.٣", "a", "")

    assert lines(*names) == [(name, 1) for name in names]


def test_items_that_are_not_alike_stay_apart() -> None:
    """Items with different values of `alike` are in different groups."""
    items = [("a.0", 4), ("a.1", 5), ("a.2", 4)]

    merged = grouped(items, lambda item: item[0], lambda item: item[1])

    assert [line for line, _ in merged] == ["a.{0,2}", "a.1"]


@given(st.lists(st.lists(PARTS, min_size=1, max_size=4).map(".".join), unique=True, max_size=30))
def test_every_name_is_in_one_group(names: list[str]) -> None:
    """No name is lost or repeated, whatever the names are."""
    groups = grouped(names, str, lambda _: None)

    assert sorted(name for _, group in groups for name in group) == sorted(names)
    assert all(line == group[0] for line, group in groups if len(group) == 1)
