"""What the layouts of tensors are by the convention of a format, where nothing else says it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prunecli.layout import EXPERTS, MATRIX
from prunecli.layouts.foreign_names import is_kernel
from prunecli.layouts.names import split_name
from prunecli.layouts.reparametrized import NOT_BY_NAME

if TYPE_CHECKING:
    from prunecli.layout import TensorLayout

_KERNELS_ARE_WEIGHTS = frozenset({"NumPy .npz", "HDF5"})  # elsewhere a `kernel` may be a fixed filter
_GGUF = "GGUF: llama.cpp multiplies by matrices (outputs, inputs)"
_KERAS = "Keras: the kernel of a layer named so has its {} last"


def by_convention(layout: TensorLayout, name: str, dims: int, format_name: str) -> TensorLayout:
    """Return the layout of a tensor of `dims` dimensions with a dotted `name` in a file of the format."""
    if format_name in _KERNELS_ARE_WEIGHTS and layout.not_a_weight == NOT_BY_NAME and is_kernel(name):
        layout = layout._replace(not_a_weight=None)
    if layout.proven:
        return layout
    if format_name == "HDF5" and is_kernel(name) and dims > 2:
        return _of_keras(layout, "".join(split_name(name)[0][-1:]), dims)
    return _of_gguf(layout, name) if format_name == "GGUF" else layout


def _of_gguf(layout: TensorLayout, name: str) -> TensorLayout:
    """Return the layout of a tensor whose dimensions are in torch's order: converters transpose other matrices."""
    if any(module.endswith("_exps") for module in split_name(name)[0][-1:]):
        return layout._replace(role=EXPERTS, outputs=1, inputs=2, experts=0, evidence=_GGUF, proven=True)
    return layout._replace(evidence=_GGUF, proven=True) if layout.role == MATRIX else layout


def _of_keras(layout: TensorLayout, layer: str, dims: int) -> TensorLayout:
    """Return the layout of a kernel of a convolution, whose layer has its usual name; of others the inputs are first.

    Those are kernels of several heads: (inputs, heads, outputs of a head).
    """
    if "conv" not in layer:
        return layout._replace(outputs=dims - 1, inputs=0)
    evidence = _KERAS.format("outputs and inputs" if "transpose" in layer else "inputs and outputs")
    outputs, inputs = (dims - 2, dims - 1) if "transpose" in layer else (dims - 1, dims - 2)
    return layout._replace(outputs=outputs, inputs=inputs, evidence=evidence, proven=True)
