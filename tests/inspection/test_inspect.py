"""`inspect`: the tensors, counts, ties, leftovers and thresholds of every container, as torch and NumPy have them."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support import CONTAINERS, SHARED, make_weights
from support.reports import written
from support.small import saved, write
from torch import nn
from torch.nn.utils import prune as torch_prune

import prunecli
from prunecli.api import prune
from prunecli.errors import CheckpointError, SelectionError
from prunecli.formats.open import open_checkpoint
from prunecli.inspection.inspect import Inspection, inspect, totals
from prunecli.inspection.inspect_text import number, write_inspection
from prunecli.inspection.thresholds import SPARSITIES
from prunecli.strategies.thresholds import Threshold
from prunecli.strategies.unstructured import L1
from prunecli.text.tables import View

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def text_of(inspection: Inspection) -> str:
    """Return the text of an inspection, as for a pipe."""
    return written(write_inspection, inspection, View())


# --- tensors


@pytest.mark.parametrize("container", CONTAINERS)
def test_every_container_has_the_same_tensors(source: Callable[[str], Path], container: str) -> None:
    """Names, shapes, sizes and zeros equal those of the weights, in every container."""
    layout, weights = CONTAINERS[container], make_weights()
    path = source(container)

    inspection = inspect(path)

    entries = {entry.name: entry for entry in inspection.inside}
    assert entries.keys() == {layout.prefix + name for name in weights}
    for name, t in weights.items():
        entry = entries[layout.prefix + name]
        assert (entry.shape, entry.numel) == (tuple(t.shape), t.numel())
        assert entry.zeros == int((t == 0).sum())
        assert entry.nonfinite == (0 if t.is_floating_point() else None)
    assert inspection.key == layout.key
    assert sum(size for _, size in inspection.files) == sum(f.size for f in open_checkpoint(path).files)
    assert totals(inspection.inside).numel == sum(t.numel() for t in weights.values())


def test_zeros_and_nonfinite_elements_are_counted(tmp_path: Path) -> None:
    """Zeros of either sign, NaN and infinities are counted in floats, and zeros in integers; a line names the NaN."""
    weights = {
        "a": torch.tensor([0.0, -0.0, 1.0, torch.nan, torch.inf]),
        "b": torch.tensor([0, 3, 0], dtype=torch.int8),
        "c": torch.tensor([True, False]),
        "d": torch.tensor([0.0, -0.0, torch.nan], dtype=torch.bfloat16),
    }

    inspection = inspect(write(tmp_path, weights))

    counts = {entry.name: (entry.zeros, entry.nonfinite) for entry in inspection.entries}
    assert counts == {"a": (2, 2), "b": (2, None), "c": (1, None), "d": (2, 1)}
    assert "not finite   NaN or infinity in a (2), d (1)" in text_of(inspection)


def test_tied_tensors_count_once_and_name_each_other(source: Callable[[str], Path]) -> None:
    """A head tied to an embedding is one entry with an alias, and counts once in the totals."""
    inspection = inspect(source("tied"))

    (entry,) = [e for e in inspection.entries if e.aliases]
    assert (entry.name, entry.aliases) == ("embed.weight", ("head.weight",))
    assert totals(inspection.entries).numel == sum(t.numel() for t in make_weights().values())
    assert "tied         embed.weight = head.weight: one tensor, pruned once" in text_of(inspection)


def test_totals_are_those_of_a_report_also_for_tied_names_that_are_skipped(tmp_path: Path) -> None:
    """Tied names count once in the totals of `inspect` and of a report, whether they are selected or skipped."""
    bias, weight, table = torch.ones(7), torch.randn(5, 7), torch.ones(5, 5)
    names = {"a.bias": bias, "b.bias": bias, "a.weight": weight, "b.weight": weight, "t": table, "u": table.T}
    path = saved(tmp_path / "a.pth", names)

    inspection, report = inspect(path), prune(path, L1(amount=0.4), dry_run=True)

    floats = totals(inspection.inside)
    assert (floats.tensors, floats.numel) == (report.all.tensors, report.all.numel) == (3, 7 + 35 + 25)
    assert report.all.pruned_fraction == 14 / 67
    assert "tied         a.bias = b.bias: one tensor\n" in text_of(inspection)


def test_tensors_outside_the_state_dict_are_not_read(source: Callable[[str], Path]) -> None:
    """Optimizer states are listed as outside, without counts."""
    inspection = inspect(source("nested"))

    assert inspection.outside
    assert all(entry.zeros is None and entry.reason == "outside the state_dict" for entry in inspection.outside)
    assert "outside the state_dict, not read: optimizer.state.{" in text_of(inspection)


def test_leftovers_of_pruning_are_listed(tmp_path: Path) -> None:
    """A model that was saved under torch.nn.utils.prune has a leftover for each weight, and a line names bake."""
    model = nn.Linear(4, 4)
    torch_prune.l1_unstructured(model, "weight", 0.5)  # type: ignore[no-untyped-call]
    torch.save(model.state_dict(), tmp_path / "m.pth")

    inspection = inspect(tmp_path / "m.pth")

    assert [(leftover.name, leftover.kind) for leftover in inspection.leftovers] == [("weight", "torch.nn.utils.prune")]
    assert "1 weight under torch.nn.utils.prune: weight; bake folds them" in text_of(inspection)


def test_tensors_that_cannot_be_read_are_listed(tmp_path: Path) -> None:
    """Complex, expanded and sparse tensors are listed without counts, and an expanded view needs no memory."""
    odd = {
        "expanded": torch.ones(3, 1).expand(3, 10**9),
        "complex": torch.ones(3, dtype=torch.complex64),
        "wide": torch.ones(3, dtype=torch.complex128),
        "empty": torch.zeros(0, 4),
        "sparse": torch.eye(3).to_sparse(),
        "w": torch.ones(2, 2),
    }
    torch.save(odd, tmp_path / "odd.pth")

    inspection = inspect(tmp_path / "odd.pth")

    zeros = {entry.name: entry.zeros for entry in inspection.entries}
    assert zeros == {"expanded": None, "complex": None, "wide": None, "empty": 0, "w": 0}
    assert inspection.unprunable_entries == (("sparse", "sparse tensor"),)


def test_small_dtypes_are_listed(tmp_path: Path) -> None:
    """Tensors of 4-bit and exponent-only dtypes are listed with their sizes and are not prunable."""
    tensors = {
        "f4": {"dtype": "F4", "shape": [4, 4], "data_offsets": [0, 8]},
        "e8": {"dtype": "F8_E8M0", "shape": [4], "data_offsets": [8, 12]},
    }
    head = json.dumps(tensors).encode()
    path = tmp_path / "f4.safetensors"
    path.write_bytes(struct.pack("<Q", len(head)) + head + bytes(12))

    inspection = inspect(path)

    assert [(entry.name, entry.numel, entry.nbytes, entry.zeros) for entry in inspection.entries] == [
        ("e8", 4, 4, None),
        ("f4", 16, 8, None),
    ]
    assert inspection.prunable == ()
    assert "no tensor to prune" in (inspection.refusal or "")


def test_contents_besides_tensors_are_listed(tmp_path: Path) -> None:
    """Entries of a nested checkpoint and metadata are listed with their values; too many of them give a note."""
    nested, plain_file = tmp_path / "c.ckpt", tmp_path / "m.safetensors"
    bomb: list[object] = [{}]
    torch.save({"state_dict": {"a.weight": torch.ones(2, 2)}, "epoch": 3, "hyper": {"lr": 0.5}}, nested)
    save_file({"a.weight": torch.ones(2, 2)}, plain_file, {"format": "pt"})
    for _ in range(40):
        bomb = [bomb, bomb, {}]
    torch.save({"a.weight": torch.ones(2, 2), "bomb": bomb}, tmp_path / "b.pth")

    assert inspect(nested).contents == (("epoch", "3"), ("hyper.lr", "0.5"))
    assert "not tensors  2 items: epoch = 3, hyper.lr = 0.5\n" in text_of(inspect(nested))
    assert inspect(plain_file).contents == (("metadata format", "'pt'"),)
    assert "not tensors  1 item: metadata format = 'pt'\n" in text_of(inspect(plain_file))
    assert inspect(tmp_path / "b.pth").notes[-1].startswith("the other contents cannot be listed: ")


def test_an_empty_checkpoint_can_be_inspected(tmp_path: Path) -> None:
    """A checkpoint without tensors has no entries, and the reason for which a pruning command refuses it."""
    torch.save({}, tmp_path / "empty.pth")

    inspection = inspect(tmp_path / "empty.pth")

    assert inspection.entries == ()
    assert inspection.refusal
    assert "contents     0 tensors, 0 parameters, 0 bytes" in text_of(inspection)


def test_without_read_the_weights_are_not_needed(tmp_path: Path) -> None:
    """Without `read` only the header is needed: a file that was deleted after opening can be inspected."""
    path = write(tmp_path, {"a.weight": torch.ones(500, 500)})
    checkpoint = open_checkpoint(path)
    path.unlink()

    inspection = inspect(checkpoint, read=False)

    assert inspection.entries[0].zeros is None
    with pytest.raises(CheckpointError, match="cannot read"):
        inspect(checkpoint)


def test_patterns_select_as_for_pruning(source: Callable[[str], Path]) -> None:
    """With patterns or a smallest number of dimensions, the result has the tensors that a pruning command selects."""
    path = source("zip")

    inspection = inspect(path, include=["*weight*"], exclude=["lstm*"], min_dim=2)

    assert inspection.selected_only
    assert [entry.name for entry in inspection.entries] == ["conv.weight", "embed.weight", "fc.weight"]
    with pytest.raises(SelectionError, match="matches none"):
        inspect(path, include=["nothing*"])


def test_an_open_checkpoint_may_be_inspected(source: Callable[[str], Path]) -> None:
    """The public function takes a path or an open checkpoint, and gives the same result."""
    path = source("nested")

    assert prunecli.inspect(path) == prunecli.inspect(open_checkpoint(path))
    assert prunecli.inspect(path, key="state_dict", label="a name").path == "a name"


# --- thresholds


@pytest.mark.parametrize("container", CONTAINERS)
def test_every_container_has_the_same_thresholds(source: Callable[[str], Path], container: str) -> None:
    """The thresholds are the quantiles of the weights that a pruning command selects, in every container."""
    weights = [t for name, t in make_weights().items() if t.dim() > 1 and "weight" in name]
    magnitudes = np.concatenate([t.abs().double().numpy().ravel() for t in weights])

    inspection = inspect(source(container), thresholds=True)

    assert inspection.thresholds is not None
    together, each = inspection.thresholds
    assert (together.numel, len(each)) == (magnitudes.size, len(weights))
    for step in together.steps:
        quantile = np.percentile(magnitudes, step.percent, method="inverted_cdf")
        assert step.threshold is not None
        assert np.float32(step.threshold) == quantile
        assert step.zeroed == (magnitudes <= quantile).sum()


def test_real_thresholds_zero_the_counted_weights() -> None:
    """On a trained model, each threshold zeroes the number of weights that the table has."""
    path = SHARED / "checkpoints" / "burn-mnist.safetensors"
    if not path.exists():
        pytest.skip("burn-mnist.safetensors is not here: the shared checkpoints are absent")
    weights = {name: t for name, t in load_file(path).items() if name.endswith(".weight") and t.dim() > 1}

    inspection = inspect(path, thresholds=True)

    assert inspection.thresholds is not None
    together, each = inspection.thresholds
    assert [step.percent for step in together.steps] == list(SPARSITIES)
    for step in together.steps:
        assert step.zeroed == sum(int((t.abs() <= step.threshold).sum()) for t in weights.values())
        assert step.zeroed >= step.percent / 100 * together.numel
    assert [table.name for table in each] == sorted(weights)
    for table in each:
        zeroed = [int((weights[table.name].abs() <= step.threshold).sum()) for step in table.steps]
        assert zeroed == [step.zeroed for step in table.steps]


@pytest.mark.parametrize("dtypes", [("float32",), ("bfloat16",), ("float64", "float16", "float32", "float8_e4m3fn")])
def test_a_printed_threshold_zeroes_the_counted_weights(tmp_path: Path, dtypes: tuple[str, ...]) -> None:
    """Pruning with a threshold as it is printed gives the number of zeros in the table, for one dtype or several."""
    generator = torch.Generator().manual_seed(0)
    weights = {
        f"{i}.weight": (torch.randn(30, 40, generator=generator) * 0.1).to(getattr(torch, dtype))
        for i, dtype in enumerate(dtypes)
    }
    path = write(tmp_path, weights)

    inspection = inspect(path, thresholds=True)

    assert inspection.thresholds is not None
    for step in inspection.thresholds[0].steps:
        assert step.threshold is not None
        report = prune(path, Threshold(float(number(step.threshold))), dry_run=True)
        assert report.selected.zeros_after == step.zeroed
