"""Which tensors torch.sparse.to_sparse_semi_structured takes: torch's own checks and its own table decide."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from support import examples
from torch.sparse import SparseSemiStructuredTensorCUSPARSELT, SparseSemiStructuredTensorCUTLASS
from torch.sparse._semi_structured_conversions import (
    sparse_semi_structured_from_dense_cutlass,
    sparse_semi_structured_to_dense_cutlass,
)

from prunecli import Convertible, GroupPattern, TopK, UsageError, check, open_checkpoint, prune
from prunecli.dtypes import TORCH_DTYPES
from prunecli.inspection.converters import MULTIPLES, refusal

if TYPE_CHECKING:
    from pathlib import Path

BACKENDS = {"cuSPARSELt": SparseSemiStructuredTensorCUSPARSELT, "CUTLASS": SparseSemiStructuredTensorCUTLASS}
DTYPES = ["F16", "BF16", "F64", "F8_E4M3", "F8_E5M2"]
SIZES = [8, 16, 32, 48, 64, 96, 128]


class OnDevice(torch.Tensor):
    """A tensor that says it is on a CUDA device, so that torch checks the rest."""

    is_cuda = True


def torch_takes(backend: str, dtype: torch.dtype, shape: tuple[int, ...]) -> bool:
    """Return whether the check of a backend of torch accepts such a tensor."""
    tensor = torch.zeros(shape, dtype=dtype).as_subclass(OnDevice)
    try:
        BACKENDS[backend]._validate_device_dim_dtype_shape(tensor)
    except RuntimeError:
        return False
    return True


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_table_is_that_of_torch(backend: str) -> None:
    """Dtypes and multiples are those of torch."""
    torch_dtypes = {value: key for key, value in TORCH_DTYPES.items()}
    constraints = BACKENDS[backend]._DTYPE_SHAPE_CONSTRAINTS

    actual = {getattr(torch, torch_dtypes[dtype]): size for dtype, size in MULTIPLES[backend].items()}

    expected = {dtype: (size.sparse_min_rows, size.sparse_min_cols) for dtype, size in constraints.items()}
    expected.pop(torch.float32, None)
    assert expected == actual


@settings(max_examples=examples(60))
@given(dtype=st.sampled_from(DTYPES), shape=st.lists(st.sampled_from(SIZES), min_size=1, max_size=3).map(tuple))
def test_torch_decides_the_same(tmp_path_factory: pytest.TempPathFactory, dtype: str, shape: tuple[int, ...]) -> None:
    """A tensor is refused exactly if the checks of both backends refuse it."""
    path = tmp_path_factory.getbasetemp() / "m.safetensors"
    torch_dtype = getattr(torch, {value: key for key, value in TORCH_DTYPES.items()}[dtype])
    save_file({"w.weight": torch.zeros(shape, dtype=torch_dtype)}, path)

    reason = refusal(open_checkpoint(path).tensors[0])

    assert any(torch_takes(backend, torch_dtype, shape) for backend in BACKENDS) == (reason is None), reason


@pytest.mark.parametrize(("dtype", "taken"), [(torch.float16, True), (torch.bfloat16, True), (torch.float32, False)])
def test_what_is_taken_converts(dtype: torch.dtype, taken: bool, tmp_path: Path) -> None:  # noqa: FBT001
    """A tensor of 2:4 goes through torch's conversion and back without a change exactly if it is taken."""
    save_file({"w.weight": torch.randn(64, 128).to(dtype)}, tmp_path / "m.safetensors")
    prune(tmp_path / "m.safetensors", TopK(2, 4), output=tmp_path / "p.pth.safetensors", reports=())

    findings = check(tmp_path / "p.pth.safetensors", [GroupPattern(2, 4), Convertible()])
    weight = load_file(tmp_path / "p.pth.safetensors")["w.weight"]
    packed, meta = sparse_semi_structured_from_dense_cutlass(weight)
    assert [finding.holds for finding in findings] == [True, taken]
    assert torch.equal(weight, sparse_semi_structured_to_dense_cutlass(packed, meta)) == taken


def test_each_refused_layer_is_named(tmp_path: Path) -> None:
    """A convolution, a dtype, a shape, strides and a transposed layer are named with the reason."""
    half = torch.float16
    tensors = {
        "conv.weight": torch.zeros(32, 64, 3, 3, dtype=half),
        "double.weight": torch.zeros(64, 64, dtype=torch.float64),
        "full.weight": torch.zeros(64, 64),
        "head.weight": torch.zeros(10, 64, dtype=half),
        "ok.weight": torch.zeros(16, 48, dtype=half),
        "strided.weight": torch.zeros(64, 64, dtype=half).t()[:, ::2],
    }
    torch.save(tensors, tmp_path / "m.pth")

    findings = check(tmp_path / "m.pth", [Convertible("torch")], layout={"strided.weight": "out-in"})

    assert {finding.tensor: finding.got for finding in findings} == {
        "conv.weight": "it takes matrices, and this has 4 dimensions",
        "double.weight": "it takes BF16, F16, F8_E4M3, I8, and this is F64",
        "full.weight": "it keeps 1 of 2 weights of F32: convert it to F16 or BF16",
        "head.weight": "10x64 is not a multiple of 16x16 (cuSPARSELt), 32x64 (CUTLASS) for F16",
        "strided.weight": "it takes contiguous tensors: save it with .contiguous()",
    }
    (transposed,) = check(tmp_path / "m.pth", [Convertible()], include=["ok.weight"], layout={"ok.weight": "in-out"})
    assert transposed.got.startswith("groups run along dim 1 there")
    (taken,) = check(tmp_path / "m.pth", [Convertible()], include=["ok.weight"])
    assert (taken.holds, taken.got) == (True, "it takes 1 tensor (cuSPARSELt 1, CUTLASS 0)")


def test_other_libraries_are_refused() -> None:
    """Only torch's converter is known."""
    with pytest.raises(UsageError, match="only for torch"):
        Convertible("vllm")
