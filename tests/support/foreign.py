"""Weights in the formats of other libraries than torch, read with these libraries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from support.weights import Weights


def library(name: str) -> Any:  # noqa: ANN401 - a module
    """Import a library that writes and reads a format; skip the test if it is not installed."""
    return pytest.importorskip(name, reason=f"needs the package {name}, which `scripts/test` installs")


def native(array: NDArray[np.generic]) -> torch.Tensor:
    """Return an array of any byte order as a tensor with the same strides."""
    return torch.from_numpy(array.astype(array.dtype.newbyteorder("=")))


def read_npz(path: Path) -> Weights:
    """Read the arrays of an archive with NumPy."""
    with np.load(path) as arrays:
        return {name: native(arrays[name]) for name in arrays.files}


def write_gguf(path: Path, arrays: Mapping[str, NDArray[np.generic]], **types: int) -> Path:
    """Write arrays with llama.cpp's own package, those in `types` as quantized or bfloat16 bytes of a type."""
    gguf = library("gguf")
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_string("general.name", "net")
    writer.add_array("tokenizer.ggml.tokens", ["<s>", "</s>", "a"])
    for name, array in arrays.items():
        writer.add_tensor(name, array, raw_dtype=gguf.GGMLQuantizationType(types[name]) if name in types else None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def read_gguf(path: Path) -> Weights:
    """Read the tensors with llama.cpp's own package."""
    reader = library("gguf").GGUFReader(path)
    return {tensor.name: native(np.array(tensor.data)) for tensor in reader.tensors}


READERS: dict[str, Callable[[Path], Weights]] = {".npz": read_npz, ".gguf": read_gguf}
"""The readers of files by suffix."""
