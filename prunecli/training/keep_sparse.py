"""Keeping a pruned model sparse while it is trained: masks as tensors, and an optimizer that cannot revive a weight.

torch is imported when it is needed.
"""

from __future__ import annotations

import difflib
import importlib
from typing import TYPE_CHECKING, Any

from prunecli.errors import UsageError
from prunecli.text.escape import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

    from torch import Tensor, nn
    from torch.optim import Optimizer
    from typing_extensions import Self


_WRAPPER, _COMPILED = "module", "_orig_mod"
"""What DistributedDataParallel puts before every name, and torch.compile into it."""


# --- masks


# --- training


class SparseTraining:
    """A hold on some weights of a model: they are zero now, and after every step of the optimizer.

    Made by `keep_sparse`; leaving its `with` block, or `release`, ends it.
    """

    def __init__(self, masks: Sequence[tuple[Tensor, Tensor]], optimizer: Optimizer) -> None:
        """Hold the parameters, each with its mask (bool, True = kept), and zero what is to be zero."""
        self._held = [(parameter, ~mask) for parameter, mask in masks]
        self._optimizer = optimizer
        self._handles: list[Any] = [optimizer.register_step_post_hook(self._after_step)]
        trained: list[tuple[int, Any]] = [(at, p) for at, (p, _) in enumerate(masks) if p.requires_grad]
        self._handles += [parameter.register_hook(self._gradient(at)) for at, parameter in trained]
        self.apply()

    def apply(self) -> None:
        """Zero the pruned weights, their gradients, and what the optimizer remembers of them, here and now."""
        torch = importlib.import_module("torch")
        with torch.no_grad():
            for at, (parameter, _) in enumerate(self._held):
                gone = self._gone(at)
                for tensor in (parameter, parameter.grad, *self._remembered(parameter)):
                    if tensor is not None and tensor.layout is torch.strided:
                        tensor.masked_fill_(gone, 0)

    def release(self) -> None:
        """Let the weights go; they stay zero until somebody changes them."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _gone(self, at: int) -> Tensor:
        """Return where a parameter is pruned, on its device, which may have changed."""
        parameter, gone = self._held[at]
        if gone.device != parameter.device:
            gone = gone.to(parameter.device)
            self._held[at] = (parameter, gone)
        return gone

    def _remembered(self, parameter: Tensor) -> list[Tensor]:
        """Return the optimizer's momentum, moments and whatever else it has for each weight; steps are scalars."""
        torch = importlib.import_module("torch")
        if not parameter.dim():
            return []
        state = self._optimizer.state.get(parameter, {}).values()
        return [value for value in state if isinstance(value, torch.Tensor) and value.shape == parameter.shape]

    def _gradient(self, at: int) -> Callable[[Tensor], Tensor]:
        # Gradients of weights that are gone would still count in the norm that clipping goes by; sparse ones stay.
        return lambda gradient: gradient if gradient.is_sparse else gradient.masked_fill(self._gone(at), 0)

    def _after_step(self, *_: object) -> None:
        self.apply()

    def __enter__(self) -> Self:
        """Give the hold itself; it began when it was made."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release it."""
        self.release()


def keep_sparse(model: nn.Module, optimizer: Optimizer, mask: Mapping[str, Tensor]) -> SparseTraining:
    """Hold the weights of `model` where `mask` is False at zero, now and through every step of `optimizer`.

        with prunecli.keep_sparse(model, optimizer, prunecli.load_mask("mask.safetensors")):
            train(model, optimizer)

    `mask` maps names of parameters to bool tensors of their shape, True = kept. After each step the weights, and the
    optimizer's momentum and moments of them, are zeroed in place, and their gradients are zero before it: neither
    momentum, Adam, nor weight decay can revive one. Parameters without a mask train as ever. Names are found with and
    without the `module.` of DistributedDataParallel and the `_orig_mod.` of torch.compile.

    Raises UsageError for a name that the model does not have, a mask of another shape or dtype, and an optimizer that
    trains none of the parameters.
    """
    if not hasattr(optimizer, "register_step_post_hook"):
        kind = type(optimizer).__name__
        raise UsageError(f"a torch.optim.Optimizer is needed, not a {kind}", hint="hand over the one that it wraps")
    parameters = _by_name(model)
    pairs = [(_parameter(parameters, name), keep) for name, keep in mask.items()]
    for (name, keep), (parameter, _) in zip(mask.items(), pairs, strict=True):
        _check_mask(name, keep, parameter)
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if not any(id(parameter) in trained for parameter, _ in pairs):
        what = "the mask is empty" if not mask else "the optimizer trains none of the parameters in the mask"
        raise UsageError(what, hint="make the optimizer from model.parameters() of the same model")
    return SparseTraining(pairs, optimizer)


def _by_name(model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters under all names: tied ones under each, and without what wrappers put into it."""
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
    near = difflib.get_close_matches(name, list(parameters)[:10_000], 1)
    hint = f"the nearest name: {printable(repr(near[0]))}" if near else "list(dict(model.named_parameters()))"
    raise UsageError(f"the model has no parameter {printable(repr(name))}, which the mask names", hint=hint)


def _check_mask(name: str, keep: Tensor, parameter: Tensor) -> None:
    torch = importlib.import_module("torch")
    if not isinstance(keep, torch.Tensor) or keep.dtype != torch.bool:
        kind = keep.dtype if isinstance(keep, torch.Tensor) else type(keep).__name__
        raise UsageError(f"the mask for {printable(repr(name))} is no bool tensor but {kind}", hint="mask.bool()")
    if keep.shape != parameter.shape:
        raise UsageError(
            f"the mask for {printable(repr(name))} has shape {list(keep.shape)}, "
            f"and the parameter {list(parameter.shape)}",
            hint="make the mask from a checkpoint of this model",
        )
