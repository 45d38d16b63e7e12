"""The strategies that tests try, and the weights each must leave, computed with torch and NumPy alone."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch

from prunecli.strategies.semi_structured import TopK
from prunecli.strategies.strategy import Strategy
from prunecli.strategies.structured import Block, Structured
from prunecli.strategies.thresholds import StdThreshold, Threshold
from prunecli.strategies.unstructured import L1, Global, Percentile
from support.weights import Weights, zeroed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

STRATEGIES: dict[str, Strategy] = {
    "threshold": Threshold(0.05),
    "thr-std": StdThreshold(0.5),
    "percentile": Percentile(60),
    "global-amount": Global(amount=0.5),
    "global-count": Global(count=10),
    "topk-2-of-4": TopK(2, 4),
    "topk-2-of-7": TopK(2, 7),
    "topk-2-of-7-zero-tail": TopK(2, 7, tail="zero"),
    "topk-last-dim": TopK(1, 3, dim=-1),
    "topk-dim-0": TopK(2, 4, dim=0),
    "topk-8-of-32": TopK(8, 32),
    "l1": L1(amount=0.3),
    "l1-row": L1(amount=0.3, scope="row"),
    "structured-l2": Structured(amount=0.25),
    "structured-l1-dim-1": Structured(amount=0.4, dim=1, n=1),
    "structured-inf-last-dim": Structured(count=1, dim=-1, n=math.inf),
    "structured-minus-inf": Structured(amount=0.5, n=-math.inf),
    "block-4x4": Block(4, 4, amount=0.5),
    "block-1x3": Block(1, 3, count=2),
}


def expected(strategy: Strategy, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Return a bool tensor per tensor, True where the weight survives; `tensors` are in checkpoint order."""
    if isinstance(strategy, Global):
        return _keep_global(strategy, tensors)
    return [_keep_one(strategy, t) for t in tensors]


def _keep_one(strategy: Strategy, t: torch.Tensor) -> torch.Tensor:  # noqa: PLR0911 - a case per strategy
    magnitude = t.float().abs() if t.element_size() == 1 else t.abs()
    if isinstance(strategy, Threshold):
        return ~(magnitude <= strategy.thr)
    if isinstance(strategy, StdThreshold):
        return ~(magnitude <= strategy.deviations * t.double().std().item())
    if isinstance(strategy, Percentile):
        wide = (magnitude if t.dtype == torch.float64 else magnitude.float()).numpy()
        return torch.from_numpy(~(wide <= np.percentile(wide, strategy.q)))
    if isinstance(strategy, L1):
        rows = magnitude.reshape(t.shape[0] if strategy.scope == "row" else 1, -1)
        return torch.stack([_without_lowest(row, strategy) for row in rows]).reshape(t.shape)
    if isinstance(strategy, Structured):
        dim = strategy.dim or 0  # None means the outputs, which are dim 0 of Linear and Conv
        slices = magnitude.double().movedim(dim, 0)
        keep = _without_lowest(torch.linalg.vector_norm(slices.flatten(1), strategy.n, dim=1), strategy)
        return keep.view(-1, *[1] * (t.dim() - 1)).expand(slices.shape).movedim(0, dim)
    if isinstance(strategy, Block):
        return _keep_blocks(strategy, magnitude)
    if not isinstance(strategy, TopK):
        raise TypeError(strategy)
    return _keep_groups(strategy, magnitude)


def _without_lowest(scores: torch.Tensor, strategy: L1 | Structured | Block) -> torch.Tensor:
    """Return True for all but the k lowest of a row of scores; ties are broken by position, earlier ones first."""
    k = round((strategy.amount or 0) * len(scores)) if strategy.count is None else strategy.count
    keep = torch.ones(len(scores), dtype=torch.bool)
    keep[torch.sort(scores, stable=True).indices[:k]] = False
    return keep


def _keep_blocks(strategy: Block, magnitude: torch.Tensor) -> torch.Tensor:
    matrix = magnitude.double().flatten(1)
    bands = [torch.split(band, strategy.cols, dim=1) for band in torch.split(matrix, strategy.rows)]
    means = torch.stack([block.square().mean().sqrt() for band in bands for block in band])
    keep = _without_lowest(means, strategy).reshape(len(bands), -1)
    wide = keep.repeat_interleave(strategy.rows, 0).repeat_interleave(strategy.cols, 1)
    return wide[: matrix.shape[0], : matrix.shape[1]].reshape(magnitude.shape)


def _keep_groups(strategy: TopK, magnitude: torch.Tensor) -> torch.Tensor:
    dim = 1 if strategy.dim is None else strategy.dim  # None means the inputs
    rows = magnitude.movedim(dim, -1).contiguous()
    keep = torch.zeros(rows.shape, dtype=torch.bool)
    for start in range(0, rows.shape[-1], strategy.group):
        group = rows[..., start : start + strategy.group]
        if strategy.tail == "zero" and group.shape[-1] < strategy.group:
            continue
        best = torch.sort(group, dim=-1, descending=True, stable=True).indices[..., : strategy.keep]
        keep[..., start : start + strategy.group].scatter_(-1, best, value=True)
    return keep.movedim(-1, dim)


def _keep_global(strategy: Global, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    scores = torch.cat([t.double().abs().reshape(-1) for t in tensors])
    k = round((strategy.amount or 0) * len(scores)) if strategy.count is None else strategy.count
    keep = torch.ones(len(scores), dtype=torch.bool)
    keep[torch.sort(scores, stable=True).indices[:k]] = False
    parts = torch.split(keep, [t.numel() for t in tensors])
    return [part.reshape(t.shape) for part, t in zip(parts, tensors, strict=True)]


def chosen(weights: Mapping[str, torch.Tensor]) -> list[str]:
    """Return the names of the tensors that are pruned by default: no biases, no alias of a tied tensor."""
    return [
        n for n, t in weights.items() if "weight" in n and t.dim() > 1 and t.is_floating_point() and n != "head.weight"
    ]


def pruned_weights(strategy: Strategy, weights: Weights) -> Weights:
    """Return the tensors that `strategy` must make of `weights`, which are in checkpoint order."""
    names = chosen(weights)
    keeps = expected(strategy, [weights[n] for n in names])
    after = weights | {n: zeroed(weights[n], keep) for n, keep in zip(names, keeps, strict=True)}
    return after | {"head.weight": after["embed.weight"]} if "head.weight" in weights else after
