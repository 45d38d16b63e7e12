"""Pickles of NumPy arrays, such as Paddle's .pdparams: listed and pruned in place, or refused."""

from __future__ import annotations

import io
import pickle
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from numpy.typing import NDArray

from prunecli.api import prune
from prunecli.checkpoint import OUTSIDE
from prunecli.errors import CheckpointError
from prunecli.formats.numpy_pickle.reader import read_numpy_pickle
from prunecli.formats.open import open_checkpoint
from prunecli.strategies.thresholds import Threshold

if TYPE_CHECKING:
    from pathlib import Path

    from prunecli.formats.listing import Listing

Arrays = dict[str, NDArray[Any]]
NAMES = "StructuredToParameterName@@"


class Named:
    """A parameter that is pickled as paddle.save does inside nested objects: as a tuple of its name and its array."""

    def __init__(self, name: str, array: NDArray[Any]) -> None:
        """Store the name and the array."""
        self.pair = (name, array)

    def __reduce__(self) -> tuple[type, tuple[tuple[str, NDArray[Any]]]]:
        """Return the tuple, as Paddle's dispatch table does."""
        return tuple, (self.pair,)


def arrays() -> Arrays:
    """Return arrays of every layout and of all dtypes of Paddle."""
    r = np.random.default_rng(0)
    w = r.normal(size=(20, 30)).astype(np.float32)
    return {
        "fc.weight": w,
        "fc.bias": r.normal(size=30).astype(np.float32),
        "tiny.weight": r.normal(size=(2, 3)).astype(np.float32),
        "tied.weight": w,
        "turned.weight": np.asfortranarray(r.normal(size=(5, 4))),
        "moved.weight": r.normal(size=(6, 7, 8)).transpose(1, 2, 0),
        "strided.weight": r.normal(size=(6, 14))[:, ::2],
        "big.weight": r.normal(size=(4, 50)).astype(">f8"),
        "half.weight": r.normal(size=(9, 9)).astype(np.float16),
        "steps_weight": np.arange(6).reshape(2, 3),
        "one_weight": np.array(0.01),
        "none.weight": np.zeros((0, 4), np.float32),
    }


def pdparams(protocol: int, weights: Arrays | None = None) -> bytes:
    """Return the bytes that paddle.save writes for a state_dict."""
    return pickle.dumps((weights or arrays()) | {NAMES: {"fc.weight": "linear_0.w_0"}}, protocol)


def listing(data: bytes) -> Listing:
    """List the pickle `data`."""
    return read_numpy_pickle(io.BytesIO(data), "x.pdparams")


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_every_array_is_at_its_listed_position(protocol: int) -> None:
    """Each array, read at the listed position, equals the pickled array."""
    data = pdparams(protocol)

    found = {t.name: t for t in listing(data).tensors}

    assert list(arrays()) == list(found)
    for name, array in arrays().items():
        t = found[name]
        dtype = np.dtype(array.dtype).newbyteorder(">" if t.big_endian else "<")
        flat = np.frombuffer(data[t.span.start : t.span.end], dtype)
        seen = np.lib.stride_tricks.as_strided(flat, t.shape, [t.itemsize * s for s in t.strides])
        assert np.array_equal(array, seen), name


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_pickle_loads_the_pruned_arrays(tmp_path: Path, protocol: int) -> None:
    """The pruned file unpickles to the same arrays with small weights zero; all other bytes are unchanged."""
    path, output = tmp_path / "m.pdparams", tmp_path / "o.pdparams"
    path.write_bytes(pdparams(protocol))

    prune(path, Threshold(0.5), output=output, reports=())

    after = pickle.loads(output.read_bytes())  # noqa: S301
    for name, array in arrays().items():
        chosen = "weight" in name and array.ndim > 1 and array.dtype.kind == "f"
        expected = np.where(np.abs(array) <= 0.5, 0, array) if chosen else array
        assert np.array_equal(expected, after[name]), name
        assert array.dtype.newbyteorder("=") == after[name].dtype.newbyteorder("=")  # NumPy may swap when it loads
    assert after["tied.weight"] is after["fc.weight"]
    assert after[NAMES] == {"fc.weight": "linear_0.w_0"}
    inside = [(t.span.start, t.span.end) for t in listing(path.read_bytes()).tensors]
    old, new = path.read_bytes(), output.read_bytes()
    assert len(old) == len(new)
    assert all(any(a <= i < b for a, b in inside) for i in range(len(old)) if old[i] != new[i])


def test_uint16_is_bfloat16_in_paddle() -> None:
    """In a file of Paddle uint16 means bfloat16; in other pickles it is an integer."""
    weights = {"w.weight": np.arange(6, dtype=np.uint16).reshape(2, 3)}

    assert listing(pdparams(4, weights)).tensors[0].dtype == "BF16"
    assert listing(pickle.dumps(weights, 4)).tensors[0].dtype == "U16"


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_named_parameters_in_nested_objects(protocol: int) -> None:
    """A pair of a name and an array is one parameter, listed under its key."""
    w = arrays()["fc.weight"]
    value = {"model": {"fc.weight": Named("linear_0.w_0", w)}, "optimizer": {"m": w + 1}, "epoch": 3}

    found = listing(pickle.dumps(value, protocol))

    assert [(t.name, t.unprunable_reason) for t in found.tensors] == [("fc.weight", None), ("optimizer.m", OUTSIDE)]
    assert found.key == "model"


@pytest.mark.parametrize("paddle", [True, False])
def test_arrays_stored_as_text_are_refused(paddle: bool) -> None:  # noqa: FBT001
    """Protocol 2 stores bytes as text, which cannot be pruned in place; the hint saves the file again."""
    data = pdparams(2) if paddle else pickle.dumps(arrays(), 2)

    with pytest.raises(CheckpointError, match=r"protocol 2 stores the array 'fc\.weight' as text") as caught:
        listing(data)

    assert ("paddle.save" in str(caught.value.hint)) == paddle
    assert "protocol" in str(caught.value.hint)


def test_bytes_that_are_used_twice_are_not_pruned() -> None:
    """An array that shares its bytes with another object is not pruned, because that would change both."""
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85C\1b\x87R"
        b"(K\1K\2\x85cnumpy\ndtype\nX\2\0\0\0f4\x89\x88\x87R(K\3X\1\0\0\0<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"
    )
    data = b"\x80\3}(X\6\0\0\0weight" + array + b"\x89C\x08abcdefghq\1tbX\1\0\0\0bh\1u."
    assert set(pickle.loads(data)) == {"weight", "b"}  # noqa: S301

    (tensor,) = listing(data).tensors

    assert tensor.unprunable_reason == "its bytes are used twice in the pickle"


def test_arrays_of_other_dtypes_are_listed_by_kind() -> None:
    """Arrays of text and of objects are unprunable entries."""
    value = {"w": np.ones(3), "s": np.array(["a", "b"]), "o": np.array([None, {}], dtype=object)}

    others = dict(listing(pickle.dumps(value, 4)).unprunable_entries)

    assert others == {"s": "NumPy array of an unusual dtype", "o": "NumPy array of an unusual dtype"}


@pytest.mark.parametrize(
    "value", [{"w": [1.0]}, [], "text", {"a": {"b": None}}, {"o": np.array([None])}], ids=lambda v: type(v).__name__
)
def test_a_pickle_without_arrays_is_refused(tmp_path: Path, value: object) -> None:
    """A pickle without arrays is not a checkpoint."""
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(value, 4))

    with pytest.raises(CheckpointError, match=r"is not a checkpoint: it is a pickle, not written by torch\.save"):
        open_checkpoint(tmp_path / "x.pkl")


SHAPE = b"K\x14K\x1e\x86"  # (20, 30) in the pickle of protocols 2 to 4

DAMAGES = {
    "too few numbers": (SHAPE, b"K\x13K\x1e\x86", r"has 2,400 bytes instead of 2,280"),
    "too many numbers": (SHAPE, b"K\xffK\xff\x86", r"has 2,400 bytes instead of 260,100"),
    "a negative size": (SHAPE, b"J\xec\xff\xff\xffK\x1e\x86", "negative, too large or not a number"),
    "a size that is text": (SHAPE, b"X\1\0\0\0aK\x1e\x86", "negative, too large or not a number"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_arrays_are_refused(name: str) -> None:
    """An array whose shape does not match its bytes is refused, and the error names it."""
    old, new, message = DAMAGES[name]
    data = pdparams(3)
    assert data.count(old) == 1

    with pytest.raises(CheckpointError, match=message) as caught:
        listing(data.replace(old, new))

    assert "'fc.weight'" in str(caught.value)


@pytest.mark.parametrize("keep", [3, 100, 1000, -1, -100])
def test_truncated_pickles_are_refused(keep: int) -> None:
    """A truncated pickle is refused."""
    with pytest.raises(CheckpointError, match="damaged or truncated"):
        listing(pdparams(4)[:keep])


def test_false_lengths_allocate_nothing(tmp_path: Path) -> None:
    """Bytes and text with a false, huge length are refused before they are read."""
    for opcode in (b"\x8e" + b"\xff" * 7 + b"\x3f", b"\x8e" + b"\xff" * 8, b"B\xff\xff\xff\xff", b"X\xff\xff\xff\x7f"):
        (tmp_path / "x.pdparams").write_bytes(b"\x80\4" + opcode + b"abc.")
        with pytest.raises(CheckpointError, match="damaged or truncated"):
            open_checkpoint(tmp_path / "x.pdparams")


def test_bytes_after_the_pickle_are_noted() -> None:
    """Bytes after the pickle, which Paddle ignores, become a note."""
    assert listing(pdparams(4) + b"tail").notes == ("4 bytes after the pickle are copied unchanged",)


def test_a_huge_array_is_not_read(tmp_path: Path) -> None:
    """An array of 3 GB in a sparse file is listed without reading it."""
    data = pickle.dumps({"w.weight": np.ones((300, 300), np.float32)}, 4)
    start = data.index(b"B\x40\x7e\x05\x00")
    shape = data.index(b"M\x2c\x01M\x2c\x01\x86")
    head = data[:start].replace(data[shape : shape + 7], b"M\x00\x7dM\x60\x6d\x86")  # 32,000 x 28,000
    length = 32_000 * 28_000 * 4
    path = tmp_path / "w.pdparams"
    with path.open("wb") as file:
        file.write(head.replace(data[2:11], b"", 1) + b"B" + length.to_bytes(4, "little"))
        file.seek(length, 1)
        file.write(data[start + 5 + 360_000 :])

    (tensor,) = open_checkpoint(path).tensors

    assert (tensor.shape, tensor.span.length) == ((32_000, 28_000), length)
