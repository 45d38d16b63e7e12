"""Masks of bits: any runs write and read them, and only the weights that they were made of accept them."""

from __future__ import annotations

import hashlib
import json
from itertools import pairwise
from threading import Thread
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from support import CONTAINERS, examples, make_checkpoint, make_weights
from support.pruning import pruned, stored

from prunecli import L1, CheckpointError, Mask, PruneError, Recipe, Rule, load_mask, prune, prune_state_dict
from prunecli.checkpoint import Span, TensorInfo, row_major
from prunecli.engine.options import RunOptions
from prunecli.formats.safetensors.mask_writer import BASE, MaskLayout, MaskSink

if TYPE_CHECKING:
    from pathlib import Path

SHAPES = st.lists(st.integers(1, 20), max_size=4).map(tuple)


def info(name: str, shape: tuple[int, ...]) -> TensorInfo:
    """Return a tensor of this shape."""
    return TensorInfo(name, "F32", shape, row_major(shape), 0, Span(0, 4 * int(np.prod(shape))))


@settings(max_examples=examples(40))
@given(shapes=st.lists(SHAPES, min_size=1, max_size=3), cuts=st.lists(st.integers(1, 400)), seed=st.integers(0, 99))
def test_runs_in_any_order_give_the_mask(
    tmp_path_factory: pytest.TempPathFactory, shapes: list[tuple[int, ...]], cuts: list[int], seed: int
) -> None:
    """Runs that threads write in any order, cut anywhere, give the bits of numpy.packbits and the mask."""
    random, path = np.random.default_rng(seed), tmp_path_factory.getbasetemp() / "bits.safetensors"
    masks = [random.integers(0, 2, shape, np.uint8) for shape in shapes]
    with path.open("w+b") as file:
        sink = MaskSink(file.fileno(), MaskLayout([info(f"t{i}", shape) for i, shape in enumerate(shapes)]))
        runs = []
        for target, mask in enumerate(masks):
            edges = sorted({0, mask.size, *(cut for cut in cuts if cut < mask.size)})
            runs += [(target, a, mask.reshape(-1)[a:b].copy()) for a, b in pairwise(edges)]
        threads = [Thread(target=sink.write, args=runs[index]) for index in random.permutation(len(runs))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    stored_bits, loaded = load_file(path), load_mask(path)
    for target, mask in enumerate(masks):
        rows = mask.reshape(mask.shape[0], -1) if mask.ndim > 1 else mask.reshape(1, -1)
        expected = np.packbits(rows, axis=1, bitorder="little")
        assert stored_bits[f"t{target}.bitmask"].numpy().tobytes() == expected.tobytes()
        assert stored_bits[f"t{target}.shape"].tolist() == list(mask.shape)
        assert torch.equal(loaded[f"t{target}"], torch.from_numpy(mask).bool())


@pytest.mark.parametrize("window", [4096, 1 << 16])
def test_windows_cut_masks_anywhere(window: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small windows and several threads write the mask that one window writes, and its digests."""
    weights = {"a.weight": torch.randn(31, 777), "b.weight": torch.randn(50, 3, 3).bfloat16(), "c": torch.randn(40, 50)}
    whole, cut = tmp_path / "1.safetensors", tmp_path / "2.safetensors"
    pruned(tmp_path, weights, L1(amount=0.5), mask_out=whole)
    original = RunOptions.__init__

    def small(self: RunOptions, **options: Any) -> None:  # noqa: ANN401
        original(self, **{**options, "window": window, "threads": 3})

    monkeypatch.setattr(RunOptions, "__init__", small)
    pruned(tmp_path, weights, L1(amount=0.5), mask_out=cut)
    again = pruned(tmp_path, weights, Mask(str(cut)))

    assert whole.read_bytes() == cut.read_bytes()
    assert all(torch.equal(load_mask(cut)[name], again[name] != 0) for name in load_mask(cut))


def test_a_mask_takes_a_bit_for_each_weight(tmp_path: Path) -> None:
    """The file has one bit for each weight, and a few hundred bytes."""
    pruned(tmp_path, {"a.weight": torch.randn(512, 1024)}, L1(amount=0.5), mask_out=tmp_path / "m")

    assert 512 * 1024 // 8 < (tmp_path / "m").stat().st_size < 512 * 1024 // 8 + 600


# --- the weights that a mask was made of


@pytest.mark.parametrize("container", CONTAINERS)
def test_the_digests_are_those_of_hashlib(container: str, tmp_path: Path) -> None:
    """The metadata has the SHA-256 of the little-endian elements of each tensor, the same in every container."""
    weights = make_weights()
    path = make_checkpoint(container, tmp_path, weights)
    prune(path, L1(amount=0.5), dry_run=True, reports=(), mask_out=tmp_path / "mask.safetensors")

    with safe_open(tmp_path / "mask.safetensors", "pt") as file:
        base = json.loads(file.metadata()[BASE])

    prefix = CONTAINERS[container].prefix
    assert base
    for name, digest in base.items():
        raw = weights[name.removeprefix(prefix)].detach().contiguous().view(torch.uint8).numpy().tobytes()
        assert hashlib.sha256(raw).hexdigest() == digest, name


def test_a_mask_is_refused_for_other_weights(tmp_path: Path) -> None:
    """One changed weight is an error that names its tensor, and no output is written; any_base applies it."""
    weights = {"a.weight": torch.randn(40, 50), "b.weight": torch.randn(40, 50)}
    once = pruned(tmp_path, weights, L1(amount=0.5), mask_out=tmp_path / "m")
    (tmp_path / "out.safetensors").unlink()
    weights["b.weight"][39, 49] += 1

    with pytest.raises(CheckpointError, match=r"'b\.weight' does not have the weights") as raised:
        pruned(tmp_path, weights, Mask(str(tmp_path / "m")))
    assert not (tmp_path / "out.safetensors").exists()
    assert raised.value.hint == "for weights that were trained since: any_base=True"

    actual = pruned(tmp_path, weights, Mask(str(tmp_path / "m"), any_base=True))
    assert torch.equal(actual["a.weight"], once["a.weight"])
    assert int((actual["b.weight"] == 0).sum()) == 1000


def test_only_selected_tensors_are_compared(tmp_path: Path) -> None:
    """A tensor that a run does not prune may have changed."""
    weights = {"a.weight": torch.randn(40, 50), "b.weight": torch.randn(40, 50)}
    once = pruned(tmp_path, weights, L1(amount=0.5), mask_out=tmp_path / "m")
    weights["b.weight"] += 1

    actual = pruned(tmp_path, weights, Mask(str(tmp_path / "m")), include=["a.weight"])

    assert torch.equal(actual["a.weight"], once["a.weight"])


def test_mask_in_and_recipes(tmp_path: Path) -> None:
    """mask_in keeps its mask pruned whatever the weights are; a rule with a mask compares them."""
    weights = {"a.weight": torch.randn(40, 50)}
    pruned(tmp_path, weights, L1(amount=0.5), mask_out=tmp_path / "m")
    weights["a.weight"] += 1
    rule = Recipe((Rule(Mask(str(tmp_path / "m"))),))

    actual = pruned(tmp_path, weights, L1(amount=0.0), mask_in=tmp_path / "m")

    assert int((actual["a.weight"] == 0).sum()) == 1000
    with pytest.raises(CheckpointError, match="does not have the weights"):
        pruned(tmp_path, weights, rule)


def test_tensors_in_memory_are_compared_before_they_change(tmp_path: Path) -> None:
    """prune_state_dict refuses other weights and leaves them as they are; those of the mask are pruned."""
    weights = {"a.weight": torch.randn(40, 50), "b.weight": torch.randn(50, 40).t()}
    copies = {name: tensor.contiguous() for name, tensor in weights.items()}
    once = pruned(tmp_path, copies, L1(amount=0.5), mask_out=tmp_path / "m")
    other = {"a.weight": weights["a.weight"].clone(), "b.weight": weights["b.weight"] + 1}
    before = other["a.weight"].clone()

    with pytest.raises(CheckpointError, match="does not have the weights"):
        prune_state_dict(other, Mask(str(tmp_path / "m")))
    prune_state_dict(weights, Mask(str(tmp_path / "m")))

    assert torch.equal(before, other["a.weight"])
    assert all(torch.equal(once[name], weights[name]) for name in weights)


# --- other and damaged files


def test_masks_of_bytes_are_read(tmp_path: Path) -> None:
    """A mask of a byte for each weight, which earlier versions wrote, prunes what the mask of bits does."""
    weights = {"a.weight": torch.randn(40, 50), "b.weight": torch.randn(7, 3, 3)}
    once = pruned(tmp_path, weights, L1(amount=0.5), mask_out=tmp_path / "m")
    old = stored(tmp_path, "old", {name: mask.to(torch.uint8) for name, mask in load_mask(tmp_path / "m").items()})

    for options in ({"strategy": Mask(str(old))}, {"strategy": L1(amount=0.0), "mask_in": old}):
        actual = pruned(tmp_path, weights, **options)
        assert all(torch.equal(once[name], actual[name]) for name in weights)


BITS = torch.zeros(4, 1, dtype=torch.uint8)
DAMAGED: dict[str, tuple[dict[str, torch.Tensor], str]] = {
    "another size": ({"a.weight.bitmask": BITS[:3], "a.weight.shape": torch.tensor([4, 4])}, "does not have a bit"),
    "another type": ({"a.weight.bitmask": BITS.int(), "a.weight.shape": torch.tensor([4, 4])}, "does not have a bit"),
    "a negative size": ({"a.weight.bitmask": BITS, "a.weight.shape": torch.tensor([-4, -4])}, "does not have a bit"),
    "a huge size": ({"a.weight.bitmask": BITS, "a.weight.shape": torch.tensor([4, 1 << 62])}, "does not have a bit"),
    "a shape of floats": ({"a.weight.bitmask": BITS, "a.weight.shape": torch.tensor([4.0, 4.0])}, "not have a bit"),
    "other weights": ({"a.weight.bitmask": BITS, "a.weight.shape": torch.tensor([4, 5])}, r"needs a mask of shape"),
    "twice": ({"a.weight.bitmask": BITS, "a.weight.shape": torch.tensor([4, 4]), "a.weight": BITS + 1}, "two masks"),
    "no shape": ({"a.weight.bitmask": BITS}, "the checkpoint has no such tensor"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_masks_are_refused(name: str, tmp_path: Path) -> None:
    """Bits without the shape that they need are an error, and no output is written."""
    tensors, message = DAMAGED[name]

    with pytest.raises(PruneError, match=message):
        pruned(tmp_path, {"a.weight": torch.ones(4, 4)}, Mask(str(stored(tmp_path, "mask", tensors))))

    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize("text", ["[1]", "{", '{"a.weight": "ab"}'])
def test_damaged_digests_are_refused(text: str, tmp_path: Path) -> None:
    """Digests that are none are an error and not a mask without digests."""
    save_file({"a.weight": torch.ones(4, 4)}, tmp_path / "m", {BASE: text})

    with pytest.raises(CheckpointError, match=BASE):
        pruned(tmp_path, {"a.weight": torch.ones(4, 4)}, Mask(str(tmp_path / "m")))
