"""The choice of the state_dict in a nested file, the other state_dicts, and keys that the user names."""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from support.torch_files import listing, saved
from torch import nn

from prunecli.checkpoint import OUTSIDE
from prunecli.errors import CheckpointError
from prunecli.formats.numpy_pickle.reader import read_numpy_pickle
from prunecli.formats.pickle.reader import Call, Global
from prunecli.formats.pickle.state_dict import find_leaves

if TYPE_CHECKING:
    from prunecli.formats.listing import Listing

LEGACY = pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])


def net(width: int = 8) -> nn.Module:
    """Return a module of two layers."""
    return nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 3))


def state(width: int = 8) -> dict[str, torch.Tensor]:
    """Return the state_dict of `net`."""
    weights: dict[str, torch.Tensor] = net(width).state_dict()
    return weights


def taken(found: Listing) -> list[str]:
    """Return the names of the tensors that are taken."""
    return [t.name for t in found.tensors if t.unprunable_reason != OUTSIDE]


def others(found: Listing) -> list[str]:
    """Return the keys of the other state_dicts that hold weights."""
    keys = (t.key for t in found.tensors if t.unprunable_reason == OUTSIDE and t.key)
    return list(dict.fromkeys(keys))


STATISTICS = {"mean": torch.rand(3), "std": torch.rand(3)}

ADAM = {"state": {0: {"exp_avg": torch.rand(9, 9)}}, "param_groups": [{"lr": 0.1}]}

CHOICES: dict[str, tuple[Any, list[str], list[str]]] = {
    "plain": (state(), [], []),
    "timm": ({"state_dict": state(), "state_dict_ema": state(), "optimizer": {}}, ["state_dict"], ["state_dict_ema"]),
    "ema first": ({"state_dict_ema": state(), "state_dict": state()}, ["state_dict"], ["state_dict_ema"]),
    "MAE": ({"model": state(), "model_ema": state()}, ["model"], ["model_ema"]),
    "BasicSR": ({"params": state(), "params_ema": state()}, ["params"], ["params_ema"]),
    "only params_ema": ({"params_ema": state()}, ["params_ema"], []),
    "YOLO": ({"epoch": 3, "model": net(), "ema": net(), "updates": 9}, ["model"], ["ema"]),
    "YOLO after training": ({"epoch": -1, "model": None, "ema": net().half(), "updates": None}, ["ema"], []),
    "DiT": ({"model": state(), "ema": state(), "opt": {"m": torch.rand(9, 9)}}, ["model"], ["ema"]),
    "only ema": ({"ema": state(), "args": None}, ["ema"], []),
    "RT-DETR": ({"model": state(), "ema": {"module": state(), "updates": 3}}, ["model"], ["ema.module"]),
    "only RT-DETR's ema": ({"ema": {"module": state(), "updates": torch.tensor(3)}}, ["ema.module"], []),
    "GAN": ({"G": state(), "D": state(5), "g_ema": state(), "g_optim": {"m": torch.rand(9, 9)}}, [], ["g_ema"]),
    "SimCLR": ({"net": state(), "head": state(5)}, ["net"], ["head"]),
    "statistics first": ({"params": STATISTICS, "encoder": state(), "decoder": state(5)}, [], []),
    "statistics as images": ({"params": {"mean": torch.rand(1, 3, 1, 1)}, "encoder": state()}, [], []),
    "a level above": ({"ckpt": {"model": state(), "ema": state()}}, ["ckpt.model"], ["ckpt.ema"]),
    "rewinding": ({"state_dict": state(), "initial_state_dict": state()}, ["state_dict"], ["initial_state_dict"]),
    "rewinding without a usual key": ({"start": state(), "end": state()}, ["start", "end"], []),
    "rewinding below a key": (
        {"model": {"initial": state(), "final": state()}},
        ["model.initial", "model.final"],
        [],
    ),
    "rewinding below a key, with a usual one": (
        {"model": {"initial": state(), "state_dict": state()}},
        ["model.state_dict"],
        ["model.initial"],
    ),
    "DDP teacher": (
        {"student": {f"module.{n}": t for n, t in state().items()}, "teacher": state()},
        ["student", "teacher"],
        [],
    ),
    "blocks of one model": (
        {"b1": {"fc": {"weight": torch.rand(4, 4)}}, "b2": {"fc": {"weight": torch.rand(4, 4)}}},
        [],
        [],
    ),
    "an ensemble": ([state(), state()], ["0", "1"], []),
    "an optimizer of any name": ({"model": state(), "adam": ADAM}, ["model"], []),
    "a model and its optimizer": ((state(), ADAM), [], []),
    "vectors only": ({"model": {"w": torch.ones(3)}, "ema": {"w": torch.ones(3)}}, ["model"], []),
    "a head in ema's word": ({"model": state(), "schema": state(5)}, ["model"], ["schema"]),
}


@LEGACY
@pytest.mark.parametrize("case", list(CHOICES))
def test_the_state_dict_that_is_taken_and_the_others(case: str, legacy: bool) -> None:  # noqa: FBT001
    """The state_dict that holds weights is taken, an EMA copy only if there is nothing else."""
    value, keys, left = CHOICES[case]

    found = listing(saved(value, legacy=legacy))

    assert (list(found.keys), others(found)) == (keys, left)
    assert any(t.numel for t in found.tensors if t.unprunable_reason != OUTSIDE)


def test_the_top_of_a_file_has_parts() -> None:
    """State_dicts that together are the top of the file are named; blocks of one model are not."""
    assert listing(saved(CHOICES["GAN"][0])).parts == ("G", "D")
    assert listing(saved(CHOICES["statistics first"][0])).parts == ("encoder", "decoder")
    assert listing(saved(CHOICES["blocks of one model"][0])).parts == ()
    assert listing(saved(CHOICES["timm"][0])).parts == ()


def test_only_the_weights_are_inside_where_an_ema_copy_is_the_state_dict() -> None:
    """The names inside an EMA copy are those of the model."""
    assert taken(listing(saved({"ema": {"module": state(), "updates": torch.tensor(3)}}))) == list(state())


# --- keys of the user

FILE: dict[str, object] = {
    "model": state(),
    "ema": {"module": state()},
    "state_dict[1]": state(5),
    "optimizer": {"exp_avg": torch.rand(4, 4)},
    "stats": STATISTICS,
}


@pytest.mark.parametrize(
    ("patterns", "keys"),
    [
        (("model",), ["model"]),
        (("ema", "model"), ["ema", "model"]),
        (("ema*",), ["ema.module"]),
        (("m*", "model"), ["model"]),
        (("state_dict[1]",), ["state_dict[1]"]),
        (("*",), ["model", "ema.module", "state_dict[1]"]),
        (("*d*l*", "optimizer"), ["model", "ema.module", "optimizer"]),
        (("stats", "?odel"), ["stats", "model"]),
    ],
)
@LEGACY
def test_keys_are_names_and_globs(patterns: tuple[str, ...], keys: list[str], legacy: bool) -> None:  # noqa: FBT001
    """The state_dicts have the order of the keys; names start with the key if there are several."""
    found = listing(saved(FILE, legacy=legacy), patterns)
    names = taken(found)

    assert list(found.keys) == keys
    assert len(set(names)) == len(names)
    if len(keys) > 1:
        assert list(dict.fromkeys(t.key for t in found.tensors if t.unprunable_reason is None)) == keys
        assert all(t.name == f"{t.key}.{t.local_name}" for t in found.tensors if t.unprunable_reason is None)


@pytest.mark.parametrize(
    ("patterns", "message", "hint"),
    [
        (("modle",), "no tensors at the key 'modle'", "key='model'"),
        (("model", "net*"), "no tensors at a key that matches 'net*'", "key="),
        (("model", "model.0"), "the key 'model.0' is inside the key 'model'", "key=['model']"),
    ],
)
def test_wrong_keys(patterns: tuple[str, ...], message: str, hint: str) -> None:
    """The hint has keys that hold weights, not statistics or optimizers."""
    file = {**FILE, "model": {"0": {"w": torch.rand(3, 3)}}}

    with pytest.raises(CheckpointError) as caught:
        listing(saved(file), patterns)

    assert message in str(caught.value)
    assert hint in str(caught.value.hint)
    assert not {"stats", "optimizer"} & set(str(caught.value.hint).replace(",", " ").split())


def test_several_keys_in_one_text_are_taken_apart() -> None:
    """The hint has one key for each."""
    with pytest.raises(CheckpointError) as caught:
        listing(saved({"model": state(), "ema": state()}), ("model,ema",))

    assert caught.value.hint == "key=['model', 'ema']"


def test_a_glob_for_a_plain_state_dict_is_refused() -> None:
    """A file that is one state_dict has no keys."""
    with pytest.raises(CheckpointError, match="no tensors at a key that matches"):
        listing(saved(state()), ("*",))


@pytest.mark.parametrize("wrap", [OrderedDict, dict], ids=["OrderedDict", "dict"])
def test_pickles_of_arrays_have_keys_too(wrap: Any) -> None:  # noqa: ANN401 - a class of dicts
    """The search is the same for pickles of NumPy arrays."""
    arrays = wrap((n, t.numpy()) for n, t in state().items())
    data = pickle.dumps({"model": arrays, "ema": arrays | {"0.weight": np.ones((8, 4), "f4")}}, protocol=4)

    assert read_numpy_pickle(io.BytesIO(data), "x").keys == ("model",)
    assert read_numpy_pickle(io.BytesIO(data), "x", ["*"]).keys == ("model", "ema")


# --- hostile files


def tensor() -> Call:
    """Return a leaf."""
    return Call(Global("torch._utils", "_rebuild_tensor_v2"), ())


def test_shared_parts_are_searched_once() -> None:
    """A file in which every entry shares its parts, or contains itself, ends at once."""
    shared: dict[object, object] = {"empty": {"deep": {"deeper": [[]]}}}
    shared["self"] = shared
    root = {f"part{i}": {"a": shared, "b": {"c": shared}} for i in range(3000)} | {"model": {"w": tensor()}}
    calls = []

    def shape_of(leaf: object) -> tuple[int, ...]:
        calls.append(leaf)
        return (3, 3)

    found = find_leaves(root, "x", ("*",), shape_of)

    assert found.keys == ("model",)
    assert len(calls) < 100


def test_a_chain_of_wrappers_ends() -> None:
    """Levels of containers above a state_dict are limited."""
    root: dict[object, object] = {"w": tensor()}
    for _ in range(100):
        root = {"model": root}

    assert find_leaves(root, "x", (), lambda _: (3, 3)).keys[0].startswith("model.model")


def test_a_container_that_contains_itself_is_entered_once() -> None:
    """State_dicts are not looked for again and again inside a dict that contains itself."""
    top: dict[str, Any] = {"no.elements": torch.rand(0, 2), "one": {"a.weight": torch.rand(2, 2)}}
    top |= {"b": top, "c": top}

    found = listing(saved(top))

    assert [tensor.name for tensor in found.tensors] == ["no.elements", "one.a.weight"]
    assert found.keys == ()
