"""Generated files of safetensors and NumPy: the listing is what these libraries read, or the file is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from support import load_script

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("safetensors")
SEEDS = range(250)


@pytest.fixture(scope="module")
def script() -> Any:  # noqa: ANN401 - a module
    """Load the script, and the scripts that it imports."""
    for name in ("pickle_judge", "header_grammar"):
        load_script(name)
    return load_script("fuzz_formats")


def test_generated_files_agree_with_their_libraries(script: Any, tmp_path: Path) -> None:  # noqa: ANN401
    """No generated file is listed in another way than its library reads it, and many are accepted by both."""
    counts, found = script.search_in_children(SEEDS, tmp_path)

    assert found == {}
    assert all(counts[f"{kind}, compared"] > 50 for kind in script.KINDS)


@pytest.mark.parametrize("kind", ["safetensors", "npy", "npz", "pickle"])
def test_planted_faults_are_found(script: Any, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ANN401
    """A reader that moves, renames or drops a tensor, or accepts every file, is found within a few files."""
    read, load = script.KINDS[kind]

    def changed(**fields: Any) -> Any:  # noqa: ANN401 - a reader
        def reader(file: Any, label: str) -> Any:  # noqa: ANN401
            listing = read(file, label)
            return replace(listing, tensors=tuple(replace(tensor, **fields) for tensor in listing.tensors))

        return reader

    def without(file: Any, label: str) -> Any:  # noqa: ANN401
        return replace(read(file, label), tensors=())

    for reader in (changed(name="other"), changed(shape=(7,), strides=(1,)), changed(big_endian=True), without):
        monkeypatch.setitem(script.KINDS, kind, (reader, load))
        assert script.search(range(60))[1], reader
