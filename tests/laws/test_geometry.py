"""Every strategy follows the outputs and inputs of each layout, in pieces of any size, on every backend."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import examples
from support.geometry import GEOMETRIES, Geometry, kept, laid_out, sizes, small_pieces
from support.pruning import stored

from prunecli import prune, prune_state_dict
from prunecli.selection.select import Selector
from prunecli.strategies.recipe import Recipe, Rule
from prunecli.strategies.semi_structured import TopK
from prunecli.strategies.structured import Block, RandomStructured, Structured
from prunecli.strategies.unstructured import L1

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from prunecli.strategies.strategy import Strategy

STRATEGIES: dict[str, Strategy] = {
    "topk": TopK(2, 4),
    "topk-wide": TopK(5, 20, tail="zero"),
    "row": L1(amount=0.4, scope="row"),
    "row-count": L1(count=1, scope="row"),
    "row-all": L1(amount=1.0, scope="row"),
    "row-none": L1(amount=0.0, scope="row"),
    "structured": Structured(amount=0.4),
    "structured-l1": Structured(count=1, n=1),
    "structured-inf": Structured(amount=0.5, n=np.inf),
    "block": Block(2, 3, amount=0.4),
    "block-wide": Block(1, 5, amount=0.5),
    "block-high": Block(4, 1, count=1),
}

MATRICES = {name: geometry for name, geometry in GEOMETRIES.items() if name != "vector"}


def integers(shape: tuple[int, ...], seed: int, most: int = 4) -> NDArray[np.float64]:
    """Return whole numbers with many ties, which sum exactly in any order."""
    return np.random.default_rng(seed).integers(-most, most + 1, shape).astype(float)


def pruned(
    geometry: Geometry,
    weight: NDArray[Any],
    strategy: Strategy | Recipe,
    *,
    strided: bool = False,
    **options: Any,  # noqa: ANN401 - those of `prune`
) -> NDArray[Any]:
    """Return a tensor after pruning it in a file, where its elements can lie in column-major order."""
    tensor = torch.from_numpy(weight)
    if strided:
        tensor = tensor.permute(*range(weight.ndim)[::-1]).contiguous().permute(*range(weight.ndim)[::-1])
    with tempfile.TemporaryDirectory() as name, laid_out({"a.weight": geometry.layout}):
        path, output = Path(name) / "in.pth", Path(name) / "out.pth"
        torch.save({"a.weight": tensor}, path)
        prune(path, strategy, output=output, reports=(), **options)
        result: NDArray[Any] = torch.load(output)["a.weight"].numpy()
    return result


@pytest.mark.parametrize("name", STRATEGIES)
@settings(max_examples=examples(50))
@given(
    kind=st.sampled_from(sorted(MATRICES)),
    lengths=st.lists(st.integers(1, 9), min_size=4, max_size=4),
    seed=st.integers(0, 999),
    dtype=st.sampled_from(["f2", "f4", "f8"]),
    strided=st.booleans(),
)
def test_strategies_prune_matrix_by_matrix(
    name: str, kind: str, lengths: list[int], seed: int, dtype: str, *, strided: bool
) -> None:
    """The result is that of the rule applied to each matrix (outputs, inputs) alone, ties by the place in the file."""
    geometry, strategy = GEOMETRIES[kind], STRATEGIES[name]
    weight = integers(sizes(geometry, lengths), seed).astype(dtype)

    expected = np.where(kept(strategy, geometry, weight), weight, 0)

    with small_pieces():
        assert np.array_equal(expected, pruned(geometry, weight, strategy, strided=strided))


@pytest.mark.parametrize("device", [None, "cpu"], ids=["numpy", "torch"])
@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("kind", MATRICES)
def test_tensors_of_several_windows(kind: str, name: str, device: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors longer than a window are pruned alike with NumPy, with torch, and in windows of any size."""
    monkeypatch.setattr("prunecli.api.resolve", lambda _: device)
    geometry, strategy = GEOMETRIES[kind], STRATEGIES[name]
    lengths = {2: [60, 50], 3: [6, 20, 30], 4: [2, 3, 20, 30]}[len(geometry.letters)]
    weight = integers(sizes(geometry, lengths), 5, 90).astype("f4")

    expected = np.where(kept(strategy, geometry, weight), weight, 0)

    assert np.array_equal(expected, pruned(geometry, weight, strategy))
    with small_pieces():
        assert np.array_equal(expected, pruned(geometry, weight, strategy, threads=3))


@pytest.mark.parametrize("strategy", [Structured(amount=0.5), Block(2, 3, amount=0.5), L1(amount=0.5, scope="row")])
def test_a_vector_has_outputs(strategy: Strategy) -> None:
    """A vector is a matrix with one column."""
    weight = integers((11,), 1)

    expected = np.where(kept(strategy, GEOMETRIES["vector"], weight), weight, 0)

    assert np.array_equal(expected, pruned(GEOMETRIES["vector"], weight, strategy, include=("a.weight",)))


@pytest.mark.parametrize("kind", MATRICES)
def test_random_outputs_are_whole(kind: str) -> None:
    """Random outputs are pruned whole, the same number of each matrix."""
    geometry = GEOMETRIES[kind]
    weight = np.ones(sizes(geometry, [6, 8, 5, 7]))

    matrices = geometry.matrices(pruned(geometry, weight, RandomStructured(amount=0.5)))

    outputs = matrices.reshape(*matrices.shape[:2], -1)
    assert set(outputs.mean(axis=2).reshape(-1).tolist()) == {0.0, 1.0}
    assert {round(0.5 * outputs.shape[1])} == set((outputs[:, :, 0] == 0).sum(axis=1).tolist())


@pytest.mark.parametrize("name", ["topk", "row", "row-count", "structured", "block"])
@pytest.mark.parametrize("kind", MATRICES)
def test_scores_norms_and_masks_follow_the_layout(kind: str, name: str, tmp_path: Path) -> None:
    """Scores and activation norms are ranked in place of weights; already pruned weights stay so, and do not count."""
    geometry, strategy = GEOMETRIES[kind], STRATEGIES[name]
    shape = sizes(geometry, [6, 8, 5, 7])
    weight, scores = integers(shape, 1) + 10, np.abs(integers(shape, 2, 90))
    norms = np.arange(1.0, shape[geometry.letters.index("i")] + 1)
    along_inputs = norms.reshape([-1 if letter == "i" else 1 for letter in geometry.letters])

    with small_pieces():
        by_scores = pruned(
            geometry, weight, strategy, scores=stored(tmp_path, "s", {"a.weight": torch.from_numpy(scores)})
        )
        by_norms = pruned(
            geometry, weight, strategy, act_norms=stored(tmp_path, "n", {"a.weight": torch.from_numpy(norms)})
        )

    assert np.array_equal(np.where(kept(strategy, geometry, scores), weight, 0), by_scores)
    assert np.array_equal(np.where(kept(strategy, geometry, weight * along_inputs), weight, 0), by_norms)


@pytest.mark.parametrize("strided", [False, True])
@pytest.mark.parametrize("kind", MATRICES)
def test_rows_count_their_remaining_weights(kind: str, tmp_path: Path, *, strided: bool) -> None:
    """With a mask, the amount is a part of the weights of each row that remain."""
    geometry = GEOMETRIES[kind]
    weight = integers(sizes(geometry, [6, 8, 5, 7]), 1) + 10
    mask = np.random.default_rng(4).random(weight.shape) < 0.6
    path = stored(tmp_path, "m", {"a.weight": torch.from_numpy(mask)})

    with small_pieces():
        actual = pruned(geometry, weight, L1(amount=0.5, scope="row"), strided=strided, mask_in=path)

    rows, masks = (geometry.matrices(a).reshape(-1) for a in (weight, mask))
    size = weight.size // (geometry.matrices(weight).shape[0] * geometry.matrices(weight).shape[1])
    for row, own, result in zip(
        rows.reshape(-1, size), masks.reshape(-1, size), geometry.matrices(actual).reshape(-1, size), strict=True
    ):
        order = [at for at in np.argsort(row, kind="stable") if own[at]]
        expected = np.where(own, row, 0)
        expected[order[: round(0.5 * len(order))]] = 0
        assert np.array_equal(expected, result)


@pytest.mark.parametrize("of", ["all", "remaining"])
def test_recipes_prune_the_transposed_tensor_alike(of: str) -> None:
    """The rules of a recipe, one after the other, prune [in, out] as they prune the same matrix as [out, in]."""
    weight = integers((40, 30), 7, 9)
    strategies = (Structured(count=3), L1(amount=0.4, scope="row"), Block(4, 2, amount=0.3), TopK(3, 4))
    recipe = Recipe(tuple(Rule(strategy, Selector(include=("a.weight",))) for strategy in strategies))

    with small_pieces():
        actual = pruned(GEOMETRIES["conv1d-in-out"], weight, recipe, of=of)

    assert np.array_equal(pruned(GEOMETRIES["linear"], np.ascontiguousarray(weight.T), recipe, of=of).T, actual)


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("order", ["in-out", "experts-in-out"])
def test_tensors_in_memory_have_layouts_too(order: str, name: str) -> None:
    """`prune_state_dict` follows a stated layout as `prune` does."""
    geometry = GEOMETRIES["conv1d-in-out" if order == "in-out" else "experts in-out"]
    weight = integers((20, 30) if order == "in-out" else (3, 20, 30), 7, 9)
    tensors = {"a.weight": torch.from_numpy(weight.copy())}

    prune_state_dict(tensors, STRATEGIES[name], layout={"a.weight": order})

    expected = np.where(kept(STRATEGIES[name], geometry, weight), weight, 0)
    assert np.array_equal(expected, tensors["a.weight"].numpy())


def test_experts_can_have_norms_of_their_own(tmp_path: Path) -> None:
    """Norms of the shape (experts, inputs) scale the weights of each expert."""
    geometry, strategy = GEOMETRIES["experts in-out"], L1(amount=0.5, scope="row")
    weight, norms = integers((3, 8, 5), 1) + 10, integers((3, 8), 2, 90) + 91
    path = stored(tmp_path, "n", {"a.weight": torch.from_numpy(norms)})

    actual = pruned(geometry, weight, strategy, act_norms=path)

    assert np.array_equal(np.where(kept(strategy, geometry, weight * norms[:, :, None]), weight, 0), actual)


@pytest.mark.parametrize("strategy", [Structured(amount=0.5, dim=1), TopK(1, 2, dim=1)])
def test_an_explicit_dim_wins(strategy: Strategy) -> None:
    """With a dim, experts and outputs have no meaning: slices and groups run along it, as in torch."""
    weight = integers((4, 6, 5), 3)

    actual = pruned(GEOMETRIES["experts in-out"], weight, strategy)

    assert np.array_equal(pruned(GEOMETRIES["conv"], weight, strategy), actual)
