"""What the layouts of tensors are by the convention of a format, where nothing else says it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from prunecli.layout import EXPERTS, MATRIX
from prunecli.layouts.foreign_names import is_kernel
from prunecli.layouts.names import split_name
from prunecli.layouts.reparametrized import NOT_BY_NAME

if TYPE_CHECKING:
    from prunecli.layout import TensorLayout

_KERNELS_ARE_WEIGHTS = frozenset({"NumPy .npz"})  # elsewhere a `kernel` may be a fixed filter
_GGUF = "GGUF: llama.cpp multiplies by matrices (outputs, inputs)"


def by_convention(layout: TensorLayout, name: str, format_name: str) -> TensorLayout:
    """Return the layout of a tensor with a dotted `name` in a file of the format."""
    if format_name in _KERNELS_ARE_WEIGHTS and layout.not_a_weight == NOT_BY_NAME and is_kernel(name):
        return replace(layout, not_a_weight=None)
    if format_name == "GGUF" and not layout.proven:
        return _of_gguf(layout, name)
    return layout


def _of_gguf(layout: TensorLayout, name: str) -> TensorLayout:
    """Return the layout of a tensor whose dimensions are in torch's order: converters transpose other matrices."""
    if split_name(name)[0][-1:] and split_name(name)[0][-1].endswith("_exps"):
        return replace(layout, role=EXPERTS, outputs=1, inputs=2, experts=0, evidence=_GGUF, proven=True)
    return replace(layout, evidence=_GGUF, proven=True) if layout.role == MATRIX else layout
