"""The operators prove which dimensions are outputs: what `structured` prunes, the reference computes as zero."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from support.foreign import library, onnx_model, write_onnx

from prunecli.api import prune
from prunecli.formats.open import open_checkpoint
from prunecli.strategies.structured import Structured

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

Product = tuple[str, tuple[int, ...], tuple[int, ...], int, dict[str, Any]]

PRODUCTS: dict[str, Product] = {
    # operator, shapes of the weight and of the data, dimension of the outputs in the result, attributes
    "Conv": ("Conv", (4, 6, 3, 3), (1, 6, 5, 5), 1, {}),
    "Conv of groups": ("Conv", (4, 3, 3, 3), (1, 6, 5, 5), 1, {"group": 2}),
    "Conv of one dimension": ("Conv", (4, 4, 3), (1, 4, 5), 1, {}),
    "ConvTranspose": ("ConvTranspose", (6, 4, 3, 3), (1, 6, 5, 5), 1, {}),
    "square ConvTranspose": ("ConvTranspose", (4, 4, 3, 3), (1, 4, 5, 5), 1, {}),
    "Gemm": ("Gemm", (6, 4), (2, 6), -1, {}),
    "square Gemm": ("Gemm", (4, 4), (2, 4), -1, {}),
    "Gemm, transB": ("Gemm", (4, 4), (2, 4), -1, {"transB": 1}),
    "MatMul": ("MatMul", (4, 4), (3, 2, 4), -1, {}),
    "MatMul of a batch": ("MatMul", (3, 4, 4), (3, 2, 4), -1, {}),
}


def evaluated(path: str | Path | None, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the result of a model, computed by the reference of ONNX."""
    onnx = library("onnx")
    pytest.importorskip("onnx.reference")
    (result,) = onnx.reference.ReferenceEvaluator(onnx.load(path)).run(None, {"x": x})
    return np.asarray(result)


def model_of(path: Path, weight: NDArray[np.float32], x: NDArray[np.float32], *nodes: Any) -> Path:  # noqa: ANN401
    """Write a model of nodes that compute y0 from x and the weight w."""
    onnx = library("onnx")
    model = onnx_model({"w": weight}, *nodes, outputs=1)
    model.graph.input.append(onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, x.shape))
    onnx.save_model(model, path)
    return path


def assert_outputs_pruned(path: Path, x: NDArray[np.float32], dim: int) -> None:
    """Prune half of the outputs: half of the results along `dim` are zero, in each stack, and no others."""
    report = prune(path, Structured(amount=0.5), reports=(), force=True)

    assert not report.warnings
    before, after = evaluated(path, x), evaluated(report.output_path, x)
    zero = ~np.moveaxis(after, dim, -1).reshape(-1, before.shape[dim]).any(axis=0)
    if before.ndim == 3 and dim == -1 and before.shape[0] == 3 and "batch" in path.stem:
        assert [int((~matrix.any(axis=0)).sum()) for matrix in after] == [before.shape[-1] // 2] * 3
        return
    assert zero.sum() == before.shape[dim] // 2
    assert np.array_equal(np.compress(~zero, before, axis=dim), np.compress(~zero, after, axis=dim))


@pytest.mark.parametrize("name", PRODUCTS)
def test_outputs_by_operator(name: str, tmp_path: Path) -> None:
    """The outputs that are pruned are those of the operator, for square weights and groups too."""
    onnx = library("onnx")
    op, weight, data, dim, attributes = PRODUCTS[name]
    generator = np.random.default_rng(0)
    w, x = (generator.standard_normal(shape).astype(np.float32) for shape in (weight, data))
    path = model_of(tmp_path / f"{name}.onnx", w, x, onnx.helper.make_node(op, ["x", "w"], ["y0"], **attributes))

    assert_outputs_pruned(path, x, dim)


LEFT = {"MatMul": {}, "Gemm": {}, "Gemm, transA": {"transA": 1}}


@pytest.mark.parametrize("name", LEFT)
def test_a_weight_as_the_first_factor(name: str, tmp_path: Path) -> None:
    """The outputs of W x are the rows of W, or its columns if the operator transposes it."""
    onnx = library("onnx")
    generator = np.random.default_rng(0)
    w, x = (generator.standard_normal((4, 4)).astype(np.float32) for _ in range(2))
    node = onnx.helper.make_node(name.partition(",")[0], ["w", "x"], ["y0"], **LEFT[name])

    assert_outputs_pruned(model_of(tmp_path / "m.onnx", w, x, node), x, 0)


@pytest.mark.parametrize("transb", [0, 1])
def test_a_weight_is_followed_through_transposes_and_casts(transb: int, tmp_path: Path) -> None:
    """A weight that is cast and transposed before it is used has the layout of its use."""
    onnx = library("onnx")
    generator = np.random.default_rng(0)
    w, x = (generator.standard_normal((4, 4)).astype(np.float32) for _ in range(2))
    nodes = [
        onnx.helper.make_node("Cast", ["w"], ["a"], to=onnx.TensorProto.FLOAT),
        onnx.helper.make_node("Transpose", ["a"], ["b"], perm=[1, 0]),
        onnx.helper.make_node("Gemm", ["x", "b"], ["y0"], transB=transb),
    ]

    assert_outputs_pruned(model_of(tmp_path / "m.onnx", w, x, *nodes), x, -1)


def test_the_groups_of_a_transposed_convolution(tmp_path: Path) -> None:
    """Each group has outputs of its own: torch computes zero for half of those of each group.

    The reference of ONNX cannot compute groups of a transposed convolution.
    """
    onnx = library("onnx")
    generator = torch.Generator().manual_seed(0)
    w, x = torch.randn(6, 4, 3, 3, generator=generator), torch.randn(1, 6, 5, 5, generator=generator)
    node = onnx.helper.make_node("ConvTranspose", ["x", "w"], ["y"], group=2)
    path = write_onnx(tmp_path / "m.onnx", {"w": w.numpy()}, node)

    report = prune(path, Structured(amount=0.5), reports=())

    (pruned,) = onnx.load(report.output_path).graph.initializer
    after = torch.from_numpy(np.array(onnx.numpy_helper.to_array(pruned)))
    zero = ~torch.conv_transpose2d(x, after, groups=2).flatten(2).any(dim=2)
    assert zero.view(2, 4).sum(dim=1).tolist() == [2, 2]


def labels(path: Path) -> dict[str, str]:
    """Return the label of each tensor that is a weight by default, with its evidence."""
    tensors = open_checkpoint(path).tensors
    return {t.name: f"{t.layout.label}: {t.layout.evidence}" for t in tensors if t.layout.not_a_weight is None}


def test_embeddings_and_recurrent_weights(tmp_path: Path) -> None:
    """Gathered tables are embeddings, also if they are a matrix too; recurrent weights of two directions are stacks."""
    onnx = library("onnx")
    nodes = [
        onnx.helper.make_node("Gather", ["table", "i"], ["e"]),
        onnx.helper.make_node("Transpose", ["table"], ["t"]),
        onnx.helper.make_node("MatMul", ["e", "t"], ["logits"]),
        onnx.helper.make_node("LSTM", ["e", "onnx::LSTM_1", "onnx::LSTM_2"], ["h"]),
    ]
    arrays = {"table": (9, 4), "onnx::LSTM_1": (1, 8, 4), "onnx::LSTM_2": (2, 8, 2)}
    path = write_onnx(tmp_path / "m.onnx", {n: np.ones(s, np.float32) for n, s in arrays.items()}, *nodes)

    assert labels(path) == {
        "table": "embedding out-in: the graph: input 1 of Gather",
        "onnx::LSTM_1": "kernel out-in: the graph: input 2 of LSTM",
        "onnx::LSTM_2": "experts out-in: the graph: input 3 of LSTM",
    }


def test_uses_that_contradict_each_other_prove_nothing(tmp_path: Path) -> None:
    """A square matrix that is used both ways is not decided, and its name decides whether it is a weight."""
    onnx = library("onnx")
    nodes = [
        onnx.helper.make_node("MatMul", ["x", "a.weight"], ["y"]),
        onnx.helper.make_node("Gemm", ["x", "a.weight"], ["z"], transB=1),
    ]
    path = write_onnx(tmp_path / "m.onnx", {"a.weight": np.ones((4, 4), np.float32)}, *nodes)

    assert labels(path) == {"a.weight": "matrix out-in: assumed: outputs first"}


def test_tables_that_no_operator_multiplies_by_are_no_weights(tmp_path: Path) -> None:
    """Constants that are added keep the rule on names."""
    onnx = library("onnx")
    node = onnx.helper.make_node("Add", ["x", "onnx::Add_7"], ["y"])
    path = write_onnx(tmp_path / "m.onnx", {"onnx::Add_7": np.ones((4, 4), np.float32)}, node)

    assert labels(path) == {}
