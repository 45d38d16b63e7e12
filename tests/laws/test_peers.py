"""The weights that torch.nn.utils.prune and NumPy zero, on random weights.

Torch and NumPy do not define ties and the sign of zero. The rule here: +0.0 for a weight that becomes zero, the bits of
an existing zero, and exactly k weights, earlier ones first.
"""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from support import (
    FOLDABLE,
    different,
    examples,
    expected,
    make_checkpoint,
    make_weights,
    prune_tensors,
    read,
    same_bits,
    state_dict,
    zeroed,
)
from torch.nn.utils import prune as torch_prune

from prunecli.api import prune
from prunecli.strategies.semi_structured import TopK
from prunecli.strategies.strategy import Strategy
from prunecli.strategies.thresholds import StdThreshold, Threshold
from prunecli.strategies.unstructured import Global, Percentile

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
Weights = dict[str, torch.Tensor]


def matrices(seed: int = 0, dtype: torch.dtype = torch.float32) -> Weights:
    """Return the weights with 2 or more dimensions, not in the order of their names."""
    return {name: t for name, t in make_weights(seed, dtype).items() if t.dim() > 1}


def torch_global(weights: Weights, amount: float) -> Weights:
    """Prune by global_unstructured with L1Unstructured; an int is a count."""
    holders = {name: torch.nn.ParameterDict({"w": torch.nn.Parameter(t.clone())}) for name, t in weights.items()}
    torch_prune.global_unstructured([(h, "w") for h in holders.values()], torch_prune.L1Unstructured, amount=amount)
    return {name: h.state_dict()["w_orig"] * h.state_dict()["w_mask"] for name, h in holders.items()}


def torch_threshold(t: torch.Tensor, thr: float) -> torch.Tensor:
    """Prune by a comparison, which casts `thr` to the dtype of the tensor."""
    return t * (t.abs() > thr)


def numpy_percentile(t: torch.Tensor, q: float) -> torch.Tensor:
    """Prune by np.percentile of the magnitudes; 16-bit weights as float32, because NumPy has no bfloat16."""
    magnitudes = (t if t.dtype == torch.float64 else t.float()).abs().numpy()
    return t * torch.from_numpy(magnitudes > np.percentile(magnitudes, q))


def tutorial_groups(t: torch.Tensor, group: int, keep: int) -> torch.Tensor:
    """Prune by the double loop of the LSTM tutorial, which zeroes the weights outside full groups."""
    weights = t.numpy()
    mask = np.zeros_like(weights)
    for row in range(weights.shape[0]):
        for column in range(0, weights.shape[1] - group + 1, group):
            best = np.argsort(np.abs(weights[row, column : column + group]))[-keep:]
            mask[row, column + best] = 1
    return torch.from_numpy(weights * mask)


def unlike(peer: Weights, actual: Weights) -> list[str]:
    """Return the names of the tensors that differ from a peer's in more than the sign of a zero."""
    return different(*({n: torch.where(t == 0, 0, t) for n, t in side.items()} for side in (peer, actual)))


# --- random weights


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("amount", [0.0, 0.1, 0.3, 0.5, 0.9, 1.0])
def test_global_prunes_what_torch_prunes(amount: float, seed: int, tmp_path: Path) -> None:
    """An amount zeroes the weights that global_unstructured zeroes over all tensors together."""
    weights = matrices(seed)

    actual = prune_tensors(weights, Global(amount=amount), tmp_path)

    assert not unlike(torch_global(weights, amount), actual)


@pytest.mark.parametrize("count", [0, 1, 10, 1000])
def test_a_global_count_prunes_what_torch_prunes(count: int, tmp_path: Path) -> None:
    """A count zeroes the weights that global_unstructured zeroes for an int."""
    weights = matrices()

    actual = prune_tensors(weights, Global(count=count), tmp_path)

    assert not unlike(torch_global(weights, count), actual)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("thr", [0.0, 0.03, 0.1, 1.0])
def test_threshold_prunes_what_torch_compares(thr: float, dtype: torch.dtype, tmp_path: Path) -> None:
    """A threshold zeroes the weights for which `w.abs() > thr` is False in the dtype of the tensor."""
    weights = matrices(dtype=dtype)

    actual = prune_tensors(weights, Threshold(thr), tmp_path)

    assert not unlike({name: torch_threshold(t, thr) for name, t in weights.items()}, actual)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_threshold_that_is_a_weight_prunes_it(dtype: torch.dtype, tmp_path: Path) -> None:
    """A weight equal to the threshold is pruned, and the next larger number of the dtype is not."""
    for thr in (0.1, 0.2, 1.0):
        at = torch.tensor(thr).to(dtype) if dtype != torch.float64 else torch.tensor(thr, dtype=dtype)
        up = torch.nextafter(at, torch.tensor(2.0, dtype=dtype))
        weights = {"w": torch.stack([at, -at, up, -up])}

        actual = prune_tensors(weights, Threshold(thr), tmp_path)

        assert same_bits(torch.stack([at * 0, at * 0, up, -up]), actual["w"])


@pytest.mark.parametrize("deviations", [0.0, 0.25, 1.0, 3.0])
def test_std_threshold_prunes_by_torch_std(deviations: float, tmp_path: Path) -> None:
    """A number of deviations is a threshold at that multiple of `Tensor.std`, per tensor."""
    weights = matrices(dtype=torch.float64)

    actual = prune_tensors(weights, StdThreshold(deviations), tmp_path)

    assert not unlike({n: torch_threshold(t, deviations * float(t.std())) for n, t in weights.items()}, actual)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("q", [0, 50, 60, 80, 99.9, 100])
def test_percentile_prunes_by_numpy_percentile(q: float, dtype: torch.dtype, tmp_path: Path) -> None:
    """A percentile zeroes, per tensor, the magnitudes up to np.percentile."""
    weights = matrices(dtype=dtype)

    actual = prune_tensors(weights, Percentile(q), tmp_path)

    assert not unlike({name: numpy_percentile(t, q) for name, t in weights.items()}, actual)


neighbours = st.integers(0, 3).map(lambda steps: 1 + steps * 2.0**-23)
"""Adjacent float32 numbers: a number between them must be rounded as NumPy rounds it."""


@settings(max_examples=examples(50))
@given(
    st.one_of(
        st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=40),
        st.lists(neighbours, min_size=2, max_size=6),
    ),
    st.one_of(st.floats(0, 100), st.sampled_from([25, 50, 75, 90])),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_percentile_interpolates_as_numpy_does(
    tmp_path_factory: pytest.TempPathFactory, values: list[float], q: float, dtype: torch.dtype
) -> None:
    """Few weights, repeated weights and any rank give the bits of NumPy's interpolation."""
    t = torch.tensor(values, dtype=dtype)

    actual = prune_tensors({"w": t}, Percentile(q), tmp_path_factory.getbasetemp())

    assert not unlike({"w": numpy_percentile(t, q)}, actual)


def test_groups_are_those_of_the_lstm_tutorial(tmp_path: Path) -> None:
    """Keeping 2 of every 7 with a zeroed tail gives the result of the tutorial, on the matrices of the LSTM only."""
    path, output = make_checkpoint("zip", tmp_path), tmp_path / "out.pth"
    weights = read(path)

    prune(path, TopK(2, 7, tail="zero"), output=output, reports=(), include=["*lstm.weight_*"])

    wanted = {n: tutorial_groups(t, 7, 2) if fnmatch(n, "*lstm.weight_*") else t for n, t in weights.items()}
    actual = read(output)
    assert [n for n in weights if not same_bits(weights[n], actual[n])] == ["lstm.weight_ih_l0", "lstm.weight_hh_l0"]
    assert not unlike({n: wanted[n] for n in matrices()}, {n: actual[n] for n in matrices()})


# --- ties


@settings(max_examples=examples(40))
@given(st.integers(0, 2**32 - 1), st.floats(0, 1), st.sampled_from(FOLDABLE), st.integers(1, 4))
def test_exactly_k_weights_are_pruned_and_ties_by_position(
    tmp_path_factory: pytest.TempPathFactory, seed: int, amount: float, container: str, levels: int
) -> None:
    """Exactly k weights become zero; of equal ones at the cut, the first in checkpoint and row-major order."""
    folder = tmp_path_factory.mktemp("ties")
    path = make_checkpoint(container, folder, coarse(seed, levels))
    before = state_dict(container, read(path))

    prune(path, Global(amount=amount), output=folder / "out", reports=())

    names = [n for n in before if n in matrices()]
    keeps = expected(Global(amount=amount), [before[n] for n in names])
    actual = state_dict(container, read_as(folder / "out", path))
    total = sum(before[n].numel() for n in names)
    assert round(amount * total) == sum(int((actual[n] == 0).sum()) for n in names)
    assert not different(
        {n: zeroed(before[n], keep) for n, keep in zip(names, keeps, strict=True)}, only(actual, names)
    )


def only(weights: Weights, names: list[str]) -> Weights:
    """Return the tensors `names` in that order."""
    return {n: weights[n] for n in names}


def read_as(output: Path, source: Path) -> object:
    """Load an output without a suffix in the format of its source."""
    if source.is_dir():
        return read(output)
    named = output.with_name(f"named{source.suffix}")
    output.rename(named)
    return read(named)


def coarse(seed: int, levels: int) -> Weights:
    """Return weights of both signs with only `levels` different magnitudes, none of them zero."""
    weights = make_weights(seed)
    steps = {n: (t.abs() * 97).remainder(1).mul(levels).floor().add(1).clamp(max=levels) for n, t in weights.items()}
    return {n: steps[n] * t.sign() if t.is_floating_point() else t for n, t in weights.items()}


@pytest.mark.parametrize("strategy", [Global(amount=0.37), Global(count=777), Percentile(50), TopK(2, 4)])
def test_one_file_and_its_shards_give_the_same_weights(strategy: Strategy, tmp_path: Path) -> None:
    """A single file and three shards give the same weights, ties included."""
    results = {}
    for container in ("safetensors", "safetensors-shards", "bin-shards"):
        folder = tmp_path / container
        folder.mkdir()
        path = make_checkpoint(container, folder, coarse(0, 3))
        prune(path, strategy, output=folder / "out.safetensors", reports=())
        results[container] = read(folder / "out.safetensors")

    for container in ("safetensors-shards", "bin-shards"):
        assert not [n for n, t in results["safetensors"].items() if not same_bits(t, results[container][n])]


def test_ties_across_dtypes_are_broken_by_name(tmp_path: Path) -> None:
    """In safetensors, which stores wider dtypes first, equal weights are pruned in the order of the names."""
    save_file({"a.weight": torch.ones(2, 3, dtype=torch.float16), "b.weight": torch.ones(2, 3)}, tmp_path / "in")

    prune(tmp_path / "in", Global(count=7), output=tmp_path / "out", reports=())

    actual = load_file(tmp_path / "out")
    assert actual["a.weight"].tolist() == [[0, 0, 0], [0, 0, 0]]
    assert actual["b.weight"].tolist() == [[0, 1, 1], [1, 1, 1]]
