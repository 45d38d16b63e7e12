"""Training with a mask: pruned weights stay zero through every step of an optimizer.

torch is imported when a function is called.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from prunecli.distributed.meshes import inexact_placement, is_dtensor, local_part, mask_of_part, placed_as
from prunecli.errors import UsageError
from prunecli.text.closest import closest
from prunecli.text.escape import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

    from torch import Tensor, nn
    from torch.optim import Optimizer
    from typing_extensions import Self


_WRAPPER, _COMPILED = "module", "_orig_mod"
"""The name that DistributedDataParallel puts before every name, and the one that torch.compile inserts."""


class SparseTraining:
    """Keeps some weights of a model at zero, now and after every step of the optimizer.

    `keep_sparse` returns it. Its `with` block, or a call of `release`, ends it.
    """

    def __init__(self, masks: Sequence[tuple[Tensor, Tensor]], optimizer: Optimizer) -> None:
        """Zero the pruned weights of (parameter, mask) pairs and register hooks; masks are bool, True = kept.

        The mask of a DTensor is that of the part that this process has.
        """
        self._pairs = [(parameter, ~mask) for parameter, mask in masks]
        self._optimizer = optimizer
        self._handles: list[Any] = [optimizer.register_step_post_hook(lambda *_: self.apply())]
        # A parameter that does not require grad accepts no hook. FSDP2 calls no other hooks of its parameters.
        trained: list[tuple[int, Any]] = [(index, p) for index, (p, _) in enumerate(masks) if p.requires_grad]
        self._handles += [p.register_post_accumulate_grad_hook(self._gradient_hook(index)) for index, p in trained]
        self.apply()

    def apply(self) -> None:
        """Zero the pruned weights, their gradients, and the optimizer's state of them."""
        torch = importlib.import_module("torch")
        with torch.no_grad():
            for index, (parameter, _) in enumerate(self._pairs):
                for tensor in (parameter, parameter.grad, *self._state(parameter)):
                    self._zero(index, tensor)

    def release(self) -> None:
        """Remove the hooks. The weights are zero until something else changes them."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _zero(self, index: int, tensor: Tensor | None) -> None:
        """Zero the pruned places of a parameter's weights, gradient or state. Sparse gradients are left as they are."""
        if tensor is None or tensor.layout is not importlib.import_module("torch").strided:
            return
        parameter, pruned = self._pairs[index]
        if pruned.device != tensor.device:  # the model was moved
            pruned = pruned.to(tensor.device)
            self._pairs[index] = (parameter, pruned)
        if is_dtensor(tensor):
            tensor, pruned = local_part(tensor), placed_as(tensor, parameter, pruned)
        tensor.masked_fill_(pruned, 0)

    def _state(self, parameter: Tensor) -> list[Tensor]:
        """Return the tensors of the optimizer's state with one number per weight, such as momentum and moments."""
        torch = importlib.import_module("torch")
        if not parameter.dim():
            return []
        state = self._optimizer.state.get(parameter, {}).values()
        return [value for value in state if isinstance(value, torch.Tensor) and value.shape == parameter.shape]

    def _gradient_hook(self, index: int) -> Callable[[Tensor], None]:
        # Gradients of pruned weights would count in the norm by which gradients are clipped.
        def zero(parameter: Tensor) -> None:
            with importlib.import_module("torch").no_grad():
                self._zero(index, parameter.grad)

        return zero

    def __enter__(self) -> Self:
        """Return the object itself."""
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Call `release`."""
        self.release()


def keep_sparse(model: nn.Module, optimizer: Optimizer, mask: Mapping[str, Tensor]) -> SparseTraining:
    """Keep the weights of `model` at zero where `mask` is False, now and through every step of `optimizer`.

        with prunecli.keep_sparse(model, optimizer, prunecli.load_mask("mask.safetensors")):
            train(model, optimizer)

    After each step the pruned weights, and the optimizer's momentum and moments of them, are zeroed in place; their
    gradients are zero before it. So neither momentum, nor Adam, nor weight decay can change them. Parameters without
    a mask are trained as usual.

    Parameters may be DTensors, as those of FSDP2 and of tensor parallel models: every process keeps the zeros of its
    own parts. Call it on all processes after the model is sharded.

    Args:
        model: The model that is trained.
        optimizer: An optimizer of `model.parameters()`, or of some of them.
        mask: A bool tensor for each parameter name, of the parameter's shape, True = kept. Names may have or lack the
            `module.` of DistributedDataParallel and the `_orig_mod.` of torch.compile. The mask of a DTensor is a whole
            mask, the same on every process, or a DTensor.

    Returns:
        A context manager. The end of its block, or its method `release`, ends the effect.

    Raises:
        UsageError: `mask` names a parameter that the model does not have, or has a mask of another shape or dtype, or
            the optimizer trains none of the parameters.
    """
    if not hasattr(optimizer, "register_step_post_hook"):
        type_name = type(optimizer).__name__
        raise UsageError(
            f"a torch.optim.Optimizer is needed, not a {type_name}", hint="pass the optimizer that it wraps"
        )
    parameters = _by_name(model)
    pairs = [(_parameter(parameters, name), keep) for name, keep in mask.items()]
    for (name, keep), (parameter, _) in zip(mask.items(), pairs, strict=True):
        _check_mask(name, keep, parameter)
        _check_placement(name, keep, parameter)
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if not any(id(parameter) in trained for parameter, _ in pairs):
        problem = "the mask is empty" if not mask else "the optimizer trains none of the parameters in the mask"
        raise UsageError(problem, hint="make the optimizer from model.parameters() of the same model")
    return SparseTraining([(parameter, mask_of_part(keep, parameter)) for parameter, keep in pairs], optimizer)


def _by_name(model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters under all names: tied ones under each, and each with and without a wrapper's prefix."""
    named: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
    plain: dict[str, Tensor] = {}
    for name, parameter in named.items():
        plain.setdefault(_unwrapped(name), parameter)
    return plain | named


def _unwrapped(name: str) -> str:
    parts = [part for part in name.split(".") if part != _COMPILED]
    while len(parts) > 1 and parts[0] == _WRAPPER:
        del parts[0]
    return ".".join(parts)


def _parameter(parameters: Mapping[str, Tensor], name: str) -> Tensor:
    for candidate in (name, _unwrapped(name)):
        if candidate in parameters:
            return parameters[candidate]
    near = closest(name, parameters)
    hint = f"the closest name is {printable(repr(near[0]))}" if near else "list(dict(model.named_parameters()))"
    raise UsageError(f"the model has no parameter {printable(repr(name))}, which the mask names", hint=hint)


def _check_placement(name: str, keep: Any, parameter: Any) -> None:  # noqa: ANN401 - Tensor or DTensor
    """Raise UsageError for a parameter whose parts are no elements of it, and for a mask on another mesh."""
    if is_dtensor(parameter) and (placement := inexact_placement(parameter)) is not None:
        raise UsageError(
            f"{printable(repr(name))} has the placement {placement}, whose parts are no elements of the parameter",
            hint="train parameters that are placed by Shard and Replicate",
        )
    if is_dtensor(keep) and is_dtensor(parameter) and keep.device_mesh != parameter.device_mesh:
        raise UsageError(
            f"the mask for {printable(repr(name))} is on another device mesh than the parameter",
            hint="pass mask.full_tensor()",
        )


def _check_mask(name: str, keep: Tensor, parameter: Tensor) -> None:
    torch = importlib.import_module("torch")
    if not isinstance(keep, torch.Tensor) or keep.dtype != torch.bool:
        type_name = keep.dtype if isinstance(keep, torch.Tensor) else type(keep).__name__
        raise UsageError(f"the mask for {printable(repr(name))} is {type_name}, not a bool tensor", hint="mask.bool()")
    if keep.shape != parameter.shape:
        raise UsageError(
            f"the mask for {printable(repr(name))} has shape {list(keep.shape)}, "
            f"and the parameter {list(parameter.shape)}",
            hint="make the mask from a checkpoint of this model",
        )
