"""Baking gives the weights of torch.nn.utils.prune.remove and leaves the rest of the file unchanged.

torch is the oracle: the state_dict of a pruned model is saved in every container, and the result must be the state_dict
of the same model after `remove`.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support import CONTAINERS, FOLDABLE, Net, different, files, read, same_bits, shards, state_dict
from support.pruned import NAMES, after_remove, folded, pruned_net, save_pruned

from prunecli.baking.bake import BakeResult, bake
from prunecli.errors import CheckpointError, OutputError, UsageError
from prunecli.formats.output_names import default_output

if TYPE_CHECKING:
    from pathlib import Path

W, M = torch.ones(2, 2), torch.eye(2)


@pytest.fixture(scope="module", params=FOLDABLE)
def baked(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path, Path, BakeResult]:
    """Return the name of each container, the input, the output and the result."""
    folder = tmp_path_factory.mktemp(request.param)
    source, _ = save_pruned(request.param, folder)
    return request.param, source, default_output(source, "baked"), bake(source)


# --- the result


def test_the_result_is_that_of_remove(baked: tuple[str, Path, Path, BakeResult]) -> None:
    """The tensors are those of the model after prune.remove, with the same bits where a weight is kept."""
    container, source, output, _ = baked
    expected = after_remove(pruned_net())

    before, after = state_dict(container, read(source)), state_dict(container, read(output))

    assert different(dict(folded(before)), dict(after)) == [] or CONTAINERS[container].by_name
    assert all(same_bits(after[name], t) for name, t in folded(before).items())
    assert set(after) - {"head.weight"} == set(expected)
    assert all(torch.equal(after[name], t) for name, t in expected.items())


def test_an_unpruned_model_loads_the_result(baked: tuple[str, Path, Path, BakeResult]) -> None:
    """A strict load_state_dict of a model that was never pruned accepts the result."""
    container, _, output, _ = baked
    after = state_dict(container, read(output))
    after.pop("head.weight", None)

    Net().load_state_dict(after)


def test_a_key_keeps_its_position(baked: tuple[str, Path, Path, BakeResult]) -> None:
    """The keys have the order of the input, with new names and without the masks."""
    container, source, output, _ = baked
    if CONTAINERS[container].by_name and source.is_dir():
        pytest.skip("the tensors of a directory are ordered by name")

    before, after = keys(source, container), keys(output, container)

    assert [name.removesuffix("_orig") for name in before if not name.endswith("_mask")] == after


def keys(path: Path, container: str) -> list[str]:
    """Return the keys of the state_dict in file order."""
    if path.suffix == ".safetensors":
        raw = path.read_bytes()
        return list(json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")]))
    return list(state_dict(container, read(path)))


def test_objects_outside_the_state_dict_are_unchanged(tmp_path: Path) -> None:
    """Epochs, optimizer state and objects of unknown classes are equal before and after."""
    source, _ = save_pruned("nested", tmp_path)

    bake(source, tmp_path / "out.pth")

    before, after = read(source), read(tmp_path / "out.pth")
    assert list(before) == list(after)
    assert before["args"] == after["args"]
    assert before["epoch"] == after["epoch"]
    assert before["optimizer"]["param_groups"] == after["optimizer"]["param_groups"]
    for number, state in before["optimizer"]["state"].items():
        assert same_bits(state["momentum_buffer"], after["optimizer"]["state"][number]["momentum_buffer"])


def test_a_state_dict_keeps_its_metadata(tmp_path: Path) -> None:
    """The `_metadata` of the OrderedDict, from which load_state_dict reads versions, is unchanged."""
    model = pruned_net()
    torch.save(model.state_dict(), tmp_path / "m.pth")

    bake(tmp_path / "m.pth", tmp_path / "out.pth")

    assert model.state_dict()._metadata == torch.load(tmp_path / "out.pth", weights_only=True)._metadata


def test_the_result_describes_the_output(baked: tuple[str, Path, Path, BakeResult]) -> None:
    """Names, shapes, numbers of zeros and sizes in the result are those of the output file."""
    container, _, output, result = baked
    prefix = CONTAINERS[container].prefix
    after = state_dict(container, read(output))

    weights = {weight.name.removeprefix(prefix): weight for weight in result.weights}

    assert set(NAMES) == set(weights)
    for name, weight in weights.items():
        assert tuple(after[name].shape) == weight.shape
        assert int((after[name] == 0).sum()) == weight.zeros
        assert weight.sparsity == pytest.approx(float((after[name] == 0).float().mean()))
    assert sum(path.stat().st_size for path in shards(output)) == result.output_bytes


def test_the_json_has_a_schema_and_the_weights(tmp_path: Path) -> None:
    """The JSON has a schema number and one object per weight."""
    source, _ = save_pruned("zip", tmp_path)

    actual = json.loads(bake(source).to_json())

    assert actual["schema"] == 1
    assert [weight["name"] for weight in actual["weights"]] == NAMES
    assert actual["weights"][-1]["sparsity"] == pytest.approx(
        np.mean(read(default_output(source, "baked"))["fc.weight"].numpy() == 0)
    )


# --- the choice of the state_dict


def test_key_chooses_the_state_dict(tmp_path: Path) -> None:
    """With a key, another dict of the file is folded, and the default one is unchanged."""
    torch.save(
        {"state_dict": {"w_orig": W, "w_mask": M}, "ema": {"w_orig": W + 1, "w_mask": M.clone()}}, tmp_path / "m.pth"
    )

    bake(tmp_path / "m.pth", key="ema")

    actual = torch.load(tmp_path / "m.baked.pth", weights_only=True)
    assert list(actual["state_dict"]) == ["w_orig", "w_mask"]
    assert torch.equal((W + 1) * M, actual["ema"]["w"])


def test_two_dicts_with_the_same_keys(tmp_path: Path) -> None:
    """A copy of the state_dict with the same key strings is unchanged, and a note names it."""
    weights = pruned_net().state_dict()
    ema = {name: t.clone() for name, t in weights.items()}
    for first, second in (("ema", "state_dict"), ("state_dict", "ema")):
        path = tmp_path / f"{first}.pth"
        torch.save({first: ema if first == "ema" else weights, second: weights if first == "ema" else ema}, path)

        result = bake(path)

        actual = torch.load(default_output(path, "baked"), weights_only=True)
        assert different(folded(weights), actual["state_dict"]) == []
        assert different(ema, actual["ema"]) == []
        assert any("outside the state_dict" in note for note in result.notes)


def test_several_models_in_nested_dicts(tmp_path: Path) -> None:
    """Weights in nested dicts are found by their dotted paths."""
    saved = {"generator": {"w_orig": W, "w_mask": M}, "critic": {"a.b_orig": W + 1, "a.b_mask": M.clone()}}
    torch.save(saved, tmp_path / "m.pth")

    result = bake(tmp_path / "m.pth")

    actual = torch.load(tmp_path / "m.baked.pth", weights_only=True)
    assert [weight.name for weight in result.weights] == ["generator.w", "critic.a.b"]
    assert torch.equal(W * M, actual["generator"]["w"])
    assert torch.equal((W + 1) * M, actual["critic"]["a.b"])


# --- the output


def test_a_dry_run_measures_and_writes_nothing(tmp_path: Path) -> None:
    """A dry run returns the same numbers as a run, and writes no file."""
    source, _ = save_pruned("zip", tmp_path)

    dry = bake(source, dry_run=True)

    assert [path.name for path in tmp_path.iterdir()] == [source.name]
    result = bake(source)
    assert (result.weights, result.output_bytes) == (dry.weights, dry.output_bytes)
    assert (dry.output_path, result.output_path) == (None, str(default_output(source, "baked")))


def test_an_existing_output_is_replaced_only_with_force(tmp_path: Path) -> None:
    """An existing output raises an error before any work, and is replaced with force."""
    source, weights = save_pruned("zip", tmp_path)
    output = default_output(source, "baked")
    output.write_bytes(b"mine")

    with pytest.raises(OutputError, match="exists"):
        bake(source)
    assert output.read_bytes() == b"mine"

    bake(source, force=True)
    assert different(folded(weights), read(output)) == []


@pytest.mark.parametrize("container", ["zip", "safetensors", "legacy", "safetensors-shards"])
def test_in_place_replaces_the_input(tmp_path: Path, container: str) -> None:
    """With in_place the input becomes what a run to another path writes."""
    source, _ = save_pruned(container, tmp_path)
    twin = tmp_path / f"twin{source.suffix}"
    bake(source, twin)

    bake(source, in_place=True)

    assert [p.read_bytes() for p in files(twin)] == [p.read_bytes() for p in files(source)]


def test_the_input_is_not_an_output(tmp_path: Path) -> None:
    """The input as the output raises an error, also with force; in_place accepts no other output."""
    source, _ = save_pruned("zip", tmp_path)

    with pytest.raises(OutputError, match="is the input"):
        bake(source, source, force=True)
    with pytest.raises(UsageError, match="in-place") as caught:
        bake(source, "other.pth", in_place=True)

    assert caught.value.hint == "leave out output='other.pth'"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.pth", "a.baked.pth"),
        ("a.pth.tar", "a.baked.pth.tar"),
        ("a.pruned.pth", "a.pruned.baked.pth"),
        ("m", "m.baked"),
    ],
)
def test_the_output_is_named_after_the_input(tmp_path: Path, name: str, expected: str) -> None:
    """The default output has `.baked` before the suffix."""
    assert default_output(tmp_path / name, "baked").name == expected


def test_a_baked_file_has_nothing_to_fold(tmp_path: Path) -> None:
    """Baking the result again raises an error."""
    source, _ = save_pruned("zip", tmp_path)
    bake(source, tmp_path / "out.pth")

    with pytest.raises(CheckpointError, match="nothing to fold"):
        bake(tmp_path / "out.pth")


def test_a_directory_appears_complete_or_not_at_all(tmp_path: Path) -> None:
    """A bad mask in one shard, or an index that cannot be written again, leaves no directory."""
    source, weights = save_pruned("safetensors-shards", tmp_path)
    bad = {"extra_orig": torch.ones(3), "extra_mask": torch.full((3,), 0.5)}
    shard = next(source.glob("*-00002-*"))
    save_file(load_file(shard) | bad, shard)

    with pytest.raises(CheckpointError, match=r"extra_mask has the value 0\.5 at \[0\]"):
        bake(source)
    save_file({name: t for name, t in load_file(shard).items() if name in weights}, shard)
    index = source / "model.safetensors.index.json"
    index.write_text(f'{{"long": {"7" * 5000},{index.read_text().lstrip()[1:]}')
    with pytest.raises(CheckpointError, match="cannot be updated"):
        bake(source)

    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_only_the_index_of_the_shards_is_rewritten(tmp_path: Path) -> None:
    """An index of other files in the directory is copied unchanged, also if it lists the same names."""
    source, _ = save_pruned("safetensors-shards", tmp_path)
    index = (source / "model.safetensors.index.json").read_bytes()
    (source / "pytorch_model.bin.index.json").write_bytes(index)

    bake(source)

    baked = tmp_path / "model.baked"
    assert (baked / "pytorch_model.bin.index.json").read_bytes() == index
    assert (baked / "model.safetensors.index.json").read_bytes() != index
