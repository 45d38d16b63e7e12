"""The pickle of a dict of tensors: byte for byte the one in a file of torch.save."""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING

import pytest
import torch

from prunecli.formats.torch.state_dict_pickle import StoredTensor, pickled_state_dict
from prunecli.formats.torch.writer import arrange_torch

if TYPE_CHECKING:
    from pathlib import Path


def stored(number: int, name: str, tensor: torch.Tensor) -> StoredTensor:
    """Describe a tensor of float32 or float8 with a storage of its own."""
    dtype = "F32" if tensor.dtype == torch.float32 else "F8_E4M3"
    return StoredTensor(name, dtype, tuple(tensor.shape), tensor.stride(), 0, str(number), tensor.numel())


@pytest.mark.parametrize("count", [0, 1, 2, 100, 999, 1000, 1001])
def test_the_pickle_is_that_of_torch(count: int, tmp_path: Path) -> None:
    """Batches, memo numbers above 255, integers of all widths and newer dtypes are written as torch writes them."""
    shapes = [(), (0,), (3, 2), (1, 1, 1), (2, 1, 1, 2), (300,), (70000,)]
    tensors = {f"layer.{n}": torch.zeros(shapes[n % 6 if n > 10 else n % 7]) for n in range(count)}
    if count > 1:
        tensors["layer.1"] = torch.zeros(3).to(torch.float8_e4m3fn)
    torch.save(tensors, tmp_path / "m.pth")

    actual = pickled_state_dict([stored(n, name, tensor) for n, (name, tensor) in enumerate(tensors.items())])

    assert zipfile.ZipFile(tmp_path / "m.pth").read("m/data.pkl") == actual


def test_large_sizes_and_offsets_have_fields_of_64_bits() -> None:
    """A storage of 5 GB, and the records behind it, are laid out as torch lays them out."""
    from prunecli.checkpoint import Span
    from prunecli.formats.torch.writer import NewStorage
    from prunecli.io.arrangement import raw

    size = 5 << 30
    storages = [NewStorage(raw(Span(0, n), 0), "U8", n) for n in (size, 16)]
    file, moves = arrange_torch(b"pickle", storages, name="", folder="m", output=0)
    written = sorted([*file.literals, *file.finish([1, 2])])
    covered = [*written, *((move.offset, b"") for move in moves)]
    end, records = 0, {move.offset: move.tensor.numel for move in moves}
    for offset, data in sorted(covered):
        assert offset == end
        end = offset + (len(data) or records.get(offset, 0))

    assert file.size == end
    assert all(move.offset % 64 == 0 for move in moves)
