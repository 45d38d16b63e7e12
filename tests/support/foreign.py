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


def onnx_model(arrays: Mapping[str, NDArray[np.generic]], *nodes: Any, outputs: int = 0) -> Any:  # noqa: ANN401
    """Return a model with an initializer for each array, and nodes."""
    onnx = library("onnx")
    initializers = [onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()]
    values = [onnx.helper.make_tensor_value_info(f"y{i}", onnx.TensorProto.FLOAT, None) for i in range(outputs)]
    graph = onnx.helper.make_graph(list(nodes), "net", [], values, initializers)
    return onnx.helper.make_model(graph, producer_name="pytorch")


def write_onnx(path: Path, arrays: Mapping[str, NDArray[np.generic]], *nodes: Any, data: str = "") -> Path:  # noqa: ANN401
    """Write arrays as initializers; with `data`, their numbers into a file of this name."""
    model = onnx_model(arrays, *nodes)
    options = {"save_as_external_data": True, "location": data, "size_threshold": 0} if data else {}
    library("onnx").save_model(model, path, **options)
    return path


def read_onnx(path: Path) -> Weights:
    """Read the initializers with the package of ONNX, which reads the other files too."""
    onnx = library("onnx")
    initializers = onnx.load(path).graph.initializer
    return {tensor.name: native(np.array(onnx.numpy_helper.to_array(tensor))) for tensor in initializers}


def write_hdf5(path: Path, arrays: Mapping[str, NDArray[np.generic]], **options: Any) -> Path:  # noqa: ANN401
    """Write arrays as datasets, those with slashes in their names into groups."""
    with library("h5py").File(path, "w", **options) as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array)
    return path


def read_hdf5(path: Path) -> Weights:
    """Read all datasets with h5py, by their paths."""
    h5py, weights = library("h5py"), {}
    with h5py.File(path) as file:
        file.visititems(
            lambda name, item: weights.update({name: native(item[...])} if isinstance(item, h5py.Dataset) else {})
        )
    return weights


READERS: dict[str, Callable[[Path], Weights]] = {
    ".npz": read_npz,
    ".gguf": read_gguf,
    ".onnx": read_onnx,
    ".h5": read_hdf5,
}
"""The readers of files by suffix."""
