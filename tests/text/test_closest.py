"""The names most similar to a misspelled one."""

from __future__ import annotations

from itertools import count

from prunecli.text.closest import closest


def test_the_most_similar_names_come_first() -> None:
    """Similar names are returned in order of similarity, at most `count` of them."""
    names = ["bias", "fc.weight", "fc1.weight", "conv.weight"]

    assert closest("fc1.wieght", names) == ["fc1.weight"]
    assert closest("fc1.wieght", names, 2) == ["fc1.weight", "fc.weight"]
    assert closest("zzz", names) == []
    assert len(closest("zzz", names, 3, cutoff=0)) == 3


def test_only_the_first_names_are_compared() -> None:
    """A very long list of names is compared in part, because difflib is slow."""
    assert closest("n3", (f"n{number}" for number in count())) == ["n3"]
