"""Ranks over tensors that kernels find by their addresses are those of the host, for one dtype and for several."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from support import different
from support.launches import count_launches

import prunecli
from prunecli.api import prune_state_dict
from prunecli.engine import device_counts, device_ranks
from prunecli.ranking import device_tables

if TYPE_CHECKING:
    from torch import Tensor

    from prunecli.strategies.strategy import Strategy

STRATEGIES: dict[str, Strategy] = {
    "l1": prunecli.L1(amount=0.4),
    "percentile": prunecli.Percentile(70),
    "global": prunecli.Global(amount=0.6),
    "few": prunecli.Global(count=3),
    **{name: prunecli.Global(amount=0.5, normalize=name) for name in ("lamp", "l2", "rms")},
}

DTYPES = {
    "bfloat16": [torch.bfloat16],
    "float16": [torch.float16],
    "float32": [torch.float32],
    "float64": [torch.float64],
    "float8": [torch.float8_e4m3fn],
    "several": [torch.bfloat16, torch.float32, torch.float8_e5m2, torch.float64],
    "two": [torch.float16, torch.float32],
}


def model(dtypes: list[torch.dtype]) -> dict[str, Tensor]:
    """Return tensors of several sizes and scales; some have gaps, infinities, tiny weights and many equals."""
    torch.manual_seed(1)
    tensors = {}
    for number, shape in enumerate([(40, 70), (8, 8), (3, 2048), (64, 65), (1, 9), (70, 40), (33, 100)]):
        x = torch.randn(shape) * (number + 1) / 3
        if number == 3:
            x = x.round()
        if number == 4:
            x *= 1e-6
        x[0, 0] = 0
        tensors[f"{number}.weight"] = x.to(dtypes[number % len(dtypes)])
    tensors["2.weight"][1, 1] = torch.inf if dtypes[2 % len(dtypes)] != torch.float8_e4m3fn else torch.nan
    tensors["5.weight"] = tensors["5.weight"].T[:, ::2].T
    return tensors


@pytest.mark.parametrize(
    ("kind", "large"), [(kind, True) for kind in DTYPES] + [("float32", False), ("several", False)]
)
@pytest.mark.parametrize("name", STRATEGIES)
def test_ranks_are_those_of_the_host(
    name: str,
    kind: str,
    large: bool,  # noqa: FBT001 - a parameter
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every weight and every number of the report is the same, with brackets that miss ranks, too."""
    here, there = model(DTYPES[kind]), model(DTYPES[kind])
    expected = prune_state_dict(here, STRATEGIES[name])
    if large:  # all are ranked by samples, which are small ones, and few are counted together
        monkeypatch.setattr(device_ranks, "SMALL", 0)
        monkeypatch.setattr(device_tables, "SAMPLE", 256)
        monkeypatch.setattr(device_counts, "AT_ONCE", 1 << 8)

    count_launches(monkeypatch)
    report = prune_state_dict(there, STRATEGIES[name])

    assert different(here, there) == []
    assert report.rows == expected.rows
