"""JSON documents."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunecli.text.json import dump_json


@given(st.lists(st.text(), max_size=5))
def test_any_text_survives_as_ascii(names: list[str]) -> None:
    """Names come back verbatim from printable ASCII; each record has a line of its own."""
    text = dump_json({"names": names}, tensors=[{"name": name} for name in names])

    assert text.isascii()
    assert text.replace("\n", "").isprintable()
    assert json.loads(text) == {"names": names, "tensors": [{"name": name} for name in names]}
    assert sum(line.startswith('  {"name": ') for line in text.splitlines()) == len(names)
    assert text.endswith("}\n")


def test_numbers_that_are_not_finite_are_an_error() -> None:
    """NaN and infinity never reach a document."""
    with pytest.raises(ValueError, match="not JSON compliant"):
        dump_json({"a": math.nan})
