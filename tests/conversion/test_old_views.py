"""Views of storages in the torch format before 1.6, which the new format writes as offsets."""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch._utils import _rebuild_tensor_v2

from prunecli import convert, open_checkpoint


class _Part:
    """A tensor of float32 whose storage is a view of the storage "s": `count` of its 4 elements, from `first` on."""

    def __init__(self, first: int, count: int) -> None:
        view = (f"v{first}", first, count) if first else None
        self.pid = ("storage", torch.FloatStorage, "s", "cpu", 4, view)
        self.count = count

    def __reduce__(self) -> tuple[Any, ...]:
        """Rebuild it as torch does."""
        return _rebuild_tensor_v2, (_Stored(self.pid), 0, (self.count,), (1,), False, OrderedDict())


class _Stored:
    """A persistent id."""

    def __init__(self, pid: object) -> None:
        self.pid = pid


class _Pickler(pickle.Pickler):
    """Writes persistent ids."""

    def persistent_id(self, obj: object) -> object:
        """Return the id of what is stored outside the pickle."""
        return obj.pid if isinstance(obj, _Stored) else None


def with_views() -> bytes:
    """Return a file of the format before torch 1.6 in which a tensor has a view of a storage."""
    file = io.BytesIO()
    parts = (0x1950A86A20F9469CFC6C, 1001, {}, {"whole": _Part(0, 4), "view": _Part(2, 2)}, ["s"])
    for part in parts:
        _Pickler(file, 2).dump(part)
    return file.getvalue() + (4).to_bytes(8, "little") + torch.arange(4.0).numpy().tobytes()


def test_views_of_the_old_format_become_offsets(tmp_path: Path) -> None:
    """Torch before 1.0 stored a view of a storage under a key of its own; the new format has its offset."""
    source = tmp_path / "old.pth"
    source.write_bytes(with_views())
    before = open_checkpoint(source)

    convert(source, tmp_path / "new.pth")

    loaded = torch.load(tmp_path / "new.pth")
    assert [t.name for t in before.tensors] == list(loaded)
    assert loaded["view"].tolist() == [2.0, 3.0]
    assert loaded["view"].data_ptr() == loaded["whole"].data_ptr() + 8
