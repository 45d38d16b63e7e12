"""NumPy pickles that a loader reads in an odd way: the loader's arrays are listed, or the file is refused."""

from __future__ import annotations

import io
import pickle

import numpy as np
import pytest
from support.handmade import text

from prunecli.errors import CheckpointError
from prunecli.formats.listing import Listing
from prunecli.formats.numpy_pickle.reader import read_numpy_pickle

VALUES = np.array([[0.1, 2], [0.25, -3]], np.float32)
ARRAY = pickle.dumps(VALUES, 3)[2:-1]
"""The opcodes of an array; its state, a tuple, is the last value in its memo."""


def listing(value: bytes) -> Listing:
    """List a pickle of {"w": value}."""
    return read_numpy_pickle(io.BytesIO(b"\x80\x03}" + text("w") + value + b"s."), "x.pkl")


def test_the_array_itself_is_listed() -> None:
    """Without an odd construct the array is listed and may be pruned."""
    (tensor,) = listing(ARRAY).tensors

    assert (tensor.name, tensor.shape, tensor.unprunable_reason) == ("w", (2, 2), None)


def test_an_array_with_a_state_that_is_used_again_is_not_pruned() -> None:
    """The bytes of an array are left alone if the tuple that holds them is stored elsewhere, too."""
    slot = ARRAY[ARRAY.rindex(b"tq") + 2 : ARRAY.rindex(b"tq") + 3]
    (tensor,) = listing(b"](" + ARRAY + b"h" + slot + b"e").tensors

    assert tensor.unprunable_reason == "its bytes are used twice in the pickle"


BYTES = ARRAY.index(b"C\x10")
SLOT = ARRAY[BYTES + 19 : BYTES + 20]
"""The slot of the memo that holds the bytes of the array."""


@pytest.mark.parametrize("other", [VALUES, VALUES.T, VALUES.reshape(4), VALUES.view(np.int32)])
def test_arrays_with_the_same_bytes_are_not_pruned(other: np.ndarray) -> None:  # type: ignore[type-arg]
    """Two arrays whose states share their bytes, also under another shape or dtype, are left alone."""
    own = pickle.dumps(other, 3)[2:-1]
    place = own.index(b"C\x10")
    shared = own[:place] + b"h" + SLOT + own[place + 20 :]

    tensors = listing(ARRAY + b"s" + text("v") + shared).tensors

    assert [t.name for t in tensors] == ["w", "v"]
    assert {t.unprunable_reason for t in tensors} == {"its bytes are used twice in the pickle"}


CHANGED = {
    "an element set": ARRAY + b"K\0K\5s",
    "two states": ARRAY + b"(tb",
    "an attribute of a dict": b"ccollections\nOrderedDict\n)R}" + text("x") + ARRAY + b"sb",
    "a dict from other values": b"](" + ARRAY + b"cbuiltins\ndict\nK\1\x85Re",
    "a bool as size": ARRAY.replace(b"K\x02K\x02\x86", b"\x88K\x02\x86"),
    "a size of 3,000 digits": ARRAY.replace(b"K\x02K\x02\x86", b"\x8b\0\x05\0\0" + b"\x7f" * 1280 + b"K\x02\x86"),
    "many sizes without elements": ARRAY.replace(b"K\x02K\x02\x86", b"(K\0" + b"\x8a\x07" + b"\x7f" * 7 + b"K\2t"),
}


@pytest.mark.parametrize("name", CHANGED)
def test_odd_arrays_are_refused(name: str) -> None:
    """An array that a loader sees with other values than the stored ones is refused in one sentence."""
    assert CHANGED[name] != ARRAY

    with pytest.raises(CheckpointError, match=r"cannot be read safely|is damaged"):
        listing(CHANGED[name])


ODD = {
    "a structured dtype": ARRAY.replace(b"NNNJ", b"(" + text("f4") + b"K\2tNNJ"),
    "a buffer with a state": pickle.dumps(VALUES, 5)[11:-1] + b")b",
    "a class of another module": ARRAY.replace(b"cnumpy\nndarray", b"cother\nndarray"),
}


@pytest.mark.parametrize("name", ODD)
def test_arrays_of_unusual_kinds_are_not_listed_as_tensors(name: str) -> None:
    """An array of another kind than NumPy writes for plain numbers is named, and left alone."""
    assert ODD[name] != ARRAY

    with pytest.raises(CheckpointError, match="NumPy array of an unusual"):
        listing(ODD[name])
