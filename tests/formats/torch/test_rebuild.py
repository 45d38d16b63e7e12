"""Pickles made by hand: tensors that exceed their storage, wrong arguments, and objects that cost much memory."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from support.handmade import checkpoint, rebuilt, state_dict, with_tensor
from support.torch_files import listing

from prunecli.errors import CheckpointError

WRONG: dict[str, dict[str, Any]] = {
    "size outside": {"size": (3, 2)},
    "size of 2**62": {"size": (1 << 62, 2)},
    "size of 2**2000": {"size": (1 << 2000, 2)},
    "fewer strides": {"strides": (2,)},
    "70 dimensions": {"size": (1,) * 70, "strides": (1,) * 70},
    "negative numel": {"numel": -1},
    "numel too small": {"numel": 2, "size": (2,), "strides": (1,)},
    "other storage type": {"storage": "DoubleStorage"},
    "unknown storage type": {"storage": "FooStorage"},
    "missing storage": {"key": "1"},
}


@pytest.mark.parametrize("name", WRONG)
def test_impossible_tensors_are_refused(name: str) -> None:
    """A tensor that exceeds its storage, or has an impossible shape, dtype or storage, is refused in one sentence."""
    with pytest.raises(CheckpointError, match=r"^[^\n]+$"):
        listing(with_tensor(**WRONG[name]))


def test_a_storage_with_two_dtypes_is_refused() -> None:
    """Two types of one storage are refused: torch's loader takes the first one for both tensors."""
    both = state_dict({"a": rebuilt(), "b": rebuilt(storage="IntStorage")})

    with pytest.raises(CheckpointError, match="storage '0' has two dtypes: F32 and I32"):
        listing(checkpoint(both))


def test_a_storage_that_is_read_with_two_dtypes_is_not_pruned() -> None:
    """All tensors of a storage that is read with two dtypes have that as the reason why they are not pruned."""
    typed = (
        rebuilt().replace(b"_rebuild_tensor_v2", b"_rebuild_tensor_v3").replace(b"\x89}tR", b"\x89}ctorch\nint32\ntR")
    )
    both = state_dict({"a": rebuilt(), "b": typed})

    reasons = {tensor.unprunable_reason for tensor in listing(checkpoint(both)).tensors}

    assert reasons == {"its storage is read as F32 and as I32"}


def test_wrong_rebuild_arguments_are_refused() -> None:
    """A rebuild call without a storage raises CheckpointError."""
    for arguments in (b")", b"(K\x01K\x02K\x03K\x04t", b"(NNNNNNt"):
        with pytest.raises(CheckpointError, match="arguments"):
            listing(checkpoint(state_dict({"a": b"ctorch._utils\n_rebuild_tensor_v2\n" + arguments + b"R"})))


MANY = {
    "objects": (b"cposix\nsystem\nq\0](" + b"h\0)R" * 2000 + b"e.", "more than 1,000 objects"),
    "dicts": (b"](" + b"}" * 2000 + b"e.", "more than 1,000 objects"),
    "lists": (b"](" + b"]" * 2000 + b"e.", "more than 1,000 objects"),
    "made dicts": (b"ccollections\nOrderedDict\nq\0](" + b"h\0)R" * 2000 + b"e.", "more than 1,000 objects"),
    "persistent ids": (b"](" + b"NQ" * 2000 + b"e.", "more than 1,000 objects"),
    "kept values": (
        b"N" + b"".join(b"r%b" % struct.pack("<L", i) for i in range(2000)) + b".",
        "more than 900 memo entries",
    ),
}


@pytest.mark.parametrize("name", MANY)
def test_the_number_of_objects_is_limited(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pickle with more objects or memo entries than the limits is refused."""
    monkeypatch.setattr("prunecli.formats.pickle.machine.MAX_OBJECTS", 1000)
    monkeypatch.setattr("prunecli.formats.pickle.machine.MAX_MEMO", 900)
    body, message = MANY[name]

    with pytest.raises(CheckpointError, match=message):
        listing(checkpoint(b"\x80\x02" + body))
