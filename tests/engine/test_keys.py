"""Several state_dicts in one run: each is pruned as torch.nn.utils.prune prunes it alone."""

from __future__ import annotations

import re
import tempfile
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from support.profiles import examples
from torch import nn
from torch.nn.utils import prune as torch_prune

import prunecli
from prunecli.errors import CheckpointError, Notice, PruneError, UsageError
from prunecli.strategies.strategy import Strategy
from prunecli.strategies.structured import Structured
from prunecli.strategies.thresholds import Threshold
from prunecli.strategies.unstructured import L1, Global, Random

if TYPE_CHECKING:
    from collections.abc import Callable

    from prunecli.report.model import Report

Weights = dict[str, torch.Tensor]

LEGACY = pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])


def net(seed: int) -> nn.Module:
    """Return a small module, the same for the same seed."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(32, 5))


def state(seed: int) -> Weights:
    """Return the state_dict of `net`."""
    return {name: tensor.clone() for name, tensor in net(seed).state_dict().items()}


def alone(seed: int, kind: str) -> Weights:
    """Return the state_dict of `net` after torch has pruned it."""
    model = net(seed)
    layers = [(model[0], "weight"), (model[3], "weight")]  # type: ignore[index]
    if kind == "global":
        torch_prune.global_unstructured(layers, torch_prune.L1Unstructured, amount=0.4)
    for layer, name in layers:
        if kind == "l1":
            torch_prune.l1_unstructured(layer, name, 0.4)
        if kind == "structured":
            torch_prune.ln_structured(layer, name, 0.4, n=2, dim=0)
        torch_prune.remove(layer, name)
    weights: Weights = model.state_dict()
    return weights


STRATEGIES: dict[str, Strategy] = {
    "l1": L1(amount=0.4),
    "global": Global(amount=0.4),
    "structured": Structured(amount=0.4),
}


def saved(path: Path, value: object, *, legacy: bool = False) -> Path:
    """Save `value` as torch does and return the path."""
    torch.save(value, path, _use_new_zipfile_serialization=not legacy)
    return path


def run(path: Path, strategy: Strategy | prunecli.Recipe, **options: Any) -> tuple[Any, Report]:  # noqa: ANN401 - what was saved
    """Prune the file and return what torch loads from the output, and the report."""
    output = path.with_name("out.pth")
    report = prunecli.prune(path, strategy, output=output, reports=(), force=True, **options)
    return torch.load(output, weights_only=False), report


def hints(report: Report) -> list[str]:
    """Return the hints of the warnings about EMA copies."""
    notices = [warning for warning in report.warnings if isinstance(warning, Notice) and "EMA" in warning]
    return [str(notice.hint_parts) for notice in notices]


def equal(a: object, b: object) -> bool:
    """Return whether two state_dicts, or a module and a state_dict, have equal tensors."""
    one, other = (part.state_dict() if isinstance(part, nn.Module) else part for part in (a, b))
    assert isinstance(one, dict)
    assert isinstance(other, dict)
    return sorted(one) == sorted(other) and all(torch.equal(one[name], other[name]) for name in one)


@LEGACY
@pytest.mark.parametrize("kind", list(STRATEGIES))
@pytest.mark.parametrize(
    "make", [state, lambda seed: OrderedDict(state(seed)), net], ids=["dict", "OrderedDict", "module"]
)
def test_each_state_dict_is_pruned_as_if_it_were_alone(
    make: Callable[[int], object],
    kind: str,
    legacy: bool,  # noqa: FBT001
    tmp_path: Path,
) -> None:
    """Ranks and amounts are those of each state_dict; what is not taken keeps its bits."""
    value = {"model": make(0), "ema": {"module": make(1)}, "old": make(2), "epoch": 3}
    path = saved(tmp_path / "in.pth", value, legacy=legacy)

    loaded, report = run(path, STRATEGIES[kind], key=["model", "ema*"])

    assert equal(loaded["model"], alone(0, kind))
    assert equal(loaded["ema"]["module"], alone(1, kind))
    assert equal(loaded["old"], state(2))
    assert report.keys == ("model", "ema.module")
    assert [row.name for row in report.rows if row.selected] == [
        f"{key}.{name}" for key in report.keys for name in ("0.weight", "3.weight")
    ]


@pytest.mark.parametrize("kind", list(STRATEGIES))
def test_one_key_gives_the_same_bytes_as_that_key_of_several(kind: str, tmp_path: Path) -> None:
    """A run for one key after the other equals one run for both."""
    path = saved(tmp_path / "in.pth", {"model": state(0), "ema": state(1)})
    for number, key in enumerate(("model", "ema")):
        source = path if not number else tmp_path / "step0.pth"
        prunecli.prune(source, STRATEGIES[kind], output=tmp_path / f"step{number}.pth", reports=(), key=key)

    prunecli.prune(path, STRATEGIES[kind], output=tmp_path / "out.pth", reports=(), key="*")

    assert (tmp_path / "step1.pth").read_bytes() == (tmp_path / "out.pth").read_bytes()


def test_random_weights_do_not_depend_on_the_key(tmp_path: Path) -> None:
    """The same seed prunes the same places of each copy, as if the copy were alone."""
    path = saved(tmp_path / "in.pth", {"model": state(0), "ema": state(1)})

    together, _ = run(path, Random(amount=0.5), key="*")
    single, _ = run(path, Random(amount=0.5), key="ema")

    assert equal(together["ema"], single["ema"])
    assert torch.equal(together["model"]["0.weight"] == 0, together["ema"]["0.weight"] == 0)


def test_patterns_match_the_name_inside_each_state_dict_or_the_whole_name(tmp_path: Path) -> None:
    """`3.*` chooses a layer of every copy, `ema.3.*` that of one."""
    path = saved(tmp_path / "in.pth", {"model": state(0), "ema": state(1)})

    def selected(**patterns: list[str]) -> list[str]:
        report = prunecli.prune(path, Threshold(0.1), dry_run=True, key=["model", "ema"], **patterns)  # type: ignore[arg-type]
        return [row.name for row in report.rows if row.selected]

    assert selected(include=["3.w*"]) == ["model.3.weight", "ema.3.weight"]
    assert selected(include=["re:^3.w"]) == ["model.3.weight", "ema.3.weight"]
    assert selected(include=["ema.3.w*"]) == ["ema.3.weight"]
    assert selected(exclude=["3.*", "model.*"]) == ["ema.0.weight"]


def test_tensors_that_are_shared_are_pruned_once_with_the_first_key(tmp_path: Path) -> None:
    """The first key ranks a shared tensor, and a fact says so."""
    first, second = state(0), state(1)
    second["3.weight"] = first["3.weight"]
    path = saved(tmp_path / "in.pth", {"a": first, "b": second})

    loaded, report = run(path, Global(amount=0.4), key=["b", "a"])

    assert torch.equal(loaded["a"]["3.weight"], loaded["b"]["3.weight"])
    assert [row.name for row in report.rows if row.selected] == ["b.0.weight", "b.3.weight", "a.0.weight"]
    assert int((loaded["a"]["0.weight"] == 0).sum()) == round(0.4 * 216)
    assert "1 tensor of 'b' and of 'a' are stored once: pruned once, as ranked in 'b'" in report.facts


def test_a_dict_under_two_keys_is_pruned_once(tmp_path: Path) -> None:
    """The second key has no tensor of its own."""
    weights = state(0)
    path = saved(tmp_path / "in.pth", {"a": weights, "b": weights})

    loaded, _ = run(path, L1(amount=0.4), key="*")

    assert equal(loaded["a"], alone(0, "l1"))
    assert equal(loaded["b"], alone(0, "l1"))


def test_counts_are_of_each_state_dict(tmp_path: Path) -> None:
    """A count that is more than one state_dict has is refused, although both together have it."""
    path = saved(tmp_path / "in.pth", {"model": state(0), "ema": state(1)})
    weights = 216 + 160

    loaded, _ = run(path, Global(count=100), key="*")

    for key in ("model", "ema"):
        assert sum(int((loaded[key][name] == 0).sum()) for name in ("0.weight", "3.weight")) == 100
    with pytest.raises(UsageError, match=f"{weights}"):
        run(path, Global(count=weights + 1), key="*")


def test_recipes_rank_each_state_dict_for_itself(tmp_path: Path) -> None:
    """A rule is applied to each state_dict, and later rules to what is left of it."""
    path = saved(tmp_path / "in.pth", {"model": state(0), "ema": state(1)})
    recipe = prunecli.Recipe((prunecli.Rule(Global(amount=0.4)), prunecli.Rule(L1(amount=0.5))))

    together, _ = run(path, recipe, key=["model", "ema"])

    for key in ("model", "ema"):
        single, _ = run(path, recipe, key=key)
        assert equal(together[key], single[key])


def test_masks_and_scores_have_the_names_with_keys(tmp_path: Path) -> None:
    """A mask that a run with keys writes prunes the same weights again; scores are found by the same names."""
    path, mask = saved(tmp_path / "in.pth", {"model": state(0), "ema": state(1)}), tmp_path / "mask.safetensors"
    loaded, report = run(path, Global(amount=0.4), key="*", mask_out=mask)
    names = [row.name for row in report.rows if row.selected]

    again, _ = run(path, prunecli.Mask(str(mask)), key="*")
    kept = prunecli.load_mask(mask)
    scores = {name: -kept[name].float() - torch.rand(kept[name].shape) / 2 for name in names}
    save_file({name: tensor.abs() for name, tensor in scores.items()}, tmp_path / "scores.safetensors")
    by_score, _ = run(path, Global(amount=0.4), key="*", scores=tmp_path / "scores.safetensors")

    assert sorted(kept) == sorted(names)
    for key in ("model", "ema"):
        assert equal(loaded[key], again[key])
        assert equal(loaded[key], by_score[key])
    save_file({"0.weight": torch.rand(8, 3, 3, 3)}, tmp_path / "plain.safetensors")
    with pytest.raises(CheckpointError, match=r"no scores for 'model\.0\.weight'"):
        run(path, Global(amount=0.4), key="*", scores=tmp_path / "plain.safetensors")


def test_shards_have_keys(tmp_path: Path) -> None:
    """The state_dicts of all shards are taken."""
    folder = tmp_path / "model"
    folder.mkdir()
    for number, names in enumerate((["0.weight", "0.bias"], ["3.weight", "3.bias"]), 1):
        value = {key: {name: state(seed)[name] for name in names} for seed, key in enumerate(("model", "ema"))}
        torch.save(value, folder / f"pytorch_model-0000{number}-of-00002.bin")

    report = prunecli.prune(folder, Global(amount=0.4), output=tmp_path / "out", reports=(), key="*")

    loaded = torch.load(tmp_path / "out" / "pytorch_model-00002-of-00002.bin", weights_only=True)
    assert report.keys == ("model", "ema")
    for seed, key in enumerate(("model", "ema")):
        assert torch.equal(loaded[key]["3.weight"], alone(seed, "global")["3.weight"])


@pytest.mark.parametrize("key", ["nothing", ["model", "nothing*"]])
def test_a_key_that_matches_nothing(key: str | list[str], tmp_path: Path) -> None:
    """The run is refused, and the hint has a key."""
    path = saved(tmp_path / "in.pth", {"model": state(0), "ema": state(1)})

    with pytest.raises(PruneError) as caught:
        run(path, L1(amount=0.4), key=key)

    assert "nothing" in str(caught.value)
    assert re.search("key='(model|ema)'", str(caught.value.hint))


@settings(max_examples=examples(20))
@given(
    st.lists(st.sampled_from(["a", "b", "c", "d"]), unique=True, min_size=1),
    st.sampled_from([*STRATEGIES.values(), Random(amount=0.3), Threshold(0.1)]),
)
def test_a_run_for_several_keys_equals_one_run_for_each(keys: list[str], strategy: Strategy) -> None:
    """In any order, for any choice of keys, the result has the bytes of the runs for one key after the other."""
    with tempfile.TemporaryDirectory() as folder:
        path = saved(Path(folder) / "0.pth", {key: state(seed) for seed, key in enumerate("abcd")})
        step = path
        for number, key in enumerate(keys, 1):
            output = path.with_name(f"{number}.pth")
            prunecli.prune(step, strategy, output=output, reports=(), key=key)
            step = output

        prunecli.prune(path, strategy, output=path.with_name("all.pth"), reports=(), key=keys)

        assert step.read_bytes() == path.with_name("all.pth").read_bytes()


# --- Stable Diffusion: an EMA copy inside one state_dict


def diffusion(*, ema: Callable[[str], str]) -> Weights:
    """Return a state_dict with a model and its EMA copy, whose names `ema` makes."""
    weights = {f"model.diffusion_model.{name}": tensor for name, tensor in state(0).items()}
    return weights | {f"model_ema.{ema(f'diffusion_model.{name}')}": tensor for name, tensor in state(1).items()}


@pytest.mark.parametrize("container", ["nested", "safetensors"])
def test_an_ema_copy_inside_the_state_dict_is_ranked_for_itself(container: str, tmp_path: Path) -> None:
    """`global` ranks the model without the copy, and the copy without the model."""
    weights = diffusion(ema=lambda name: name.replace(".", ""))
    path = tmp_path / ("in.safetensors" if container == "safetensors" else "in.pth")
    if container == "safetensors":
        save_file(weights, path)
    else:
        torch.save({"state_dict": weights}, path)

    output = tmp_path / f"out{path.suffix}"
    options: dict[str, Any] = {"include": ["*0weight", "*3weight", "*.weight"], "exclude": ["*1.weight"], "min_dim": 2}
    report = prunecli.prune(path, Global(amount=0.4), output=output, reports=(), **options)

    pruned = load_file(output) if container == "safetensors" else torch.load(output, weights_only=True)["state_dict"]
    for name in ("0.weight", "3.weight"):
        assert torch.equal(pruned[f"model.diffusion_model.{name}"], alone(0, "global")[name])
        assert torch.equal(pruned[f"model_ema.diffusion_model{name.replace('.', '')}"], alone(1, "global")[name])
    assert any("'model_ema.*'" in fact and "ranked separately" in fact for fact in report.facts)
    assert not any("EMA" in warning for warning in report.warnings)


def test_an_ema_copy_inside_the_state_dict_that_is_left_alone(tmp_path: Path) -> None:
    """Its names have no dot before `weight`: it is left out, and a warning says so, unless a pattern excludes it."""
    path = saved(tmp_path / "in.pth", {"state_dict": diffusion(ema=lambda name: name.replace(".", ""))})

    _, report = run(path, L1(amount=0.4))
    _, chosen = run(path, L1(amount=0.4), include=["model.*.weight"], min_dim=2)
    _, excluded = run(path, L1(amount=0.4), exclude=["model_ema.*"])

    assert [w for w in report.warnings if "'model_ema.*' is an EMA copy" in w]
    assert hints(report) == ["include=['*weight']"]
    assert hints(chosen) == ["include=['model_ema.*']"]
    assert hints(excluded) == []


def test_a_module_called_ema_is_no_copy(tmp_path: Path) -> None:
    """Attention modules are called `ema` too: without a counterpart they are ranked with the others."""
    weights = {"ema.conv.weight": torch.rand(8, 8), "body.fc.weight": torch.rand(8, 8) + 1}
    path = saved(tmp_path / "in.pth", weights)

    loaded, _ = run(path, Global(amount=0.5))

    assert not loaded["ema.conv.weight"].any()
    assert loaded["body.fc.weight"].all()


def test_a_copy_that_is_stored_once_with_the_weights_is_not_left_alone(tmp_path: Path) -> None:
    """The EMA copy of a first epoch is the model's own storage: it is pruned with it, and nothing else is said."""
    weights = state(0)
    path = saved(tmp_path / "in.pth", {"model": weights, "ema": {name: t.detach() for name, t in weights.items()}})

    loaded, report = run(path, L1(amount=0.4))

    assert torch.equal(loaded["ema"]["0.weight"], loaded["model"]["0.weight"])
    assert not report.left_alone
    assert not report.warnings
