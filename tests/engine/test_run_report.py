"""The layouts in a report, and what it measures by them, on the output of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from support import CONTAINERS, make_checkpoint, read
from support.layouts import most_of_four, zero_inputs, zero_outputs
from support.small import write

from prunecli.api import prune
from prunecli.report.markdown import to_markdown
from prunecli.strategies.semi_structured import TopK
from prunecli.strategies.structured import Structured
from prunecli.strategies.unstructured import L1

if TYPE_CHECKING:
    from pathlib import Path

    from support import Weights

    from prunecli.strategies.strategy import Strategy


def model() -> Weights:
    """Return Conv1D matrices with biases, stacked experts [E, out, in], a kernel, and a matrix with 3 inputs."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    return {
        "h.0.c_fc.weight": random(8, 24),
        "h.0.c_fc.bias": random(24),
        "h.0.c_proj.weight": random(8, 8),
        "mlp.experts.gate_up_proj": random(3, 32, 12),
        "mlp.experts.down_proj": random(3, 12, 16),
        "conv.weight": random(6, 8, 3, 3),
        "conv.bias": random(6),
        "stem.weight": random(10, 3),
        "stem.bias": random(10),
    }


@pytest.mark.parametrize("strategy", [TopK(2, 4), Structured(amount=0.25), L1(amount=0.9)])
@pytest.mark.parametrize(
    "container", ["zip", "legacy", "safetensors", "safetensors-shards", "bin-shards", "sliced", "ddp"]
)
def test_the_report_measures_outputs_and_inputs_of_the_output(
    container: str, strategy: Strategy, tmp_path: Path
) -> None:
    """Zero outputs, zero inputs and 2:4 are those of the written tensors, in each expert for itself."""
    path = make_checkpoint(container, tmp_path, model())
    output = tmp_path / f"out{path.suffix}"

    report = prune(path, strategy, output=output, reports=())

    written = read(output)
    prefix = CONTAINERS[container].prefix
    selected = [row for row in report.rows if row.selected]
    assert {row.name.removeprefix(prefix): row.layout for row in selected} == {
        "h.0.c_fc.weight": "in-out",
        "h.0.c_proj.weight": "in-out",
        "mlp.experts.gate_up_proj": "experts out-in",
        "mlp.experts.down_proj": "experts out-in",
        "conv.weight": "out-in",
        "stem.weight": "out-in",
    }
    for row in selected:
        array = written[row.name].numpy()
        most = most_of_four(array, row.meaning)
        wanted = zero_outputs(array, row.meaning), zero_inputs(array, row.meaning), None if most is None else most <= 2
        assert (row.zero_rows, row.zero_cols, row.two_four) == wanted
    if isinstance(strategy, TopK):
        assert [row.name.removeprefix(prefix) for row in selected if not row.two_four] == ["stem.weight"]
        assert (report.on_disk.two_four, report.on_disk.two_four_examined) == (5, 5)


def test_the_table_has_the_layout(tmp_path: Path) -> None:
    """A line of the Markdown table has the role and the order of outputs and inputs."""
    report = prune(write(tmp_path, model()), L1(amount=0.5), dry_run=True)

    text = to_markdown(report)
    assert all(f"| {label} |" in text for label in ("experts out-in", "matrix in-out", "kernel out-in"))


def test_stated_layouts_are_in_the_report(tmp_path: Path) -> None:
    """A layout that the user states is reported with this evidence, and decides what is measured."""
    path = write(tmp_path, {"a.weight": torch.ones(5, 9)})

    (row,) = prune(path, Structured(count=2), dry_run=True, layout={"a.*": "in-out"}).rows

    assert (row.layout, row.layout_evidence) == ("in-out", "stated by the user")
    assert (row.zero_rows, row.zero_cols) == (2, 0)
