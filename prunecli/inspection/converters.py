"""The condition that a sparse kernel takes the selected weights: their dtypes and shapes, without reading a weight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from prunecli.errors import Argument, UsageError
from prunecli.inspection.findings import Finding
from prunecli.text.escape import printable
from prunecli.text.numbers import counted, format_shape

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from prunecli.checkpoint import TensorInfo
    from prunecli.inspection.checked import CheckedCheckpoint

TORCH = "torch"
"""The converter that is known: torch.sparse.to_sparse_semi_structured."""

MULTIPLES: Mapping[str, Mapping[str, tuple[int, int]]] = {
    "cuSPARSELt": {"F16": (16, 16), "BF16": (16, 16), "I8": (32, 32), "F8_E4M3": (32, 32)},
    "CUTLASS": {"F16": (32, 64), "BF16": (32, 64), "I8": (16, 128)},
}
"""For each backend of torch the dtypes that it takes, and what the rows and columns must be multiples of.

They are `_DTYPE_SHAPE_CONSTRAINTS` of torch/sparse/semi_structured.py in torch 2.13, without float32: CUTLASS keeps one
of every two weights of it, and drops the others of a 2:4 pattern.
"""


@dataclass(frozen=True, slots=True)
class Convertible:
    """A library can convert every selected tensor to its own 2:4 sparse tensors, by dtype and shape.

    It does not say whether the weights have the pattern: `GroupPattern(2, 4)` does.

    Args:
        converter: "torch", which stands for torch.sparse.to_sparse_semi_structured on a CUDA device.
    """

    converter: str = TORCH
    phase: ClassVar[str] = ""

    def __post_init__(self) -> None:
        """Raise UsageError for a library that is not known."""
        if self.converter != TORCH:
            raise UsageError(
                f"no conversion for {printable(repr(self.converter))} is known, only for {TORCH}",
                hint=Argument("converter", TORCH),
            )

    @property
    def arguments(self) -> tuple[Argument, ...]:
        """The library."""
        return (Argument("converter", self.converter),)

    def judge(self, checked: CheckedCheckpoint) -> Iterator[Finding]:
        """Yield the tensors that no backend takes, with the reason; else how many tensors each backend takes."""
        refused = {tensor.name: reason for tensor in checked.tensors if (reason := refusal(tensor)) is not None}
        for name, reason in refused.items():
            yield Finding(self, holds=False, tensor=name, wanted="to_sparse_semi_structured takes it", got=reason)
        if not refused:
            taken = ", ".join(
                f"{backend} {sum(_takes(backend, tensor) for tensor in checked.tensors):,}" for backend in MULTIPLES
            )
            got = f"it takes {counted(len(checked.tensors), 'tensor')} ({taken})"
            yield Finding(self, holds=True, tensor=None, wanted="to_sparse_semi_structured takes them", got=got)


def refusal(tensor: TensorInfo) -> str | None:
    """Return why torch.sparse.to_sparse_semi_structured refuses a tensor, or None if a backend takes it."""
    if len(tensor.shape) != 2:
        return f"it takes matrices, and this has {counted(len(tensor.shape), 'dimension')}"
    if not tensor.contiguous:
        return "it takes contiguous tensors: save it with .contiguous()"
    if tensor.layout.inputs == 0:
        return "groups run along dim 1 there, and the inputs are dim 0: transpose it before it is pruned"
    return _wrong_dtype(tensor.dtype) or _wrong_shape(tensor)


def _wrong_dtype(dtype: str) -> str | None:
    known = sorted({dtype for table in MULTIPLES.values() for dtype in table})
    if dtype == "F32":
        return "it keeps 1 of 2 weights of F32: convert it to F16 or BF16"
    return None if dtype in known else f"it takes {', '.join(known)}, and this is {dtype}"


def _wrong_shape(tensor: TensorInfo) -> str | None:
    sizes = {backend: table[tensor.dtype] for backend, table in MULTIPLES.items() if tensor.dtype in table}
    if any(_fits(tensor, size) for size in sizes.values()):
        return None
    wanted = ", ".join(f"{rows}x{cols} ({backend})" for backend, (rows, cols) in sizes.items())
    return f"{format_shape(tensor.shape)} is not a multiple of {wanted} for {tensor.dtype}"


def _takes(backend: str, tensor: TensorInfo) -> bool:
    size = MULTIPLES[backend].get(tensor.dtype)
    return size is not None and _fits(tensor, size)


def _fits(tensor: TensorInfo, size: tuple[int, int]) -> bool:
    return all(length >= least and length % least == 0 for length, least in zip(tensor.shape, size, strict=True))
