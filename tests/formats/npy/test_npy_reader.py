"""Arrays are listed as numpy.load reads them: dtype, shape, memory order and place."""

from __future__ import annotations

import io
import subprocess
import sys
import zipfile
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import bits, examples, make_weights, zeroed
from support.foreign import native
from support.handmade import npy
from support.opening import refused

from prunecli.api import prune
from prunecli.baking.bake import bake
from prunecli.dtypes import NUMPY_DTYPES
from prunecli.errors import CheckpointError, OutputError
from prunecli.formats.npy.reader import read_npy, read_npz
from prunecli.formats.open import open_checkpoint
from prunecli.strategies.thresholds import Threshold
from prunecli.strategies.unstructured import L1

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from prunecli.checkpoint import TensorInfo

    Array = NDArray[np.generic]


@st.composite
def arrays(draw: st.DrawFn) -> Array:
    """Draw an array of any dtype, shape, byte order and memory order that has a name here."""
    shape = tuple(draw(st.lists(st.integers(0, 5), max_size=4)))
    dtype = draw(st.sampled_from(sorted(NUMPY_DTYPES)))
    whole = np.arange(int(np.prod(shape, dtype=int)) * np.dtype(dtype).itemsize, dtype=np.uint8)
    array = whole.view(dtype).reshape(shape).astype(np.dtype(dtype).newbyteorder(draw(st.sampled_from("<>"))))
    return np.array(array, order=draw(st.sampled_from("CF")))


def read_at(file: io.BytesIO, tensor: TensorInfo) -> Array:
    """Return the elements of a tensor at its listed place."""
    dtype = np.dtype({name: letter for letter, name in NUMPY_DTYPES.items()}[tensor.dtype])
    dtype = dtype.newbyteorder(">" if tensor.big_endian else "<")
    strides = [step * tensor.itemsize for step in tensor.strides]
    return np.ndarray(tensor.shape, dtype, file.getvalue(), tensor.start, strides)


@settings(max_examples=examples(60))
@given(arrays(), st.sampled_from([(1, 0), (2, 0), (3, 0)]))
def test_an_array_is_listed_as_numpy_reads_it(array: Array, version: tuple[int, int]) -> None:
    """Every dtype, byte order, memory order and version of the header is read as numpy.load reads it."""
    file = io.BytesIO()
    np.lib.format.write_array(file, array, version)

    (tensor,) = read_npy(file, "x.npy").tensors

    assert tensor.name == "tensor"
    actual = read_at(file, tensor)
    assert (actual.dtype, actual.tobytes()) == (array.dtype, array.tobytes())


@settings(max_examples=examples(40))
@given(
    st.dictionaries(st.text(st.characters(exclude_characters="/\0\\", codec="utf-8"), min_size=1), arrays(), min_size=1)
)
def test_an_archive_is_listed_as_numpy_reads_it(named: dict[str, Array]) -> None:
    """The names are those of numpy.load, in the order of the archive, and the places those of its arrays."""
    file = io.BytesIO()
    np.savez(file, **{name: array for name, array in named.items() if name != "file"} or {"x": np.ones(2)})

    listing = read_npz(file, "x.npz")

    with np.load(io.BytesIO(file.getvalue())) as loaded:
        assert [tensor.name for tensor in listing.tensors] == loaded.files
        for tensor in listing.tensors:
            assert read_at(file, tensor).tobytes() == loaded[tensor.name].tobytes()
    assert [checksum.span for checksum in listing.checksums] == [tensor.span for tensor in listing.tensors]


HEADERS = {
    "other order of fields": "{'shape': (2, 2), 'descr': '<f4', 'fortran_order': False}",
    "double quotes": '{"descr": "<f4", "fortran_order": False, "shape": (2, 2,)}',
    "Python 2": "{'descr': '<f4', 'fortran_order': False, 'shape': (2L, 2L), }",
    "no spaces": "{'descr':'<f4','fortran_order':True,'shape':(2,2)}",
}


@pytest.mark.filterwarnings("ignore:Reading .* as it was created on Python 2")
@pytest.mark.parametrize("name", HEADERS)
def test_headers_of_other_writers(name: str) -> None:
    """Headers as cnpy, NPZ.jl and Python 2 write them are read as numpy.load reads them."""
    data = np.arange(4, dtype="<f4").tobytes()
    file = io.BytesIO(npy(HEADERS[name], data))

    (tensor,) = read_npy(file, "x.npy").tensors

    assert read_at(file, tensor).tolist() == np.load(io.BytesIO(file.getvalue())).tolist()


def test_the_output_is_what_numpy_reads(tmp_path: Path) -> None:
    """Only the pruned weights of a .npy file change: numpy.load gives zeros there, and all other bits."""
    weight = make_weights()["fc.weight"]
    np.save(tmp_path / "w.npy", weight.numpy())

    report = prune(tmp_path / "w.npy", Threshold(0.05), reports=())

    assert report.output_path == str(tmp_path / "w.pruned.npy")
    after = native(np.load(tmp_path / "w.pruned.npy"))
    assert bits(after).equal(bits(zeroed(weight, weight.abs() > 0.05)))


def test_arrays_of_objects_are_named_and_left_alone(tmp_path: Path) -> None:
    """A pickled array next to others keeps its bytes and is never unpickled; other unusual kinds are named too."""
    odd = {
        "objects": np.array([{"a": 1}], object),
        "texts": np.array(["a"]),
        "records": np.zeros(2, [("x", "f4")]),
        "bfloat16": np.zeros(2, "V2"),
        "times": np.zeros(2, "M8[s]"),
    }
    np.savez(tmp_path / "m.npz", weight=np.ones((2, 2)), **odd)

    prune(tmp_path / "m.npz", L1(amount=0.5), reports=())

    kinds = dict(open_checkpoint(tmp_path / "m.npz").unprunable_entries)
    assert kinds == {
        "objects": "array of Python objects",
        "texts": "array of texts",
        "records": "structured array",
        "bfloat16": "array of raw bytes (|V2), whose dtype .npy does not name",
        "times": "array of dtype <M8[s]",
    }
    with zipfile.ZipFile(tmp_path / "m.npz") as before, zipfile.ZipFile(tmp_path / "m.pruned.npz") as after:
        assert after.testzip() is None
        assert {n for n in before.namelist() if before.read(n) != after.read(n)} == {"weight.npy"}


def test_the_hint_for_another_compression_is_a_command(tmp_path: Path) -> None:
    """An archive of another method is refused; the command in the hint stores the arrays, and the result opens."""
    path = tmp_path / "my model.npz"
    np.savez(tmp_path / "stored.npz", weight=np.ones((2, 2)))
    with zipfile.ZipFile(tmp_path / "stored.npz") as stored, zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as packed:
        packed.writestr("weight.npy", stored.read("weight.npy"))
    error = refused(path)

    subprocess.run(["sh", "-c", (str(error.hint)).replace("python", sys.executable, 1)], check=True)

    assert "its array 'weight' is compressed with another method" in str(error)
    assert [t.name for t in open_checkpoint(f"{path}.stored.npz").tensors] == ["weight"]


def test_a_compressed_archive_becomes_a_stored_one(tmp_path: Path) -> None:
    """The output of a file of numpy.savez_compressed has the same arrays, stored, and the names and bytes of others."""
    named = {"weight": np.arange(1, 5.0).reshape(2, 2), "params/code/kernel": np.ones((64, 64)), "step": np.int64(3)}
    np.savez_compressed(tmp_path / "m.npz", **named, objects=np.array([{}], object))

    report = prune(tmp_path / "m.npz", Threshold(2), reports=())

    assert "its arrays are compressed; a new file has them uncompressed" in open_checkpoint(tmp_path / "m.npz").notes
    with zipfile.ZipFile(str(report.output_path)) as archive:
        assert archive.testzip() is None
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
    with np.load(str(report.output_path)) as after:
        assert after.files == [*named, "objects"]
        assert after["weight"].tolist() == [[0, 0], [3, 4]]
        assert not after["params/code/kernel"].any()
        assert after["step"] == 3


def test_several_arrays_in_one_file(tmp_path: Path) -> None:
    """What numpy.save appends after the first array is copied, and a note says so."""
    with (tmp_path / "two.npy").open("wb") as file:
        np.save(file, np.ones((2, 2)))
        np.save(file, np.ones(3))

    checkpoint = open_checkpoint(tmp_path / "two.npy")

    assert checkpoint.notes == ("152 bytes after the array are copied unchanged",)
    assert checkpoint.tensors[0].shape == (2, 2)


def test_unnamed_arrays_and_kernels_are_weights(tmp_path: Path) -> None:
    """The arguments of numpy.savez without a name, and Flax's kernels and embeddings, are pruned by default."""
    w, b = np.ones((8, 16), np.float32), np.ones(16, np.float32)
    flax = {"params/Dense_0/kernel": w, "params/Dense_0/bias": b, "params/Embed_0/embedding": w}
    np.savez(tmp_path / "m.npz", w, b, **flax)

    chosen = [t for t in open_checkpoint(tmp_path / "m.npz").tensors if not t.layout.not_a_weight]

    assert [(t.name, t.layout.label) for t in chosen if t.layout.outputs] == [
        ("params/Dense_0/kernel", "matrix in-out")
    ]
    assert [t.name for t in chosen] == [*list(flax)[::2], "arr_0", "arr_1"]


def test_the_output_keeps_the_suffix_of_its_format(tmp_path: Path) -> None:
    """An output of another format's suffix is refused, and so is a key."""
    np.savez(tmp_path / "m.npz", weight=np.ones((2, 2)))

    with pytest.raises(OutputError, match="would be NumPy, which is not written"):
        prune(tmp_path / "m.npz", L1(amount=0.5), output=tmp_path / "m.npy", reports=())
    with pytest.raises(CheckpointError, match=r"is a \.npz archive, which has no key 'a'"):
        open_checkpoint(tmp_path / "m.npz", key="a")


def test_masks_in_arrays_are_not_folded(tmp_path: Path) -> None:
    """`bake` refuses the formats that do not come from torch."""
    np.savez(tmp_path / "m.npz", weight_orig=np.ones((2, 2)), weight_mask=np.ones((2, 2)))

    with pytest.raises(CheckpointError, match=r"is NumPy \.npz: only files of torch\.save and safetensors files"):
        bake(tmp_path / "m.npz")


@pytest.mark.parametrize("other", ["a.npy.npy", "a"])
def test_names_that_numpy_confuses_are_refused(tmp_path: Path, other: str) -> None:
    """numpy.load reads `a.npy` for the array in `a.npy.npy` too, so an archive with both is refused."""
    data = io.BytesIO()
    np.save(data, np.ones((2, 2), np.float32))
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        for name in ("a.npy", other):
            archive.writestr(name, data.getvalue())

    with pytest.raises(CheckpointError, match="two arrays named"):
        open_checkpoint(tmp_path / "a.npz")


def test_a_size_with_a_leading_zero_is_refused(tmp_path: Path) -> None:
    """A header that NumPy cannot evaluate is damaged."""
    (tmp_path / "a.npy").write_bytes(npy("{'descr': '<f4', 'fortran_order': False, 'shape': (04,), }"))

    with pytest.raises(CheckpointError, match="damaged"):
        open_checkpoint(tmp_path / "a.npy")
