"""Strips of training checkpoints, compared with what torch loads and casts."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from support import make_checkpoint
from torch import nn

from prunecli import L1, CheckpointError, Recipe, Rule, Strip, prune, strip
from prunecli.errors import PruneError

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


def model() -> nn.Module:
    """Return a small model with a layer whose state has integers."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(30, 40), nn.BatchNorm1d(40), nn.Linear(40, 5))


def half(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the weights divided by two, as moving averages that differ from them."""
    return {name: t / 2 if t.is_floating_point() else t for name, t in weights.items()}


@pytest.fixture
def training(tmp_path: Path) -> Path:
    """Return a checkpoint of a trainer: a wrapped model, optimizer, scheduler, scaler, averages, gradients."""
    net = model()
    optimizer = torch.optim.AdamW(net.parameters())
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3)
    net(torch.rand(8, 30)).sum().backward()
    optimizer.step()
    scheduler.step()
    saved = {
        "epoch": 3,
        "args": argparse.Namespace(lr=0.1),
        "state_dict": nn.DataParallel(net).state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "state_dict_ema": half(net.state_dict()),
        "grads": {"0.weight": net[0].weight.grad},
        "scaler": {"scale": 65536.0},
    }
    torch.save(saved, tmp_path / "train.pth")
    return tmp_path / "train.pth"


@pytest.fixture
def diffusion(tmp_path: Path) -> Path:
    """Return a checkpoint of Stable Diffusion's trainer: averages without dots in the same state_dict."""
    weights = model().state_dict()
    saved = {f"model.{name}": t for name, t in weights.items()}
    saved |= {f"model_ema.{name.replace('.', '')}": t for name, t in half(weights).items()}
    saved |= {"model_ema.decay": torch.tensor(0.9), "first_stage_model.weight": torch.ones(3, 3)}
    torch.save({"state_dict": saved, "global_step": 7}, tmp_path / "sd.ckpt")
    return tmp_path / "sd.ckpt"


def test_everything_but_the_weights_goes_and_the_rest_keeps_its_structure(training: Path) -> None:
    """The optimizer and the like are gone, other entries stay, names lose their prefix, and the model loads it."""
    before = torch.load(training, weights_only=False)

    result = strip(training)

    after = torch.load(training.with_name("train.stripped.pth"), weights_only=False)
    assert list(after) == ["epoch", "args", "state_dict"]
    assert (after["epoch"], after["args"]) == (3, argparse.Namespace(lr=0.1))
    net = model()
    net.load_state_dict(after["state_dict"], strict=True)
    assert after["state_dict"]._metadata == net.state_dict()._metadata
    assert all(torch.equal(after["state_dict"][n[7:]], t) for n, t in before["state_dict"].items())
    assert {(one.name, one.role, one.tensors) for one in result.dropped} == {
        ("optimizer", "optimizer", 18),
        ("scheduler", "scheduler", 0),
        ("state_dict_ema", "EMA", 9),
        ("grads", "gradients", 1),
        ("scaler", "training state", 0),
    }
    ema = sum(t.nbytes for t in before["state_dict_ema"].values() if t.is_floating_point())  # integers are shared
    assert next(one.nbytes for one in result.dropped if one.role == "EMA") == ema
    assert result.unwrapped == 9


def test_averages_take_the_place_of_the_weights(training: Path, diffusion: Path) -> None:
    """`keep="ema"` has the averages under the names of the model; weights without an average stay."""
    strip(training, training.with_name("ema.pth"), keep="ema")
    strip(diffusion, diffusion.with_name("ema.ckpt"), keep="ema")
    strip(diffusion, diffusion.with_name("ema.safetensors"), keep="ema")

    expected = half(model().state_dict())
    after = torch.load(diffusion.with_name("ema.ckpt"))
    assert after["global_step"] == 7
    stage = {"first_stage_model.weight"}
    assert {f"model.{name}" for name in expected} | stage == set(after["state_dict"])
    assert all(torch.equal(t, after["state_dict"][f"model.{name}"]) for name, t in expected.items())
    flat = load_file(diffusion.with_name("ema.safetensors"))
    assert all(torch.equal(t, flat[name]) for name, t in after["state_dict"].items())
    before = torch.load(training, weights_only=False)["state_dict_ema"]
    after = torch.load(training.with_name("ema.pth"), weights_only=False)
    assert list(after) == ["epoch", "args", "state_dict"]
    assert all(torch.equal(t, after["state_dict"][name]) for name, t in before.items())
    model().load_state_dict(after["state_dict"])


def test_patterns_keep_what_they_match(diffusion: Path) -> None:
    """A glob keeps one part of the model, and several keep several."""
    strip(diffusion, diffusion.with_name("part.ckpt"), keep=["first_stage*", "model.0.*"])

    after = torch.load(diffusion.with_name("part.ckpt"))
    assert list(after["state_dict"]) == ["model.0.weight", "model.0.bias", "first_stage_model.weight"]


@pytest.mark.parametrize("to", DTYPES)
@pytest.mark.parametrize("output", ["cast.pth", "cast.safetensors"])
def test_casts_have_the_bits_of_torch(to: str, output: str, training: Path) -> None:
    """Floating-point weights are those of `.to()`; integers stay, and both formats have the same."""
    before = torch.load(training, weights_only=False)["state_dict"]

    result = strip(training, training.with_name(output), to=to)

    path = training.with_name(output)
    after = load_file(path) if output.endswith("safetensors") else torch.load(path, weights_only=False)["state_dict"]
    for name, tensor in before.items():
        wanted = tensor.to(DTYPES[to]) if tensor.is_floating_point() else tensor
        assert wanted.dtype == after[name[7:]].dtype
        assert torch.equal(wanted, after[name[7:]])
    floats = [t for t in before.values() if t.is_floating_point()]
    assert result.casts == (("F32", "F16" if to == "fp16" else "BF16", 8, sum(t.nbytes // 2 for t in floats)),)


def test_overflow_is_counted_and_refused(tmp_path: Path) -> None:
    """Finite weights that fp16 cannot hold are an error, or with allow_overflow a warning."""
    weights = torch.tensor([1e5, -1e6, 1.0, torch.inf, 1e-9, 0.0])
    torch.save({"a.weight": weights, "b.weight": torch.ones(2)}, tmp_path / "in.pth")

    for dry_run in (False, True):
        with pytest.raises(CheckpointError, match="2 weights beyond the range of fp16 would become infinite"):
            strip(tmp_path / "in.pth", to="fp16", dry_run=dry_run)
    assert [path.name for path in tmp_path.iterdir()] == ["in.pth"]

    result = strip(tmp_path / "in.pth", to="fp16", allow_overflow=True)
    assert result.warnings == (
        "2 weights beyond the range of fp16 became infinite, 2 of them in 'a.weight'",
        "1 weight too small for fp16 became zero, 1 of them in 'a.weight'",
    )
    assert torch.equal(weights.half(), torch.load(tmp_path / "in.stripped.pth")["a.weight"])
    assert strip(tmp_path / "in.pth", tmp_path / "b.pth", to="bf16").warnings == ()


def test_pruning_strips_in_the_same_pass(training: Path) -> None:
    """Strip, prune and cast at once give the bytes of strip, prune, then cast, also by a recipe."""
    strip(training, training.with_name("s.safetensors"))
    prune(training.with_name("s.safetensors"), L1(amount=0.5), output=training.with_name("p.safetensors"), reports=())
    strip(training.with_name("p.safetensors"), training.with_name("two.safetensors"), to="fp16")

    kept = Strip(to="fp16")
    one, by_recipe = training.with_name("one.safetensors"), training.with_name("recipe.safetensors")
    report = prune(training, L1(amount=0.5), output=one, reports=(), strip=kept)
    prune(training, Recipe((Rule(L1(amount=0.5)),), strip=kept), output=by_recipe, reports=())

    assert training.with_name("two.safetensors").read_bytes() == one.read_bytes() == by_recipe.read_bytes()
    assert [row.name for row in report.rows if row.selected] == ["0.weight", "2.weight"]
    assert any(fact.startswith("dropped: 'optimizer' (optimizer, 18 tensors") for fact in report.facts)


def test_a_file_can_be_stripped_in_place(training: Path) -> None:
    """The input is replaced by what is left of it, and stripping again changes nothing."""
    strip(training, in_place=True)
    (training.parent / "again").mkdir()

    result = strip(training, training.parent / "again" / training.name)

    assert result.dropped == ()
    assert training.read_bytes() == (training.parent / "again" / training.name).read_bytes()


def test_parts_of_wrappers_leave_names(tmp_path: Path) -> None:
    """Compiled, sharded and parallel models lose the parts of their wrappers; a module of the model keeps its name."""
    names = ["module._orig_mod.a.weight", "module.b._checkpoint_wrapped_module.weight", "module.module.weight"]
    save_file({name: torch.rand(2) for name in names}, tmp_path / "in.safetensors")
    save_file({"module.x": torch.rand(2), "head.x": torch.rand(2)}, tmp_path / "own.safetensors")

    strip(tmp_path / "in.safetensors")
    strip(tmp_path / "own.safetensors")

    assert sorted(load_file(tmp_path / "in.stripped.safetensors")) == ["a.weight", "b.weight", "module.weight"]
    assert sorted(load_file(tmp_path / "own.stripped.safetensors")) == ["head.x", "module.x"]


def test_shards_stay_shards(tmp_path: Path) -> None:
    """A directory is stripped into a directory, with the other files."""
    source = make_checkpoint("safetensors-shards", tmp_path)

    result = strip(source, to="bf16")

    output = source.with_name(f"{source.name}.stripped")
    assert result.output_path == str(output)
    assert (output / "config.json").read_bytes() == (source / "config.json").read_bytes()
    with safe_open(next(output.glob("*.safetensors")), "pt") as file:
        assert "bfloat16" in {str(file.get_tensor(name).dtype).removeprefix("torch.") for name in file.keys()}  # noqa: SIM118


@pytest.mark.parametrize("container", ["safetensors-shards", "bin-shards"])
def test_shards_are_replaced_by_the_new_ones(container: str, tmp_path: Path) -> None:
    """In place, shards and their index go, other files stay, and a file that is no part of the checkpoint is kept."""
    source = make_checkpoint(container, tmp_path)
    strip(source, tmp_path / "expected")

    strip(source, in_place=True)

    files = {path.relative_to(source): path.read_bytes() for path in source.rglob("*") if path.is_file()}
    expected = tmp_path / "expected"
    assert files == {path.relative_to(expected): path.read_bytes() for path in expected.rglob("*") if path.is_file()}
    assert (source / "config.json").is_file()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep": "nope.*"}, "the keep pattern 'nope.*' matches none of"),
        ({"keep": "ema"}, "has no moving averages"),
        ({"to": "int8"}, "a cast leads to fp16 or bf16, not 'int8'"),
        ({"allow_overflow": True}, "no weight can overflow without a cast"),
        ({"output": None, "in_place": True, "format": "safetensors"}, "a file that is replaced keeps its format"),
        ({"output": "o.gguf"}, "would be GGUF, which is not written"),
    ],
)
def test_wrong_requests_are_refused(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    """One sentence says what is wrong, and there is no output."""
    torch.save({"a.weight": torch.ones(2, 2)}, tmp_path / "in.pth")
    name = options.pop("output", "out.pth")
    output = None if name is None else tmp_path / name

    with pytest.raises(PruneError, match=message.replace("*", r"\*")):
        strip(tmp_path / "in.pth", output, **options)

    assert [path.name for path in tmp_path.iterdir()] == ["in.pth"]


def test_names_that_collide_are_refused(tmp_path: Path) -> None:
    """Two tensors would get one name: the prefixes stay, if the user says so."""
    save_file({"a._orig_mod.w": torch.ones(2), "a.w": torch.ones(2)}, tmp_path / "in.safetensors")

    with pytest.raises(CheckpointError, match=r"two tensors have the name 'a\.w'"):
        strip(tmp_path / "in.safetensors")

    assert strip(tmp_path / "in.safetensors", unwrap=False).unwrapped == 0


def test_the_format_that_is_named_is_written(tmp_path: Path) -> None:
    """`format` decides the default name of a file, what a directory has, and what goes to a descriptor."""
    torch.save({"model": {"w": torch.ones(2, 2)}, "optimizer": {"state": {0: torch.ones(2, 2)}}}, tmp_path / "in.pth")
    shards = make_checkpoint("bin-shards", tmp_path)

    file = strip(tmp_path / "in.pth", format="safetensors")
    same = strip(tmp_path / "in.pth", format="torch")
    folder = strip(shards, format="safetensors")
    with (tmp_path / "pipe").open("w+b") as pipe:
        strip(tmp_path / "in.pth", pipe.fileno(), format="safetensors")

    assert [file.output_path, same.output_path] == [str(tmp_path / f"in.stripped.{s}") for s in ("safetensors", "pth")]
    assert (tmp_path / "in.stripped.safetensors").read_bytes() == (tmp_path / "pipe").read_bytes()
    assert list(load_file(tmp_path / "pipe")) == ["w"]
    assert folder.output_format == "safetensors"
    assert (Path(str(folder.output_path)) / "model.safetensors").is_file()


def test_a_tensor_may_have_any_name(tmp_path: Path) -> None:
    """A tensor named as the key of the metadata goes like any other."""
    torch.save({"w": torch.ones(2, 2), "format": torch.ones(2, 2)}, tmp_path / "in.pth")

    strip(tmp_path / "in.pth", keep="w")

    assert list(torch.load(tmp_path / "in.stripped.pth")) == ["w"]


def test_averages_that_are_no_weights_of_the_model_are_refused(tmp_path: Path) -> None:
    """An average whose name or shape fits no weight cannot take its place."""
    saved = {"model": {"w": torch.ones(2, 2)}, "ema": {"w": torch.ones(3, 3), "v": torch.ones(2, 2)}}
    torch.save(saved, tmp_path / "in.pth")

    with pytest.raises(CheckpointError, match=r"no moving average can be matched .*: the first is 'ema\.w'"):
        strip(tmp_path / "in.pth", keep="ema")


@pytest.mark.parametrize(
    "saved",
    [
        [{"_orig_mod.w": torch.ones(2, 2)}, {"module.v": torch.ones(2, 2)}],
        {"model": {"a": {"_orig_mod": {"w": torch.ones(2, 2)}}}},
    ],
)
def test_prefixes_that_are_no_part_of_a_key_are_kept_or_refused(saved: Any, tmp_path: Path) -> None:  # noqa: ANN401
    """In a list, or as a dict of its own, a wrapper cannot leave the names while the object keeps its structure."""
    torch.save(saved, tmp_path / "in.pth")

    with pytest.raises(CheckpointError, match="the prefix of a wrapper cannot be removed from ") as error:
        strip(tmp_path / "in.pth")

    assert error.value.hint == "keep the prefixes: unwrap=False"
    assert [path.name for path in tmp_path.iterdir()] == ["in.pth"]
    assert strip(tmp_path / "in.pth", unwrap=False).unwrapped == 0
    assert strip(tmp_path / "in.pth", tmp_path / "out.safetensors").unwrapped == 1


def test_a_dict_that_is_in_two_places_or_in_itself_stays_one(tmp_path: Path) -> None:
    """Names change once in a dict that two entries share, and a dict that holds itself has an end."""
    weights: dict[str, Any] = {"module.a": torch.ones(2, 2), "module.b": torch.ones(3)}
    torch.save({"model": weights, "same": weights, "optimizer": {"state": {}, "lr": 1}}, tmp_path / "in.pth")
    cyclic: dict[str, Any] = {"w": torch.ones(2, 2)}
    cyclic["self"] = cyclic
    torch.save({"model": cyclic, "optimizer": 1}, tmp_path / "cyclic.pth")

    strip(tmp_path / "in.pth")
    strip(tmp_path / "cyclic.pth")

    after = torch.load(tmp_path / "in.stripped.pth")
    assert (list(after), list(after["model"])) == (["model", "same"], ["a", "b"])
    assert after["model"] is after["same"]
    after = torch.load(tmp_path / "cyclic.stripped.pth", weights_only=False)
    assert list(after) == ["model"]
    assert after["model"]["self"] is after["model"]
