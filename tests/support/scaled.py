"""FP8 codes with scales of every shape, and the numbers that they stand for, computed with torch alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from support.weights import Weights

CODES = (torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz)
"""The dtypes of codes."""


class Kind(NamedTuple):
    """The shape of codes, that of their scale, and the size of a block in each dimension of the codes."""

    codes: tuple[int, ...]
    scale: tuple[int, ...]
    block: tuple[int, ...]


KINDS = {
    "number": Kind((50, 70), (), (50, 70)),
    "one number": Kind((50, 70), (1,), (50, 70)),
    "one by one": Kind((50, 70), (1, 1), (50, 70)),
    "per output": Kind((50, 70), (50,), (1, 70)),
    "per output, two dims": Kind((50, 70), (50, 1), (1, 70)),
    "per output, square": Kind((60, 60), (60,), (1, 60)),
    "per input": Kind((50, 70), (1, 70), (50, 1)),
    "blocks of 16, ragged": Kind((50, 70), (4, 5), (16, 16)),
    "blocks of 128, ragged": Kind((300, 200), (3, 2), (128, 128)),
    "blocks of 12": Kind((36, 60), (3, 5), (12, 12)),
    "32 in a row": Kind((50, 96), (50, 3), (1, 32)),
    "kernel per output": Kind((20, 10, 3, 3), (20,), (1, 10, 3, 3)),
    "kernel per output, four dims": Kind((20, 10, 3, 3), (20, 1, 1, 1), (1, 10, 3, 3)),
    "stack": Kind((3, 40, 24), (3, 1, 1), (1, 40, 24)),
    "stack, one dim": Kind((3, 40, 24), (3,), (1, 40, 24)),
    "stack per row": Kind((3, 40, 24), (3, 40, 1), (1, 1, 24)),
    "stack per column": Kind((3, 40, 24), (3, 1, 24), (1, 40, 1)),
    "stack per output": Kind((3, 40, 24), (3, 40), (1, 1, 24)),
    "stack of blocks, ragged": Kind((3, 40, 24), (3, 3, 2), (1, 16, 16)),
}
"""The shapes of scales."""


def make_scaled(kind: str, seed: int = 0, dtype: torch.dtype = CODES[0]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return random codes, some of them zero, and a scale whose entries differ by factors up to 2**16."""
    generator = torch.Generator().manual_seed(seed)
    shapes = KINDS[kind]
    codes = torch.randn(shapes.codes, generator=generator) * (torch.rand(shapes.codes, generator=generator) > 0.05)
    scale = torch.exp2(torch.rand(shapes.scale, generator=generator) * 16 - 12)
    return codes.to(dtype), scale


def dequantized(kind: str, codes: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Return the products of codes and scale in float64, where they are exact."""
    shapes = KINDS[kind]
    grid = [-(-n // size) for n, size in zip(shapes.codes, shapes.block, strict=True)]
    spread = scale.double().reshape(grid)
    for dim, size in enumerate(shapes.block):
        spread = spread.repeat_interleave(size, dim).narrow(dim, 0, shapes.codes[dim])
    return codes.float().double() * spread


def model(kind: str, dtype: torch.dtype = CODES[0]) -> tuple[Weights, Weights]:
    """Return the tensors of a model with codes, and the same ones with the numbers that the codes stand for.

    It has two scaled tensors, a matrix of each 16-bit dtype, and a bias.
    """
    generator = torch.Generator().manual_seed(7)
    plain = {
        "b.weight": (torch.randn(40, 33, generator=generator) * 0.1).bfloat16(),
        "b.bias": torch.randn(40, generator=generator),
        "d.weight": (torch.randn(9, 12, generator=generator) * 0.1).half(),
    }
    scaled, exact = {}, {}
    for seed, name in enumerate(("a.weight", "c.weight")):
        scaled[name], scaled[f"{name}_scale_inv"] = make_scaled(kind, seed, dtype)
        exact[name] = dequantized(kind, scaled[name], scaled[f"{name}_scale_inv"])
    order = sorted({**plain, **scaled})
    return {name: {**plain, **scaled}[name] for name in order}, {**plain, **exact}
