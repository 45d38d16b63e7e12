"""`--key` and what the output says about copies of the weights, as the user sees it."""

from __future__ import annotations

import json
import shlex
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
import torch
from support.command_line import HALF
from torch import nn

if TYPE_CHECKING:
    from pathlib import Path

    from support.command_line import Prune, Ran


def state(width: int = 8) -> dict[str, torch.Tensor]:
    """Return the state_dict of two layers."""
    weights: dict[str, torch.Tensor] = nn.Sequential(nn.Linear(16, width), nn.Linear(width, 4)).state_dict()
    return weights


def whole() -> nn.Module:
    """Return a module that is pickled whole, as YOLO's are."""
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).half()


def save(path: Path, value: object) -> Path:
    """Save `value` as torch does."""
    torch.save(value, path)
    return path


def zeros(part: object) -> list[int]:
    """Return the zeros of the matrices and kernels of a module or state_dict."""
    tensors = part.state_dict() if isinstance(part, nn.Module) else part
    assert isinstance(tensors, dict)
    return [int((tensor == 0).sum()) for tensor in tensors.values() if tensor.dim() > 1]


def hints(ran: Ran) -> list[str]:
    """Return the hints that were printed."""
    return [line.removeprefix("hint: ") for line in ran.err.splitlines() if line.startswith("hint: ")]


FILES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "timm": ({"state_dict": state(), "state_dict_ema": state(), "optimizer": {}}, ["state_dict", "state_dict_ema"]),
    "BasicSR": ({"params": state(), "params_ema": state()}, ["params", "params_ema"]),
    "YOLO": ({"model": whole(), "ema": whole(), "updates": 9}, ["model", "ema"]),
    "GAN": ({"G": state(), "D": state(6), "g_ema": state()}, ["G", "D", "g_ema"]),
    "module": ({"model": state(), "ema": {"module": state()}}, ["model", "ema.module"]),
}


@pytest.mark.parametrize("case", list(FILES))
def test_the_hint_about_an_ema_copy_is_the_command_that_prunes_it_too(case: str, prune: Prune, tmp_path: Path) -> None:
    """The warning names the copy, and the hint, typed as it is, prunes all of them."""
    value, keys = FILES[case]
    path, output = save(tmp_path / "in put.pth", value), tmp_path / "out.pth"

    first = prune("l1", path, *HALF, "-o", output)
    (hint,) = hints(first)
    words = shlex.split(hint)
    second = prune(*words[1:])

    assert first.code == second.code == 0
    assert f"warning: '{keys[-1]}' is an EMA copy" in first.err
    assert f"left alone: '{keys[-1]}' (" in first.out.splitlines()[3]
    assert words[0] == "prune"
    assert [word for before, word in pairwise(words) if before == "--key"] == keys
    assert second.err == ""
    assert "each ranked separately" in second.out.splitlines()[3]
    loaded = torch.load(output, weights_only=False)
    for key in keys:
        part = loaded
        for name in key.split("."):
            part = part[name]
        assert all(zeros(part))


def test_the_hint_replaces_the_key_and_forces_once(prune: Prune, tmp_path: Path) -> None:
    """A key on the command line is not repeated, and neither is --force."""
    path = save(tmp_path / "in.pth", FILES["timm"][0])

    ran = prune("l1", path, *HALF, "--key", "state_dict", "-f", "-o", tmp_path / "o.pth")
    dry = prune("l1", path, *HALF, "--key=state_dict", "-n")

    assert [hint.count("--key ") for hint in (*hints(ran), *hints(dry))] == [2, 2]
    assert all("--force" not in hint for hint in (*hints(ran), *hints(dry)))
    assert "state_dict  would prune 'state_dict'; left alone: 'state_dict_ema' (4 tensors, " in dry.out


def test_files_without_another_copy(prune: Prune, tmp_path: Path) -> None:
    """A plain state_dict has no line; one that holds only an EMA copy is pruned without a warning."""
    plain = prune("l1", save(tmp_path / "a.pth", state()), *HALF, "-n")
    ema = prune("l1", save(tmp_path / "b.pth", {"model": None, "ema": whole()}), *HALF, "-n")
    head = prune("l1", save(tmp_path / "c.pth", {"net": state(), "head": state(5)}), *HALF, "-n")

    assert "state_dict" not in plain.out
    assert "state_dict  would prune 'ema'\n" in ema.out
    assert "state_dict  would prune 'net'; left alone: 'head' (4 tensors, " in head.out
    assert (plain.err, ema.err, head.err) == ("", "", "")


@pytest.mark.parametrize(
    "optimizer",
    [
        {"fp32_flat_groups": [torch.rand(200)]},
        {"optimizer_state_dict": {"single_partition_of_fp32_groups": [torch.rand(200)]}},
        {"fp32_from_fp16_params": [[torch.rand(16, 8)]]},
        {"state": {0: {"exp_avg": torch.rand(4), "master_param": torch.rand(8, 16)}}},
        {"param_groups": [{"master": [torch.rand(8, 16)]}]},
    ],
)
def test_fp32_copies_of_an_optimizer_are_warned_about(optimizer: object, prune: Prune, tmp_path: Path) -> None:
    """Resuming takes them, so the pruned weights come back."""
    half = {name: tensor.half() for name, tensor in state().items()}
    ran = prune("l1", save(tmp_path / "a.pth", {"module": half, "optimizer": optimizer}), *HALF, "-n")

    assert ran.code == 0
    assert "warning: 1 tensor of the optimizer holds the weights" in ran.err
    assert "the pruned weights come back" in ran.err


def test_moments_are_no_copies(prune: Prune, tmp_path: Path) -> None:
    """A usual optimizer is not warned about."""
    value = {"model": state(), "optimizer": {"state": {0: {"exp_avg": torch.rand(8, 16)}}}}

    assert prune("l1", save(tmp_path / "a.pth", value), *HALF, "-n").err == ""


def test_a_key_that_matches_nothing_names_the_keys(prune: Prune, tmp_path: Path) -> None:
    """The run is refused before anything is written."""
    path = save(tmp_path / "a.pth", FILES["timm"][0])

    ran = prune("l1", path, *HALF, "--key", "model*")

    assert ran.code == 2
    assert "no tensors at a key that matches 'model*'" in ran.err
    assert "--key state_dict" in ran.err
    assert [file.name for file in tmp_path.iterdir()] == ["a.pth"]


def test_a_key_of_statistics_proposes_the_keys_of_weights(prune: Prune, tmp_path: Path) -> None:
    """The mean of the inputs is not proposed."""
    value = {"stats": {"mean": torch.rand(3), "std": torch.rand(3)}, "encoder": state(), "decoder": state(5)}

    ran = prune("l1", save(tmp_path / "a.pth", value), *HALF, "--key", "stats")

    assert ran.code == 2
    assert hints(ran) == ["--key encoder (other keys: decoder)"]


def test_an_ema_copy_next_to_weights_without_a_key(prune: Prune, tmp_path: Path) -> None:
    """Weights at the top of the file have no key that could be given together with another one."""
    ran = prune("l1", save(tmp_path / "a.pth", {**state(), "ema": state()}), *HALF, "-o", tmp_path / "o.pth")

    assert hints(ran) == ["prune the output once more, with --key ema"]
    assert prune("l1", tmp_path / "o.pth", *HALF, "--key", "ema", "-n").code == 0


def test_a_list_of_averages_is_an_ema_copy(prune: Prune, tmp_path: Path) -> None:
    """torch_ema stores the averages in a list without names; the hint prunes the matrices among them."""
    shadow = {"decay": 0.9, "shadow_params": [*state().values()]}
    path = save(tmp_path / "a.pth", {"state_dict": state(), "ema": shadow})

    ran = prune("l1", str(path), *HALF, "-o", str(tmp_path / "b.pth"))
    again = prune(*shlex.split(hints(ran)[0])[1:])

    saved = torch.load(tmp_path / "b.pth", weights_only=True)
    assert "no tensor of" not in again.err
    assert [int((tensor == 0).sum()) for tensor in saved["ema"]["shadow_params"]] == [64, 0, 16, 0]
    assert zeros(saved["state_dict"]) == [64, 16]


def test_a_mask_of_other_keys_names_them(prune: Prune, tmp_path: Path) -> None:
    """A mask has the names of the run that wrote it; the hint has the keys for them, and works."""
    path = str(save(tmp_path / "a.pth", {"a": state(), "b": state()}))
    masks, both = [str(tmp_path / name) for name in ("1.safetensors", "2.safetensors")], ["--key", "a", "--key", "b"]
    prune("l1", path, *HALF, "-n", "--mask-out", masks[0], "--key", "b")
    prune("l1", path, *HALF, "-n", "--mask-out", masks[1], *both)

    one = prune("mask", path, "--mask", masks[0], *both)
    several = prune("mask", path, "--mask", masks[1], "--key", "a")

    assert hints(one) == ["the mask is one of a single state_dict: --key a or --key b"]
    assert hints(several) == [shlex.join(["prune", "mask", path, "--mask", masks[1], *both])]
    assert prune(*shlex.split(hints(several)[0])[1:]).code == 0


def test_a_pattern_of_another_state_dict_gets_its_key(prune: Prune, tmp_path: Path) -> None:
    """The key is added to the one that is taken, because a pattern has the key only where several are taken."""
    path = str(save(tmp_path / "a.pth", {"model": state(), "ema": state()}))

    refused = prune("l1", path, *HALF, "-i", "ema.*", "-o", str(tmp_path / "o.pth"))

    assert hints(refused)[0].endswith("--key model --key ema")
    assert prune(*shlex.split(hints(refused)[0])[1:]).code == 0
    saved = torch.load(tmp_path / "o.pth", weights_only=True)
    assert (zeros(saved["model"]), zeros(saved["ema"])) == ([0, 0], [64, 16])


def test_a_key_of_which_nothing_is_pruned_is_warned_about(prune: Prune, tmp_path: Path) -> None:
    """Several keys are all named in the first line, so one without a weight is a warning."""
    path = save(tmp_path / "a.pth", {"a": state(), "b": {"scales": torch.rand(4, 4)}})

    ran = prune("l1", str(path), *HALF, "-n", "--key", "a", "--key", "b")

    assert "warning: no tensor of 'b' is pruned: all of them are skipped\n" in ran.err


def test_other_commands_take_several_keys(prune: Prune, tmp_path: Path) -> None:
    """`inspect`, `scan`, `check`, `diff`, `search` and recipes name the tensors of all of them."""
    path, output = save(tmp_path / "a.pth", FILES["timm"][0]), tmp_path / "b.pth"
    keys = ("--key", "state_dict*")
    recipe = tmp_path / "r.toml"
    recipe.write_text('rule = [{strategy = "global", amount = 0.5}]')

    assert prune("run", recipe, path, "-o", output, *keys).code == 0
    listed = json.loads(prune("inspect", output, *keys, "--json").out)
    scanned = json.loads(prune("scan", output, *keys, "--json").out)

    names = [f"{key}.{name}" for key in FILES["timm"][1] for name in state()]
    assert [tensor["name"] for tensor in listed["tensors"]] == names
    assert listed["input"]["keys"] == scanned["input"]["keys"] == FILES["timm"][1]
    assert len(scanned["tensors"]) == 4
    assert prune("check", output, *keys, "--min-sparsity", "0.5").code == 0
    assert prune("check", output, *keys, "--only-zeros-added-since", path).code == 0
    assert prune("check", path, *keys, "--min-sparsity", "0.5").code == 1
    different = prune("diff", path, output, *keys, "--json")
    assert different.code == 1
    changed = [tensor["name"] for tensor in json.loads(different.out)["tensors"]]
    assert changed == [name for name in names if name.endswith("weight")]


def test_two_files_with_different_state_dicts_are_compared_by_key(prune: Prune, tmp_path: Path) -> None:
    """The names of both start with the key, although one of them has a single state_dict."""
    model, ema = state(), state()
    both = save(tmp_path / "a.pth", {"model": model, "ema": ema})
    single = save(tmp_path / "b.pth", {"model": model})

    different = json.loads(prune("diff", both, single, "--key", "*", "--json").out)

    assert {tensor["name"] for tensor in different["tensors"]} == {f"ema.{name}" for name in ema}
    assert prune("check", both, "--key", "*", "-i", "model.*", "--same-structure-as", single).code == 0


def test_inspect_says_what_is_taken(prune: Prune, tmp_path: Path) -> None:
    """It has the same line as the pruning commands."""
    out = prune("inspect", save(tmp_path / "a.pth", FILES["timm"][0])).out

    assert "\nstate_dict   takes 'state_dict'; left alone: 'state_dict_ema' (4 tensors, " in out
    assert "'state_dict_ema' is an EMA copy" in out
    assert "state_dict   " not in prune("inspect", save(tmp_path / "b.pth", state())).out
