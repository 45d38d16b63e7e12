"""Training a pruned model: masks from files and from zeros, and optimizers that cannot revive a weight."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from support import CONTAINERS, Net, make_weights, same_bits
from torch import nn
from torch.nn import functional
from torch.nn.utils import prune as torch_prune

from prunecli.api import prune
from prunecli.errors import CheckpointError, PruneError, SelectionError, UsageError
from prunecli.strategies.unstructured import L1, Global, Threshold
from prunecli.training.keep_sparse import keep_sparse
from prunecli.training.masks import load_mask, mask_from_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from torch import Tensor
    from torch.optim import Optimizer

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "demo" / "digits_conv.pth"

OPTIMIZERS: dict[str, Callable[[Any], Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.9, weight_decay=1e-3),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.9, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=2e-3, weight_decay=1e-3),
    "amsgrad": lambda p: torch.optim.Adam(p, lr=2e-3, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=2e-3, weight_decay=0.1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1e-3, momentum=0.9, weight_decay=1e-3),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=1e-2),
    "rprop": lambda p: torch.optim.Rprop(p, lr=1e-3),
}


def script(name: str) -> ModuleType:
    """Import scripts/NAME.py, which is in no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def small() -> tuple[nn.Module, dict[str, Tensor]]:
    """Return a model of two matrices and masks that keep about half of each."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    return model, {"0.weight": torch.rand(5, 6) > 0.5, "2.weight": torch.rand(3, 5) > 0.5}


def take_step(model: nn.Module, optimizer: Optimizer) -> None:
    """Make one step on random data."""
    optimizer.zero_grad()
    model(torch.randn(8, 6)).square().sum().backward()
    optimizer.step()


def revived(model: nn.Module, mask: dict[str, Tensor]) -> int:
    """Count the weights that are not +0.0 where the mask is False."""
    parameters = dict(model.named_parameters())
    return sum(int((parameters[n].detach()[~keep].view(torch.int32) != 0).sum()) for n, keep in mask.items())


# --- the demo model


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Any:  # noqa: ANN401 - scripts are in no package
    """Prune the committed conv net to 97 %, and give what is needed to train it."""
    pytest.importorskip("sklearn", reason="scikit-learn, where the images to train on come from, is not installed")
    train_demo, output = script("train_demo"), tmp_path_factory.mktemp("demo") / "pruned.pth"
    prune(DEMO, Global(amount=0.97), output=output, reports=())
    return train_demo, train_demo.load_split(), output


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_fine_tuning_keeps_the_zeros_and_wins_accuracy_back(demo: Any, name: str) -> None:  # noqa: ANN401
    """Three epochs bring back most of what pruning cost, and every pruned weight is still +0.0."""
    train_demo, digits, path = demo
    model = train_demo.DigitsConv()
    model.load_state_dict(torch.load(path, weights_only=True)["state_dict"])
    mask, optimizer = mask_from_checkpoint(path), OPTIMIZERS[name](model.parameters())
    before = train_demo.accuracy(model, digits)
    generator = torch.Generator().manual_seed(0)

    with keep_sparse(model, optimizer, mask):
        for _ in range(3):
            for batch in torch.split(torch.randperm(len(digits.labels), generator=generator), 32):
                optimizer.zero_grad()
                functional.cross_entropy(model(digits.images[batch]), digits.labels[batch]).backward()
                optimizer.step()

    assert revived(model, mask) == 0
    assert sum(int((~keep).sum()) for keep in mask.values()) == round(0.97 * 38_160)
    assert before < 0.9
    assert train_demo.accuracy(model, digits) > 0.94


def test_without_the_hold_the_zeros_are_lost(demo: Any) -> None:  # noqa: ANN401
    """The same training without the helper revives weights: the test above can fail."""
    train_demo, digits, path = demo
    model = train_demo.DigitsConv()
    model.load_state_dict(torch.load(path, weights_only=True)["state_dict"])
    optimizer = OPTIMIZERS["sgd"](model.parameters())

    functional.cross_entropy(model(digits.images[:32]), digits.labels[:32]).backward()
    optimizer.step()

    assert revived(model, mask_from_checkpoint(path)) > 1000


# --- any optimizer


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_cannot_revive_a_weight(name: str) -> None:
    """Even where momentum and moments were gathered before pruning, each step ends with +0.0."""
    model, mask = small()
    optimizer = OPTIMIZERS[name](model.parameters())
    for _ in range(3):
        take_step(model, optimizer)

    with keep_sparse(model, optimizer, mask):
        assert revived(model, mask) == 0
        for _ in range(4):
            take_step(model, optimizer)
            assert revived(model, mask) == 0


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_what_the_optimizer_remembers_is_cleared(name: str) -> None:
    """After the hold ends, a step without gradients leaves the zeros: nothing is left that could move them."""
    model, mask = small()
    optimizer = OPTIMIZERS[name](model.parameters())
    for _ in range(3):
        take_step(model, optimizer)
    with keep_sparse(model, optimizer, mask):
        take_step(model, optimizer)

    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()

    assert revived(model, mask) == 0


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_the_other_weights_train_as_torch_trains_a_masked_model(name: str) -> None:
    """Weights that stay get the values that torch.nn.utils.prune's own reparametrisation gives them."""
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
        found, expected = model.get_submodule(layer), theirs.get_submodule(layer)
        torch.testing.assert_close(expected.weight_orig * expected.weight_mask, found.weight)
        torch.testing.assert_close(expected.bias, found.bias)


def test_the_norm_that_clipping_goes_by_is_of_what_stays() -> None:
    """Gradients of pruned weights are zero already after backward."""
    model, mask = small()
    with keep_sparse(model, OPTIMIZERS["sgd"](model.parameters()), mask):
        model(torch.randn(8, 6)).square().sum().backward()

        gradient = model.get_parameter("0.weight").grad

    assert gradient is not None
    assert not gradient[~mask["0.weight"]].any()
    assert gradient[mask["0.weight"]].any()


def test_a_released_model_trains_freely() -> None:
    """After the block, or release, the hooks are gone from the optimizer and from the parameters."""
    model, mask = small()
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    hold = keep_sparse(model, optimizer, mask)
    hold.release()
    hold.release()

    take_step(model, optimizer)

    assert revived(model, mask) > 0
    assert not optimizer._optimizer_step_post_hooks
    assert not any(parameter._backward_hooks for parameter in model.parameters())


def test_an_error_in_the_block_releases_too() -> None:
    """A training loop that fails leaves no hook behind."""
    model, mask = small()
    optimizer = OPTIMIZERS["sgd"](model.parameters())

    with pytest.raises(ZeroDivisionError), keep_sparse(model, optimizer, mask):
        raise ZeroDivisionError

    assert not optimizer._optimizer_step_post_hooks


def test_nan_gradients_do_not_reach_pruned_weights() -> None:
    """A diverging step makes the weights that stay NaN, and leaves the pruned ones zero."""
    model, mask = small()
    optimizer = OPTIMIZERS["sgd"](model.parameters())

    with keep_sparse(model, optimizer, mask):
        model(torch.full((1, 6), torch.nan)).sum().backward()
        optimizer.step()

    assert revived(model, mask) == 0


def test_frozen_parameters_and_loaded_states_are_held_too() -> None:
    """A parameter without gradients is zeroed at once, and an optimizer state loaded later revives nothing."""
    model, mask = small()
    optimizer = OPTIMIZERS["adam"](model.parameters())
    take_step(model, optimizer)
    state = optimizer.state_dict()
    model.get_parameter("0.weight").requires_grad_(requires_grad=False)

    with keep_sparse(model, optimizer, mask):
        optimizer.load_state_dict(state)
        take_step(model, optimizer)

    assert revived(model, mask) == 0


def test_sparse_gradients_are_fine() -> None:
    """An embedding with sparse gradients keeps its zeros under SGD."""
    model = nn.Embedding(7, 4, sparse=True)
    mask = {"weight": torch.rand(7, 4, generator=torch.Generator().manual_seed(0)) > 0.5}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    with keep_sparse(model, optimizer, mask):
        model(torch.arange(7)).square().sum().backward()
        optimizer.step()

    assert revived(model, mask) == 0


# --- names


@pytest.mark.parametrize("wrap", ["module.", "_orig_mod.", "module._orig_mod.", ""])
@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", ""])
def test_the_prefixes_of_wrappers_do_not_matter(wrap: str, prefix: str) -> None:
    """A mask of a plain model fits a wrapped one, and the other way round."""
    model, mask = small()
    wrapped: nn.Module = model
    for part in reversed(wrap.split(".")[:-1]):
        wrapped, inner = nn.Module(), wrapped
        wrapped.add_module(part, inner)

    keep_sparse(wrapped, OPTIMIZERS["sgd"](model.parameters()), {prefix + n: keep for n, keep in mask.items()})

    assert revived(model, mask) == 0


@pytest.mark.parametrize("name", ["embed.weight", "head.weight"])
def test_a_tied_parameter_is_found_under_each_of_its_names(name: str) -> None:
    """The mask may use the name that named_parameters leaves out."""
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
        ({"0.weight": torch.ones(5, 6)}, "no bool tensor but torch.float32"),
        ({"0.weight": [[True]]}, "no bool tensor but list"),
        ({"\x1b[31m": torch.ones(5, 6, dtype=torch.bool)}, r"no parameter '\\x1b\[31m'"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(mask: Any, message: str) -> None:  # noqa: ANN401 - wrong on purpose
    """The error names what is wrong, has a hint, and the model is untouched."""
    model, _ = small()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    optimizer = OPTIMIZERS["sgd"](model.parameters())

    with pytest.raises(UsageError, match=message) as caught:
        keep_sparse(model, optimizer, mask)

    assert caught.value.hint
    assert all(torch.equal(before[n], p) for n, p in model.named_parameters())
    assert not optimizer._optimizer_step_post_hooks


def test_an_optimizer_of_another_model_is_refused() -> None:
    """The classic: the optimizer was made before the model was replaced."""
    model, mask = small()
    other, _ = small()

    with pytest.raises(UsageError, match="trains none of the parameters"):
        keep_sparse(model, OPTIMIZERS["sgd"](other.parameters()), mask)
    with pytest.raises(UsageError, match=r"a torch\.optim\.Optimizer is needed, not a list"):
        keep_sparse(model, [], mask)  # type: ignore[arg-type]


# --- masks


@pytest.mark.parametrize("container", CONTAINERS)
def test_the_mask_of_a_pruned_checkpoint_is_where_it_is_not_zero(container: str, tmp_path: Path) -> None:
    """In every container: bool tensors of the chosen names, True where torch reads something else than zero."""
    how, weights = CONTAINERS[container], make_weights()
    path = how.write(tmp_path, weights)
    output = tmp_path / f"out{path.suffix}"
    prune(path, Threshold(0.05), output=output, reports=())

    found = {name.removeprefix(how.prefix): keep for name, keep in mask_from_checkpoint(output).items()}

    names = [n for n, t in weights.items() if "weight" in n and t.dim() > 1]
    assert sorted(names) == sorted(found)
    assert all(torch.equal(weights[n].abs() > 0.05, found[n]) for n in names)


def test_the_mask_of_a_state_dict_is_that_of_its_file(tmp_path: Path) -> None:
    """A live, pruned model gives the mask its file would give, and biases at zero are in neither."""
    model = Net()
    torch_prune.l1_unstructured(model.fc, "weight", amount=0.3)
    torch_prune.remove(model.fc, "weight")
    nn.init.zeros_(model.fc.bias)
    torch.save(model.state_dict(), tmp_path / "m.pth")

    found = mask_from_checkpoint(model.state_dict())

    from_file = mask_from_checkpoint(tmp_path / "m.pth")
    assert list(from_file) == list(found)
    assert all(torch.equal(from_file[n], found[n]) for n in found)
    assert int((~found["fc.weight"]).sum()) == round(0.3 * 130 * 34)
    assert "fc.bias" not in found
    assert list(mask_from_checkpoint(model.state_dict(), include=["fc.*"], exclude=["*.bias"])) == ["fc.weight"]


@given(st.binary(min_size=8, max_size=64), st.sampled_from(["float16", "bfloat16", "float8_e4m3fnuz", "float8_e5m2"]))
def test_only_zeros_are_gone(raw: bytes, dtype: str) -> None:
    """For any bits: -0.0 is gone too, NaN (in fnuz the pattern of -0.0) is not; as torch's own comparison says."""
    w = torch.frombuffer(bytearray(raw[: len(raw) // 4 * 4]), dtype=getattr(torch, dtype)).reshape(2, -1)

    found = mask_from_checkpoint({"w": w}, include=["w"])

    assert torch.equal(w.float() != 0, found["w"])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bool, torch.float32, torch.int64, torch.uint16, torch.uint64])
def test_a_mask_file_is_read_as_torch_reads_it(dtype: torch.dtype, tmp_path: Path) -> None:
    """Bytes, booleans, and the floats of torch.nn.utils.prune, of any shape, one larger than a run."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 4), (1_100, 1_000), (5,), (), (0, 3)]
    masks = {f"t{i}.weight": torch.rand(shape, generator=generator) > 0.5 for i, shape in enumerate(shapes)}
    save_file(
        {f"{n}_mask" if n == "t0.weight" else n: m.to(dtype) for n, m in masks.items()}, tmp_path / "m.safetensors"
    )

    found = load_mask(tmp_path / "m.safetensors")

    assert masks.keys() == found.keys()
    assert all(same_bits(masks[n].to(torch.uint8), found[n].to(torch.uint8)) for n in masks)
    assert {m.dtype for m in found.values()} == {torch.bool}


def test_transposed_masks_in_a_torch_file_are_read(tmp_path: Path) -> None:
    """Strides in the file are followed."""
    mask = (torch.arange(12).reshape(3, 4) % 3 == 0).T
    torch.save({"w": mask}, tmp_path / "m.pth")

    assert torch.equal(mask, load_mask(tmp_path / "m.pth")["w"])


def test_what_mask_out_writes_is_what_stays(tmp_path: Path) -> None:
    """The mask of a run is the mask of its output, for weights without zeros before."""
    output, mask_out = tmp_path / "out.pth", tmp_path / "mask.safetensors"
    prune(DEMO, L1(amount=0.7), output=output, mask_out=mask_out, reports=())

    found = load_mask(mask_out)

    expected = mask_from_checkpoint(output)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[n], found[n]) for n in expected)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({}, "holds no mask"),
        ({"w": torch.tensor([0, 1, 2], dtype=torch.uint8)}, "other values than 0 and 1"),
        ({"w": torch.tensor([0, 255], dtype=torch.uint8)}, "other values than 0 and 1"),
        ({"w": torch.tensor([0.5])}, "other values than 0 and 1"),
        ({"w": torch.tensor([torch.nan])}, "other values than 0 and 1"),
        ({"w": torch.tensor([2]).view(torch.bool)}, "other values than 0 and 1"),
        ({"w": torch.ones(2, dtype=torch.complex64)}, "is C64, not a mask"),
        ({"w": torch.ones(2), "w_mask": torch.ones(2)}, "two masks for one tensor"),
        ({"\x1b[2J": torch.tensor([3])}, r"'\\x1b\[2J'"),
    ],
)
def test_what_is_no_mask_is_refused(tensors: dict[str, Tensor], message: str, tmp_path: Path) -> None:
    """The error names the tensor, safe for a terminal, and what is wrong with it."""
    save_file(tensors, tmp_path / "m.safetensors")

    with pytest.raises(CheckpointError, match=message):
        load_mask(tmp_path / "m.safetensors")


def test_an_expanded_mask_is_refused(tmp_path: Path) -> None:
    """A view that claims a thousand million elements and stores one costs neither memory nor time."""
    torch.save({"w": torch.ones(1, dtype=torch.bool).expand(30_000, 30_000)}, tmp_path / "m.pth")

    with pytest.raises(CheckpointError, match="cannot be read as a mask: expanded view"):
        load_mask(tmp_path / "m.pth")


@given(st.binary(max_size=200))
def test_junk_is_an_error_and_no_mask(tmp_path_factory: pytest.TempPathFactory, junk: bytes) -> None:
    """Whatever the bytes, the answer is a PruneError."""
    path = tmp_path_factory.mktemp("junk") / "m.safetensors"
    path.write_bytes(junk)

    with pytest.raises(PruneError):
        load_mask(path)
    with pytest.raises(PruneError):
        mask_from_checkpoint(path)


def test_a_selection_that_ends_empty_is_an_error() -> None:
    """As everywhere: a mask of nothing is a mistake."""
    with pytest.raises(SelectionError):
        mask_from_checkpoint({"bias": torch.zeros(3)})
    with pytest.raises(CheckpointError):
        mask_from_checkpoint("absent.pth")
