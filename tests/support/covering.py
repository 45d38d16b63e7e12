"""Products of parameters of which the default run tries a covering part, and `--all` the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from _pytest.mark import ParameterSet


def in_turn(first: Iterable[str | tuple[str, ...]], second: Iterable[str]) -> list[ParameterSet]:
    """Return every pair of a value of `first` and one of `second`; only one pair per value of `first` is quick.

    The values of `second` take turns in the quick pairs. All other pairs are marked `slow`. A tuple is several
    parameters.
    """
    others = list(second)
    return [
        pytest.param(
            *([value] if isinstance(value, str) else value),
            other,
            marks=() if turn == index % len(others) else pytest.mark.slow,
        )
        for index, value in enumerate(first)
        for turn, other in enumerate(others)
    ]
