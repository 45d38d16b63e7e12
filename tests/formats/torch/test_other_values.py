"""Files of torch.save that hold something else than a state_dict: bare tensors, lists, and tensors of other kinds."""

from __future__ import annotations

import socket
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from support.small import saved
from torch import nn

from prunecli import L1, SelectionError, inspect, open_checkpoint, prune

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FORMATS = pytest.mark.parametrize("old_format", [False, True])


def stored(folder: Path, value: object, *, old_format: bool) -> Path:
    """Save `value` in the zip format or in the one before torch 1.6."""
    return saved(folder / "a.pth", value, _use_new_zipfile_serialization=not old_format)


def smallest_half_zero(t: torch.Tensor) -> torch.Tensor:
    """Return `t` with the half of its smallest magnitudes zeroed."""
    flat = t.detach().flatten().clone()
    flat[flat.abs().argsort()[: flat.numel() // 2]] = 0
    return flat.view(t.shape)


@FORMATS
@pytest.mark.parametrize("wrap", [lambda t: t, nn.Parameter, lambda t: t.half(), lambda t: t.t()])
def test_a_bare_tensor_is_pruned(wrap: Any, old_format: bool, tmp_path: Path) -> None:  # noqa: ANN401, FBT001
    """A tensor or parameter that is saved alone is named `tensor`, and pruned without a pattern."""
    value = wrap(torch.randn(6, 8, generator=torch.Generator().manual_seed(0)))
    path = stored(tmp_path, value, old_format=old_format)

    prune(path, L1(amount=0.5), output=tmp_path / "b.pth")

    assert [t.name for t in open_checkpoint(path).tensors] == ["tensor"]
    assert torch.equal(torch.load(tmp_path / "b.pth", weights_only=True), smallest_half_zero(value))


@FORMATS
@pytest.mark.parametrize("kind", [list, tuple])
def test_a_list_of_tensors_is_pruned(kind: type, old_format: bool, tmp_path: Path) -> None:  # noqa: FBT001
    """The matrices of a list or tuple are named by their index, and pruned without a pattern."""
    values = kind([torch.randn(4, 4), torch.randn(4), [torch.randn(2, 2, 2)]])
    path = stored(tmp_path, values, old_format=old_format)

    prune(path, L1(amount=0.5), output=tmp_path / "b.pth")

    a, b, (c,) = torch.load(tmp_path / "b.pth", weights_only=True)
    assert torch.equal(a, smallest_half_zero(values[0]))
    assert torch.equal(b, values[1])
    assert torch.equal(c, smallest_half_zero(values[2][0]))


def test_a_bare_vector_is_not_a_weight(tmp_path: Path) -> None:
    """A bare tensor of one dimension is skipped for its dimensions, as in a state_dict."""
    with pytest.raises(SelectionError, match="1 x fewer than 2 dimensions"):
        prune(saved(tmp_path / "a.pth", torch.ones(4)), L1(amount=0.5), dry_run=True)


@pytest.fixture(scope="module")
def alone() -> Iterator[None]:
    """Run a process group of this process alone."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def dtensor() -> torch.Tensor:
    """Return a DTensor of fully_shard."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    return distribute_tensor(torch.randn(8, 8), init_device_mesh("cpu", (1,)), [Shard(0)])


def sharded() -> object:
    """Return a ShardedTensor of FullyShardedDataParallel."""
    from torch.distributed._shard.sharded_tensor import Shard, ShardMetadata, init_from_local_shards

    return init_from_local_shards([Shard(torch.randn(4, 4), ShardMetadata([0, 0], [4, 4], "rank:0/cpu"))], 4, 4)


def quantized() -> torch.Tensor:
    """Return a tensor of torch.ao.quantization."""
    return torch.quantize_per_tensor(torch.randn(4, 4), 0.1, 0, torch.qint8)


def compressed() -> torch.Tensor:
    """Return a tensor of compressed rows."""
    return torch.eye(8).to_sparse_csr()


KINDS = {
    "sparse tensor": (lambda: torch.eye(8).to_sparse(), "tensor.to_dense()"),
    "sparse tensor in rows": (compressed, "tensor.to_dense()"),
    "quantized tensor": (quantized, "before quantization"),
    "NumPy array": (lambda: np.ones((4, 4), "f4"), "torch.from_numpy(array)"),
    "DTensor": (dtensor, "tensor.full_tensor()"),
    "ShardedTensor": (sharded, "FULL_STATE_DICT"),
    "meta tensor": (lambda: torch.ones(4, 4, device="meta"), "a meta tensor has none"),
}


@FORMATS
@pytest.mark.parametrize("bare", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("alone")
def test_other_kinds_are_named(kind: str, bare: bool, old_format: bool, tmp_path: Path) -> None:  # noqa: FBT001
    """A file without plain tensors is refused with the kind of its values, and what to do about them."""
    make, expected = KINDS[kind]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = stored(tmp_path, make() if bare else {"model": {"a.weight": make()}}, old_format=old_format)

    with pytest.raises(SelectionError) as caught:
        prune(path, L1(amount=0.5), dry_run=True)

    name = kind.removesuffix(" in rows")
    assert str(caught.value) == f"no tensor to prune: the checkpoint holds only 1 x {name}"
    assert expected in str(caught.value.hint)
    assert inspect(path).unprunable_entries == (("tensor" if bare else "a.weight", name),)


def test_other_kinds_next_to_plain_tensors_are_named(tmp_path: Path) -> None:
    """Where only biases are plain tensors, the hint is about the weights."""
    path = saved(tmp_path / "a.pth", {"a.weight": torch.eye(8).to_sparse(), "a.bias": torch.ones(8)})

    with pytest.raises(
        SelectionError, match=r"it is skipped \(1 x not a weight by name\); the checkpoint holds 1 x"
    ) as caught:
        prune(path, L1(amount=0.5), dry_run=True)

    assert "to_dense" in str(caught.value.hint)


@FORMATS
def test_parameters_of_old_modules_have_their_names(old_format: bool, tmp_path: Path) -> None:  # noqa: FBT001
    """Torch before 0.4.1 pickled a parameter as a call of its class with a tensor and a state."""

    class Old:
        def __init__(self, tensor: torch.Tensor) -> None:
            self.tensor = tensor

        def __reduce__(self) -> object:
            return nn.Parameter, (self.tensor,), (True, False, None)

    module = nn.Linear(3, 3)
    weight = module.weight.detach().clone()
    module.__dict__["_parameters"]["weight"] = Old(weight)
    path = stored(tmp_path, {"model": module}, old_format=old_format)

    assert [t.name for t in open_checkpoint(path).tensors] == ["weight", "bias"]
    report = prune(path, L1(amount=0.5), output=tmp_path / "b.pth")
    assert [row.name for row in report.rows if row.selected] == ["weight"]


@pytest.mark.parametrize("dtype", ["float4_e2m1fn_x2", "bits8", "bits16"])
def test_tensors_of_other_dtypes_are_skipped(dtype: str, tmp_path: Path) -> None:
    """A dtype without numbers is named as what it is, and the other tensors are pruned."""
    if not hasattr(torch, dtype):
        pytest.skip(f"this torch has no {dtype}")
    packed = torch.ones(4, 4, dtype=torch.uint8).view(getattr(torch, dtype))
    path = saved(tmp_path / "a.pth", {"a.weight": packed, "b.weight": torch.randn(4, 4)})

    report = prune(path, L1(amount=0.5), output=tmp_path / "b.pth")

    assert inspect(path).unprunable_entries == (("a.weight", f"tensor of {dtype}"),)
    assert [row.name for row in report.rows if row.selected] == ["b.weight"]
