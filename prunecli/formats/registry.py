"""All checkpoint formats. A new format is a package with a `format.py`, and one entry in FORMATS."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prunecli.formats.dcp.format import DCP, DCP_SAFETENSORS
from prunecli.formats.gguf.format import GGUF
from prunecli.formats.hdf5.format import HDF5
from prunecli.formats.npy.format import NPY, NPZ
from prunecli.formats.numpy_pickle.format import NUMPY_PICKLE, PADDLE
from prunecli.formats.onnx.format import ONNX
from prunecli.formats.safetensors.format import SAFETENSORS
from prunecli.formats.torch.format import TORCH_EXPORT, TORCH_LEGACY, TORCH_ZIP, TORCHSCRIPT

if TYPE_CHECKING:
    from prunecli.checkpoint import CheckpointFile
    from prunecli.formats.format import Format

FORMATS = (
    *(SAFETENSORS, NPZ, NPY, GGUF, ONNX, HDF5),
    *(TORCH_ZIP, TORCHSCRIPT, TORCH_EXPORT, TORCH_LEGACY, NUMPY_PICKLE, PADDLE),
    *(DCP, DCP_SAFETENSORS),
)
"""Every format. Detection tries them in this order."""

BY_NAME = {format_.name: format_ for format_ in FORMATS}
"""The formats by name."""


def format_of(file: CheckpointFile) -> Format:
    """Return the format of one file of an opened checkpoint; shards may have different formats of one family."""
    return BY_NAME[file.format]


def family_of(name: str) -> str:
    """Return the family of the format called `name`."""
    return BY_NAME[name].family
