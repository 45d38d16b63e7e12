"""Layouts that the user states for tensors, which win over all evidence."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prunecli.errors import Argument, SelectionError, UsageError
from prunecli.layout import EMBEDDING, EXPERTS, GAIN, KERNEL, MATRIX, assumed_layout
from prunecli.layouts.reparametrized import NOT_BY_NAME
from prunecli.text.closest import closest
from prunecli.text.escape import printable

if TYPE_CHECKING:
    from prunecli.checkpoint import TensorInfo
    from prunecli.layout import TensorLayout

ORDERS = ("out-in", "in-out", "experts", "experts-in-out")
"""The layouts that can be stated: outputs or inputs first, and stacks [experts, out, in] or [experts, in, out]."""

EVIDENCE = "stated by the user"


def parse_layout(text: str) -> tuple[str, str]:
    """Return the pattern and the order of "PATTERN=in-out"; UsageError if it is not of this form."""
    pattern, equals, order = text.rpartition("=")
    if not equals or not pattern:
        raise UsageError(
            f"a layout is PATTERN=ORDER, not {printable(repr(text))}",
            hint=Argument("layout", {text if text not in ORDERS and "=" not in text else "*": "in-out"}),
        )
    return pattern, check_order(pattern, order)


def check_order(pattern: str, order: str) -> str:
    """Return `order`; UsageError if it is none of `ORDERS`."""
    if order not in ORDERS:
        raise UsageError(
            f"the layout of {printable(repr(pattern))} is {', '.join(ORDERS[:-1])} or {ORDERS[-1]}, "
            f"not {printable(repr(order))}",
            hint=Argument("layout", {printable(pattern): (closest(order, ORDERS) or ["in-out"])[0]}),
        )
    return order


def has_dimensions_for(order: str, tensor: TensorInfo) -> bool:
    """Return whether the tensor has as many dimensions as the layout: 3 for a stack of experts, 2 for others."""
    return len(tensor.shape) >= (3 if order.startswith("experts") else 2)


def stated_layout(tensor: TensorInfo, order: str) -> TensorLayout:
    """Return the tensor's layout with the outputs and inputs that `order` states.

    Raises SelectionError where the tensor has too few dimensions.
    """
    dims, known = len(tensor.shape), tensor.layout
    stack = order.startswith("experts")
    if not has_dimensions_for(order, tensor):
        raise SelectionError(
            f"{printable(repr(tensor.name))} has {dims} dimension{'s' * (dims != 1)}, too few for the layout {order}",
            hint="state it for matrices, kernels and stacks of matrices",
        )
    if stack:
        in_out = order == "experts-in-out" or known.words == "experts in-out"
        outputs, inputs = (2, 1) if in_out else (1, 2)
        reason = None if known.not_a_weight == NOT_BY_NAME else known.not_a_weight
        usual = assumed_layout(dims)._replace(role=EXPERTS, experts=0, not_a_weight=reason)
    else:
        outputs, inputs = (0, 1) if order == "out-in" else (1, 0)
        role = MATRIX if dims == 2 else KERNEL
        role = role if known.role in {EXPERTS, GAIN, EMBEDDING} else known.role
        usual = known._replace(role=role, experts=None)
    groups = known.groups if order == "in-out" else 1
    return usual._replace(outputs=outputs, inputs=inputs, groups=groups, evidence=EVIDENCE, proven=True)
