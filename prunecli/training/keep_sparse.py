"""Keeping a pruned model sparse while it is trained: masks as tensors, and an optimizer that cannot revive a weight.

torch is imported when it is needed.
"""

from __future__ import annotations

import difflib
import importlib
import os
from typing import TYPE_CHECKING, Any

from prunecli.dtypes import FLOATS
from prunecli.engine.score_files import FLAGS, Beside
from prunecli.engine.scorers import Flags
from prunecli.errors import CheckpointError, UsageError
from prunecli.formats.open import open_checkpoint
from prunecli.io.memory import describe
from prunecli.io.reader import Reader, opened
from prunecli.io.threads import Worker
from prunecli.selection.select import Rules, select
from prunecli.text.escape import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

    from numpy.typing import NDArray
    from torch import Tensor, nn
    from torch.optim import Optimizer
    from typing_extensions import Self

    from prunecli.checkpoint import TensorInfo

    PathLike = str | os.PathLike[str]

RUN = 1 << 20
"""Elements that are turned into booleans at once."""

_WRAPPER, _COMPILED = "module", "_orig_mod"
"""What DistributedDataParallel puts before every name, and torch.compile into it."""


# --- masks


def load_mask(path: PathLike) -> dict[str, Tensor]:
    """Return the masks in a file that `--mask-out` wrote, by tensor name: bool, in the tensor's shape, True = kept.

    Any checkpoint of zeros and ones will do; `_mask` at the end of a name, as torch.nn.utils.prune has it, is dropped.
    Raises CheckpointError for what is no checkpoint, holds no tensor, or holds other numbers than 0 and 1.
    """
    checkpoint, worker = open_checkpoint(path), Worker(None)
    names = [tensor.name.removesuffix("_mask") for tensor in checkpoint.tensors]
    if not names or len(set(names)) < len(names):
        what = "two masks for one tensor" if names else "no mask"
        raise CheckpointError(f"{shown(str(path))} holds {what}", hint=_MAKE_ONE)
    for tensor in checkpoint.tensors:
        _refuse_non_mask(path, tensor)
    beside = Beside(f"mask in {shown(str(path))}", checkpoint, dict(enumerate(checkpoint.tensors)))
    with opened(checkpoint) as sources:
        flags = Flags(beside, Reader(sources))

        def stays(at: int) -> Callable[[int, int], NDArray[Any]]:
            return lambda first, stop: flags.stays(worker, at, first, stop - first)

        return {
            name: _filled(tensor, stays(at)) for (at, tensor), name in zip(beside.tensors.items(), names, strict=True)
        }


def mask_of(
    pruned: PathLike | Mapping[str, object],
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    key: str | None = None,
) -> dict[str, Tensor]:
    """Return where the weights of a pruned checkpoint, or state_dict, are not zero, as `load_mask` returns a mask.

    The tensors are those that pruning would choose, with `include`, `exclude` and, for a path, `key` as in
    `prunecli.prune`: biases that are zero are not held at zero. Of tied tensors the first name counts. Raises
    PruneError as pruning does.
    """
    rules, worker = Rules(tuple(include), tuple(exclude)), Worker(None)
    if isinstance(pruned, (str, os.PathLike)):
        checkpoint = open_checkpoint(pruned, key=key)
        targets = [target.tensor for target in select(checkpoint, rules).targets]
        with opened(checkpoint) as sources:
            return _survivors(worker, Reader(sources), targets)
    memory = describe(pruned)
    memory.settle()
    targets = [target.tensor for target in select(memory.checkpoint, rules).targets]
    return _survivors(worker, Reader(memory.regions), targets)  # type: ignore[arg-type] # a region can be read


def _survivors(worker: Worker, reader: Reader, targets: Sequence[TensorInfo]) -> dict[str, Tensor]:
    def of(tensor: TensorInfo) -> Callable[[int, int], NDArray[Any]]:
        read, dtype = reader.reader(worker, tensor), FLOATS[tensor.dtype]
        return lambda first, stop: worker.host.magnitudes(read(first, stop), dtype) != 0

    return {tensor.name: _filled(tensor, of(tensor)) for tensor in targets}


def _filled(tensor: TensorInfo, stays: Callable[[int, int], NDArray[Any]]) -> Tensor:
    """Return a bool tensor of the shape of `tensor` with what `stays` says of runs of its elements."""
    torch = importlib.import_module("torch")
    mask: Tensor = torch.empty(tensor.numel, dtype=torch.bool, device="cpu")
    flat = mask.numpy()
    step = RUN if tensor.contiguous else max(tensor.numel, 1)  # one that is not is always read whole
    for first in range(0, tensor.numel, step):
        stop = min(first + step, tensor.numel)
        flat[first:stop] = stays(first, stop)
    return mask.reshape(tensor.shape)


_MAKE_ONE = "prune l1 CKPT --amount 0.5 --mask-out mask.safetensors"


def _refuse_non_mask(path: PathLike, tensor: TensorInfo) -> None:
    name = f"{shown(repr(tensor.name))} in {shown(str(path))}"
    if tensor.dtype not in FLAGS:
        raise CheckpointError(f"{name} is {tensor.dtype}, not a mask of zeros and ones", hint=_MAKE_ONE)
    if tensor.fixed is not None:
        raise CheckpointError(f"{name} cannot be read as a mask: {tensor.fixed}", hint="save it with .contiguous()")


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
    hint = f"the nearest name: {shown(repr(near[0]))}" if near else "list(dict(model.named_parameters()))"
    raise UsageError(f"the model has no parameter {shown(repr(name))}, which the mask names", hint=hint)


def _check_mask(name: str, keep: Tensor, parameter: Tensor) -> None:
    torch = importlib.import_module("torch")
    if not isinstance(keep, torch.Tensor) or keep.dtype != torch.bool:
        kind = keep.dtype if isinstance(keep, torch.Tensor) else type(keep).__name__
        raise UsageError(f"the mask for {shown(repr(name))} is no bool tensor but {kind}", hint="mask.bool()")
    if keep.shape != parameter.shape:
        raise UsageError(
            f"the mask for {shown(repr(name))} has shape {list(keep.shape)}, and the parameter {list(parameter.shape)}",
            hint="make the mask from a checkpoint of this model",
        )
