"""Models whose tensors are in parts in several processes are pruned and trained as in one process."""

from __future__ import annotations

import re
from typing import Any

import pytest
from support.sharded import STRATEGIES, run_cases

QUICK: list[tuple[str, str, str, dict[str, Any]]] = [
    ("fsdp", "global", "float32", {}),
    ("fsdp", "lamp", "bfloat16", {}),
    ("fsdp", "structured-l1-dim1", "float32", {}),
    ("pair-2d", "l1", "bfloat16", {}),
    ("columns", "structured", "float32", {}),
    ("columns", "l1-row", "bfloat16", {}),
    ("columns", "thr-std", "float32", {}),
    ("columns", "global", "bfloat16", {"most_runs": 0}),
    ("columns", "topk", "float32", {"most_runs": 0, "even": True}),
    ("hsdp", "global-90", "float16", {}),
    ("fsdp-tp", "global", "bfloat16", {}),
    ("fsdp-columns", "random", "float32", {"most_runs": 0}),
    ("mixed", "global", "bfloat16", {}),
]
"""Ways to place tensors, strategies, dtypes, and options."""

OPTIONS = [("fsdp", "global", "scores"), ("fsdp-columns", "global", "mask_in"), ("columns", "l1-row", "remaining")]

REFUSED = {
    "partial": r"'fc1.weight' has the placement Partial\(sum\), whose parts are no elements of the whole tensor",
    "options": "ranks 0 and 2 are asked for different work",
    "copies": "'fc2.weight' is not the same on ranks 0 and 3, which both have it",
    "missing": "^(CheckpointError: |CheckpointError: on rank 1: )scores: there is no",
    "incomplete": "'fc1.weight' is not complete: the parts of 3 processes have 3744 of its 4848 weights",
    "shape": r"'fc1.weight' has a part of the shape \[3, 48\], not \[26, 48\] as its placements say",
    "groups": r"'fc2.weight' is placed as \(Shard\(dim=1\),\), in parts that cut groups of 4 along dim 1",
    "strict": "'fc1.weight' has 1 weights that are not finite",
}

TRAINED = [
    ("fsdp", "adamw", "random"),
    ("fsdp-tp", "sgd", "random"),
    ("hsdp", "adamw", "of the model"),
    ("checkpoint", "adamw", "random"),
]
"""Ways to shard the model, optimizers, and where the masks come from."""

ON_TORCH = [("fsdp", "global"), ("columns", "structured")]

CASES: list[tuple[str, tuple[Any, ...]]] = [
    *(("sharded.compare", case) for case in QUICK),
    *(("sharded_cases.with_options", case) for case in OPTIONS),
    ("sharded_cases.special", ("fsdp",)),
    ("sharded_cases.special", ("columns",)),
    ("sharded_cases.pipeline", ()),
    ("sharded_cases.whole_and_replicated", ()),
    ("sharded_cases.masks", ("fsdp-columns",)),
    ("sharded_cases.masks", ("mixed",)),
    *(("sharded_cases.refused", (why,)) for why in REFUSED),
    *(("sharded_training.train", case) for case in TRAINED),
    *(("sharded_cases.on_torch_kernels", case) for case in ON_TORCH),
    ("sharded_training.placed_elsewhere", ()),
    ("sharded_training.refused", ("partial",)),
    ("sharded_training.refused", ("mesh",)),
    ("sharded_cases.all_ranks_agree", ()),
    ("sharded_cases.exchanged", ()),
    ("sharded_cases.lost", ()),
]


@pytest.fixture(scope="module")
def results() -> dict[str, list[Any]]:
    """Run all cases in one group of processes; returns the results of the ranks by case."""
    return dict(zip(map(str, CASES), run_cases(CASES), strict=True))


def of_case(results: dict[str, list[Any]], name: str, *arguments: object) -> list[Any]:
    """Return the results of a case by rank."""
    return results[str((name, arguments))]


@pytest.mark.parametrize("case", QUICK, ids=lambda case: "-".join(map(str, case)))
def test_parts_are_pruned_as_whole_tensors(results: dict[str, list[Any]], case: tuple[Any, ...]) -> None:
    """No weight and no number of the report differs from those of whole tensors in one process."""
    for found in of_case(results, "sharded.compare", *case):
        assert found["weights"] == []
        assert found["report"] == []


@pytest.mark.parametrize("case", OPTIONS, ids="-".join)
def test_scores_and_masks_are_those_of_whole_tensors(results: dict[str, list[Any]], case: tuple[str, ...]) -> None:
    """Files with a number for each weight or input are read at the places of the parts."""
    for found in of_case(results, "sharded_cases.with_options", *case):
        assert found["weights"] == []
        assert found["report"] == []


@pytest.mark.parametrize("case", ON_TORCH, ids="-".join)
def test_the_kernels_of_devices_count_the_same(results: dict[str, list[Any]], case: tuple[str, str]) -> None:
    """Tensors on devices are counted there."""
    for found in of_case(results, "sharded_cases.on_torch_kernels", *case):
        assert found == {"weights": [], "report": []}


@pytest.mark.parametrize("kind", ["fsdp", "columns"])
def test_special_weights_and_memory(results: dict[str, list[Any]], kind: str) -> None:
    """Tied, strided, tiny and non-finite tensors; a dry run changes nothing, and autograd knows of a change."""
    for found in of_case(results, "sharded_cases.special", kind):
        assert found == {"weights": [], "report": [], "kept": True, "marked": True}


@pytest.mark.parametrize("name", ["pipeline", "whole_and_replicated"])
def test_processes_with_different_tensors(results: dict[str, list[Any]], name: str) -> None:
    """Stages of a pipeline share one cut; a tensor that every process has whole counts once."""
    for found in of_case(results, f"sharded_cases.{name}"):
        assert found == {"weights": [], "report": []}


@pytest.mark.parametrize("kind", ["fsdp-columns", "mixed"])
def test_masks_of_dtensors_are_dtensors(results: dict[str, list[Any]], kind: str) -> None:
    """They have the placements of the tensors, and their parts are those of whole masks."""
    for found in of_case(results, "sharded_cases.masks", kind):
        assert found == {"names": True, "wrong": [], "placements": []}


@pytest.mark.parametrize("why", REFUSED)
def test_what_cannot_be_exact_is_refused_on_every_rank(results: dict[str, list[Any]], why: str) -> None:
    """All ranks raise an error that names the tensor or the rank, no weight changes, and the next call works."""
    for error in of_case(results, "sharded_cases.refused", why):
        assert isinstance(error, str), error
        assert re.search(REFUSED[why], error)


@pytest.mark.parametrize("case", TRAINED, ids=lambda case: "-".join(map(str, case)))
def test_training_keeps_the_zeros_of_sharded_models(results: dict[str, list[Any]], case: tuple[Any, ...]) -> None:
    """Weights, clipped norms and zeros are those of the same model in one process; after the block zeros are lost."""
    for found in of_case(results, "sharded_training.train", *case):
        assert found["revived"] == 0
        assert found["gap"] < 1e-6
        assert found["norms"][0::2] == pytest.approx(found["norms"][1::2], rel=1e-5)
    assert sum(found["later"] for found in of_case(results, "sharded_training.train", *case)) > 0


def test_masks_and_gradients_may_be_placed_in_another_way(results: dict[str, list[Any]]) -> None:
    """They are laid out as the parameter; a mask on another mesh and a partial parameter are refused."""
    for found in of_case(results, "sharded_training.placed_elsewhere"):
        assert found == {"weight": True, "gradient": True, "placements": "(Shard(dim=1),)"}
    for why, message in (("partial", r"'weight' has the placement Partial\(sum\)"), ("mesh", "on another device mesh")):
        for error in of_case(results, "sharded_training.refused", why):
            assert re.search(message, error)


def test_all_ranks_get_the_same_report(results: dict[str, list[Any]]) -> None:
    """Each rank may print or save it."""
    rows = of_case(results, "sharded_cases.all_ranks_agree")

    assert all(found == rows[0] for found in rows)


def test_what_is_exchanged_does_not_grow_with_the_weights(results: dict[str, list[Any]]) -> None:
    """Counts by leading bits, and a mark for each row and column; no weights but the ends of blocks."""
    for found in of_case(results, "sharded_cases.exchanged"):
        small, large = found["sent"]
        assert large < 1 << 20
        assert large - small < 40_000


def test_a_lost_process_is_one_sentence_and_ctrl_c_is_heard(results: dict[str, list[Any]]) -> None:
    """A process that waits for another one can be interrupted; a process that ends ends the call of the others."""
    interrupted, *others, gone = of_case(results, "sharded_cases.lost")

    assert (interrupted, gone) == ({"heard": True}, {"heard": True})
    for found in others:
        assert found["error"].startswith("the exchange with the other processes failed: ")
        assert found["kept"]


MANY: list[tuple[str, tuple[Any, ...]]] = [
    *(("sharded.compare", ("fsdp", strategy, "float32", {})) for strategy in STRATEGIES),
    *(
        ("sharded.compare", (kind, strategy, dtype, {"even": True, "most_runs": runs}))
        for kind, dtype, runs in (("columns", "float8_e4m3fn", 0), ("fsdp-tp", "float64", 128), ("mixed", "float32", 9))
        for strategy in STRATEGIES
    ),
    *(("sharded.compare", ("replicated", strategy, "bfloat16", {})) for strategy in ("global", "structured")),
    ("sharded_cases.with_options", ("fsdp-columns", "structured", "act_norms")),
    *(("sharded_cases.with_options", ("fsdp", strategy, "remaining")) for strategy in ("thr-std", "structured")),
    *(("sharded_training.train", (kind, "adamw", "of the model")) for kind in ("tp", "fsdp-tp")),
    ("sharded_training.train", ("compile", "adamw", "random")),
]
"""Most strategies in several placements and dtypes."""


@pytest.mark.slow
def test_every_strategy_in_several_placements() -> None:
    """As above for all strategies; a strategy that needs whole groups says so where parts cut them."""
    for case, found in zip(MANY, run_cases(MANY, 400), strict=True):
        for one in found:
            if isinstance(one, str):
                assert "in parts that cut" in one, case
                assert case[1][1] in {"topk", "topk-wide", "topk-dim0", "block"}, case
            elif case[0] == "sharded_training.train":
                assert one["revived"] == 0, case
                assert one["gap"] < 1e-6, case
            else:
                assert (one["weights"], one["report"]) == ([], []), case
