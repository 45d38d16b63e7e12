"""Datasets of HDF5 files are listed and pruned as h5py reads them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import examples
from support.foreign import library, write_hdf5
from support.opening import refused, tensor_bytes

import prunecli
from prunecli.api import prune
from prunecli.checkpoint import OUTSIDE
from prunecli.errors import CheckpointError, SelectionError
from prunecli.formats.open import open_checkpoint
from prunecli.strategies.thresholds import Threshold
from prunecli.strategies.unstructured import L1

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

W = np.random.default_rng(0).standard_normal((8, 32), dtype=np.float32)
DTYPES = ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"]

names = st.lists(st.sampled_from("abcde"), min_size=1, max_size=4).map("/".join)
shapes = st.lists(st.integers(0, 4), max_size=3).map(tuple)
arrays = st.tuples(names, shapes, st.sampled_from(DTYPES), st.sampled_from("<>"))


@settings(max_examples=examples(20))
@given(st.lists(arrays, max_size=12), st.sampled_from([None, "v108"]))
def test_datasets_are_listed_as_h5py_reads_them(
    tmp_path_factory: pytest.TempPathFactory, drawn: list[Any], libver: str | None
) -> None:
    """Paths, shapes, dtypes and bytes are those of h5py, for any tree of groups and both kinds of object headers."""
    h5py = library("h5py")
    path = tmp_path_factory.mktemp("h5") / "m.h5"
    with h5py.File(path, "w", libver=libver) as file:
        for name, shape, dtype, order in drawn:
            if (
                not any(part in file and isinstance(file[part], h5py.Dataset) for part in prefixes(name))
                and name not in file
            ):
                count = int(np.prod(shape, dtype=int))
                file.create_dataset(name, data=np.arange(count).reshape(shape).astype(f"{order}{dtype}"))

    checkpoint = open_checkpoint(path)

    with h5py.File(path) as file:
        wanted: dict[str, Any] = {}
        file.visititems(lambda name, item: wanted.update({name: item[...]} if isinstance(item, h5py.Dataset) else {}))
    listed = {t.name: t for t in checkpoint.tensors}
    empty = {name for name, kind in checkpoint.unprunable_entries if kind == "HDF5 dataset without numbers"}
    assert listed.keys() | empty == wanted.keys()
    data = tensor_bytes(checkpoint)
    for name, tensor in listed.items():
        assert (tensor.shape, data[name]) == (wanted[name].shape, wanted[name].tobytes())
        assert tensor.big_endian == (wanted[name].dtype.byteorder == ">")


def prefixes(name: str) -> list[str]:
    """Return the path and all paths above it."""
    parts = name.split("/")
    return ["/".join(parts[: i + 1]) for i in range(len(parts))]


def test_many_datasets_need_a_deep_tree(tmp_path: Path) -> None:
    """A group of thousands of datasets, whose B-tree has levels, is listed whole, and one of them is pruned."""
    arrays = {f"layer{i}.weight": np.full((2, 2), i + 1, np.float32) for i in range(600)}
    path = write_hdf5(tmp_path / "m.h5", arrays)

    report = prune(path, Threshold(1), include=["layer*"], reports=())

    assert len(report.rows) == 600
    with library("h5py").File(report.output_path) as file:
        assert [name for name in arrays if not np.array_equal(file[name], arrays[name])] == ["layer0.weight"]


def leave_out(file: Any) -> None:  # noqa: ANN401 - a file of h5py
    """Write datasets of every kind that is left alone."""
    h5py = library("h5py")
    file.create_dataset("gzip", data=W, compression="gzip")
    file.create_dataset("fletcher", data=W, fletcher32=True)
    file.create_dataset("chunks", data=W, chunks=(4, 4))
    file.create_dataset("unwritten", (3, 3), "f4")
    file.create_dataset("empty", data=h5py.Empty("f4"))
    file.create_dataset("texts", data=["a", "b"])
    file.create_dataset("records", data=np.zeros(2, [("x", "f4")]))
    file.create_dataset("truths", data=np.array([True, False]))
    file.create_dataset("bfloat16", data=np.zeros(2, "V2"))
    file.create_dataset("long", data=np.zeros(2, np.longdouble))
    file.create_dataset("external", (2, 2), "f4", external=[("numbers", 0, 16)])
    file["soft"] = h5py.SoftLink("/weight")
    file["type"] = np.dtype("f4")


KINDS = {
    "gzip": "compressed HDF5 dataset",
    "fletcher": "compressed HDF5 dataset",
    "chunks": "chunked HDF5 dataset",
    "unwritten": "HDF5 dataset without numbers",
    "empty": "empty HDF5 dataset",
    "texts": "HDF5 dataset of lists of any length",
    "records": "HDF5 dataset of compound values",
    "truths": "HDF5 dataset of named values",
    "bfloat16": "HDF5 dataset of opaque bytes",
    "long": "HDF5 dataset of floats of an unusual form",
    "external": "HDF5 dataset with a part elsewhere",
}


def test_other_datasets_are_named_and_left_alone(tmp_path: Path) -> None:
    """Datasets in chunks, compressed, of other types, or elsewhere are named with their kind, and keep their bytes."""
    h5py = library("h5py")
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file.create_dataset("weight", data=W)
        leave_out(file)

    report = prune(tmp_path / "m.h5", Threshold(0.5), reports=())

    assert dict(open_checkpoint(tmp_path / "m.h5").unprunable_entries) == KINDS
    with h5py.File(tmp_path / "m.h5") as before, h5py.File(report.output_path) as after:
        assert np.array_equal(after["weight"], np.where(np.abs(W) > 0.5, W, 0))
        assert np.array_equal(after["gzip"], before["gzip"])
        assert np.array_equal(after["fletcher"], before["fletcher"])


def test_a_compressed_file_is_refused_with_the_command_that_converts_it(tmp_path: Path) -> None:
    """If all weights are compressed or in chunks, the hint is the call of h5repack."""
    with library("h5py").File(tmp_path / "m.h5", "w") as file:
        file.create_dataset("weight", data=W, compression="gzip")

    with pytest.raises(SelectionError, match="holds only 1 x compressed HDF5 dataset") as caught:
        prune(tmp_path / "m.h5", L1(amount=0.5), reports=())

    assert caught.value.hint == "h5repack -l CONTI -f NONE IN.h5 OUT.h5"


def few_links(file: Any) -> None:  # noqa: ANN401 - a file of h5py
    """Write a dataset, and links to other places, which are passed over."""
    h5py = library("h5py")
    file.create_dataset("weight", data=W)
    file["elsewhere"], file["soft"] = h5py.ExternalLink("other.h5", "/weight"), h5py.SoftLink("/weight")


FORMS: dict[str, Callable[[Any], None]] = {
    "a fractal heap": lambda file: [file.create_dataset(f"w{i}", data=W) for i in range(20)] and None,
    "few links": few_links,
}


@pytest.mark.parametrize("options", [{"libver": "latest"}, {"track_order": True}], ids=str)
def test_groups_of_new_versions(options: dict[str, Any], tmp_path: Path) -> None:
    """Groups with few links are read in the new form; a fractal heap, which needs more, is refused by name."""
    h5py = library("h5py")
    for name, form in FORMS.items():
        with h5py.File(tmp_path / f"{name}.h5", "w", **options) as file:
            form(file)

    assert [t.name for t in open_checkpoint(tmp_path / "few links.h5").tensors] == ["weight"]
    assert "one of its groups has its objects in a fractal heap" in str(refused(tmp_path / "a fractal heap.h5"))


def test_two_names_of_one_dataset_are_tied(tmp_path: Path) -> None:
    """A dataset with two hard links is pruned once, and both names are reported."""
    with library("h5py").File(tmp_path / "m.h5", "w") as file:
        file.create_dataset("a.weight", data=W)
        file["b.weight"] = file["a.weight"]

    report = prune(tmp_path / "m.h5", L1(amount=0.5), reports=())

    assert [(row.name, row.aliases) for row in report.rows] == [("a.weight", ("b.weight",))]


def test_a_group_in_itself_is_refused(tmp_path: Path) -> None:
    """Links in a circle would give names of any length."""
    with library("h5py").File(tmp_path / "m.h5", "w") as file:
        group = file.create_group("a")
        group["b"] = group

    assert "the group 'a/b' has two names" in str(refused(tmp_path / "m.h5"))


def test_changed_attributes_are_a_difference(tmp_path: Path) -> None:
    """`diff` compares everything but the weights as one content."""
    h5py = library("h5py")
    for name in ("1.h5", "2.h5"):
        with h5py.File(tmp_path / name, "w") as file:
            file.create_dataset("weight", data=W)
            file.attrs["epoch"] = name

    assert prunecli.diff(tmp_path / "1.h5", tmp_path / "1.h5").same
    difference = prunecli.diff(tmp_path / "1.h5", tmp_path / "2.h5")
    assert [content.name for content in difference.contents] == ["groups, attributes and other datasets"]


# --- Keras


OLD = {
    "model_weights/dense/dense/kernel:0": (8, 16),
    "model_weights/dense/dense/bias:0": (16,),
    "model_weights/conv2d/conv2d/kernel:0": (3, 3, 4, 4),
    "model_weights/conv2d_transpose/conv2d_transpose/kernel:0": (3, 3, 4, 4),
    "model_weights/depthwise_conv2d/depthwise_conv2d/depthwise_kernel:0": (3, 3, 4, 1),
    "model_weights/lstm/lstm/lstm_cell/kernel:0": (8, 16),
    "model_weights/lstm/lstm/lstm_cell/recurrent_kernel:0": (4, 16),
    "model_weights/embedding/embedding/embeddings:0": (20, 8),
    "optimizer_weights/training/Adam/dense/kernel/m:0": (8, 16),
}
NEW = {
    "layers/dense/vars/0": (8, 16),
    "layers/dense/vars/1": (16,),
    "layers/conv2d/vars/0": (3, 3, 4, 4),
    "layers/conv2d_transpose/vars/0": (3, 3, 4, 4),
    "layers/depthwise_conv2d/vars/0": (3, 3, 4, 1),
    "layers/separable_conv2d/vars/0": (3, 3, 4, 1),
    "layers/separable_conv2d/vars/1": (1, 1, 4, 4),
    "layers/gru/cell/vars/0": (8, 12),
    "layers/gru/cell/vars/1": (4, 12),
    "layers/gru/cell/vars/2": (2, 12),
    "layers/multi_head_attention/query_dense/vars/0": (16, 2, 8),
    "layers/multi_head_attention/query_dense/vars/1": (2, 8),
    "layers/embedding/vars/0": (20, 8),
    "layers/batch_normalization/vars/0": (16,),
    "optimizer/vars/2": (8, 16),
}
DIMS = {
    # name, dimensions of the outputs and of the inputs
    "model_weights/dense/dense/kernel:0": (1, 0),
    "model_weights/conv2d/conv2d/kernel:0": (3, 2),
    "model_weights/conv2d_transpose/conv2d_transpose/kernel:0": (2, 3),
    "model_weights/depthwise_conv2d/depthwise_conv2d/depthwise_kernel:0": (2, 3),
    "model_weights/lstm/lstm/lstm_cell/kernel:0": (1, 0),
    "model_weights/lstm/lstm/lstm_cell/recurrent_kernel:0": (1, 0),
    "model_weights/embedding/embedding/embeddings:0": (0, 1),
    "layers/dense/vars/0": (1, 0),
    "layers/conv2d/vars/0": (3, 2),
    "layers/conv2d_transpose/vars/0": (2, 3),
    "layers/depthwise_conv2d/vars/0": (2, 3),
    "layers/separable_conv2d/vars/0": (2, 3),
    "layers/separable_conv2d/vars/1": (3, 2),
    "layers/gru/cell/vars/0": (1, 0),
    "layers/gru/cell/vars/1": (1, 0),
    "layers/multi_head_attention/query_dense/vars/0": (2, 0),
    "layers/embedding/vars/0": (0, 1),
}


@pytest.mark.parametrize("shapes", [OLD, NEW], ids=["Keras 2", "Keras 3"])
def test_the_layouts_of_keras(shapes: dict[str, tuple[int, ...]], tmp_path: Path) -> None:
    """Kernels and embeddings are weights with the dimensions of Keras; the optimizer is outside."""
    path = write_hdf5(tmp_path / "m.weights.h5", {name: np.ones(shape, np.float32) for name, shape in shapes.items()})

    tensors = open_checkpoint(path).tensors

    chosen = {
        t.name: t.layout for t in tensors if not (t.layout.not_a_weight or t.unprunable_reason or len(t.shape) < 2)
    }
    assert {name: (own.outputs, own.inputs) for name, own in chosen.items()} == {
        n: DIMS[n] for n in shapes if n in DIMS
    }
    assert all(own.proven for own in chosen.values())
    assert [t.name for t in tensors if t.unprunable_reason == OUTSIDE] == [n for n in shapes if n.startswith("opt")]


def test_a_bias_of_keras_follows_its_outputs(tmp_path: Path) -> None:
    """`with_bias` finds the last variable of the layer in either version."""
    arrays = {"a/kernel:0": W, "a/bias:0": np.ones(32), "layers/d/vars/0": W, "layers/d/vars/1": np.ones(32)}
    path = write_hdf5(tmp_path / "m.h5", arrays)

    report = prune(path, prunecli.Structured(amount=0.5, with_bias=True), reports=())

    with library("h5py").File(report.output_path) as file:
        for weight, bias in (("a/kernel:0", "a/bias:0"), ("layers/d/vars/0", "layers/d/vars/1")):
            assert np.array_equal(file[bias][()] == 0, ~file[weight][()].any(axis=0))


def test_a_key_is_refused(tmp_path: Path) -> None:
    """An HDF5 file has one state_dict."""
    path = write_hdf5(tmp_path / "m.h5", {"weight": W})

    with pytest.raises(CheckpointError, match="is an HDF5 file, which has no key 'model'"):
        open_checkpoint(path, key="model")
