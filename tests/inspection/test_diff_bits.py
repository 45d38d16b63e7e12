"""`diff` notices every flipped bit of a stored value, in every container."""

from __future__ import annotations

import pickle
import re
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from support import examples
from support.small import saved
from torch import nn

from prunecli.inspection.diff import diff

if TYPE_CHECKING:
    from pathlib import Path


def numbers(seed: int) -> np.ndarray[Any, Any]:
    """Return bytes that no other part of a file has."""
    return np.random.default_rng(seed).integers(0, 256, 64, np.uint8)


def floats(seed: int) -> torch.Tensor:
    """Return a tensor of 16 numbers with these bytes."""
    return torch.from_numpy(numbers(seed).view(np.float32).copy()).view(4, 4)


def quantized(seed: int) -> torch.Tensor:
    """Return a quantized tensor with these bytes."""
    return torch._make_per_tensor_quantized_tensor(torch.from_numpy(numbers(seed).view(np.int8).copy()), 0.5, 3)


def sparse(seed: int) -> torch.Tensor:
    """Return a sparse tensor whose values have these bytes."""
    return torch.sparse_coo_tensor(torch.arange(16)[None], floats(seed).view(-1), (64,), check_invariants=False)


def with_attribute(seed: int) -> torch.Tensor:
    """Return a parameter that carries an array as an attribute."""
    parameter = nn.Parameter(torch.ones(2, 2))
    parameter.extra = numbers(seed).tobytes()  # type: ignore[attr-defined]
    return parameter


KINDS: dict[str, Any] = {
    "tensor": floats,
    "half": lambda seed: floats(seed).view(torch.float16),
    "complex": lambda seed: floats(seed).view(torch.complex64),
    "parameter": lambda seed: nn.Parameter(floats(seed)),
    "quantized": quantized,
    "sparse": sparse,
    "array": numbers,
    "array of text": lambda seed: numbers(seed).view("S8"),
    "bytes": lambda seed: numbers(seed).tobytes(),
    "storage": lambda seed: torch.from_numpy(numbers(seed).copy()).untyped_storage(),
    "attribute": with_attribute,
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("bare", [False, True])
@pytest.mark.parametrize("old_format", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=examples(8))
@given(bit=st.integers(0, 64 * 8 - 1))
def test_a_flipped_bit_in_a_torch_file_is_noticed(
    tmp_path_factory: pytest.TempPathFactory, *, kind: str, old_format: bool, bare: bool, bit: int
) -> None:
    """Any kind of value in both formats of torch.save, alone or in a dict."""
    value = KINDS[kind](7)
    folder = tmp_path_factory.mktemp("bits")
    whole = value if bare else {"state_dict": {"w": value, "v": floats(3)}, "epoch": 3}
    options = {"_use_new_zipfile_serialization": not old_format, "pickle_protocol": 4}

    assert_noticed(saved(folder / "a.pth", whole, **options), numbers(7).tobytes(), bit)


@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.parametrize("dtype", ["u1", "f4", "S8", "M8[s]"])
@settings(max_examples=examples(8))
@given(bit=st.integers(0, 64 * 8 - 1))
def test_a_flipped_bit_in_a_pickle_of_arrays_is_noticed(
    tmp_path_factory: pytest.TempPathFactory, *, protocol: int, dtype: str, bit: int
) -> None:
    """Arrays of numbers are compared as tensors, others as entries."""
    path = tmp_path_factory.mktemp("bits") / "a.pdparams"
    arrays = {"a": numbers(7).view(dtype), "b": numbers(3).view("f4")}
    path.write_bytes(pickle.dumps(arrays, protocol))

    assert_noticed(path, numbers(7).tobytes(), bit)


@settings(max_examples=examples(8))
@given(bit=st.integers(0, 64 * 8 - 1))
def test_a_flipped_bit_in_safetensors_is_noticed(tmp_path_factory: pytest.TempPathFactory, bit: int) -> None:
    """A safetensors file has tensors alone."""
    path = tmp_path_factory.mktemp("bits") / "a.safetensors"
    save_file({"w": floats(7), "v": floats(3)}, path)

    assert_noticed(path, numbers(7).tobytes(), bit)


def assert_noticed(path: Path, value: bytes, bit: int) -> None:
    """Check that a file equals itself, and differs after a flip of one bit of the bytes `value` in it."""
    other = path.with_name(f"b{path.suffix}")
    flip = lambda data: flipped(data, value, bit)  # noqa: E731
    if path.suffix == ".pth" and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as old, zipfile.ZipFile(other, "w") as new:
            records = {info.filename: old.read(info) for info in old.infolist()}
            for name, data in records.items():
                new.writestr(name, flip(data) if value in data else data)
        assert records != {name: zipfile.ZipFile(other).read(name) for name in records}
    else:
        other.write_bytes(flip(path.read_bytes()))

    assert diff(path, path).same
    assert not diff(path, other).same


def flipped(data: bytes, value: bytes, bit: int) -> bytes:
    """Return `data` with one bit of `value`, which it has once, flipped."""
    (found,) = re.finditer(re.escape(value), data)
    place = found.start() + bit // 8
    return data[:place] + bytes([data[place] ^ 1 << bit % 8]) + data[place + 1 :]


def test_a_sign_of_zero_is_no_pruned_weight(tmp_path: Path) -> None:
    """Zeros that changed their sign are counted on their own, and do not count as pruned."""
    old, new = torch.tensor([0.0, -0.0, 1.0, 2.0]), torch.tensor([-0.0, 0.0, 0.0, 2.0])

    difference = diff(saved(tmp_path / "a.pth", {"w": old}), saved(tmp_path / "b.pth", {"w": new}))

    (tensor,) = difference.tensors
    assert tensor.change is not None
    assert (tensor.change.changed, tensor.change.to_zero, tensor.change.zero_signs) == (3, 1, 2)
    assert tensor.change.otherwise == 0
    assert difference.only_zeros_added


@pytest.mark.filterwarnings("ignore")
def test_storages_that_no_entry_has_are_compared(tmp_path: Path) -> None:
    """Tensors of a subclass with parts in the old format are compared by the bytes of the parts."""
    a = saved(tmp_path / "a.pth", [torch.eye(4).to_sparse_csr()], _use_new_zipfile_serialization=False)
    b = saved(tmp_path / "b.pth", [torch.eye(4).mul(2).to_sparse_csr()], _use_new_zipfile_serialization=False)

    assert not diff(a, b).same
