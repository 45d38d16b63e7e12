"""What the nodes of an ONNX graph do with its initializers: the operator proves which dimensions are inputs."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from prunecli.checkpoint import PackedWeights, Span, TensorInfo
from prunecli.layout import EMBEDDING, EXPERTS, KERNEL, MATRIX, TensorLayout
from prunecli.layouts.packed import unprunable_as
from prunecli.text.escape import quoted

if TYPE_CHECKING:
    from prunecli.formats.onnx.wire import Wire

_ATTRIBUTES = frozenset({"K", "N", "axis", "bits", "group", "perm", "transA", "transB"})
_MOST_NAMES = 4  # inputs and outputs of a node that are looked at
_SAME = frozenset({"Identity", "Cast", "CastLike"})  # operators whose output is their first input
_RECURRENT = frozenset({"LSTM", "GRU", "RNN"})
_QUANTIZED = {"DequantizeLinear": 0, "ConvInteger": 1, "MatMulInteger": 1, "QLinearConv": 3, "QLinearMatMul": 3}
"""The operators that take 8-bit weights, and which of their inputs these are."""


@dataclass(slots=True)
class Node:
    """A node: its operator, the names of its inputs and outputs, and its attributes that are whole numbers.

    `value` is the tensor of a constant. `subgraphs` counts the graphs in its attributes.
    """

    op: str = ""
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    numbers: dict[str, list[int]] = field(default_factory=dict)
    value: Span | None = None
    subgraphs: int = 0

    def number(self, name: str, default: int) -> int:
        """Return an attribute."""
        return (self.numbers.get(name) or [default])[0]


def read_node(wire: Wire, message: Span) -> Node:
    """Return a NodeProto."""
    node = Node()
    for number, value in wire.fields(message):
        if number in {1, 2}:
            names = node.inputs if number == 1 else node.outputs
            if len(names) < _MOST_NAMES:
                names.append(wire.text(value))
        elif number == 4:
            node.op = wire.text(value).removeprefix("Fused")  # those of onnxruntime take the same weights
        elif number == 5 and isinstance(value, Span):
            _read_attribute(wire, value, node)
    return node


def _read_attribute(wire: Wire, message: Span, node: Node) -> None:
    name = ""
    numbers: list[int] = []
    for number, value in wire.fields(message):
        if number == 1:
            name = wire.text(value)
        elif number == 3 or (number == 8 and len(numbers) <= 64):
            numbers += wire.numbers(value)
        elif number == 5 and isinstance(value, Span):
            node.value = value
        elif number in {6, 11}:
            node.subgraphs += 1
    if name in _ATTRIBUTES:
        node.numbers[name] = numbers


@dataclass(frozen=True, slots=True)
class _View:
    """An initializer as a node sees it: `axes` are its own dimensions in the order of the view."""

    name: str
    axes: tuple[int, ...]


class Uses:
    """The layout of every initializer that the nodes use as a weight."""

    def __init__(self, dims: dict[str, int]) -> None:
        """Take the numbers of dimensions of the initializers by their names."""
        self._views: dict[str, _View] = {}
        self._layouts: dict[str, TensorLayout | None] = {}
        self._packed: dict[str, PackedWeights | None] = {}
        self._subgraphs = 0
        for name, count in dims.items():
            self.add_weight(name, count)

    def add_weight(self, name: str, dims: int) -> None:
        """Look for uses of one more tensor."""
        self._views[name] = _View(name, tuple(range(min(dims, 65))))

    def add(self, node: Node) -> None:
        """Note what a node does with initializers. The nodes come in the order of the graph."""
        self._subgraphs += node.subgraphs
        self._pass_on(node)
        for index, name in enumerate(node.inputs):
            view = self._views.get(name)
            if view is None:
                continue
            if _QUANTIZED.get(node.op) == index or (node.op == "MatMulNBits" and index == 1):
                self._packed.setdefault(view.name, _packed(node))
            elif (layout := _layout(node, index, view.axes)) is not None:
                self._decide(view.name, layout)

    def described(self, tensor: TensorInfo) -> TensorInfo:
        """Return an initializer with the layout that its uses prove, or as packed weights."""
        if tensor.name in self._packed and tensor.dtype in {"U8", "I8"}:
            return unprunable_as(self._packed[tensor.name] or PackedWeights("ONNX, 8 bits", tensor.numel), tensor)
        layout = self._layouts.get(tensor.name)
        if layout is None or (layout.groups > 1 and tensor.shape[0] % layout.groups):
            return tensor
        if layout.role == EXPERTS and tensor.shape[0] == 1:  # a recurrent weight of one direction
            layout = layout._replace(role=KERNEL, experts=None)
        return replace(tensor, layout=layout)

    def notes(self) -> tuple[str, ...]:
        """Return a sentence about what is not looked at."""
        if not self._subgraphs:
            return ()
        return (f"the weights inside of {self._subgraphs:,} subgraphs (If, Loop, Scan) are copied unchanged",)

    def _pass_on(self, node: Node) -> None:
        """Follow an initializer through a node that changes its type or the order of its dimensions alone."""
        view = self._views.get(node.inputs[0]) if node.inputs and node.outputs else None
        if view is None:
            return
        axes = view.axes
        if node.op == "Transpose":
            order = node.numbers.get("perm") or list(reversed(range(len(axes))))
            if sorted(order) != list(range(len(axes))):
                raise ValueError(f"a node transposes {quoted(view.name)} in an impossible order")
            axes = tuple(axes[i] for i in order)
        elif node.op not in _SAME:
            return
        self._views[node.outputs[0]] = _View(view.name, axes)

    def _decide(self, name: str, layout: TensorLayout) -> None:
        """Keep the layout of the first use; None if another use contradicts it. An embedding may also be a matrix."""
        known = self._layouts.setdefault(name, layout)
        if known is None or known.role == EMBEDDING:
            return
        if layout.role == EMBEDDING:
            self._layouts[name] = layout
        elif (known.outputs, known.inputs, known.groups) != (layout.outputs, layout.inputs, layout.groups):
            self._layouts[name] = None


def _packed(node: Node) -> PackedWeights | None:
    """Return the weights that a node's bytes hold; None if there are as many as bytes."""
    if node.op != "MatMulNBits":
        return None
    return PackedWeights(f"ONNX MatMulNBits, {node.number('bits', 4)} bits", node.number("K", 0) * node.number("N", 0))


def _layout(node: Node, index: int, axes: tuple[int, ...]) -> TensorLayout | None:
    """Return the layout of input `index` of a node, which has the dimensions `axes` of an initializer."""
    op, dims = node.op, len(axes)
    if op in {"Gemm", "MatMul"} and index < 2 <= dims:
        return _of_product(node, index, axes)
    known = {("Conv", 1): dims > 2, ("ConvTranspose", 1): dims > 2 and axes[0] == 0, ("Gather", 0): dims == 2}
    known |= {(recurrent, place): dims == 3 and axes[0] == 0 for recurrent in _RECURRENT for place in (1, 2)}
    if not known.get((op, index)):
        return None
    what = f"input {index + 1} of {op}"
    if op in _RECURRENT:
        return _oriented(axes, 1, 2, what)._replace(role=EXPERTS, experts=0)
    if op == "ConvTranspose":
        return _oriented(axes, 1, 0, what)._replace(groups=max(node.number("group", 1), 1))
    layout = _oriented(axes, 0, 1, what)
    if op == "Gather":
        return None if node.number("axis", 0) else layout._replace(role=EMBEDDING)
    return layout


def _of_product(node: Node, index: int, axes: tuple[int, ...]) -> TensorLayout | None:
    """Return the layout of a factor: the inputs are the dimension that is summed over."""
    transposed = node.number("transB" if index else "transA", 0)
    last, before = len(axes) - 1, len(axes) - 2
    inputs = before if bool(index) != bool(transposed) else last
    outputs = last if inputs == before else before
    suffix = f", {'transB' if index else 'transA'}={transposed}" if node.op == "Gemm" else ""
    layout = _oriented(axes, outputs, inputs, f"input {index + 1} of {node.op}{suffix}")
    if len(axes) != 3:
        return layout
    return layout._replace(role=EXPERTS, experts=axes[0]) if axes[0] == 0 else None


def _oriented(axes: tuple[int, ...], outputs: int, inputs: int, what: str) -> TensorLayout:
    role = MATRIX if len(axes) == 2 else KERNEL
    return TensorLayout(role, axes[outputs], axes[inputs], evidence=f"the graph: {what}", proven=True)
