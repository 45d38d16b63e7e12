"""New files that are made of parts: bytes to write, and ranges copied from an input file."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from prunecli.checkpoint import Span
from prunecli.io.files import Source
from prunecli.io.parts import FilePlan, write_parts

if TYPE_CHECKING:
    from pathlib import Path

PLAN = FilePlan((b"head", Span(2_000_000, 1_000_000), Span(5, 0), Span(10, 1_500_000), b"tail"))


@pytest.mark.parametrize("copy", ["in the kernel", "in memory"])
def test_parts_are_copied_in_any_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, copy: str) -> None:
    """Ranges are written where the plan says, also if the kernel cannot copy between files; all bytes are counted."""
    data = os.urandom(3_000_000)
    (tmp_path / "in").write_bytes(data)
    if copy == "in memory":
        monkeypatch.delattr(os, "copy_file_range", raising=False)
    source, counts = Source(tmp_path / "in", len(data)), list[int]()

    with (tmp_path / "out").open("w+b") as file:
        write_parts(source, file.fileno(), PLAN.parts, advance=counts.append)
    source.close()

    assert (tmp_path / "out").read_bytes() == b"head" + data[2_000_000:] + data[10:1_500_010] + b"tail"
    assert (tmp_path / "out").stat().st_size == PLAN.size == sum(counts)


def test_copied_ranges_map_the_input_to_the_new_file() -> None:
    """A range inside a copied range has an offset in the new file; a range that is not copied whole has none."""
    offset_of = PLAN.copied_ranges()

    assert (offset_of(2_000_001, 2_000_002), offset_of(10, 11)) == (5, 1_000_004)
    with pytest.raises(LookupError):
        offset_of(1_500_000, 1_500_020)
