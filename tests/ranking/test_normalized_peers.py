"""Normalised cuts against torch.nn.utils.prune and LAMP as it was published, also on real checkpoints."""

from __future__ import annotations

from math import sqrt
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from support import SHARED
from support.normalized import drive, member, no_limits
from torch import nn
from torch.nn.utils import prune

from prunecli.dtypes import FLOATS
from prunecli.formats.open import open_checkpoint
from prunecli.io.scan import scan_tensors
from prunecli.kernels.bit_patterns import values
from prunecli.kernels.numpy_ops import NumpyOps
from prunecli.selection.select import Selector, select

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

RANDOM = np.random.default_rng(11)


@pytest.mark.parametrize("kind", ["none", "l2", "rms"])
def test_global_unstructured_with_scaled_scores(kind: str) -> None:
    """`global_unstructured` with importance scores of |w| over the norm prunes as many weights of each tensor."""
    generator = torch.Generator().manual_seed(3)
    layers = [nn.Linear(30, size) for size in (20, 50, 7)]
    for at, layer in enumerate(layers):
        layer.weight.data = torch.randn(layer.weight.shape, generator=generator) * 10.0**-at
    wide = [layer.weight.detach().double() for layer in layers]
    divisors = [{"none": 1.0, "l2": w.norm(), "rms": w.square().mean().sqrt()}[kind] for w in wide]
    importance = {(layer, "weight"): w.abs() / d for layer, w, d in zip(layers, wide, divisors, strict=True)}
    members = [member(w.numpy().reshape(-1)) for w in wide]

    prune.global_unstructured(list(importance), prune.L1Unstructured, importance_scores=importance, amount=1200)
    search, _ = drive(kind, members, no_limits(members), 1200)

    assert [layer.weight.numel() - int(layer.get_buffer("weight_mask").sum()) for layer in layers] == search.counts()


def published_lamp(weights: Sequence[NDArray[np.float64]], k: int) -> list[int]:
    """Return the counts by the published scores, with sums in float64 from the largest weight down."""
    parts = []
    for w in weights:
        squares = np.sort(np.square(w.reshape(-1)))
        sums = np.cumsum(squares[::-1])[::-1]
        parts.append(np.divide(squares, sums, out=np.zeros_like(squares), where=sums > 0))
    owner = np.repeat(np.arange(len(parts)), [part.size for part in parts])
    first = np.argsort(np.concatenate(parts), kind="stable")[:k]
    return [int(np.count_nonzero(owner[first] == at)) for at in range(len(parts))]


@pytest.mark.parametrize("amount", [0.1, 0.5, 0.9, 0.99])
def test_lamp_as_published(amount: float) -> None:
    """LAMP prunes as many weights of each tensor as the published scores do."""
    weights = [RANDOM.standard_normal(n) * s for n, s in ((4000, 1), (900, 20), (50, 1e-4))]
    weights = [w.astype(np.float32).astype(np.float64) for w in weights]
    members = [member(w) for w in weights]
    k = round(amount * 4950)

    assert published_lamp(weights, k) == drive("lamp", members, no_limits(members), k)[0].counts()


REAL = {
    "resnet20-12fca82f.th",
    "taef2_decoder.pth",
    "burn-mnist.safetensors",
    "TinyPeLLM-pytorch_model.bin",
    "AaronNet32plus.pth",
}


@pytest.mark.skipif(not (SHARED / "checkpoints").is_dir(), reason="needs the shared checkpoints")
@pytest.mark.parametrize("name", sorted(REAL))
def test_real_checkpoints(name: str) -> None:
    """For trained weights the counts are those of sorted float64 scores, and LAMP's those of the published scores."""
    checkpoint = open_checkpoint(SHARED / "checkpoints" / name)
    tensors = [target.tensor for target in select(checkpoint, Selector()).targets]
    members = scan_tensors(
        checkpoint,
        tensors,
        lambda _, t, read: (t.dtype, NumpyOps().magnitudes(read(0, t.numel), FLOATS[t.dtype]).copy()),
    )
    weights = [values(patterns, FLOATS[dtype]) for dtype, patterns in members]
    total = sum(w.size for w in weights)

    for amount in (0.5, 0.9):
        k = round(amount * total)
        assert published_lamp(weights, k) == drive("lamp", members, no_limits(members), k, chunk=1 << 15)[0].counts()
        for kind, scale in (("none", lambda _: 1.0), ("l2", np.linalg.norm), ("rms", lambda w: sqrt(np.mean(w * w)))):
            ranked = np.concatenate([w / (scale(w) or 1.0) for w in weights])
            owner = np.repeat(np.arange(len(weights)), [w.size for w in weights])
            expected = np.bincount(owner[np.argsort(ranked, kind="stable")[:k]], minlength=len(weights)).tolist()
            assert expected == drive(kind, members, no_limits(members), k, chunk=1 << 15)[0].counts()
