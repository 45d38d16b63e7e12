"""Files in the format before torch 1.6: damaged ones, and bytes after the last storage."""

from __future__ import annotations

import pickle
import struct
from typing import TYPE_CHECKING

import pytest
import torch
from support.handmade import patched, state_dict
from support.torch_files import listing, saved

from prunecli.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Callable

LEGACY: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "cut in the data": (lambda d: d[:-5], "ends at byte"),
    "cut in the pickles": (lambda d: d[:200], "truncated"),
    "other count": (lambda d: d[:-48][:-8] + struct.pack("<q", 13) + d[-48:], "13 elements instead of 12"),
    "other protocol": (lambda d: patched(d, b"M\xe9\x03", b"M\xe8\x03"), "protocol 1000"),
}


@pytest.mark.parametrize("name", LEGACY)
def test_damaged_legacy_files_are_refused(name: str) -> None:
    """A legacy file that is truncated, or has a wrong count or protocol, is refused."""
    damage, message = LEGACY[name]

    with pytest.raises(CheckpointError, match=message):
        listing(damage(saved({"w": torch.ones(3, 4)}, legacy=True)))


def test_bytes_after_the_last_storage_are_noted() -> None:
    """Bytes after the last storage, which torch ignores, become a note."""
    data = saved({"w": torch.ones(3, 4)}, legacy=True)

    assert listing(data + b"junk").notes == ("4 bytes after the last storage are copied unchanged",)


def test_a_class_is_not_a_storage() -> None:
    """A tensor cannot use the persistent id of a class as its storage."""
    preface: tuple[object, ...] = (0x1950A86A20F9469CFC6C, 1001, {})
    head = b"".join(pickle.dumps(part, 2) for part in preface)
    tensor = b"ctorch._utils\n_rebuild_tensor\n((U\x06moduleNNNtQK\x00))tR"

    with pytest.raises(CheckpointError, match="the tensor 'a' is damaged"):
        listing(head + state_dict({"a": tensor}) + pickle.dumps([], 2))
