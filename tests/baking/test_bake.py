"""Folding pruned weights: the result is what torch.nn.utils.prune.remove leads to, and all else stays as it was.

The oracle is torch: a pruned model's state_dict is stored in every container, and what `remove` makes of the same model
is what must be read back.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import warnings
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from support import (
    CONTAINERS,
    Net,
    Weights,
    different,
    files,
    make_checkpoint,
    make_weights,
    read,
    same_bits,
    state_dict,
)
from torch import nn
from torch.nn.utils import prune

from prunecli.baking.bake import Baked, bake, baked_output
from prunecli.errors import CheckpointError, OutputError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

LAYERS = (("conv", "weight"), ("conv", "bias"), ("lstm", "weight_hh_l0"), ("fc", "weight"))
NAMES = [".".join(layer) for layer in LAYERS]
ZIPS = [
    "zip",
    "nested",
    "lightning",
    "ddp",
    "tied",
    "non-contiguous",
    "one-storage",
    "sliced",
    "protocol-4",
    "big-endian",
]


def pruned_net() -> Net:
    """Return a model with four parameters under torch.nn.utils.prune, one of them twice."""
    model = Net()
    model.load_state_dict(make_weights())
    for layer, name in LAYERS:
        prune.l1_unstructured(getattr(model, layer), name, 0.4)
    prune.ln_structured(model.fc, "weight", 0.25, n=2, dim=0)
    return model


def removed(model: nn.Module) -> Weights:
    """Return the state_dict of `model` after prune.remove."""
    for layer, name in LAYERS:
        prune.remove(getattr(model, layer), name)
    weights: Weights = model.state_dict()
    return weights


def folded_by_hand(pruned: Weights) -> Weights:
    """Return a state_dict with x in the place of each x_orig, by the bits of x_orig and the zeros of x_mask."""
    found = {}
    for name, tensor in pruned.items():
        stem = name.removesuffix("_orig")
        if stem != name and f"{stem}_mask" in pruned:
            found[stem] = torch.where(pruned[f"{stem}_mask"] == 0, torch.zeros_like(tensor), tensor)
        elif not name.endswith("_mask"):
            found[name] = tensor
    return found


def stored(container: str, folder: Path) -> tuple[Path, Weights]:
    """Write the pruned model in a container; return what to open, and the state_dict."""
    weights = {name: t.detach().clone() for name, t in pruned_net().state_dict().items()}
    return make_checkpoint(container, folder, weights), weights


@pytest.fixture(scope="module", params=list(CONTAINERS))
def baked(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Path, Baked]:
    """Give, for each container, its name, the input, the output, and what was said."""
    folder = tmp_path_factory.mktemp(request.param)
    source, _ = stored(request.param, folder)
    return request.param, source, baked_output(source), bake(source)


# --- what is in the result


def test_it_holds_what_remove_leads_to(baked: tuple[str, Path, Path, Baked]) -> None:
    """Every tensor is the one of the model after prune.remove, and every kept bit and every zero is right."""
    container, source, output, _ = baked
    plain = removed(pruned_net())

    before, after = state_dict(container, read(source)), state_dict(container, read(output))

    assert different(dict(folded_by_hand(before)), dict(after)) == [] or CONTAINERS[container].by_name
    assert all(same_bits(after[name], t) for name, t in folded_by_hand(before).items())
    assert set(after) - {"head.weight"} == set(plain)
    assert all(torch.equal(after[name], t) for name, t in plain.items())


def test_an_unpruned_model_loads_it(baked: tuple[str, Path, Path, Baked]) -> None:
    """load_state_dict, strict as it is, takes the result into a model that was never pruned."""
    container, _, output, _ = baked
    after = state_dict(container, read(output))
    after.pop("head.weight", None)

    Net().load_state_dict(after)


def test_the_key_stands_where_the_original_stood(baked: tuple[str, Path, Path, Baked]) -> None:
    """The order of the keys is the input's, renamed and without the masks."""
    container, source, output, _ = baked
    if CONTAINERS[container].by_name and source.is_dir():
        pytest.skip("a directory has the order of names")

    before, after = keys(source, container), keys(output, container)

    assert [fold(name) for name in before if not name.endswith("_mask")] == after


def fold(name: str) -> str:
    """Return what a tensor is called after the folding."""
    return name.removesuffix("_orig")


def keys(path: Path, container: str) -> list[str]:
    """Return the keys of the state_dict as the file has them."""
    if path.suffix == ".safetensors":
        raw = path.read_bytes()
        return list(json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")]))
    return list(state_dict(container, read(path)))


def test_everything_around_the_state_dict_stays(tmp_path: Path) -> None:
    """Epochs, optimizer state and objects of unknown classes are the same, and share what they shared."""
    source, _ = stored("nested", tmp_path)

    bake(source, tmp_path / "out.pth")

    before, after = read(source), read(tmp_path / "out.pth")
    assert list(before) == list(after)
    assert before["args"] == after["args"]
    assert before["epoch"] == after["epoch"]
    assert before["optimizer"]["param_groups"] == after["optimizer"]["param_groups"]
    for at, state in before["optimizer"]["state"].items():
        assert same_bits(state["momentum_buffer"], after["optimizer"]["state"][at]["momentum_buffer"])


def test_a_module_state_dict_keeps_its_metadata(tmp_path: Path) -> None:
    """The versions that load_state_dict looks for in an OrderedDict's _metadata are still there."""
    model = pruned_net()
    torch.save(model.state_dict(), tmp_path / "m.pth")

    bake(tmp_path / "m.pth", tmp_path / "out.pth")

    assert model.state_dict()._metadata == torch.load(tmp_path / "out.pth", weights_only=True)._metadata


def test_what_it_says_is_what_the_file_has(baked: tuple[str, Path, Path, Baked]) -> None:
    """Names, shapes and the numbers of zeros are those of the tensors in the result."""
    container, _, output, done = baked
    prefix = CONTAINERS[container].prefix
    after = state_dict(container, read(output))

    found = {one.name.removeprefix(prefix): one for one in done.weights}

    assert set(NAMES) == set(found)
    for name, one in found.items():
        assert tuple(after[name].shape) == one.shape
        assert int((after[name] == 0).sum()) == one.zeros
        assert one.sparsity == pytest.approx(float((after[name] == 0).float().mean()))
    assert sum(path.stat().st_size for path in shards(output)) == done.output_bytes


def shards(path: Path) -> list[Path]:
    """Return the files that hold tensors."""
    return [p for p in files(path) if p.suffix not in {".json", ".txt"}]


# --- the containers


@pytest.mark.parametrize("container", ZIPS)
def test_the_zip_is_sound(tmp_path: Path, container: str) -> None:
    """Unzip finds every checksum right; what is neither pickle nor weight is the record it was."""
    source, _ = stored(container, tmp_path)

    bake(source, tmp_path / "out.pth")

    subprocess.run(["unzip", "-tqq", tmp_path / "out.pth"], check=True)
    with zipfile.ZipFile(source) as before, zipfile.ZipFile(tmp_path / "out.pth") as after:
        assert [n for n in before.namelist() if n in after.namelist()] == after.namelist()
        changed = [n for n in after.namelist() if before.read(n) != after.read(n)]
        weights = 1 if container == "one-storage" else len(NAMES)
        assert sum(n.endswith("data.pkl") for n in changed) == 1
        assert len(changed) == 1 + weights
        gone = len(before.namelist()) - len(after.namelist())
        assert gone == (0 if container == "one-storage" else len(NAMES))


@pytest.mark.parametrize("container", ["zip", "lightning", "ddp", "non-contiguous", "sliced", "one-storage"])
def test_torch_takes_it_on_every_way(tmp_path: Path, container: str) -> None:
    """weights_only and mmap, with torch's own offsets and alignment, read the same tensors as a plain load."""
    source, _ = stored(container, tmp_path)
    output = tmp_path / "out.pth"

    bake(source, output)

    plain = state_dict(container, torch.load(output, weights_only=False))
    assert different(plain, state_dict(container, torch.load(output, weights_only=True))) == []
    assert different(plain, state_dict(container, torch.load(output, weights_only=True, mmap=True))) == []
    reader = torch._C.PyTorchFileReader(str(output))
    places = [reader.get_record_offset(n) for n in reader.get_all_records() if n.startswith("data/")]
    assert {place % 64 for place in places} == {0}


def test_safetensors_keep_their_metadata_and_layout(tmp_path: Path) -> None:
    """The library reads the result; the metadata and the data of all other tensors are the input's."""
    source, weights = stored("safetensors", tmp_path)

    bake(source, tmp_path / "out.safetensors")

    with safe_open(source, "pt") as before, safe_open(tmp_path / "out.safetensors", "pt") as after:
        assert before.metadata() == after.metadata()
    expected = folded_by_hand(weights)
    found = load_file(tmp_path / "out.safetensors")
    assert all(same_bits(t, found[name]) for name, t in expected.items())
    size = (tmp_path / "out.safetensors").stat().st_size
    assert int.from_bytes((tmp_path / "out.safetensors").read_bytes()[:8], "little") % 8 == 0
    assert size - source.stat().st_size < -sum(weights[f"{name}_mask"].nbytes for name in NAMES)


def test_a_mask_of_bytes_does_not_leave_others_misaligned(tmp_path: Path) -> None:
    """Where taking a mask out would shift wider numbers off their alignment, wider ones come first."""
    weights = {"w_orig": torch.randn(3), "w_mask": torch.tensor([1, 0, 1], dtype=torch.uint8), "z": torch.randn(5)}
    path = tmp_path / "m.safetensors"
    data = [weights["w_mask"], torch.tensor([5], dtype=torch.uint8), weights["w_orig"], weights["z"]]
    header, at = {}, 0
    for name, dtype, t in zip(("w_mask", "b", "w_orig", "z"), ("U8", "U8", "F32", "F32"), data, strict=True):
        header[name] = {"dtype": dtype, "shape": list(t.shape), "data_offsets": [at, at + t.nbytes]}
        at += t.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(t.numpy().tobytes() for t in data))

    bake(path, tmp_path / "out.safetensors")

    found = load_file(tmp_path / "out.safetensors")
    assert torch.equal(weights["w_orig"] * weights["w_mask"], found["w"])
    assert torch.equal(weights["z"], found["z"])
    assert torch.equal(data[1], found["b"])


@pytest.mark.parametrize("container", ["safetensors-shards", "bin-shards"])
def test_an_index_lists_what_is_there(tmp_path: Path, container: str) -> None:
    """Names in the index are the new ones, each in the shard it is in; the total is less; other files are copied."""
    source, weights = stored(container, tmp_path)
    (index,) = source.glob("*.index.json")
    before = json.loads(index.read_text())
    before["metadata"] = {"total_size": sum(t.nbytes for t in weights.values()), "note": "kept"}
    index.write_text(json.dumps(before, indent=2) + "\n")

    bake(source, tmp_path / "out")

    text = (tmp_path / "out" / index.name).read_text()
    after = json.loads(text)
    assert text == json.dumps(after, indent=2) + "\n"
    total = sum(t.nbytes for t in folded_by_hand(weights).values())
    assert after["metadata"] == {"total_size": total, "note": "kept"}
    assert list(after["weight_map"]) == [fold(n) for n in before["weight_map"] if not n.endswith("_mask")]
    for name, shard in after["weight_map"].items():
        assert name in read(tmp_path / "out" / shard)
    assert (source / "config.json").read_bytes() == (tmp_path / "out" / "config.json").read_bytes()


def test_masks_may_be_in_another_shard(tmp_path: Path) -> None:
    """A weight and its mask in different files meet, and the file of masks alone is left without tensors."""
    source, orig, mask = tmp_path / "model", torch.randn(4, 4), (torch.rand(4, 4) > 0.5).float()
    source.mkdir()
    save_file({"w_orig": orig}, source / "model-00001-of-00002.safetensors")
    save_file({"w_mask": mask}, source / "model-00002-of-00002.safetensors")

    bake(source)

    assert torch.equal(orig * mask, load_file(tmp_path / "model.baked" / "model-00001-of-00002.safetensors")["w"])
    assert load_file(tmp_path / "model.baked" / "model-00002-of-00002.safetensors") == {}


# --- numbers


DTYPES = [torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "mask_dtype",
    [None, torch.bool, torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.int64, torch.float32],
    ids=str,
)
def test_every_dtype_of_weight_and_mask(tmp_path: Path, dtype: torch.dtype, mask_dtype: torch.dtype | None) -> None:
    """Weights keep their bits where the mask is one, NaN and infinity too, and are +0.0 where it is zero."""
    orig = torch.tensor([1.5, -2, float("nan"), float("nan"), -0.0, -0.0, 3, -4]).to(dtype)
    mask = torch.tensor([1, 0, 1, 0, 1, 0, 1, 0]).to(mask_dtype or dtype)
    torch.save({"w_orig": orig, "w_mask": mask}, tmp_path / "m.pth")

    bake(tmp_path / "m.pth")

    whole = {1: torch.int8, 2: torch.int16, 8: torch.int64}[orig.element_size()]
    expected = torch.where(mask.float() == 0, torch.zeros((), dtype=whole), orig.view(whole))
    found = torch.load(tmp_path / "m.baked.pth", weights_only=True)
    assert list(found) == ["w"]
    assert torch.equal(expected, found["w"].view(whole))


def test_a_mask_of_another_layout(tmp_path: Path) -> None:
    """A weight stored by columns and a mask stored by rows, or repeated from one row, meet element by element."""
    orig = torch.randn(5, 7).T.contiguous().T
    mask = (torch.rand(5, 7) > 0.5).float()
    rows = (torch.rand(5, 1) > 0.5).float().expand(5, 7)
    torch.save({"a_orig": orig, "a_mask": mask, "b_orig": orig.clone(), "b_mask": rows}, tmp_path / "m.pth")

    bake(tmp_path / "m.pth")

    found = torch.load(tmp_path / "m.baked.pth", weights_only=True)
    assert torch.equal(orig * mask, found["a"])
    assert torch.equal(orig * rows, found["b"])
    assert orig.stride() == found["a"].stride()


def test_interleaved_weights_of_one_storage(tmp_path: Path) -> None:
    """Two views that lie between each other in one storage are both folded, and what is between them stays."""
    base = torch.randn(6, 11)
    masks = [(torch.rand(6, 5) > 0.5).float() for _ in range(2)]
    saved = {"a_orig": base[:, :5], "a_mask": masks[0], "b_orig": base[:, 5:10], "b_mask": masks[1]}
    torch.save(saved | {"rest": base[:, 10:]}, tmp_path / "m.pth")

    bake(tmp_path / "m.pth")

    found = torch.load(tmp_path / "m.baked.pth", weights_only=True)
    assert torch.equal(base[:, :5] * masks[0], found["a"])
    assert torch.equal(base[:, 5:10] * masks[1], found["b"])
    assert torch.equal(base[:, 10:], found["rest"])


def test_a_weight_longer_than_one_step(tmp_path: Path) -> None:
    """More entries than are looked at in one step, and not a multiple of it, are all folded."""
    model = nn.Linear(1031, 601)
    prune.random_unstructured(model, "weight", 0.3)
    torch.save(model.state_dict(), tmp_path / "m.pth")

    done = bake(tmp_path / "m.pth")

    assert done.weights[0].masked == int((model.weight_mask == 0).sum())
    assert torch.equal(model.weight, torch.load(tmp_path / "m.baked.pth", weights_only=True)["weight"])


def test_empty_and_scalar_weights(tmp_path: Path) -> None:
    """Weights without entries and without dimensions are folded too."""
    saved = {"a_orig": torch.zeros(0, 3), "a_mask": torch.zeros(0, 3)}
    torch.save(saved | {"b_orig": torch.tensor(2.0), "b_mask": torch.tensor(0.0)}, tmp_path / "m.pth")

    done = bake(tmp_path / "m.pth")

    found = torch.load(tmp_path / "m.baked.pth", weights_only=True)
    assert found["a"].shape == (0, 3)
    assert found["b"].item() == 0
    assert [one.sparsity for one in done.weights] == [0.0, 1.0]


def test_tied_weights_under_one_mask(tmp_path: Path) -> None:
    """Two names of one pruned weight, with one mask, become two names of the folded one."""
    orig, mask = torch.randn(3, 3), torch.eye(3)
    torch.save({"a_orig": orig, "a_mask": mask, "b_orig": orig, "b_mask": mask}, tmp_path / "m.pth")

    bake(tmp_path / "m.pth")

    found = torch.load(tmp_path / "m.baked.pth", weights_only=True)
    assert torch.equal(orig * mask, found["a"])
    assert found["a"].data_ptr() == found["b"].data_ptr()


def test_a_mask_that_another_tensor_uses_stays_in_the_file(tmp_path: Path) -> None:
    """A mask that is stored under another name too keeps its bytes for that name."""
    mask = torch.eye(4)
    torch.save({"w_mask": mask, "w_orig": torch.randn(4, 4), "other": mask}, tmp_path / "m.pth")

    bake(tmp_path / "m.pth")

    found = torch.load(tmp_path / "m.baked.pth", weights_only=True)
    assert list(found) == ["w", "other"]
    assert torch.equal(mask, found["other"])


def test_two_dicts_with_the_same_keys(tmp_path: Path) -> None:
    """A copy of the state_dict outside it, which shares the very key strings, keeps its pruned form and is told of."""
    weights = pruned_net().state_dict()
    ema = {name: t.clone() for name, t in weights.items()}
    for first, second in (("ema", "state_dict"), ("state_dict", "ema")):
        path = tmp_path / f"{first}.pth"
        torch.save({first: ema if first == "ema" else weights, second: weights if first == "ema" else ema}, path)

        done = bake(path)

        found = torch.load(baked_output(path), weights_only=True)
        assert different(folded_by_hand(weights), found["state_dict"]) == []
        assert different(ema, found["ema"]) == []
        assert any("--key" in note for note in done.notes)


# --- what cannot be folded


def refusal(tmp_path: Path, saved: object, **options: Any) -> str:  # noqa: ANN401 - options of bake
    """Return the message with which a saved object is refused; nothing may be left behind."""
    torch.save(saved, tmp_path / "m.pth")
    with pytest.raises(CheckpointError) as caught:
        bake(tmp_path / "m.pth", **options)
    assert [path.name for path in tmp_path.iterdir()] == ["m.pth"]
    assert caught.value.hint
    return str(caught.value)


W, M = torch.ones(2, 2), torch.eye(2)


@pytest.mark.parametrize(
    ("saved", "words"),
    [
        ({"w": W}, "nothing to fold"),
        ({"w_orig": W}, "there is no w_mask"),
        ({"w_orig": W, "w_u": M[0], "w_v": M[0]}, "w under spectral_norm"),
        ({"w_orig": W, "w_mask": M, "w_u": M[0]}, "spectral_norm too"),
        ({"w_orig": W, "w_mask": M, "w": W + 1}, "w is there already"),
        ({"w_orig": W, "w_mask": torch.ones(2)}, "w_mask is [2] and w_orig is [2, 2]"),
        ({"w_orig": W, "w_mask": M * 0.5}, "w_mask holds 0.5 at [0, 0]"),
        ({"w_orig": W, "w_mask": -M}, "w_mask holds -1.0 at [0, 0]"),
        ({"w_orig": W, "w_mask": torch.tensor([[1, 0], [0, 2]])}, "w_mask holds 2 at [1, 1]"),
        ({"w_orig": W, "w_mask": torch.full((2, 2), float("nan"))}, "w_mask holds nan"),
        ({"w_orig": W, "w_mask": M.to(torch.complex64)}, "C64"),
        ({"w_orig": W, "w_mask": M.to_sparse()}, "its mask is a sparse tensor"),
        ({"w_orig": W[:1].expand(2, 2), "w_mask": M}, "expanded view"),
        ({"w_orig": W, "w_mask": M, "head": W}, "are those of head too"),
        ({"w_orig": W, "w_mask": M, "v_orig": W, "v_mask": M.clone()}, "another mask"),
        ({"w_orig": W.view(4)[:3], "w_mask": torch.ones(3), "rest": W.view(4)[1:]}, "or some of them"),
        (
            {"state_dict": {"w_orig": W, "w_mask": M}, "ema": {"w": W}},
            "the file stores the same tensor elsewhere without a mask",
        ),
    ],
)
def test_what_cannot_be_folded_is_refused(tmp_path: Path, saved: object, words: str) -> None:
    """Each reason has its sentence with what, where and got, a hint, and leaves no file."""
    assert words in refusal(tmp_path, saved)


def test_a_pickled_model_is_refused(tmp_path: Path) -> None:
    """A whole module, whose weights are no entries of one dict, cannot be rewritten with certainty."""
    model = nn.Linear(2, 2)
    prune.l1_unstructured(model, "weight", 0.5)

    assert "weight_orig" in refusal(tmp_path, {"model": model})


def test_an_exported_model_is_refused(tmp_path: Path) -> None:
    """The code of a TorchScript archive names the parts, so they stay."""
    model = nn.Linear(2, 2)
    prune.l1_unstructured(model, "weight", 0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(model, torch.ones(1, 2)), tmp_path / "m.pt")

    with pytest.raises(CheckpointError, match=r"fold"):
        bake(tmp_path / "m.pt")


def test_damage_is_noticed(tmp_path: Path) -> None:
    """A weight or a mask whose bytes do not have their checksum is refused, and nothing is written."""
    for name in ("w_orig", "w_mask"):
        path = tmp_path / "m.pth"
        saved = {"w_orig": torch.full((64,), 3.0), "w_mask": torch.ones(64)}
        torch.save(saved, path)
        data = path.read_bytes()
        at = data.index(saved[name].numpy().tobytes())
        path.write_bytes(data[:at] + b"\0" * 4 + data[at + 4 :])

        with pytest.raises(CheckpointError, match="checksum"):
            bake(path)
        assert [p.name for p in tmp_path.iterdir()] == ["m.pth"]


def test_others_are_noted_and_stay(tmp_path: Path) -> None:
    """spectral_norm's parts and a weight without a mask stay as they are, and are told of."""
    saved = {"w_orig": W, "w_mask": M, "s_orig": W + 1, "s_u": M[0], "s_v": M[1], "lone_orig": W + 2}
    torch.save(saved, tmp_path / "m.pth")

    done = bake(tmp_path / "m.pth")

    found = torch.load(tmp_path / "m.baked.pth", weights_only=True)
    assert list(found) == ["w", "s_orig", "s_u", "s_v", "lone_orig"]
    assert any("spectral_norm" in note for note in done.notes)
    assert any("lone_mask" in note for note in done.notes)


# --- where it goes


def test_a_dry_run_measures_and_writes_nothing(tmp_path: Path) -> None:
    """A dry run says the same as a run, and no file appears."""
    source, _ = stored("zip", tmp_path)

    dry = bake(source, dry_run=True)

    assert [path.name for path in tmp_path.iterdir()] == [source.name]
    done = bake(source)
    assert (done.weights, done.output_bytes) == (dry.weights, dry.output_bytes)
    assert (dry.output_path, done.output_path) == (None, str(baked_output(source)))


def test_existing_outputs_are_kept_unless_forced(tmp_path: Path) -> None:
    """An output that exists is refused before any work, and replaced with force."""
    source, weights = stored("zip", tmp_path)
    output = baked_output(source)
    output.write_bytes(b"mine")

    with pytest.raises(OutputError, match="exists"):
        bake(source)
    assert output.read_bytes() == b"mine"

    bake(source, force=True)
    assert different(folded_by_hand(weights), read(output)) == []


@pytest.mark.parametrize("container", ["zip", "safetensors", "legacy", "safetensors-shards"])
def test_in_place_replaces_the_input(tmp_path: Path, container: str) -> None:
    """With in_place the input itself becomes the result, which is what a run to another path writes."""
    source, _ = stored(container, tmp_path)
    twin = tmp_path / f"twin{source.suffix}"
    bake(source, twin)

    bake(source, in_place=True)

    assert [p.read_bytes() for p in files(twin)] == [p.read_bytes() for p in files(source)]


def test_the_input_is_no_output(tmp_path: Path) -> None:
    """Without in_place the input is refused as output, and in_place takes no other."""
    source, _ = stored("zip", tmp_path)

    with pytest.raises(OutputError, match="is the input"):
        bake(source, source, force=True)
    with pytest.raises(UsageError, match="--in-place"):
        bake(source, tmp_path / "other.pth", in_place=True)


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
    """`.baked` stands before the suffix."""
    assert baked_output(tmp_path / name).name == expected


def test_twice_is_an_error(tmp_path: Path) -> None:
    """The result has nothing left to fold."""
    source, _ = stored("zip", tmp_path)
    bake(source, tmp_path / "out.pth")

    with pytest.raises(CheckpointError, match="nothing to fold"):
        bake(tmp_path / "out.pth")


def test_key_names_the_state_dict(tmp_path: Path) -> None:
    """With a key another dict of the file is folded, and the usual one stays."""
    torch.save(
        {"state_dict": {"w_orig": W, "w_mask": M}, "ema": {"w_orig": W + 1, "w_mask": M.clone()}}, tmp_path / "m.pth"
    )

    bake(tmp_path / "m.pth", key="ema")

    found = torch.load(tmp_path / "m.baked.pth", weights_only=True)
    assert list(found["state_dict"]) == ["w_orig", "w_mask"]
    assert torch.equal((W + 1) * M, found["ema"]["w"])


def test_nested_dicts_of_several_models(tmp_path: Path) -> None:
    """Weights deeper inside the file are found by the path that names them."""
    saved = {"generator": {"w_orig": W, "w_mask": M}, "critic": {"a.b_orig": W + 1, "a.b_mask": M.clone()}}
    torch.save(saved, tmp_path / "m.pth")

    done = bake(tmp_path / "m.pth")

    found = torch.load(tmp_path / "m.baked.pth", weights_only=True)
    assert [one.name for one in done.weights] == ["generator.w", "critic.a.b"]
    assert torch.equal(W * M, found["generator"]["w"])
    assert torch.equal((W + 1) * M, found["critic"]["a.b"])


def test_a_file_zipped_anew_keeps_how_its_data_is_aligned(tmp_path: Path) -> None:
    """Records without torch's padding, with comments or data descriptors, are rewritten as they are."""
    source, weights = stored("zip", tmp_path)
    again = tmp_path / "again.pth"
    with zipfile.ZipFile(source) as before, zipfile.ZipFile(again, "w") as after:
        after.comment = b"kept"
        for info in before.infolist():
            new = zipfile.ZipInfo(info.filename, (2020, 1, 2, 3, 4, 6))
            new.comment = b"note"
            after.writestr(new, before.read(info))

    bake(again)

    with zipfile.ZipFile(again) as before, zipfile.ZipFile(baked_output(again)) as after:
        assert after.testzip() is None
        assert (after.comment, after.infolist()[0].comment) == (b"kept", b"note")
        was = {info.filename: data_start(again, info) % 64 for info in before.infolist()}
        now = {info.filename: data_start(baked_output(again), info) % 64 for info in after.infolist()}
        assert was == was | now
    assert different(folded_by_hand(weights), read(baked_output(again))) == []


def data_start(path: Path, info: zipfile.ZipInfo) -> int:
    """Return where a record's data begins in its zip."""
    head = path.read_bytes()[info.header_offset : info.header_offset + 30]
    return info.header_offset + 30 + int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little")


def test_untouched_weights_of_safetensors_are_the_same_bytes(tmp_path: Path) -> None:
    """The data of each tensor that is not folded lies in the result as it lay in the input."""
    source, weights = stored("safetensors", tmp_path)
    bake(source, tmp_path / "out.safetensors")
    before, after = source.read_bytes(), (tmp_path / "out.safetensors").read_bytes()

    heads = [json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")]) for raw in (before, after)]
    for name in set(weights) & set(heads[1]):
        parts = [head[name]["data_offsets"] for head in heads]
        datas = [raw[8 + int.from_bytes(raw[:8], "little") :] for raw in (before, after)]
        assert datas[0][slice(*parts[0])] == datas[1][slice(*parts[1])]


def test_a_cut_off_file_is_refused(tmp_path: Path) -> None:
    """Whatever is cut off the end of a file, the answer is one error and no output."""
    source, _ = stored("zip", tmp_path)
    data = source.read_bytes()
    for size in (1, 100, len(data) // 2, len(data) - 1):
        source.write_bytes(data[:size])
        with pytest.raises(CheckpointError):
            bake(source)
    shutil.rmtree(tmp_path)


def test_json_can_be_read(tmp_path: Path) -> None:
    """The JSON has a schema number and a record per weight."""
    source, _ = stored("zip", tmp_path)

    found = json.loads(bake(source).to_json())

    assert found["schema"] == 1
    assert [one["name"] for one in found["weights"]] == NAMES
    assert found["weights"][-1]["sparsity"] == pytest.approx(
        np.mean(read(baked_output(source))["fc.weight"].numpy() == 0)
    )


def test_a_directory_is_whole_or_absent(tmp_path: Path) -> None:
    """One bad mask in one shard, or an index that cannot be written anew, and no directory appears."""
    source, weights = stored("safetensors-shards", tmp_path)
    bad = {"extra_orig": torch.ones(3), "extra_mask": torch.full((3,), 0.5)}
    shard = next(source.glob("*-00002-*"))
    save_file(load_file(shard) | bad, shard)

    with pytest.raises(CheckpointError, match=r"extra_mask holds 0\.5 at \[0\]"):
        bake(source)
    save_file({name: t for name, t in load_file(shard).items() if name in weights}, shard)
    (source / "other.index.json").write_bytes('{"weight_map": {}}'.encode("utf-16"))
    with pytest.raises(CheckpointError, match="brought up to date"):
        bake(source / "model.safetensors.index.json")

    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("indent", [None, 2, 4])
@pytest.mark.parametrize("end", ["", "\n"])
def test_an_index_is_spelled_as_it_was(tmp_path: Path, indent: int | None, end: str) -> None:
    """Indentation, the line break at the end and the keys beside the map are those of the input."""
    source = tmp_path / "m"
    source.mkdir()
    save_file({"w_orig": W.clone(), "w_mask": M.clone(), "\u00e4": W + 1}, source / "a.safetensors")
    before = {"x": [1.50, {}], "weight_map": dict.fromkeys(("w_orig", "\u00e4", "w_mask"), "a.safetensors")}
    (source / "m.safetensors.index.json").write_text(json.dumps(before, indent=indent) + end)

    bake(source)

    after = {"x": [1.50, {}], "weight_map": dict.fromkeys(("w", "\u00e4"), "a.safetensors")}
    found = (tmp_path / "m.baked" / "m.safetensors.index.json").read_text()
    assert json.dumps(after, indent=indent) + end == found


def test_a_number_past_all_reason_is_refused(tmp_path: Path) -> None:
    """A field of thousands of digits, which the listing passes over, ends in a sentence and not in a traceback."""
    text = '{"w_orig":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"x":%s}' % ("9" * 5000)
    text += ',"w_mask":{"dtype":"U8","shape":[1],"data_offsets":[4,5]}}'
    path = tmp_path / "m.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text.encode() + b"\0\0\x80\x3f\1")

    with pytest.raises(CheckpointError, match="cannot be written again"):
        bake(path)
