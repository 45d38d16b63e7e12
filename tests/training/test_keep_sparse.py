"""`keep_sparse` keeps pruned weights at zero with every optimizer and under every parameter name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support import Net
from support.training import OPTIMIZERS, revived, small, take_step
from torch import nn
from torch.nn.utils import prune as torch_prune

from prunecli.errors import UsageError
from prunecli.training.keep_sparse import keep_sparse


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_does_not_change_a_pruned_weight(name: str) -> None:
    """Each step ends with +0.0, also if the optimizer had momentum and moments before the pruning.

    A step with zero gradients after the end changes no pruned weight either: the optimizer has no state of them.
    """
    model, mask = small()
    optimizer = OPTIMIZERS[name](model.parameters())
    for _ in range(3):
        take_step(model, optimizer)

    with keep_sparse(model, optimizer, mask):
        assert revived(model, mask) == 0
        for _ in range(4):
            take_step(model, optimizer)
            assert revived(model, mask) == 0

    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()

    assert revived(model, mask) == 0


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_kept_weights_train_as_in_a_masked_torch_model(name: str) -> None:
    """Kept weights get the values of torch.nn.utils.prune's own reparametrisation."""
    model, mask = small()
    theirs, _ = small()
    for layer in ("0", "2"):
        torch_prune.custom_from_mask(theirs.get_submodule(layer), "weight", mask[f"{layer}.weight"])
    mine, other = OPTIMIZERS[name](model.parameters()), OPTIMIZERS[name](theirs.parameters())

    with keep_sparse(model, mine, mask):
        for step in range(5):
            torch.manual_seed(step)
            take_step(model, mine)
            torch.manual_seed(step)
            take_step(theirs, other)

    for layer in ("0", "2"):
        actual, expected = model.get_submodule(layer), theirs.get_submodule(layer)
        torch.testing.assert_close(expected.weight_orig * expected.weight_mask, actual.weight)
        torch.testing.assert_close(expected.bias, actual.bias)


def test_gradients_of_pruned_weights_are_zero_after_backward() -> None:
    """Gradients of pruned weights do not count in the norm by which gradients are clipped."""
    model, mask = small()
    with keep_sparse(model, OPTIMIZERS["sgd"](model.parameters()), mask):
        model(torch.randn(8, 6)).square().sum().backward()

        gradient = model.get_parameter("0.weight").grad

    assert gradient is not None
    assert not gradient[~mask["0.weight"]].any()
    assert gradient[mask["0.weight"]].any()


def test_release_removes_all_hooks() -> None:
    """After `release` neither the optimizer nor the parameters have hooks, and pruned weights can change."""
    model, mask = small()
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    training = keep_sparse(model, optimizer, mask)
    training.release()
    training.release()

    take_step(model, optimizer)

    assert revived(model, mask) > 0
    assert not optimizer._optimizer_step_post_hooks
    assert not any(parameter._post_accumulate_grad_hooks for parameter in model.parameters())


def test_an_error_in_the_block_removes_the_hooks() -> None:
    """A training loop that fails leaves no hook."""
    model, mask = small()
    optimizer = OPTIMIZERS["sgd"](model.parameters())

    with pytest.raises(ZeroDivisionError), keep_sparse(model, optimizer, mask):
        raise ZeroDivisionError

    assert not optimizer._optimizer_step_post_hooks


def test_nan_gradients_do_not_reach_pruned_weights() -> None:
    """A diverging step makes kept weights NaN and leaves pruned ones zero."""
    model, mask = small()
    optimizer = OPTIMIZERS["sgd"](model.parameters())

    with keep_sparse(model, optimizer, mask):
        model(torch.full((1, 6), torch.nan)).sum().backward()
        optimizer.step()

    assert revived(model, mask) == 0


def test_frozen_parameters_and_loaded_states_stay_pruned() -> None:
    """A parameter without gradients is zeroed at once, and an optimizer state that is loaded later has no effect."""
    model, mask = small()
    optimizer = OPTIMIZERS["adam"](model.parameters())
    take_step(model, optimizer)
    state = optimizer.state_dict()
    model.get_parameter("0.weight").requires_grad_(requires_grad=False)

    with keep_sparse(model, optimizer, mask):
        optimizer.load_state_dict(state)
        take_step(model, optimizer)

    assert revived(model, mask) == 0


def test_sparse_gradients_keep_the_zeros() -> None:
    """An embedding with sparse gradients keeps its zeros under SGD."""
    model = nn.Embedding(7, 4, sparse=True)
    mask = {"weight": torch.rand(7, 4, generator=torch.Generator().manual_seed(0)) > 0.5}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    with keep_sparse(model, optimizer, mask):
        model(torch.arange(7)).square().sum().backward()
        optimizer.step()

    assert revived(model, mask) == 0


@pytest.mark.parametrize("wrap", ["module.", "_orig_mod.", "module._orig_mod.", ""])
@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", ""])
def test_the_prefixes_of_wrappers_are_ignored(wrap: str, prefix: str) -> None:
    """The mask of a plain model fits a wrapped one, and the reverse."""
    model, mask = small()
    wrapped: nn.Module = model
    for part in reversed(wrap.split(".")[:-1]):
        wrapped, inner = nn.Module(), wrapped
        wrapped.add_module(part, inner)

    keep_sparse(wrapped, OPTIMIZERS["sgd"](model.parameters()), {prefix + n: keep for n, keep in mask.items()})

    assert revived(model, mask) == 0


@pytest.mark.parametrize("name", ["embed.weight", "head.weight"])
def test_a_tied_parameter_is_found_under_each_of_its_names(name: str) -> None:
    """The mask may use the name that named_parameters omits."""
    model = Net(tied=True)
    keep = torch.rand(37, 33, generator=torch.Generator().manual_seed(0)) > 0.5

    keep_sparse(model, OPTIMIZERS["sgd"](model.parameters()), {name: keep})

    assert not model.head.weight.detach()[~keep].any()
    assert model.head.weight.detach()[keep].all()


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ({}, "the mask is empty"),
        ({"3.weight": torch.ones(5, 6, dtype=torch.bool)}, "no parameter '3.weight'"),
        ({"0.weight": torch.ones(6, 5, dtype=torch.bool)}, r"shape \[6, 5\], and the parameter \[5, 6\]"),
        ({"0.weight": torch.ones(5, 6)}, "is torch.float32, not a bool tensor"),
        ({"0.weight": [[True]]}, "is list, not a bool tensor"),
        ({"\x1b[31m": torch.ones(5, 6, dtype=torch.bool)}, r"no parameter '\\x1b\[31m'"),
    ],
)
def test_a_mask_that_does_not_fit_is_an_error(mask: Any, message: str) -> None:  # noqa: ANN401 - wrong on purpose
    """The error names the problem and has a hint, and the model is unchanged."""
    model, _ = small()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    optimizer = OPTIMIZERS["sgd"](model.parameters())

    with pytest.raises(UsageError, match=message) as caught:
        keep_sparse(model, optimizer, mask)

    assert caught.value.hint
    assert all(torch.equal(before[n], p) for n, p in model.named_parameters())
    assert not optimizer._optimizer_step_post_hooks


def test_an_optimizer_of_another_model_is_an_error() -> None:
    """An optimizer that was made before the model was replaced trains none of its parameters."""
    model, mask = small()
    other, _ = small()

    with pytest.raises(UsageError, match="trains none of the parameters"):
        keep_sparse(model, OPTIMIZERS["sgd"](other.parameters()), mask)
    with pytest.raises(UsageError, match=r"a torch\.optim\.Optimizer is needed, not a list"):
        keep_sparse(model, [], mask)  # type: ignore[arg-type]
