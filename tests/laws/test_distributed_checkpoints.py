"""Every command treats a distributed checkpoint as the whole tensors that its chunks make."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from support import bits, examples, make_weights, same_bits
from support.distributed_checkpoints import grid, mixed, read_distributed, rows, save_distributed

import prunecli
from prunecli import (
    L1,
    Global,
    Mask,
    MinSparsity,
    Recipe,
    Rule,
    Selector,
    Structured,
    TopK,
    check,
    convert,
    diff,
    inspect,
    prune,
    scan,
)
from prunecli.io.assembled import AssembledSource
from prunecli.io.reader import open_sources

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Write the same weights as a distributed checkpoint of chunks of any shape, and as one file."""
    folder = tmp_path_factory.mktemp("both")
    weights = make_weights()
    save_file(weights, folder / "whole.safetensors")
    return save_distributed(folder / "d", {"model": weights}, mixed, ranks=3), folder / "whole.safetensors"


def results(pruned: Path) -> dict[str, torch.Tensor]:
    """Load the weights of a result."""
    return read_distributed(pruned)["model"] if pruned.is_dir() else load_file(pruned)


RUNS: dict[str, Callable[[Path, Path], Any]] = {
    "recipe": lambda path, out: prune(
        path,
        Recipe((Rule(L1(amount=0.5), Selector(("conv.*",))), Rule(Structured(amount=0.3), Selector(("fc.weight",))))),
        output=out,
        reports=(),
    ),
    "scores": lambda path, out: prune(path, Global(amount=0.4), scores=path, output=out, reports=()),
    "in place": lambda path, out: prune(_copied(path, out), TopK(2, 4), in_place=True, reports=()),
    "remaining": lambda path, out: prune(
        _copied(path, out), Global(amount=0.4), of="remaining", in_place=True, reports=()
    ),
    "device": lambda path, out: prune(path, Global(amount=0.4), device="cpu", threads=3, output=out, reports=()),
}


def _copied(path: Path, out: Path) -> Path:
    """Return a copy that was pruned before."""
    prune(path, Global(amount=0.2), output=out, reports=())
    return out


@pytest.mark.parametrize("way", RUNS)
def test_runs_give_the_weights_of_the_whole_tensors(way: str, both: tuple[Path, Path], tmp_path: Path) -> None:
    """Recipes, scores, masks, pruning again and in place end with the same weights as one file of whole tensors."""
    found, wanted = tmp_path / "out", tmp_path / "out.safetensors"

    for path, out in zip(both, (found, wanted), strict=True):
        RUNS[way](path, out)

    actual = results(found)
    assert not [name for name, t in load_file(wanted).items() if not same_bits(t, actual[name])]


def test_a_mask_is_that_of_whole_tensors(both: tuple[Path, Path], tmp_path: Path) -> None:
    """A mask has the shapes of the whole tensors, fits both checkpoints, and gives the same result again."""
    masks = [tmp_path / f"{number}.safetensors" for number in range(2)]
    for path, mask in zip(both, masks, strict=True):
        prune(path, Global(amount=0.6), dry_run=True, mask_out=mask, reports=())

    prune(both[0], Mask(str(masks[1])), output=tmp_path / "out", reports=())
    prune(both[0], Global(amount=0.6), output=tmp_path / "other", reports=())

    assert masks[0].stat().st_size == masks[1].stat().st_size
    assert all(same_bits(t, load_file(masks[1])[name]) for name, t in load_file(masks[0]).items())
    assert diff(tmp_path / "out", tmp_path / "other").same


def test_commands_that_read_see_whole_tensors(both: tuple[Path, Path], tmp_path: Path) -> None:
    """`inspect`, `scan` and `check` find the same numbers as in one file, and `diff` compares both."""
    distributed, whole = both
    seen = [inspect(path, thresholds=True) for path in both]
    assert sorted((e.name, e.shape, e.zeros) for e in seen[0].entries) == sorted(
        (e.name, e.shape, e.zeros) for e in seen[1].entries
    )
    assert seen[0].thresholds is not None
    assert seen[1].thresholds is not None
    curves = [{curve.name: curve for curve in scan(path).curves} for path in both]
    assert curves[0] == curves[1]
    assert diff(distributed, whole).same
    prune(distributed, Global(amount=0.5), output=tmp_path / "out", reports=())
    assert all(finding.holds for finding in check(tmp_path / "out", [MinSparsity(0.5)]))
    assert diff(distributed, tmp_path / "out").only_zeros_added


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("layout", ["torch", "safetensors", "headers"])
def test_whole_tensors_are_written_in_another_format(layout: str, suffix: str, tmp_path: Path) -> None:
    """A checkpoint of any layout is converted to one file of whole tensors, without unpickling its metadata."""
    weights = make_weights()
    state = weights if layout == "headers" else {"model": weights, "epoch": 3}
    folder = save_distributed(tmp_path / "d", state, rows(3), layout=layout, ranks=3)

    convert(folder, tmp_path / f"out{suffix}", drop_rest=True)

    path = tmp_path / f"out{suffix}"
    found = load_file(path) if suffix == ".safetensors" else torch.load(path, weights_only=True)
    assert weights.keys() == found.keys()
    assert not [name for name, t in weights.items() if not same_bits(t, found[name])]


@settings(max_examples=examples(20))
@given(
    shape=st.lists(st.integers(1, 40), min_size=2, max_size=3),
    counts=st.tuples(*[st.integers(1, 4)] * 3),
    data=st.data(),
)
def test_any_range_of_the_stream_is_read_and_written(
    tmp_path_factory: pytest.TempPathFactory, shape: list[int], counts: tuple[int, ...], data: st.DataObject
) -> None:
    """Elements are read in row-major order from chunks of any shape."""
    folder = tmp_path_factory.mktemp("stream")
    dtype = data.draw(st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.int8, torch.complex128]))
    tensor = torch.randint(-99, 99, shape).to(dtype)
    checkpoint = prunecli.open_checkpoint(
        save_distributed(folder / "d", {"w": tensor}, lambda _, t: grid(t.shape, counts), ranks=4)
    )
    (info,) = checkpoint.tensors
    whole = tensor.reshape(-1).view(torch.uint8).numpy()
    first = data.draw(st.integers(0, tensor.numel()))
    stop = data.draw(st.integers(first, tensor.numel()))

    with open_sources(checkpoint) as sources:
        assert isinstance(sources[-1], AssembledSource)
        found = np.zeros((stop - first) * info.itemsize, np.uint8)
        sources[-1].read(memoryview(found), info.start + first * info.itemsize)

    np.testing.assert_array_equal(whole[first * info.itemsize : stop * info.itemsize], found)


def test_the_compressed_size_is_estimated_from_whole_tensors(both: tuple[Path, Path], tmp_path: Path) -> None:
    """The estimate reads the input and the output through their chunks."""
    report = prune(both[0], Global(amount=0.9), output=tmp_path / "out", estimate=True, reports=())

    assert report.compressed is not None
    assert report.compressed.bytes_after < report.compressed.bytes_before


def test_the_number_of_ranks_does_not_change_a_weight(tmp_path: Path) -> None:
    """The same state, saved by 1, 2 and 5 ranks, is pruned to the same weights."""
    pruned = []
    for ranks in (1, 2, 5):
        folder = save_distributed(tmp_path / str(ranks), {"model": make_weights()}, rows(ranks), ranks=ranks)
        prune(folder, Global(amount=0.7), output=tmp_path / f"{ranks}.out", reports=())
        pruned.append(results(tmp_path / f"{ranks}.out"))

    assert all(torch.equal(bits(pruned[0][name]), bits(other[name])) for other in pruned[1:] for name in other)
