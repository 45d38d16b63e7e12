"""Initializers of ONNX models are listed and pruned as the package of ONNX reads them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from support import bits, expected, make_weights, same_bits, zeroed
from support.foreign import library, onnx_model, write_onnx
from support.opening import refused

import prunecli
from prunecli.api import prune
from prunecli.checkpoint import PackedWeights
from prunecli.errors import CheckpointError, OutputError
from prunecli.formats.open import open_checkpoint
from prunecli.formats.output_names import default_output
from prunecli.strategies.thresholds import Threshold
from prunecli.strategies.unstructured import L1

if TYPE_CHECKING:
    from pathlib import Path

W = np.random.default_rng(0).standard_normal((8, 32), dtype=np.float32)


def initializers(path: str | Path | None) -> dict[str, Any]:
    """Return the initializers as the package reads them, by name."""
    onnx = library("onnx")
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}


def with_type(values: torch.Tensor, kind: str) -> Any:  # noqa: ANN401 - a message
    """Return a tensor of a type that NumPy does not have, from its bits."""
    onnx = library("onnx")
    return onnx.helper.make_tensor(
        f"{kind}.weight", getattr(onnx.TensorProto, kind), values.shape, bits(values).numpy().tobytes(), raw=True
    )


TYPES = {
    "DOUBLE": torch.float64,
    "FLOAT16": torch.float16,
    "BFLOAT16": torch.bfloat16,
    "FLOAT8E4M3FN": torch.float8_e4m3fn,
    "FLOAT8E5M2": torch.float8_e5m2,
    "FLOAT8E4M3FNUZ": torch.float8_e4m3fnuz,
    "FLOAT8E5M2FNUZ": torch.float8_e5m2fnuz,
}


def test_every_type_of_floats_is_pruned(tmp_path: Path) -> None:
    """Weights of every width are pruned in their raw bytes, and the package reads the same type and shape."""
    onnx = library("onnx")
    weights = {kind: make_weights()["fc.weight"].to(dtype) for kind, dtype in TYPES.items()}
    model = onnx_model({})
    model.graph.initializer.extend(with_type(values, kind) for kind, values in weights.items())
    onnx.save_model(model, tmp_path / "m.onnx")

    report = prune(tmp_path / "m.onnx", Threshold(2**-4), reports=())

    after = {tensor.name: tensor for tensor in onnx.load(report.output_path).graph.initializer}
    keeps = expected(Threshold(2**-4), list(weights.values()))
    for (kind, values), keep in zip(weights.items(), keeps, strict=True):
        tensor = after[f"{kind}.weight"]
        assert tuple(tensor.dims) == tuple(values.shape)
        assert tensor.raw_data == bits(zeroed(values, keep)).numpy().tobytes(), kind


@pytest.mark.parametrize("kind", ["FLOAT", "DOUBLE"])
def test_numbers_outside_of_raw_data(kind: str, tmp_path: Path) -> None:
    """Packed lists of floats and doubles are the same bytes, and are pruned."""
    onnx = library("onnx")
    model = onnx_model({})
    model.graph.initializer.append(
        onnx.helper.make_tensor("a.weight", getattr(onnx.TensorProto, kind), W.shape, W.ravel().tolist())
    )
    onnx.save_model(model, tmp_path / "m.onnx")

    report = prune(tmp_path / "m.onnx", Threshold(0.5), reports=())

    assert np.array_equal(initializers(report.output_path)["a.weight"], np.where(np.abs(W) > 0.5, W, 0))


def test_numbers_of_variable_length_are_named(tmp_path: Path) -> None:
    """Half-precision weights that are stored as integers are named and left alone; such integers are no weights."""
    onnx = library("onnx")
    model = onnx_model({"a.weight": W})
    half = onnx.helper.make_tensor("b.weight", onnx.TensorProto.FLOAT16, (2,), np.ones(2, np.float16))
    shape = onnx.helper.make_tensor("shape", onnx.TensorProto.INT64, (2,), [1, 300])
    model.graph.initializer.extend([half, shape])
    onnx.save_model(model, tmp_path / "m.onnx")

    checkpoint = open_checkpoint(tmp_path / "m.onnx")

    assert [t.name for t in checkpoint.tensors] == ["a.weight"]
    assert checkpoint.unprunable_entries == (("b.weight", "tensor whose numbers are stored one by one"),)


def test_constants_of_the_graph_are_tensors(tmp_path: Path) -> None:
    """The tensor of a Constant node has the name of the node's output, and is pruned."""
    onnx = library("onnx")
    node = onnx.helper.make_node("Constant", [], ["a.weight"], value=onnx.numpy_helper.from_array(W, "other"))
    path = write_onnx(tmp_path / "m.onnx", {}, node)

    report = prune(path, L1(amount=0.5), reports=())

    (constant,) = onnx.load(report.output_path).graph.node[0].attribute
    assert (onnx.numpy_helper.to_array(constant.t) == 0).sum() == W.size // 2


def test_weights_in_subgraphs_are_noted(tmp_path: Path) -> None:
    """The branches of an If node are copied unchanged, and a note says so."""
    onnx = library("onnx")
    branch = onnx_model({"b.weight": W}).graph
    node = onnx.helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    path = write_onnx(tmp_path / "m.onnx", {"a.weight": W}, node)

    checkpoint = open_checkpoint(path)

    assert [t.name for t in checkpoint.tensors] == ["a.weight"]
    assert checkpoint.notes == ("the weights inside of 2 subgraphs (If, Loop, Scan) are copied unchanged",)


def test_quantized_weights_are_counted(tmp_path: Path) -> None:
    """The bytes of quantized operators count as the weights that they hold, and are left alone."""
    onnx = library("onnx")
    eight, four = np.ones((8, 32), np.int8), np.ones((8, 1, 16), np.uint8)
    nodes = [
        onnx.helper.make_node("DequantizeLinear", ["a", "scale"], ["b"]),
        onnx.helper.make_node("MatMulNBits", ["x", "c", "scale"], ["y"], domain="com.microsoft", K=32, N=8, bits=4),
    ]
    path = write_onnx(tmp_path / "m.onnx", {"a": eight, "c": four, "scale": np.ones(1, np.float32)}, *nodes)

    packed = {t.name: t.packed for t in open_checkpoint(path).tensors}

    assert packed == {
        "a": PackedWeights("ONNX, 8 bits", 256),
        "c": PackedWeights("ONNX MatMulNBits, 4 bits", 256),
        "scale": None,
    }


# --- numbers in other files


def test_external_data(tmp_path: Path) -> None:
    """A model stands for its folder: the output is a folder of the model and the file with its numbers."""
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "readme.md").write_text("text")
    path = write_onnx(tmp_path / "net" / "m.onnx", {"a.weight": W, "b.weight": 2 * W}, data="m.data")

    report = prune(path, Threshold(0.5), reports=())

    output = tmp_path / "net.pruned"
    assert report.output_path == str(output)
    assert default_output(path) == output
    assert sorted(p.name for p in output.iterdir()) == ["m.data", "m.onnx"]
    after = initializers(output / "m.onnx")
    for name, weights in {"a.weight": W, "b.weight": 2 * W}.items():
        assert np.array_equal(after[name], np.where(np.abs(weights) > 0.5, weights, 0))
    assert (output / "m.onnx").read_bytes() == path.read_bytes()


def test_a_folder_with_one_model(tmp_path: Path) -> None:
    """If the folder is named, its other files are copied, and the file of numbers only once."""
    folder = tmp_path / "net"
    folder.mkdir()
    (folder / "readme.md").write_text("text")
    write_onnx(folder / "m.onnx", {"a.weight": W}, data="m.data")

    prune(folder, Threshold(0.5), reports=())

    assert sorted(p.name for p in (tmp_path / "net.pruned").iterdir()) == ["m.data", "m.onnx", "readme.md"]
    assert open_checkpoint(folder).notes == ()


def test_two_models_in_a_folder_are_refused(tmp_path: Path) -> None:
    """Nothing says which of two models is meant; next to safetensors, none of them is."""
    for name in ("a.onnx", "b.onnx"):
        write_onnx(tmp_path / name, {"a.weight": W})

    assert "has 2 checkpoint files, and nothing says that they are one model: a.onnx, b.onnx" in str(refused(tmp_path))


def test_inline_and_external_weights_together(tmp_path: Path) -> None:
    """Large initializers may be in the other file and small ones in the model: both are pruned."""
    onnx = library("onnx")
    small = W[:2, :2]
    onnx.save_model(
        onnx_model({"a.weight": W, "b.weight": small}),
        tmp_path / "m.onnx",
        save_as_external_data=True,
        location="m.data",
        size_threshold=100,
    )

    prune(tmp_path / "m.onnx", Threshold(0.5), output=tmp_path / "out", reports=())

    after = initializers(tmp_path / "out" / "m.onnx")
    assert np.array_equal(after["a.weight"], np.where(np.abs(W) > 0.5, W, 0))
    assert np.array_equal(after["b.weight"], np.where(np.abs(small) > 0.5, small, 0))


def test_the_output_of_several_files_is_no_file(tmp_path: Path) -> None:
    """A file name as the output is refused, and so is a pipe as the input."""
    path = write_onnx(tmp_path / "m.onnx", {"a.weight": W}, data="m.data")

    with pytest.raises(OutputError, match="would be a directory: the model and its weights are in several files"):
        prune(path, L1(amount=0.5), output=tmp_path / "out.onnx", reports=())
    with pytest.raises(CheckpointError, match=r"standard input has its weights in 'm\.data', which a pipe does not"):
        open_checkpoint(path, label="standard input")


def test_one_weight_under_two_names(tmp_path: Path) -> None:
    """Two initializers at one place of the other file are tied: pruned once, and read alike."""
    onnx = library("onnx")
    path = write_onnx(tmp_path / "m.onnx", {"a.weight": W}, data="m.data")
    model = onnx.load(path, load_external_data=False)
    second = model.graph.initializer.add()
    second.CopyFrom(model.graph.initializer[0])
    second.name = "b.weight"
    path.write_bytes(model.SerializeToString())

    report = prune(path, L1(amount=0.5), output=tmp_path / "out", reports=())

    after = initializers(tmp_path / "out" / "m.onnx")
    assert [(row.name, row.aliases) for row in report.rows] == [("a.weight", ("b.weight",))]
    assert np.array_equal(after["a.weight"], after["b.weight"])


def test_a_changed_graph_is_a_difference(tmp_path: Path) -> None:
    """`diff` compares everything but the weights as one content."""
    onnx = library("onnx")
    one = write_onnx(tmp_path / "1.onnx", {"a.weight": W})
    two = write_onnx(tmp_path / "2.onnx", {"a.weight": W}, onnx.helper.make_node("Relu", ["x"], ["y"]))

    assert prunecli.diff(one, one).same
    assert [content.name for content in prunecli.diff(one, two).contents] == ["the graph and the metadata"]


def test_models_of_the_package_are_recognized(tmp_path: Path) -> None:
    """A model with every field before the graph is recognized, whatever their lengths."""
    onnx = library("onnx")
    model = onnx_model({"a.weight": W})
    model.producer_version, model.domain, model.model_version, model.doc_string = "1.0", "ai.net", 300, "text " * 2000
    onnx.save_model(model, tmp_path / "m.pth")

    (tensor,) = open_checkpoint(tmp_path / "m.pth").tensors

    assert same_bits(
        torch.from_numpy(W),
        torch.frombuffer(
            bytearray((tmp_path / "m.pth").read_bytes()[tensor.start : tensor.end]), dtype=torch.float32
        ).view(8, 32),
    )


def test_outputs_may_lie_next_to_a_model_with_data(tmp_path: Path) -> None:
    """The folder of a model whose numbers are in another file takes an output and its report, if the file was named."""
    path = write_onnx(tmp_path / "m.onnx", {"fc.weight": W}, data="m.data")

    report = prune(path, Threshold(0.5), output=tmp_path / "out")

    assert sorted(file.name for file in tmp_path.iterdir()) == ["m.data", "m.onnx", "out", "out.report.json"]
    assert report.output_path == str(tmp_path / "out")


def test_a_folder_that_is_named_takes_no_report(tmp_path: Path) -> None:
    """Where the folder itself is the input, a report in it is refused."""
    write_onnx(tmp_path / "m.onnx", {"fc.weight": W}, data="m.data")

    with pytest.raises(OutputError, match="lies inside the input"):
        prune(tmp_path, Threshold(0.5), output=tmp_path / "out")
