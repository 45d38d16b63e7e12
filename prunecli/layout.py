"""What a tensor of a model is: its role, and which of its dimensions are outputs, inputs and experts.

Values only. The package `layouts` decides them from the names and shapes of a checkpoint.
"""

from __future__ import annotations

from functools import lru_cache
from math import prod
from typing import NamedTuple

from prunecli.values import dataclass

MATRIX, KERNEL, EMBEDDING, EXPERTS = "matrix", "kernel", "embedding", "experts"
VECTOR, GAIN, CONSTANT, SCALE = "vector", "gain", "constant", "scale"
CODE, PACKED, REPARAMETRIZED, OTHER = "code", "packed", "reparametrized", "other"
"""The roles of tensors."""

ASSUMED = "assumed: outputs first"
"""The evidence of a layout that nothing in the checkpoint proves."""

SIBLINGS = "as its siblings"
"""The first words of the evidence that a tensor has the layout of others."""


@dataclass(frozen=True, slots=True)
class SliceView:
    """A tensor seen as an array of shape (stacks, before, slices, after) in row-major order.

    Slice i of stack s has the elements [s, :, i, :]. Slices are numbered s * slices + i.
    """

    stacks: int
    before: int
    slices: int
    after: int

    @property
    def total(self) -> int:
        """The number of slices of all stacks."""
        return self.stacks * self.slices

    @property
    def size(self) -> int:
        """The number of elements of one slice."""
        return self.before * self.after


@lru_cache(maxsize=1024)
def slice_view(shape: tuple[int, ...], dim: int) -> SliceView:
    """Return the view of a tensor of `shape` whose slices are taken along `dim`, as one stack."""
    return SliceView(1, prod(shape[:dim]), shape[dim], prod(shape[dim + 1 :]))


class TensorLayout(NamedTuple):
    """The role of a tensor and the meaning of its dimensions.

    Attributes:
        role: One of the roles above: "matrix", "kernel", "embedding", "experts" (a stack of matrices), "vector",
            "gain", "constant", "scale", "code" (its values are codes times a scale), "packed", "reparametrized" or
            "other".
        outputs: The dimension that counts outputs, or None if there is none.
        inputs: The dimension that counts inputs, or None if there is none.
        experts: The dimension that counts experts, 0 for a stack of matrices; None for one matrix.
        groups: The number of groups of a transposed convolution: its inputs are (groups, inputs / groups), and each
            group has `shape[outputs]` outputs of its own. 1 for all others.
        evidence: What the outputs and inputs were decided from, in words.
        proven: Whether the evidence is more than an assumption.
        not_a_weight: The reason why the tensor is not pruned by default, or None.
    """

    role: str
    outputs: int | None
    inputs: int | None
    experts: int | None = None
    groups: int = 1
    evidence: str = ASSUMED
    proven: bool = False
    not_a_weight: str | None = None

    @property
    def words(self) -> str:
        """The order of outputs and inputs: "out-in", "in-out", "experts out-in", "experts in-out", or "-"."""
        if self.outputs is None or self.inputs is None:
            return "-"
        order = "out-in" if self.outputs < self.inputs else "in-out"
        return order if self.experts is None else f"experts {order}"

    @property
    def label(self) -> str:
        """The role, and the order of outputs and inputs where there is one: "matrix out-in", "gain"."""
        words = "" if self.words == "-" else self.words.removeprefix(f"{self.role} ")
        return f"{self.role} {words}".rstrip()

    def dim_words(self, dim: int) -> str:
        """Return a dimension, counted from the front, with its meaning if it has one: "inputs (dim 1)", "dim 2"."""
        for meaning in ("experts", "outputs", "inputs"):
            if getattr(self, meaning) == dim:
                return f"{meaning} (dim {dim})"
        return f"dim {dim}"

    def output_view(self, shape: tuple[int, ...]) -> SliceView | None:
        """Return the view whose slices are the outputs, of each expert or group separately; None without outputs."""
        if self.outputs is None:
            return None
        if self.groups > 1:
            return SliceView(self.groups, shape[0] // self.groups, shape[1], prod(shape[2:]))
        return self._view(shape, self.outputs)

    def input_view(self, shape: tuple[int, ...]) -> SliceView | None:
        """Return the view whose slices are the inputs, of each expert separately; None without inputs."""
        return None if self.inputs is None else self._view(shape, self.inputs)

    def input_run(self, shape: tuple[int, ...]) -> tuple[int, int] | None:
        """Return the number of inputs of one output, and the elements from one input to the next; None without inputs.

        Groups of consecutive weights, as of 2:4, run along these inputs.
        """
        if self.inputs is None:
            return None
        return shape[self.inputs] // self.groups, prod(shape[self.inputs + 1 :])

    def _view(self, shape: tuple[int, ...], dim: int) -> SliceView:
        if self.experts is None:
            return slice_view(shape, dim)
        return SliceView(shape[0], prod(shape[1:dim]), shape[dim], prod(shape[dim + 1 :]))


@lru_cache(maxsize=128)
def assumed_layout(dims: int) -> TensorLayout:
    """Return the layout of a tensor with so many dimensions of which nothing else is known: that of Linear and Conv."""
    if dims < 2:
        return TensorLayout(VECTOR, 0 if dims else None, None, evidence="")
    return TensorLayout(MATRIX if dims == 2 else KERNEL, 0, 1)
