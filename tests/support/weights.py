"""The weights of one small model, and comparisons of tensors bit by bit."""

from __future__ import annotations

import torch
from torch import nn

INTS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}

TORCH_FLOATS = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
}
"""The torch dtypes of the prunable formats, by safetensors' names."""

Weights = dict[str, torch.Tensor]


class Net(nn.Module):
    """A small model with a convolution, an embedding, LSTM matrices, biases and an integer buffer."""

    def __init__(self, *, tied: bool = False) -> None:
        """Make the layers; with `tied`, also a head that shares its weight with the embedding."""
        super().__init__()
        self.conv = nn.Conv2d(5, 6, 3)
        self.norm = nn.BatchNorm2d(6)
        self.embed = nn.Embedding(37, 33)
        self.lstm = nn.LSTM(33, 9)
        self.fc = nn.Linear(130, 34)
        if tied:
            self.head = nn.Linear(33, 37, bias=False)
            self.head.weight = self.embed.weight


def make_weights(seed: int = 0, dtype: torch.dtype = torch.float32) -> Weights:
    """Return the state_dict of a `Net` with random floats of `dtype`; the same seed gives the same weights."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(t.shape, generator=generator).mul_(0.1).to(dtype) if t.is_floating_point() else t + 7
        for name, t in Net().state_dict().items()
    }


def zeroed(t: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    """Return a copy of `t` with +0.0 where `keep` is False, except for -0.0; all other bits are unchanged."""
    zero = (t.float() if t.element_size() == 1 else t) == 0
    return torch.where(keep | zero, bits(t), 0).view(t.dtype)


def bits(t: torch.Tensor) -> torch.Tensor:
    """Return the bit patterns of `t` as integers, in a contiguous tensor of the same shape."""
    return t.detach().contiguous().view(INTS[t.element_size()])


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Return whether two tensors have the same dtype, shape and bits."""
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(bits(a), bits(b))


def different(wanted: Weights, actual: Weights) -> list[str]:
    """Return the names of the tensors whose bits differ; both dicts have the same names in the same order."""
    assert list(wanted) == list(actual)
    return [n for n, t in wanted.items() if not same_bits(t, actual[n])]


def contiguous_copies(weights: Weights) -> Weights:
    """Return copies of the tensors, contiguous and each in its own memory."""
    return {name: t.detach().clone(memory_format=torch.contiguous_format) for name, t in weights.items()}
